"""The base class of the kernels' autograd Functions, and helpers of their backward passes."""

import contextlib
import functools
from collections.abc import Iterable
from typing import Any, Protocol
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.autograd import Function

from aefast.ops.shared import dispatch
from aefast.torch_private import (
    has_transforms,
    is_autocast_enabled_anywhere,
    unwrap_if_dead,
)


class Context(Protocol):
    """What a Function's or a registered op's forward pass leaves for its backward pass.

    Settings are set on it as attributes of any name; tensors are given to ``save_for_backward``.
    """

    needs_input_grad: tuple[bool, ...]

    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        """The tensors that were saved, and None for each None."""

    def save_for_backward(self, *tensors: Tensor | None) -> None: ...

    def set_materialize_grads(self, value: bool) -> None:
        """False leaves a gradient that nothing asks for None, where it else is zeros."""

    def mark_non_differentiable(self, *outputs: Tensor) -> None: ...

    def __getattr__(self, name: str) -> Any: ...

    def __setattr__(self, name: str, value: Any) -> None: ...


class KernelFunction(Function):
    """An autograd Function with ``setup_context`` and a faster ``apply``.

    ``Function.apply`` binds default arguments on each call, which takes 25 us. These have none.
    """

    def __init_subclass__(cls) -> None:
        """Turns autocast off in backward, as torch.amp.custom_bwd does."""
        backward: Any = cls.backward

        @functools.wraps(backward)
        def without_autocast(ctx: Any, *grads: Any) -> Any:
            if type(ctx) is not cls._backward_cls:
                ctx = _OfTransform(ctx)
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


class _OfTransform:
    """The context of a call inside torch.func's transforms.

    What ``torch.func.vjp`` returns is called after its transform has ended. What was saved are
    wrappers of it then, which have no memory, and which autograd takes for constants.
    """

    def __init__(self, ctx: Any) -> None:
        self.__dict__["_ctx"] = ctx

    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        saved = self._ctx.saved_tensors
        return tuple(None if tensor is None else unwrap_if_dead(tensor) for tensor in saved)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ctx, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._ctx, name, value)


def check_not_freed(ctx: Context) -> None:
    """Check in a backward pass that saved no tensor that it may run: as in PyTorch, once, and again
    if the pass before retained the graph.

    Raises:
        RuntimeError: the graph was freed.
    """
    _ = ctx.saved_tensors  # the error is torch's own, and is raised where nothing was saved, too


def requiring_gradient(tensor: Any, is_needed: bool) -> Any:
    """The same tensor, or one of the same numbers that requires the gradient that is needed: what
    came out of a transform of torch.func that has ended requires none."""
    if tensor is None or tensor.requires_grad or not is_needed:
        return tensor
    return tensor * torch.ones((), dtype=tensor.dtype, device=tensor.device, requires_grad=True)


def aliases_of(tensors: Iterable[Tensor | None]) -> list[Any]:
    """An alias for each tensor, by which :func:`torch.autograd.grad` is asked in a backward pass.

    Of tensors that serve twice, or are made from each other, the gradients would else be counted
    twice: there, and by the engine that the backward pass answers.
    """
    return [None if tensor is None else tensor.view_as(tensor) for tensor in tensors]


def connected(
    gradients: Iterable[Tensor | None], inputs: Iterable[Tensor | None]
) -> list[Tensor | None]:
    """The gradients, connected to every input in the graph: they can be differentiated again.

    An activation without curvature leaves an input out of the graph of its gradient. PyTorch's own
    functions give a second derivative of zeros there; without the connection autograd would raise.
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
    """The gradients that a forward pass computed, until the backward pass takes them; then empty.

    They may be larger than all that eager PyTorch holds between the passes. So of several losses
    that wait for one backward pass, only the first of a parameter saves its gradients. The others
    compute theirs in the backward pass, and take some 20% longer.
    """

    def __init__(self, parameter: Tensor) -> None:
        super().__init__()
        self.key = id(parameter)

    def is_first(self) -> bool:
        """Whether no other loss of the parameter has saved gradients; then this one saves its."""
        if _waiting.get(self.key):
            return False
        _waiting[self.key] = self
        return True


_waiting: WeakValueDictionary[int, SavedGradients] = WeakValueDictionary()


def versions_of(tensors: Iterable[Tensor]) -> list[int]:
    """How often each of the tensors was written to."""
    return [tensor._version for tensor in tensors]


def check_versions(tensors: Iterable[Tensor], versions: list[int], argument: str) -> None:
    """Check that tensors were not written to since forward, where backward computes a loss of them
    again: the first of them is called ``argument``, the others are parameters.

    Raises:
        RuntimeError: one was written to.
    """
    if versions_of(tensors) != versions:
        raise RuntimeError(
            f"{argument} or a parameter was modified by an inplace operation since the loss was "
            "computed; this backward would compute with it again"
        )


def is_one(grad: Tensor) -> bool:
    """Whether a gradient is 1, as a loss's mostly is. A GPU is not asked: False there."""
    return grad.device.type == "cpu" and not dispatch.is_transformed(grad) and grad.item() == 1
