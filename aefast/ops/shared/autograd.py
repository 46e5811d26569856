"""The autograd Function that kernels derive from, and what their backward passes ask."""

from collections.abc import Iterable
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


def connected(
    gradients: Iterable[Tensor | None], inputs: Iterable[Tensor | None]
) -> list[Tensor | None]:
    """The gradients, which are to be differentiated again: by every input, if only to 0.

    An activation without curvature leaves none of them in the graph, and torch, which keeps them
    there, gives zeros where it would raise.
    """
    if not torch.is_grad_enabled():
        return list(gradients)
    zero = sum(
        (tensor if tensor.dim() else tensor[None]).narrow(0, 0, 0).sum()
        for tensor in inputs
        if tensor is not None and tensor.requires_grad
    )
    return [None if gradient is None else gradient + zero for gradient in gradients]


def is_one(grad: Tensor) -> bool:
    """Whether a gradient is 1, as that of a loss mostly is; False where asking would take time."""
    return grad.device.type == "cpu" and not contract.is_transformed(grad) and grad.item() == 1
