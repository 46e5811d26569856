"""FSDP2: a model's ``loss`` gathers its sharded parameters, as ``forward`` does; and what reads the
parameters of a layer without a call of it gathers these."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from torch import Tensor, nn

from aefast.ops.shared import dispatch


class Shardable(nn.Module):
    """What models with a ``loss`` derive from.

    ``fully_shard(model)`` gathers parameters before a ``forward`` alone, and gives the model a
    class of its own, which derives from its class. In that class ``loss`` is such a forward, too.
    """

    def __init_subclass__(cls, **options: object) -> None:
        super().__init_subclass__(**options)
        if unsharded_class(cls) is not cls:
            cls.loss = _gathering(cls.loss)  # type: ignore[attr-defined]


def unsharded_class(cls: type) -> type:
    """The class of a module before ``fully_shard``, which derives one of its own from it."""
    # By its name: to import it would take every process what a few need.
    names = [base.__name__ for base in cls.__bases__]
    return cls.__bases__[1] if names[:1] == ["FSDPModule"] else cls


def only_gathers(hook: Callable[..., object]) -> bool:
    """Whether a module's hook is FSDP2's, which leaves what the module computes as it is."""
    return str(getattr(hook, "__module__", "")).startswith("torch.distributed.fsdp.")


def gathered(parameter: Tensor, like: Tensor) -> Tensor:
    """A parameter that other ranks hold parts of, whole, in ``like``'s dtype; others as they are.

    It is one all-gather, and in the backward pass one reduce-scatter: as FSDP2 does, it takes the
    mean of the ranks' gradients. Until then the whole parameter stays in memory. Of a ``like`` that
    is sharded itself nothing is gathered.
    """
    if not dispatch.is_sharded(parameter) or dispatch.is_sharded(like):
        return parameter
    from torch.distributed.tensor import DTensor, Partial

    assert isinstance(parameter, DTensor)
    ranks_mean = [Partial("avg")] * parameter.device_mesh.ndim
    return parameter.full_tensor(grad_placements=ranks_mean).to(like.dtype)


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
