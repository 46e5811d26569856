"""What an equation is computed in."""

import torch
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """Half precisions in float32, so that a result is rounded once; float32 and float64 as is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
