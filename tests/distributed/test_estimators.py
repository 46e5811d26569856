"""Estimators whose statistics add up: over the ranks of a group, and by merging."""

import numpy as np
import pytest

pytest.importorskip("sklearn")

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


def test_what_cannot_be_merged_is_refused():
    X = estimating.rows(80, 6)
    PCA, FactorAnalysis = (estimating.ESTIMATORS[n] for n in ("pca", "factor analysis"))
    with pytest.raises(TypeError, match="other is a FactorAnalysis; it takes a PCA"):
        PCA().fit(X).merge(FactorAnalysis().fit(X))
    with pytest.raises(ValueError, match="other has seen no rows"):
        PCA().fit(X).merge(PCA())
    with pytest.raises(ValueError, match="other has seen 5 features; it takes 6"):
        PCA().fit(X).merge(PCA().fit(X[:, :5]))
