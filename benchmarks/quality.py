"""What a time to quality is: a training here and a peer's, to the same score on rows held out.

The check finds how many passes over the data each of them needs, at equal settings; timed are
trainings of so many, without the scores. A model without passes ends at its own tolerance. All take
one thread: most steps are too short for two.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from harness import Case

MOST_PASSES = 512

# Of rows, passes and a seed.
Training = Callable[[np.ndarray, int, int], Any]


@dataclass(frozen=True)
class Quality:
    """A model of both sides, the score of what their trainings return, and the score to reach.

    Attributes:
        peer: the module of the library that is compared with.
        data: gives the rows to train on, and what is held out.
        ours: trains on the rows, for so many passes, from a seed.
        theirs: the peer's training.
        score: of what either returned, on what is held out; the higher the better.
        measure: what the score is, in words, with the target's size.
        target: of the score.
        seeds: of how many trainings the mean score counts; more than 1 where it hangs on luck.
        has_passes: whether the trainings take a number of passes.
    """

    peer: str
    data: Callable[[], tuple[np.ndarray, Any]]
    ours: Training
    theirs: Training
    score: Callable[[Any, Any], float]
    measure: str
    target: float
    seeds: int = 1
    has_passes: bool = True

    def passes(self, train: Training) -> int:
        """The fewest of 1, 2, 4, ... that reach the score, then halved down to the fewest."""
        if not self.has_passes:
            assert self.reaches(train, 1), "it does not reach the score"
            return 1
        most = next((n for n in powers_of_two() if self.reaches(train, n)), None)
        assert most is not None, f"no score of {self.target} in {MOST_PASSES} passes"
        fewest = most // 2  # which do not
        while most - fewest > 1:
            middle = (fewest + most) // 2
            fewest, most = (fewest, middle) if self.reaches(train, middle) else (middle, most)
        return most

    def reaches(self, train: Training, passes: int) -> bool:
        rows, held_out = self.data()
        scores = [self.score(train(rows, passes, seed), held_out) for seed in range(self.seeds)]
        return sum(scores) / self.seeds >= self.target

    def case(self, name: str, device: str) -> Case:
        passes: dict[str, int] = {}

        def find_passes() -> None:
            passes.update(ours=self.passes(self.ours), theirs=self.passes(self.theirs))

        rows, _ = self.data()
        return Case(
            op="quality",
            name=f"{name} to {self.measure.format(abs(self.target))}, against {self.peer}",
            device=device,
            dtype=torch.float32,
            make_inputs=lambda: (torch.from_numpy(rows),),
            ours=lambda x: self.ours(x.numpy(), passes["ours"], 0),
            eager=lambda x: self.theirs(x.numpy(), passes["theirs"], 0),
            check=find_passes,
            compiles=False,
            threads=1,
        )


def powers_of_two() -> list[int]:
    return [2**power for power in range(MOST_PASSES.bit_length())]


@cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Pixels from 0 to 1, 1347 rows to train on and 450 that are held out."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    rows, held_out = train_test_split((load_digits().data / 16).astype(np.float32), random_state=0)
    return rows, held_out


@cache
def binary_digits() -> tuple[np.ndarray, np.ndarray]:
    """The digits with pixels that are 0 or 1."""
    rows, held_out = ((part > 0.5).astype(np.float32) for part in digits())
    return rows, held_out
