"""The autograd Function that kernels derive from, and what their backward passes ask."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from aefast.ops.shared import contract


class KernelFunction(Function):
    """A Function with ``setup_context``, called without ``Function.apply``'s introspection.

    That binds default arguments anew on each call, which takes 25 us; a kernel's have none.
    """

    @classmethod
    def apply(cls, *arguments: Any) -> Any:
        if torch._C._are_functorch_transforms_active():
            return super().apply(*arguments)
        return super(Function, cls).apply(*arguments)  # type: ignore[misc]


def is_one(grad: Tensor) -> bool:
    """Whether a gradient is 1, as that of a loss mostly is; False where asking would take time."""
    return grad.device.type == "cpu" and not contract.is_transformed(grad) and grad.item() == 1
