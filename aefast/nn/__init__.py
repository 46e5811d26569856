"""Modules over :mod:`aefast.functional`, with the parameters of their PyTorch counterparts."""

from aefast.nn.belief_stack import DeepBeliefStack
from aefast.nn.denoising import DenoisingAutoencoder
from aefast.nn.linear import LinearAct
from aefast.nn.partition import LogPartition, annealed_importance_sampling, exact_log_partition
from aefast.nn.rbm import RBM

__all__ = [
    "RBM",
    "DeepBeliefStack",
    "DenoisingAutoencoder",
    "LinearAct",
    "LogPartition",
    "annealed_importance_sampling",
    "exact_log_partition",
]
