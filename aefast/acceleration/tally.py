"""How many calls the kernels served, and how many fell back, with the time that they took."""

from time import perf_counter


class Tally:
    """The calls of one replaced part of a model.

    Attributes:
        served, fallen: calls.
        served_ms, fallen_ms: what their forward took, in milliseconds.
        reasons: why calls fell back.
    """

    def __init__(self) -> None:
        self.served = self.fallen = 0
        self.served_ms = self.fallen_ms = 0.0
        self.reasons: set[str] = set()

    def count(self, reason: str | None, start: float) -> None:
        """A call that began at ``start``, by ``perf_counter``; a reason says why it fell back."""
        passed = 1e3 * (perf_counter() - start)
        if reason is None:
            self.served += 1
            self.served_ms += passed
        else:
            self.fallen += 1
            self.fallen_ms += passed
            self.reasons.add(reason)
