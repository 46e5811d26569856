"""estimators.PCA beside scikit-learn's, and where the data are poor."""

import numpy as np
import pytest

pytest.importorskip("sklearn")
from sklearn.datasets import load_digits
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


@pytest.fixture(autouse=True)
def one_thread(threads):
    threads(1)


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
    ours, theirs = PCA(components).fit(X), Theirs(components, svd_solver="full").fit(X)
    for name in ATTRIBUTES:
        np.testing.assert_allclose(
            getattr(ours, name), getattr(theirs, name), rtol=1e-11, atol=1e-11, err_msg=name
        )
    np.testing.assert_allclose(ours.transform(X), theirs.transform(X), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(ours.get_covariance(), theirs.get_covariance(), atol=1e-10)


@pytest.mark.parametrize("components", [1, 3, 8])
def test_the_likelihood_is_scikit_learns(components):
    X = spread(200, 8)
    ours, theirs = PCA(components).fit(X), Theirs(components, svd_solver="full").fit(X)
    other = spread(50, 8) * 2
    np.testing.assert_allclose(ours.score_samples(other), theirs.score_samples(other), rtol=1e-11)
    assert ours.score(other) == pytest.approx(theirs.score(other), rel=1e-11)


def test_whitened_codes_are_scikit_learns_and_have_unit_variance():
    X = spread(200, 8)
    ours = PCA(3, whiten=True).fit(X)
    theirs = Theirs(3, whiten=True, svd_solver="full").fit(X)
    codes = ours.transform(X)
    np.testing.assert_allclose(codes, theirs.transform(X), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(np.cov(codes, rowvar=False), np.eye(3), atol=1e-12)
    np.testing.assert_allclose(
        ours.inverse_transform(codes), theirs.inverse_transform(codes), rtol=1e-10
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


def test_digits_in_a_pipeline_and_a_grid_search():
    X, y = load_digits(return_X_y=True)
    pipeline = make_pipeline(PCA(), LogisticRegression(max_iter=200))
    grid = {"pca__n_components": [2, 20], "pca__whiten": [True]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(X[:400], y[:400])
    assert search.best_params_["pca__n_components"] == 20
    assert search.best_score_ > 0.8
