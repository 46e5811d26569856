"""Modules over :mod:`aefast.functional`, with the parameters of their PyTorch counterparts."""

from aefast.nn.autoencoder import Autoencoder
from aefast.nn.batch_topk import BatchTopKSparseAutoencoder, MatryoshkaSparseAutoencoder
from aefast.nn.belief_stack import DeepBeliefStack
from aefast.nn.compression import CompressedCode
from aefast.nn.contractive import ContractiveAutoencoder
from aefast.nn.denoising import DenoisingAutoencoder
from aefast.nn.dictionary import SparseDictionary
from aefast.nn.dictionary_adam import DictionaryAdam
from aefast.nn.dictionary_modules import DictionaryDecoder as DictionaryDecoder
from aefast.nn.dictionary_modules import DictionaryEncoder as DictionaryEncoder
from aefast.nn.gated import GatedSparseAutoencoder
from aefast.nn.jumprelu import JumpReLUSparseAutoencoder
from aefast.nn.layers import Layers
from aefast.nn.linear import LinearAct, TiedLinearAct
from aefast.nn.loss_module import LossModule
from aefast.nn.partition import LogPartition, annealed_importance_sampling, exact_log_partition
from aefast.nn.rbm import RBM
from aefast.nn.shared_batch import shared_batch
from aefast.nn.sparse import SparseAutoencoder
from aefast.nn.step_fields import StepFields as StepFields
from aefast.nn.stochastic import StochasticAutoencoder
from aefast.nn.topk import TopKSparseAutoencoder
from aefast.nn.variational import VariationalAutoencoder
from aefast.ops.contractive.singular_vectors import Tangents
from aefast.ops.topk.op import SparseCode

__all__ = [
    "RBM",
    "Autoencoder",
    "BatchTopKSparseAutoencoder",
    "CompressedCode",
    "ContractiveAutoencoder",
    "DeepBeliefStack",
    "DenoisingAutoencoder",
    "DictionaryAdam",
    "GatedSparseAutoencoder",
    "JumpReLUSparseAutoencoder",
    "Layers",
    "LinearAct",
    "LogPartition",
    "LossModule",
    "MatryoshkaSparseAutoencoder",
    "SparseAutoencoder",
    "SparseCode",
    "SparseDictionary",
    "StochasticAutoencoder",
    "Tangents",
    "TiedLinearAct",
    "TopKSparseAutoencoder",
    "VariationalAutoencoder",
    "annealed_importance_sampling",
    "exact_log_partition",
    "shared_batch",
]
