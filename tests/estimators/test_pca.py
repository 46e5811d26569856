"""estimators.PCA beside scikit-learn's, and where the data are poor."""

import numpy as np
import pytest

pytest.importorskip("sklearn")
from sklearn.datasets import load_digits, load_iris, load_wine
from sklearn.decomposition import PCA as Theirs
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from aefast.estimators import PCA

ATTRIBUTES = (
    "components_",
    "explained_variance_",
    "explained_variance_ratio_",
    "singular_values_",
    "mean_",
    "noise_variance_",
    "n_components_",
)


def spread(samples, features):
    """Rows with standard deviations 1 to 2 along the axes: no eigenvalue near another's."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(samples, features)) * np.linspace(1, 2, features) + 3


@pytest.mark.parametrize(
    ("samples", "features", "components"),
    [(200, 8, 3), (200, 8, 8), (200, 8, None), (6, 20, 3), (6, 20, 5), (2, 1, 1)],
)
def test_every_attribute_is_scikit_learns_sign_included(samples, features, components):
    """A covariance's eigenvalues are as exact as the largest one's rounding."""
    X = spread(samples, features)
    actual, expected = PCA(components).fit(X), Theirs(components, svd_solver="full").fit(X)
    for name in ATTRIBUTES:
        np.testing.assert_allclose(
            getattr(actual, name), getattr(expected, name), rtol=1e-11, atol=1e-11, err_msg=name
        )
    np.testing.assert_allclose(actual.transform(X), expected.transform(X), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(actual.get_covariance(), expected.get_covariance(), atol=1e-10)


@pytest.mark.parametrize("components", [1, 3, 8])
def test_the_likelihood_is_scikit_learns(components):
    X = spread(200, 8)
    actual, expected = PCA(components).fit(X), Theirs(components, svd_solver="full").fit(X)
    other = spread(50, 8) * 2
    np.testing.assert_allclose(
        actual.score_samples(other), expected.score_samples(other), rtol=1e-11
    )
    assert actual.score(other) == pytest.approx(expected.score(other), rel=1e-11)


def test_whitened_codes_are_scikit_learns_and_have_unit_variance():
    X = spread(200, 8)
    actual = PCA(3, whiten=True).fit(X)
    expected = Theirs(3, whiten=True, svd_solver="full").fit(X)
    codes = actual.transform(X)
    np.testing.assert_allclose(codes, expected.transform(X), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(np.cov(codes, rowvar=False), np.eye(3), atol=1e-12)
    np.testing.assert_allclose(
        actual.inverse_transform(codes), expected.inverse_transform(codes), rtol=1e-10
    )


def test_whitening_leaves_the_likelihood_alone():
    X = spread(200, 8)
    plain, white = PCA(3).fit(X), PCA(3, whiten=True).fit(X)
    assert np.array_equal(plain.score_samples(X), white.score_samples(X))


def test_the_reconstruction_error_is_the_sum_of_the_discarded_eigenvalues():
    X = spread(200, 8)
    model = PCA(3).fit(X)
    error = np.square(X - model.inverse_transform(model.transform(X))).sum() / 199
    assert error == pytest.approx(5 * model.noise_variance_, rel=1e-12)


@pytest.mark.parametrize("whiten", [False, True])
def test_with_all_components_the_code_loses_nothing(whiten):
    X = spread(50, 6)
    model = PCA(whiten=whiten).fit(X)
    np.testing.assert_allclose(model.inverse_transform(model.transform(X)), X, rtol=1e-12)


@pytest.mark.parametrize("whiten", [False, True])
def test_a_constant_feature_comes_back(whiten):
    X = spread(50, 4)
    X[:, 2] = 0.1
    model = PCA(whiten=whiten).fit(X)
    codes = model.transform(X)
    assert np.abs(codes[:, 3]).max() < 1e-13
    np.testing.assert_allclose(model.inverse_transform(codes), X, rtol=1e-12)
    assert np.isfinite(model.score_samples(X)).all()


def test_rows_that_do_not_differ_have_no_variance():
    model = PCA(2, whiten=True).fit(np.full((5, 3), 0.5))
    assert np.array_equal(model.explained_variance_, [0, 0])
    assert np.array_equal(model.explained_variance_ratio_, [0, 0])
    assert np.array_equal(model.transform(np.full((2, 3), 0.5)), np.zeros((2, 2)))
    assert np.isfinite(model.score(np.full((2, 3), 0.5)))
    assert model.score(np.ones((1, 3))) < -1e300


def test_no_variance_is_negative():
    """Rounding makes some eigenvalues of a matrix of rank one so."""
    X = np.outer(np.linspace(-1, 1, 50), np.linspace(1, 2, 10))
    assert np.linalg.eigvalsh(np.cov(X, rowvar=False)).min() < 0
    model = PCA().fit(X)
    assert (model.explained_variance_ >= 0).all()
    assert np.isfinite(model.singular_values_).all()


def test_fewer_samples_than_features_are_kept_whole():
    X = spread(6, 20)
    model = PCA().fit(X)
    assert model.components_.shape == (6, 20)
    np.testing.assert_allclose(model.inverse_transform(model.transform(X)), X, rtol=1e-12)
    assert np.isfinite(model.score_samples(X)).all()


@pytest.mark.parametrize("components", [0.5, 0.95, 0.999, "mle"])
@pytest.mark.parametrize("load", [load_iris, load_wine, load_digits])
def test_a_share_of_the_variance_and_minkas_estimate_keep_as_many_as_scikit_learns(
    load, components
):
    """Digits have pixels that never change: eigenvalues that are rounding alone."""
    X = load().data
    actual, expected = PCA(components).fit(X), Theirs(components, svd_solver="full").fit(X)
    assert actual.n_components_ == expected.n_components_
    np.testing.assert_allclose(actual.explained_variance_, expected.explained_variance_, rtol=1e-9)
    rounding = 1e-14 * expected.explained_variance_[0]
    assert actual.noise_variance_ == pytest.approx(expected.noise_variance_, rel=1e-9, abs=rounding)
    assert actual.transform(X).shape == (len(X), actual.n_components_)
    assert PCA(components).fit(X * 1e-12).n_components_ == actual.n_components_


def test_a_share_and_an_estimate_of_no_variance():
    X = np.full((9, 4), 0.1)
    assert PCA("mle").fit(X).n_components_ == 1
    assert np.isfinite(PCA(0.9).fit(X).transform(X)).all()


def test_partial_fit_chooses_anew_among_all_rows():
    X = spread(200, 8) * np.r_[9, 9, 9, np.ones(5)]
    for components in (0.9, "mle"):
        parts = PCA(components)
        for batch in np.split(X, [2, 9, 50]):
            parts.partial_fit(batch)
        assert parts.n_components_ == PCA(components).fit(X).n_components_ < 8


def test_minkas_estimate_takes_no_fewer_samples_than_features():
    with pytest.raises(ValueError, match=r"^n_components is 'mle'; for 6 samples of 20 features"):
        PCA("mle").fit(spread(6, 20))


@pytest.mark.parametrize("components", ["x", [3], True, 0, -1, 1.5, 0.0, 1.0, np.nan, b"mle"])
def test_wrong_numbers_of_components_are_told_all_that_is_taken(components):
    message = "int from 1, a share of the variance in \\(0, 1\\), 'mle' or None"
    with pytest.raises(
        (TypeError, ValueError), match=f"^n_components is .*; it takes an {message}"
    ):
        PCA(components).fit(spread(200, 8))


@pytest.mark.parametrize("whiten", ["yes", 1, None])
def test_whiten_is_a_flag(whiten):
    with pytest.raises(TypeError, match=f"^whiten is {whiten!r}; it takes True or False"):
        PCA(2, whiten=whiten).fit(spread(200, 8))
    assert PCA(2, whiten=np.True_).fit(spread(200, 8)).n_components_ == 2


def test_every_solver_of_scikit_learns_is_taken_and_exact():
    X = spread(200, 8)
    expected = PCA(3).fit(X).components_
    for solver in ("full", "covariance_eigh", "arpack", "randomized"):
        model = PCA(3, svd_solver=solver, random_state=0).fit(X)
        assert np.array_equal(model.components_, expected)
    with pytest.raises(ValueError, match=r"^svd_solver is 'fast'"):
        PCA(svd_solver="fast").fit(X)


def test_tall_float32_data_are_as_exact_as_their_products():
    """An element of the covariance is off by 4096 u sqrt(C_ii C_jj) at the most; an eigenvalue by
    that times the trace, and an axis by that over the gap to the next eigenvalue, squared sums over
    8 features included."""
    X = spread(1000, 8).astype(np.float32)
    exact, single = PCA(3, svd_solver="full").fit(X), PCA(3).fit(X)
    off = 4096 * 2.0**-24 * X.var(0).sum()
    assert not np.array_equal(single.explained_variance_, exact.explained_variance_)
    np.testing.assert_allclose(single.explained_variance_, exact.explained_variance_, atol=off)
    gap = -np.diff(PCA(4, svd_solver="full").fit(X).explained_variance_).max()
    np.testing.assert_allclose(single.components_, exact.components_, atol=2 * off / gap)
    doubled = PCA(3).fit(X.astype(np.float64))
    np.testing.assert_allclose(exact.components_, doubled.components_, rtol=0, atol=1e-14)


def planted(noise):
    """Float32 rows of two factors and a little noise: its variance, 1e-8, is less than what float32
    rounds in products of the factors'."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(2000, 2)) @ rng.normal(size=(2, 20))
    return (rows + noise * rng.normal(size=(2000, 20))).astype(np.float32)


@pytest.mark.parametrize("components", [2, 5, None, 0.9, 0.9999999, "mle"])
def test_variances_below_float32s_rounding_are_those_of_float64_products(components):
    X = planted(noise=1e-4)
    actual, expected = PCA(components).fit(X), PCA(components).fit(X.astype(np.float64))
    assert actual.n_components_ == expected.n_components_
    np.testing.assert_allclose(actual.explained_variance_, expected.explained_variance_, rtol=1e-6)
    assert actual.noise_variance_ == pytest.approx(expected.noise_variance_, rel=1e-6)
    assert actual.score(X) == pytest.approx(expected.score(X), abs=1e-6)


def test_float32_products_are_kept_where_no_variance_is_below_their_rounding():
    X = planted(noise=0.3)
    exact, single = PCA(2, svd_solver="full").fit(X), PCA(2).fit(X)
    assert 0 < abs(single.noise_variance_ / exact.noise_variance_ - 1) < 1e-4
    assert single.score(X) == pytest.approx(exact.score(X), abs=1e-4)


def test_partial_fit_of_tall_float32_batches_is_as_exact_as_fit():
    """The earlier batches are gone when the spectrum shows that they need float64."""
    X = planted(noise=1e-4)
    parts, whole = PCA(2), PCA(2).fit(X.astype(np.float64))
    for batch in np.split(X, 4):
        parts.partial_fit(batch)
    assert parts.noise_variance_ == pytest.approx(whole.noise_variance_, rel=1e-6)


def test_digits_in_a_pipeline_and_a_grid_search():
    X, y = load_digits(return_X_y=True)
    pipeline = make_pipeline(PCA(), LogisticRegression(max_iter=200))
    grid = {"pca__n_components": [2, 20], "pca__whiten": [True]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(X[:400], y[:400])
    assert search.best_params_["pca__n_components"] == 20
    assert search.best_score_ > 0.8
