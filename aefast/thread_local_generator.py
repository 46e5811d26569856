"""Draws of a thread that leave torch's default generator alone.

To seed that one, even inside ``torch.random.fork_rng``, is seen by every other thread: two fits at
once disturb each other, and a third thread's stream repeats.
"""

from typing import Any

import torch

from aefast.torch_private import TorchDispatchMode


class ThreadLocalGenerator(TorchDispatchMode):
    """Within it, this thread's draws take a generator of their own.

    Args:
        device: whose draws they are.
        seed: of the generator.

    Raises:
        NotImplementedError: what draws takes no generator.

    >>> state = torch.get_rng_state()
    >>> with ThreadLocalGenerator(torch.device("cpu")):
    ...     drawn = torch.randn_like(torch.zeros(3)), torch.zeros(3).uniform_(), torch.rand(2)
    >>> torch.equal(torch.get_rng_state(), state)
    True
    """

    def __init__(self, device: torch.device, seed: int = 0) -> None:
        super().__init__()
        self.generator = torch.Generator(device).manual_seed(seed)

    def __torch_dispatch__(
        self,
        function: Any,
        types: object,
        arguments: tuple[object, ...] = (),
        options: dict[str, object] | None = None,
    ) -> object:
        options = options or {}
        if torch.Tag.nondeterministic_seeded not in function.tags:
            return function(*arguments, **options)
        return self.draw(function, arguments, options)

    def draw(
        self, function: Any, arguments: tuple[object, ...], options: dict[str, object]
    ) -> object:
        """What a function that draws gives with this generator."""
        if not _takes_generator(function):
            name = function._overloadname.removeprefix("default")
            overload = f"{name}_generator" if name else "generator"
            function = getattr(function.overloadpacket, overload, None)
        if function is None:
            raise NotImplementedError("what draws takes no generator")
        return function(*arguments, **{**options, "generator": self.generator})


def _takes_generator(function: Any) -> bool:
    return any(argument.name == "generator" for argument in function._schema.arguments)
