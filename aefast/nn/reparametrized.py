"""Weights that a hook computes before each call, as pruning and weight normalization do."""

from torch import nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

# PyTorch's pruning and its older reparametrizations. The newer ones, parametrizations, are made
# anew whenever the weight is read.
_MAKERS = (BasePruningMethod, SpectralNorm, WeightNorm)


def renew_weights(module: nn.Module) -> None:
    """Make such weights of a module as a call of it would: for methods that are no forward."""
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, _MAKERS):
            hook(module, ())
