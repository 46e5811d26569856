"""Weights that a hook computes before each call, as pruning and weight normalization do."""

from torch import nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

# PyTorch's pruning and its older reparametrizations. The newer ones, parametrizations, compute the
# weight whenever it is read.
_WEIGHT_HOOKS = (BasePruningMethod, SpectralNorm, WeightNorm)


def renew_weights(module: nn.Module) -> None:
    """Run the hooks that compute pruned or normalized weights. A module's call runs them itself;
    methods such as ``encode``, ``decode`` and ``loss`` do not."""
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, _WEIGHT_HOOKS):
            hook(module, ())
