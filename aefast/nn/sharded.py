"""FSDP2: a model's ``loss`` gathers its sharded parameters, as ``forward`` does."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from torch import Tensor, nn


class Shardable(nn.Module):
    """What models with a ``loss`` derive from.

    ``fully_shard(model)`` gathers parameters before a ``forward`` alone, and gives the model a
    class of its own, which derives from its class. In that class ``loss`` is such a forward, too.
    """

    def __init_subclass__(cls, **options: object) -> None:
        super().__init_subclass__(**options)
        # By its name: to import it would take every process what a few need.
        if any(base.__name__ == "FSDPModule" for base in cls.__bases__):
            cls.loss = _gathering(cls.loss)  # type: ignore[attr-defined]


def _gathering(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @wraps(loss)
    def call(self: Any, *arguments: object, **options: object) -> Tensor:
        if "loss" not in self.__dict__:
            from torch.distributed.fsdp import register_fsdp_forward_method

            self.loss = loss.__get__(self)
            register_fsdp_forward_method(self, "loss")
            self._gathers = True
        elif not hasattr(self, "_gathers"):  # called by what the user registered
            return loss(self, *arguments, **options)
        return self.loss(*arguments, **options)

    return call
