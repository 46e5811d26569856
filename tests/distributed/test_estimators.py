"""Estimators whose statistics add up: over the ranks of a group, and by merging."""

import copy
import pickle

import numpy as np
import pytest

pytest.importorskip("sklearn")

from aefast.estimators import SparseCoding
from tests.distributed import estimating, worlds


def check_same(one, other, exact=1e-9):
    for name, expected in one.items():
        tolerance = 1e-4 if expected is not None and np.asarray(expected).dtype == "f4" else exact
        np.testing.assert_allclose(other[name], expected, tolerance, tolerance, err_msg=name)


@pytest.mark.parametrize("features", [6, pytest.param(200, marks=pytest.mark.slow)])
def test_ranks_with_rows_of_their_own_estimate_what_one_would_from_all(features):
    """Also of fewer rows than features."""
    ranks = worlds.run(2, estimating.fitted, 80, features)
    for name, expected in estimating.fitted(80, features).items():
        for rank in ranks:
            check_same(expected, rank[name])
        for key, value in ranks[0][name].items():
            assert np.array_equal(value, ranks[1][name][key]), (name, key)


@pytest.mark.parametrize("features", [6, 200])
@pytest.mark.parametrize("name", ["pca", "pca, a share", "probabilistic pca", "factor analysis"])
def test_parts_that_are_merged_are_fit_on_all_the_rows(name, features):
    X = estimating.rows(80, features)
    make = estimating.ESTIMATORS[name]
    whole = make().fit(X)
    first, second, third = (make().partial_fit(part) for part in (X[:3], X[3:50], X[50:]))
    for merged in (first.merge(second).merge(third), third.merge(first)):
        assert merged.n_samples_seen_ == (80 if merged is first else 110)
    check_same({k: v for k, v in vars(whole).items() if k.endswith("_")}, vars(first))
    more = make().fit(X).partial_fit(X[:5])
    check_same(
        {k: v for k, v in vars(more).items() if k.endswith("_")},
        vars(make().fit(X[:5]).merge(make().fit(X))),
    )


def test_a_step_of_sparse_coding_is_merged_from_parts_of_its_batch():
    X = estimating.rows(80, 6).astype(np.float32)
    before = SparseCoding(5, 0.3, random_state=0).fit(X[:30])
    parts = [copy.deepcopy(before).partial_fit(rows) for rows in np.array_split(X[30:], 3)]
    third = copy.deepcopy(parts[2])
    merged = third.merge(parts[0]).merge(pickle.loads(pickle.dumps(parts[1])))
    whole = copy.deepcopy(before).partial_fit(X[30:])
    assert merged is third
    assert merged.n_steps_ == whole.n_steps_ == before.n_steps_ + 1
    np.testing.assert_allclose(merged.components_, whole.components_, rtol=0, atol=1e-5)
    for name in ("_code_products", "_data_products"):
        np.testing.assert_allclose(getattr(merged, name), getattr(whole, name), 1e-5, 1e-5)


def test_steps_from_other_dictionaries_are_not_merged():
    X = estimating.rows(80, 6)
    parts = [SparseCoding(5, 0.3, random_state=0).fit(rows) for rows in (X[:40], X[40:])]
    with pytest.raises(ValueError, match="other's last step began at another dictionary; it takes"):
        parts[0].merge(parts[1])
    with pytest.raises(ValueError, match=r"penalty of other is 0\.5, and 0\.3 here"):
        parts[0].merge(SparseCoding(5, 0.5).fit(X))
    with pytest.raises(ValueError, match="other has taken no step; it takes one after partial_fit"):
        parts[0].merge(SparseCoding(5, 0.3))
    with pytest.raises(TypeError, match="other is a PCA; it takes a SparseCoding"):
        parts[0].merge(estimating.PCA())


def test_what_cannot_be_merged_is_refused():
    X = estimating.rows(80, 6)
    PCA, FactorAnalysis = (estimating.ESTIMATORS[n] for n in ("pca", "factor analysis"))
    with pytest.raises(TypeError, match="other is a FactorAnalysis; it takes a PCA"):
        PCA().fit(X).merge(FactorAnalysis().fit(X))
    with pytest.raises(ValueError, match="other has seen no rows"):
        PCA().fit(X).merge(PCA())
    with pytest.raises(ValueError, match="other has seen 5 features; it takes 6"):
        PCA().fit(X).merge(PCA().fit(X[:, :5]))
