"""The type of what takes training steps, and which modules are of it."""

import inspect
from collections.abc import Callable, Iterator
from typing import Protocol

from torch import Tensor, nn


class Trainable(Protocol):
    """A model that has a loss: one of :mod:`aefast.nn`, a module of the user's with a ``loss``
    method, or a plain module beside its loss, :class:`aefast.training.plain_model.PlainModel`."""

    @property
    def training(self) -> bool: ...

    @property
    def loss(self) -> Callable[..., Tensor]: ...

    def train(self, mode: bool = True) -> object: ...

    def eval(self) -> object: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def buffers(self) -> Iterator[Tensor]: ...


def has_loss(model: nn.Module) -> bool:
    """Whether a module has a method ``loss(x, seed=...)``.

    A criterion under that name, such as ``nn.MSELoss()`` or ``F.mse_loss``, is none.
    """
    loss = getattr(model, "loss", None)
    if not callable(loss) or isinstance(loss, nn.Module):
        return False
    code = getattr(loss, "__code__", None)  # a signature takes as long as some training steps
    if code and "seed" in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]:
        return True
    try:
        parameters = inspect.signature(loss).parameters.values()
    except ValueError:  # of a builtin
        return False
    return any(each.name == "seed" or each.kind is each.VAR_KEYWORD for each in parameters)
