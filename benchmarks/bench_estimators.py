"""aefast.estimators against scikit-learn, with the arguments that people leave as they are."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from harness import Case
from torch import Tensor

pytest.importorskip("sklearn")

from sklearn import decomposition, neural_network
from sklearn.datasets import load_digits

from aefast import estimators

Fit = Callable[[np.ndarray], Any]


def digits() -> np.ndarray:
    return (load_digits().data / 16).astype(np.float32)


def uniform(rows: int) -> Callable[[], np.ndarray]:
    return lambda: np.random.default_rng(0).random((rows, 784), dtype=np.float32)


def machines(hidden: int, batch: int) -> tuple[Fit, Fit]:
    options = {"n_components": hidden, "batch_size": batch, "n_iter": 3, "random_state": 0}
    ours, theirs = estimators.BernoulliRBM(**options), neural_network.BernoulliRBM(**options)
    return ours.fit, theirs.fit


def networks() -> tuple[Fit, Fit]:
    """Ten epochs of 32 rows a step."""
    ours = estimators.Autoencoder(32, n_iter=10, batch_size=32, random_state=0)
    theirs = neural_network.MLPRegressor(
        hidden_layer_sizes=32,
        activation="logistic",
        batch_size=32,
        max_iter=10,
        n_iter_no_change=10,
        random_state=0,
    )
    return ours.fit, lambda rows: theirs.fit(rows, rows)


def components(name: str, count: int) -> tuple[Fit, Fit]:
    classes = getattr(estimators, name), getattr(decomposition, name)
    ours, theirs = (each(count) for each in classes)
    return ours.fit, theirs.fit


CASES: dict[str, tuple[Callable[[], np.ndarray], tuple[Fit, Fit]]] = {
    **{
        f"BernoulliRBM 64-{hidden} b{batch}": (digits, machines(hidden, batch))
        for hidden in (64, 256)
        for batch in (10, 100)
    },
    "Autoencoder 64-32 b32, MLPRegressor": (digits, networks()),
    "PCA(10), 20000x784": (uniform(20000), components("PCA", 10)),
    "PCA(100), 20000x784": (uniform(20000), components("PCA", 100)),
    "FactorAnalysis(10), 5000x784": (uniform(5000), components("FactorAnalysis", 10)),
}


@pytest.mark.parametrize("device", ["cpu"])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_fit(compare: Callable[[Case], None], name: str, device: str) -> None:
    data, (ours, theirs) = CASES[name]
    rows = torch.from_numpy(data())

    def fit(function: Fit) -> Callable[[Tensor], Any]:
        return lambda x: function(x.numpy())

    compare(
        Case(
            op="estimators",
            name=name,
            device=device,
            dtype=torch.float32,
            make_inputs=lambda: (rows,),
            ours=fit(ours),
            eager=fit(theirs),
            check=lambda: check(ours(rows.numpy()), theirs(rows.numpy()), rows.numpy()),
            compiles=False,
        )
    )


def check(ours: Any, theirs: Any, rows: np.ndarray) -> None:
    """Check that ours has learned as much, or more."""
    if isinstance(ours, estimators.BernoulliRBM):
        scores = [model.score_samples(rows).mean() for model in (ours, theirs)]
        assert abs(scores[0] - scores[1]) < 0.05 * rows.shape[1]
    elif isinstance(ours, estimators.Autoencoder):
        reconstructions = ours.inverse_transform(ours.transform(rows)), theirs.predict(rows)
        errors = [np.square(rows - each).mean() for each in reconstructions]
        assert errors[0] < 1.1 * errors[1]
    else:
        assert ours.score(rows) > theirs.score(rows) - 1e-3 * abs(theirs.score(rows))
