"""The type of what takes training steps."""

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
