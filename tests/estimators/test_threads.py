"""Estimators fitted at once, as joblib's threads and web servers do: nothing is shared."""

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")
from sklearn.base import clone

from aefast import estimators

MODELS = [
    estimators.DenoisingAutoencoder((6, 3), code_dropout=0.2, n_iter=2, random_state=0),
    estimators.VariationalAutoencoder((6, 3), n_iter=2, random_state=0),
    estimators.BernoulliRBM(6, n_iter=1, random_state=0),
    estimators.SparseCoding(6, 0.3, n_iter=1, random_state=0),
    estimators.FactorAnalysis(2),
]


@pytest.fixture
def often_switched():
    """Threads that take turns every microsecond."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_fits_in_eight_threads_are_one_fit_and_torchs_generator_is_left_alone(
    model, often_switched
):
    X = np.random.default_rng(0).random((30, 8)).astype(np.float32)
    expected = clone(model).fit(X)
    codes, scores = expected.transform(X), expected.score_samples(X)
    before = torch.get_rng_state()

    def results(_):
        fitted = clone(model).fit(X)
        return fitted.components_, fitted.transform(X), fitted.score_samples(X)

    with ThreadPoolExecutor(8) as pool:
        for actual in pool.map(results, range(24)):
            assert all(map(np.array_equal, actual, (expected.components_, codes, scores)))
    assert torch.equal(torch.get_rng_state(), before)
