"""A module's first parameters as a function of a seed, and of nothing that threads share.

A constructor draws from torch's default generator, as ``nn.Linear``'s does; here its draws take
one of their own.
"""

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from aefast.thread_local_generator import ThreadLocalGenerator

Built = TypeVar("Built", bound=nn.Module)


# What takes torch's default dtype where none is named.
_ALLOCATIONS = (torch.ops.aten.empty, torch.ops.aten.zeros, torch.ops.aten.ones)


def on_cpu() -> AbstractContextManager[object]:
    """New tensors are on the CPU, unless a device is named.

    Under ``torch.device`` each call of torch takes 5 us more, a third of a small step: where the
    CPU is the default already, nothing is done.
    """
    is_default = torch.get_default_device().type == "cpu"
    return contextlib.nullcontext() if is_default else torch.device("cpu")


class _Float32Draws(ThreadLocalGenerator):
    """Draws in float32, so that parameters are the same under every default dtype."""

    def __torch_dispatch__(
        self, function: Any, types: object, arguments: Any = (), options: Any = None
    ) -> Any:
        options = options or {}
        if function.overloadpacket in _ALLOCATIONS and options.get("dtype") is None:
            options = {**options, "dtype": torch.float32}
        return super().__torch_dispatch__(function, types, arguments, options)


def initialized(make: Callable[[], Built], seed: int) -> Built:
    """The module that ``make`` builds, on the CPU and in float32, its draws a function of the seed.

    They are those that ``torch.manual_seed(seed)`` gives it. Torch's own generator is neither read
    nor written, whichever threads build at once.

    Args:
        make: takes nothing, and gives the module.
        seed: an int in [0, 2**63).

    >>> from functools import partial
    >>> layer, again = (initialized(partial(nn.Linear, 3, 2), seed=0) for _ in range(2))
    >>> torch.equal(layer.weight, again.weight)
    True
    """
    with on_cpu(), _Float32Draws(torch.device("cpu"), seed):
        return make().float()


class _Undrawn(TorchFunctionMode):
    """Leaves out what is done to a tensor in place: one without memory stays as it is. On the meta
    device a draw is no work, but it has torch import its compiler, which takes seconds."""

    def __torch_function__(
        self, function: Any, types: object, arguments: Any = (), options: Any = None
    ) -> Any:
        options = options or {}
        name = function.__name__
        if name.endswith("_") and not name.startswith("_"):
            return (*arguments, *options.values())[0]
        return function(*arguments, **options)


def outlined(make: Callable[[], Built]) -> Built:
    """The module that ``make`` builds, in float32 on the meta device: its tensors have shapes, and
    no memory, and it draws nothing.

    >>> from functools import partial
    >>> outlined(partial(nn.Linear, 10**9, 10**9)).weight.shape
    torch.Size([1000000000, 1000000000])
    """
    with torch.device("meta"), _Undrawn():
        return make().float()
