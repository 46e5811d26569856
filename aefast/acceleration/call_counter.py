"""Counts the calls that kernels computed and those that fell back to PyTorch, and their time."""

import threading
from time import perf_counter


class CallCounter:
    """The calls of one replaced part of a model.

    Attributes:
        served, fallbacks: the number of calls that kernels computed, and of those that fell back.
        served_ms, fallback_ms: the time that their forward passes took, in milliseconds.
        reasons: why calls fell back to PyTorch.
        last: its ``reason`` is why this thread's last call did; None where kernels computed it.
    """

    def __init__(self) -> None:
        self.served = self.fallbacks = 0
        self.served_ms = self.fallback_ms = 0.0
        self.reasons: set[str] = set()
        self.last = threading.local()

    def count(self, reason: str | None, start: float) -> None:
        """Count a call that began at ``start``, by ``perf_counter``. ``reason`` says why it fell
        back; it is None for one that kernels computed."""
        elapsed = 1e3 * (perf_counter() - start)
        self.last.reason = reason
        if reason is None:
            self.served += 1
            self.served_ms += elapsed
        else:
            self.fallbacks += 1
            self.fallback_ms += elapsed
            self.reasons.add(reason)
