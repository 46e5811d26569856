"""Count, mean and scatter against numpy's, whatever the batches."""

import numpy as np
import pytest

pytest.importorskip("sklearn")
from scipy import sparse

from aefast.estimators import conversion
from aefast.estimators.moments import Moments


@pytest.fixture
def rows():
    return np.random.default_rng(0).normal(size=(101, 5)) * [1, 2, 3, 4, 5] + 7


def found(moments):
    return moments.root.T @ moments.root


def close(moments, X):
    """To the rounding of a sum of n products."""
    rounding = len(X) * np.finfo(np.float64).eps
    scatter = np.cov(X, rowvar=False, ddof=0) * len(X)
    assert moments.count == len(X)
    assert moments.root.shape == (min(X.shape), X.shape[1])
    np.testing.assert_allclose(moments.mean, X.mean(0), rtol=rounding)
    np.testing.assert_allclose(found(moments), scatter, rtol=0, atol=rounding * np.trace(scatter))


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


def test_pieces_of_one_batch_give_its_moments(rows, monkeypatch):
    monkeypatch.setattr(conversion, "ROWS_AT_ONCE", 10)
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
    np.testing.assert_allclose(found(moments), scatter, rtol=0, atol=bound)


def test_what_was_there_is_left_as_it_was(rows):
    first = Moments.none(5).including(rows[:50])
    mean, root = first.mean.copy(), first.root.copy()
    first.including(rows[50:])
    assert np.array_equal(first.mean, mean)
    assert np.array_equal(first.root, root)


def test_sparse_and_float32_rows_are_taken_as_float64(rows):
    single = rows.astype(np.float32)
    dense = Moments.none(5).including(single.astype(np.float64))
    for same in (single, sparse.csr_matrix(single)):
        assert np.array_equal(Moments.none(5).including(same).root, dense.root)
