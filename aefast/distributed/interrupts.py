"""Ctrl-C in a process group: one rank receives it, and all ranks stop after the same step."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from aefast.distributed.group import Group


@contextlib.contextmanager
def noted_interrupts(group: Group) -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C came, which the ranks ask each other between their steps: one that raised in
    the middle of a step would leave the others waiting. A second Ctrl-C raises at once.

    Of a process that is alone Ctrl-C raises as ever. A handler that the program has set stays in
    place.
    """
    if group.size == 1:
        yield lambda: False
        return
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield lambda: False
        return
    interrupts: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        interrupts.append(number)
        if len(interrupts) > 1:
            signal.default_int_handler(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(interrupts)
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if interrupts:  # it came after the last step, when no rank waits any more
        raise KeyboardInterrupt


def stop_together(group: Group, is_interrupted: bool) -> None:
    """
    Raises:
        KeyboardInterrupt: on each rank, that it came to one.
    """
    if any(group.any(is_interrupted)):
        raise KeyboardInterrupt
