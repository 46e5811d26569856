"""How many calls the kernels served, and how many fell back, with the time that they took."""

import time
from types import TracebackType


class Tally:
    """Of one replaced part of a model.

    Attributes:
        served, fallen: calls.
        served_ms, fallen_ms: what their forward took, in milliseconds.
        reasons: why calls fell back.
    """

    def __init__(self) -> None:
        self.served = self.fallen = 0
        self.served_ms = self.fallen_ms = 0.0
        self.reasons: set[str] = set()
        self._reason: str | None = None
        self._start = 0.0

    def timed(self, reason: str | None) -> "Tally":
        """Times a block: a call that is served, or falls back for a reason."""
        self._reason = reason
        return self

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        passed = 1e3 * (time.perf_counter() - self._start)
        if self._reason is None:
            self.served += 1
            self.served_ms += passed
        else:
            self.fallen += 1
            self.fallen_ms += passed
            self.reasons.add(self._reason)
