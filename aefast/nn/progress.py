"""An optional progress bar on the terminal."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

Step = TypeVar("Step")


def track(steps: Sequence[Step], label: str, *, progress: bool) -> Iterable[Step]:
    """The steps; with ``progress`` a bar shows how many are done.

    rich is imported only then: kernels and modules run, and are tested, where it is not installed.
    """
    if not progress:
        return steps
    from rich import progress as bars

    return bars.track(steps, label)
