"""Count, mean and scatter against numpy's, whatever the batches."""

import tracemalloc

import numpy as np
import pytest

pytest.importorskip("sklearn")
from scipy import sparse

from aefast.estimators import moments as moments_module
from aefast.estimators.moments import Moments


@pytest.fixture
def rows():
    return np.random.default_rng(0).normal(size=(101, 5)) * [1, 2, 3, 4, 5] + 7


def scatter_of(moments):
    return moments.root.T @ moments.root if moments.scatter is None else moments.scatter


def close(moments, X):
    """To the rounding of a sum of n products."""
    rounding = len(X) * np.finfo(np.float64).eps
    scatter = np.cov(X, rowvar=False, ddof=0) * len(X)
    assert moments.count == len(X)
    if len(X) < X.shape[1]:
        assert moments.root.shape == X.shape
    else:
        assert moments.root is None
    np.testing.assert_allclose(moments.variances, np.diag(scatter) / len(X), rtol=rounding)
    np.testing.assert_allclose(moments.mean, X.mean(0), rtol=rounding)
    np.testing.assert_allclose(
        scatter_of(moments), scatter, rtol=0, atol=rounding * np.trace(scatter)
    )


@pytest.mark.parametrize("sizes", [[101], [1, 100], [50, 1, 50], [3, 2, 96], [1] * 101])
def test_batches_of_any_size_give_the_moments_of_all_rows(rows, sizes):
    moments = Moments.none(5)
    for batch in np.split(rows, np.cumsum(sizes)[:-1]):
        moments = moments.including(batch)
    close(moments, rows)


@pytest.mark.parametrize("sizes", [[4], [2, 2], [1, 3], [1, 1, 1, 1]])
def test_fewer_rows_than_features_are_kept_as_so_many(rows, sizes):
    moments = Moments.none(5)
    for batch in np.split(rows[:4], np.cumsum(sizes)[:-1]):
        moments = moments.including(batch)
    close(moments, rows[:4])


def test_the_first_few_rows_are_kept_once():
    X = np.random.default_rng(0).random((20, 5000))
    tracemalloc.start()
    try:
        moments = Moments.none(5000).including(X)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert moments.root.shape == X.shape
    assert peak < 1.5 * X.nbytes


def test_pieces_of_one_batch_give_its_moments(rows, monkeypatch):
    monkeypatch.setattr(moments_module, "ROWS_AT_ONCE", 10)
    close(Moments.none(5).including(rows), rows)


def test_the_order_of_the_batches_changes_rounding_alone(rows):
    close(Moments.none(5).including(rows[60:]).including(rows[:60]), rows)


def test_nothing_cancels_far_from_zero(rows):
    """Integers, exact at 2**27 too. A mean is rounded by 2**-26 there, and nothing else is; the sum
    of squares less the square of the sum would be off by 2**54 eps, which is 4, for each row."""
    near = np.round(rows)
    far = near + 2.0**27
    moments = Moments.none(5).including(far[:40]).including(far[40:])
    scatter = np.cov(near, rowvar=False) * 100
    bound = 2.0**-26 * np.abs(near - near.mean(0)).sum() * 2
    np.testing.assert_allclose(scatter_of(moments), scatter, rtol=0, atol=bound)


def test_what_was_there_is_left_as_it_was(rows):
    first = Moments.none(5).including(rows[:50])
    mean, scatter = first.mean.copy(), first.scatter.copy()
    first.including(rows[50:])
    assert np.array_equal(first.mean, mean)
    assert np.array_equal(first.scatter, scatter)


def test_sparse_and_float32_rows_are_taken_as_float64(rows):
    single = rows.astype(np.float32)
    dense = Moments.none(5).including(single.astype(np.float64))
    for same in (single, sparse.csr_matrix(single)):
        assert np.array_equal(Moments.none(5).including(same).scatter, dense.scatter)


UNIT_ROUNDOFF = 2.0**-24


@pytest.mark.parametrize("offset", [0, 10, 1e4])
def test_float32_products_are_as_exact_as_is_said(offset):
    """4096 u at the most. Where the roundings of a sum are independent they add up in quadrature,
    to sqrt(4096) u; what is measured is 2 u."""
    X = np.random.default_rng(0).normal(size=(5000, 30)) * np.geomspace(1e-3, 1e3, 30) + offset
    X = X.astype(np.float32)
    exact, single = Moments.none(30).including(X), Moments.none(30).including(X, single=True)
    deviations = np.sqrt(exact.variances * 5000)
    error = np.abs(single.scatter - exact.scatter) / np.outer(deviations, deviations)
    assert 0 < error.max() < 4096**0.5 * UNIT_ROUNDOFF
    np.testing.assert_allclose(single.mean, exact.mean, rtol=0, atol=1e-6 * deviations.max() / 5000)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
def test_float32_rows_whose_squares_leave_its_range_are_taken_in_float64(rows, scale):
    X = (rows * scale).astype(np.float32)
    exact, single = Moments.none(5).including(X), Moments.none(5).including(X, single=True)
    if scale in (1e-30, 1e30):
        assert np.array_equal(single.scatter, exact.scatter)
    np.testing.assert_allclose(single.variances, exact.variances, rtol=4096**0.5 * UNIT_ROUNDOFF)


def test_float32_products_leave_a_constant_feature_without_variance():
    X = np.random.default_rng(0).random((3000, 3)).astype(np.float32)
    X[:, 1] = 0.1
    moments = Moments.none(3).including(X, single=True)
    assert moments.variances[1] == 0
    assert moments.mean[1] == X[0, 1]
