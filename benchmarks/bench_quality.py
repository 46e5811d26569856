"""Time to quality: how long scikit-learn's model, and the same one here, takes to a stated score on
handwritten digits that were held out.

The check finds how many passes over the data each of them needs, at equal settings; timed are
trainings of so many, without the scores. A model without passes is fitted to its own tolerance.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from harness import Case

pytest.importorskip("sklearn")

from sklearn.datasets import load_digits
from sklearn.decomposition import PCA, FactorAnalysis, MiniBatchDictionaryLearning, sparse_encode
from sklearn.model_selection import train_test_split
from sklearn.neural_network import BernoulliRBM, MLPRegressor

from aefast import estimators

MOST_PASSES = 512
# Few enough for all their states to be enumerated.
HIDDEN_UNITS = 10
PENALTY = 0.2


@cache
def digits(binary: bool = False) -> list[np.ndarray]:
    """Pixels from 0 to 1, 1347 rows to train on and 450 that are held out."""
    pixels = (load_digits().data / 16).astype(np.float32)
    if binary:
        pixels = (pixels > 0.5).astype(np.float32)
    return train_test_split(pixels, random_state=0)


@dataclass(frozen=True)
class Quality:
    """A model of both sides, the score of its fit on held-out rows, and the score to reach.

    Attributes:
        ours: makes the estimator of so many passes.
        theirs: makes scikit-learn's.
        fit: fits one to rows.
        score: the higher the better.
        target: of the score.
        has_passes: whether the estimators take a number of passes.
        binary: whether the pixels are 0 or 1.
    """

    ours: Callable[[int], Any]
    theirs: Callable[[int], Any]
    score: Callable[[Any, np.ndarray], float]
    target: float
    fit: Callable[[Any, np.ndarray], Any] = lambda model, rows: model.fit(rows)
    has_passes: bool = True
    binary: bool = False

    def passes(self, make: Callable[[int], Any]) -> int:
        """The fewest of 1, 2, 4, ... that reach the score, then halved down to the fewest."""
        if not self.has_passes:
            assert self.reaches(make, 1), "it does not reach the score"
            return 1
        most = next((n for n in powers_of_two() if self.reaches(make, n)), None)
        assert most is not None, f"no score of {self.target} in {MOST_PASSES} passes"
        fewest = most // 2  # which do not
        while most - fewest > 1:
            middle = (fewest + most) // 2
            fewest, most = (fewest, middle) if self.reaches(make, middle) else (middle, most)
        return most

    def reaches(self, make: Callable[[int], Any], passes: int) -> bool:
        rows, held_out = digits(self.binary)
        return self.score(self.fit(make(passes), rows), held_out) >= self.target


def powers_of_two() -> list[int]:
    return [2**power for power in range(MOST_PASSES.bit_length())]


def likelihood(machine: Any, rows: np.ndarray) -> float:
    """The mean log-likelihood of a machine's rows in nats, by all states of its hidden units."""
    weight, hidden_bias, visible_bias = (
        np.asarray(array, dtype=np.float64)
        for array in (
            machine.components_,
            machine.intercept_hidden_,
            machine.intercept_visible_,
        )
    )
    states = np.array(list(itertools.product([0.0, 1.0], repeat=len(weight))))
    log_weights = states @ hidden_bias + np.logaddexp(0, states @ weight + visible_bias).sum(1)
    energies = rows @ visible_bias + np.logaddexp(0, rows @ weight.T + hidden_bias).sum(1)
    return float(energies.mean() - np.logaddexp.reduce(log_weights))


def reconstruction(model: Any, rows: np.ndarray) -> float:
    """Minus the mean squared error."""
    if isinstance(model, MLPRegressor):
        return -float(np.square(model.predict(rows) - rows).mean())
    return float(model.score(rows))


def sparse_objective(model: Any, rows: np.ndarray) -> float:
    """Minus a row's error and penalty, with the codes by coordinate descent on both sides."""
    atoms = np.asarray(model.components_, dtype=np.float64)
    x = rows.astype(np.float64)
    codes = sparse_encode(x, atoms, algorithm="lasso_cd", alpha=PENALTY)
    errors = np.square(x - codes @ atoms).sum(1) / 2 + PENALTY * np.abs(codes).sum(1)
    return -float(errors.mean())


def mean_score(model: Any, rows: np.ndarray) -> float:
    return float(model.score(rows))


def fit_to_itself(model: Any, rows: np.ndarray) -> Any:
    return model.fit(rows, rows) if isinstance(model, MLPRegressor) else model.fit(rows)


MACHINE = {"n_components": HIDDEN_UNITS, "learning_rate": 0.05, "random_state": 0}
NETWORK = {"hidden_layer_sizes": 32, "batch_size": 32, "random_state": 0}
QUALITIES = {
    "BernoulliRBM": Quality(
        lambda passes: estimators.BernoulliRBM(n_iter=passes, **MACHINE),
        lambda passes: BernoulliRBM(n_iter=passes, **MACHINE),
        likelihood,
        -22.0,
        binary=True,
    ),
    "autoencoder 64-32": Quality(
        lambda passes: estimators.Autoencoder(n_iter=passes, learning_rate=0.003, **NETWORK),
        lambda passes: MLPRegressor(
            max_iter=passes,
            activation="logistic",
            learning_rate_init=0.003,
            alpha=0,
            tol=0,
            n_iter_no_change=MOST_PASSES,
            **NETWORK,
        ),
        reconstruction,
        -0.01,
        fit=fit_to_itself,
    ),
    "dictionary of 32 atoms": Quality(
        lambda passes: estimators.SparseCoding(32, PENALTY, n_iter=passes, random_state=0),
        lambda passes: MiniBatchDictionaryLearning(
            32,
            alpha=PENALTY,
            batch_size=256,
            max_iter=passes,
            fit_algorithm="cd",
            max_no_improvement=None,
            tol=0,
            random_state=0,
        ),
        sparse_objective,
        -1.48,
    ),
    "PCA(16)": Quality(
        lambda _: estimators.PCA(16), lambda _: PCA(16), mean_score, 21.9, has_passes=False
    ),
    "FactorAnalysis(16)": Quality(
        lambda _: estimators.FactorAnalysis(16, random_state=0),
        lambda _: FactorAnalysis(16, random_state=0),
        mean_score,
        80.0,
        has_passes=False,
    ),
}


@pytest.mark.parametrize("device", ["cpu"])
@pytest.mark.parametrize("name", QUALITIES)
def test_quality(compare: Callable[[Case], None], name: str, device: str) -> None:
    quality = QUALITIES[name]
    passes: dict[str, int] = {}

    def find_passes() -> None:
        passes.update(ours=quality.passes(quality.ours), theirs=quality.passes(quality.theirs))

    rows, _ = digits(quality.binary)
    compare(
        Case(
            op="quality",
            name=f"{name} to a held-out score of {quality.target:g}, against scikit-learn",
            device=device,
            dtype=torch.float32,
            make_inputs=lambda: (torch.from_numpy(rows),),
            ours=lambda x: quality.fit(quality.ours(passes["ours"]), x.numpy()),
            eager=lambda x: quality.fit(quality.theirs(passes["theirs"]), x.numpy()),
            check=find_passes,
            compiles=False,
        )
    )
