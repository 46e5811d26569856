"""A trial computation that may draw random numbers, and leaves torch's own generator as it was.

To fork that generator would be seen by every other thread: two fits at once disturb each other.
"""

from typing import Any

import torch

from aefast.torch_private import TorchDispatchMode


class OwnDraws(TorchDispatchMode):
    """Within it, this thread's draws take a generator of their own.

    Raises:
        NotImplementedError: what draws takes no generator.

    >>> state = torch.get_rng_state()
    >>> with OwnDraws(torch.device("cpu")):
    ...     drawn = torch.randn_like(torch.zeros(3)), torch.zeros(3).uniform_(), torch.rand(2)
    >>> torch.equal(torch.get_rng_state(), state)
    True
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.generator = torch.Generator(device).manual_seed(0)

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        options = options or {}
        if torch.Tag.nondeterministic_seeded not in function.tags:
            return function(*arguments, **options)
        if not _takes_generator(function):
            name = function._overloadname.removeprefix("default")
            overload = f"{name}_generator" if name else "generator"
            function = getattr(function.overloadpacket, overload, None)
        if function is None:
            raise NotImplementedError("what draws takes no generator")
        return function(*arguments, **{**options, "generator": self.generator})


def _takes_generator(function: Any) -> bool:
    return any(argument.name == "generator" for argument in function._schema.arguments)
