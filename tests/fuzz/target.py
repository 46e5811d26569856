"""What is fuzzed: examples of a strategy, each of which a function checks."""

import time
from collections.abc import Callable
from typing import Any

import hypothesis
from hypothesis.strategies import SearchStrategy


class Target:
    """Counts what was tried and keeps the faults, each of them once."""

    def __init__(self, name: str, examples: SearchStrategy, check: Callable[[Any], None]) -> None:
        self.name = name
        self.strategy = examples
        self.check = check
        self.tried = 0
        self.seconds = 0.0
        self.faults: set[str] = set()

    def run(self, examples: int, seed: int, end: float) -> None:
        """Try so many, none after ``end``; a fault is printed with the smallest example found."""
        start = time.monotonic()
        smallest: list[Any] = []

        @hypothesis.seed(seed)
        @hypothesis.settings(
            max_examples=examples,
            deadline=None,
            database=None,
            phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
            suppress_health_check=list(hypothesis.HealthCheck),
            report_multiple_bugs=False,
        )
        @hypothesis.given(self.strategy)
        def attempt(example: Any) -> None:
            hypothesis.assume(time.monotonic() < end)
            self.tried += 1
            try:
                self.check(example)
            except Exception as error:
                smallest[:] = [example, error]
                raise

        try:
            attempt()
        except hypothesis.errors.Unsatisfiable:
            pass  # the time was over before the first
        except Exception:
            # What is raised may say only that the time was over before the smallest was found.
            example, error = smallest
            fault = f"{type(error).__name__}: {error}"
            if fault not in self.faults:
                self.faults.add(fault)
                print(f"{self.name}: {fault}\n    {example}", flush=True)
        self.seconds += time.monotonic() - start
