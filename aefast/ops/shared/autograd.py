"""The autograd Function that kernels derive from, and what their backward passes ask."""

import contextlib
import functools
from collections.abc import Iterable
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.autograd import Function

from aefast.ops.shared import dispatch
from aefast.torch_private import has_transforms, is_autocast_enabled_anywhere


class KernelFunction(Function):
    """A Function with ``setup_context``, called without ``Function.apply``'s introspection.

    That binds default arguments anew on each call, which takes 25 us; a kernel's have none.
    """

    def __init_subclass__(cls) -> None:
        """Under autocast backward computes in forward's dtypes, as torch.amp.custom_bwd says."""
        backward: Any = cls.backward

        @functools.wraps(backward)
        def without_autocast(ctx: Any, *grads: Any) -> Any:
            if not is_autocast_enabled_anywhere():
                return backward(ctx, *grads)
            with contextlib.ExitStack() as off:
                for device in {grad.device for grad in grads if grad is not None}:
                    off.enter_context(dispatch.without_autocast(device))
                return backward(ctx, *grads)

        cls.backward = staticmethod(without_autocast)  # type: ignore[method-assign]

    @classmethod
    def apply(cls, *arguments: Any) -> Any:
        if has_transforms():
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


class SavedGradients(list[Any]):
    """The gradients that a forward pass made, until the backward pass takes them; else empty.

    They may be larger than all that eager PyTorch holds between the passes. Where losses wait for
    one backward pass, only the first of a parameter holds its gradients then: the others make
    theirs in the backward pass, and take some 20% longer.
    """

    def __init__(self, parameter: Tensor) -> None:
        super().__init__()
        self.key = id(parameter)

    def is_first(self) -> bool:
        """Whether no other loss of the parameter holds gradients; if so, this one is to."""
        if _waiting.get(self.key):
            return False
        _waiting[self.key] = self
        return True


_waiting: WeakValueDictionary[int, SavedGradients] = WeakValueDictionary()


def is_one(grad: Tensor) -> bool:
    """Whether a gradient is 1, as that of a loss mostly is; False where asking would take time."""
    return grad.device.type == "cpu" and not dispatch.is_transformed(grad) and grad.item() == 1
