"""Modules over :mod:`aefast.functional`, with the parameters of their PyTorch counterparts."""

from aefast.nn.denoising import DenoisingAutoencoder
from aefast.nn.linear import LinearAct

__all__ = ["DenoisingAutoencoder", "LinearAct"]
