"""Ctrl-C during training: it ends a call after a whole step, and on all ranks of a group."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from types import FrameType

from aefast.backend import extension
from aefast.distributed.group import Group

Handler = Callable[[int, FrameType | None], object]

# The signals whose handlers end what a program does: Ctrl-C, a request to end, and a timer.
SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGALRM") if hasattr(signal, name)
]


class Interrupts:
    """Ctrl-C, and other signals whose handlers may raise, during a call that takes steps.

    A handler is called at once between two steps, and after a step that is being taken. In a group
    the ranks ask each other between their steps whether Ctrl-C came to one of them: a rank that
    raised in the middle of a step would leave the others waiting. When a signal comes a second time
    its handler is called at once.

    Args:
        handlers: the program's handlers, by signal.
        are_asked_for: whether ranks ask for it, so that no handler is called after a step.

    Attributes:
        are_over: whether the call is: then a handler is called at once.
    """

    def __init__(self, handlers: Mapping[int, Handler], are_asked_for: bool = False) -> None:
        self._handlers = handlers
        self._are_asked_for = are_asked_for
        self.are_over = False
        self._is_step = self._is_undone = False
        self._noted: dict[int, FrameType | None] = {}

    @property
    def have_come(self) -> bool:
        return bool(self._noted)

    @contextlib.contextmanager
    def whole_step(self, is_undone: bool = False) -> Iterator[None]:
        """Some steps, and what is recorded of them, which no handler breaks off.

        ``is_undone``: a call of the C++ kernels takes them, which looks for signals in its first
        step alone, and undoes it. There a handler is called at once: a step may take seconds.
        """
        outer = self._is_step, self._is_undone
        self._is_step, self._is_undone = True, is_undone and not self._is_step
        try:
            yield
        finally:
            self._is_step, self._is_undone = outer
            if not self._is_step and not self._are_asked_for:
                self._call_handlers()

    def _call_handlers(self) -> None:
        """Call the handler of each signal that has come, also after one that raises."""
        if self._noted:
            number, frame = self._noted.popitem()
            try:
                self._handlers[number](number, frame)
            finally:
                self._call_handlers()

    def note(self, number: int, frame: FrameType | None) -> None:
        """The handler of the signals."""
        waits = self._are_asked_for or (self._is_step and not self._is_in_kernels())
        if waits and not self.are_over and number not in self._noted:
            self._noted[number] = frame
        else:
            self._noted.pop(number, None)
            self._handlers[number](number, frame)

    def _is_in_kernels(self) -> bool:
        return self._is_undone and extension().in_signal_handler()


@contextlib.contextmanager
def noted_interrupts(group: Group) -> Iterator[Interrupts]:
    """The signals of a call as :class:`Interrupts`. A call in the callback of another shares the
    outer one's. In a group a handler that the program has set stays in place."""
    outer = getattr(signal.getsignal(signal.SIGINT), "__self__", None)
    if isinstance(outer, Interrupts) and not outer.are_over:
        yield outer
        return
    handlers = _handlers(group)
    interrupts = Interrupts(handlers, are_asked_for=group.size > 1)
    try:
        for number in handlers:
            signal.signal(number, interrupts.note)
        yield interrupts
    finally:
        interrupts.are_over = True
        for number, handler in handlers.items():
            last = signal.signal(number, handler)
            if last != interrupts.note:  # a callback has set another one
                signal.signal(number, last)
    if interrupts.have_come:  # it came after the last step, when no rank waits any more
        raise KeyboardInterrupt


def _handlers(group: Group) -> dict[int, Handler]:
    """The handlers that wait for the end of a step. Python calls handlers on its main thread."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    set_handlers = {number: signal.getsignal(number) for number in SIGNALS}
    if group.size == 1:
        return {number: handler for number, handler in set_handlers.items() if callable(handler)}
    is_default = set_handlers[signal.SIGINT] is signal.default_int_handler
    return {signal.SIGINT: signal.default_int_handler} if is_default else {}


def stop_together(group: Group, interrupts: Interrupts) -> None:
    """
    Raises:
        KeyboardInterrupt: on each rank, that it came to one.
    """
    if any(group.any(interrupts.have_come)):
        raise KeyboardInterrupt
