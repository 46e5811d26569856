"""estimators.ProbabilisticPCA: Tipping and Bishop's optimum, and scikit-learn's likelihood."""

import numpy as np
import pytest

pytest.importorskip("sklearn")
from scipy.stats import multivariate_normal
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA as Theirs
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from aefast.estimators import PCA, ProbabilisticPCA


@pytest.fixture(scope="module")
def data():
    """Three factors in eight features, with noise of variance 1."""
    rng = np.random.default_rng(0)
    weight = np.linalg.qr(rng.normal(size=(8, 8)))[0][:3] * [[6], [4], [3]]
    return rng.normal(size=(400, 3)) @ weight + rng.normal(size=(400, 8)) + 5


@pytest.mark.parametrize("components", [1, 3, 7, 8])
def test_the_likelihood_is_scikit_learns_pcas(data, components):
    expected = Theirs(components, svd_solver="full").fit(data[:300])
    model = ProbabilisticPCA(components).fit(data[:300])
    for rows in (data[:300], data[300:]):
        np.testing.assert_allclose(
            model.score_samples(rows), expected.score_samples(rows), rtol=1e-11
        )


def test_the_likelihood_of_digits_with_their_constant_pixels_is_scikit_learns():
    X = load_digits().data
    model, expected = ProbabilisticPCA(10).fit(X), Theirs(10, svd_solver="full").fit(X)
    np.testing.assert_allclose(model.score_samples(X), expected.score_samples(X), rtol=1e-10)


def test_the_noise_is_the_mean_discarded_eigenvalue(data):
    eigenvalues = np.linalg.eigvalsh(np.cov(data, rowvar=False))[::-1]
    model = ProbabilisticPCA(3).fit(data)
    assert model.noise_variance_ == pytest.approx(eigenvalues[3:].mean(), rel=1e-12)
    np.testing.assert_allclose(
        np.square(model.components_).sum(1), eigenvalues[:3] - model.noise_variance_, rtol=1e-12
    )


def test_no_step_in_any_direction_raises_the_likelihood(data):
    """At an optimum: of the rows whose scatter over their number is the n - 1 covariance."""
    n = len(data)
    rows = (data - data.mean(0)) * np.sqrt(n / (n - 1)) + data.mean(0)
    model = ProbabilisticPCA(3).fit(data)
    weight, noise = model.components_, model.noise_variance_

    def likelihood(weight, noise):
        covariance = weight.T @ weight + noise * np.eye(8)
        return multivariate_normal(model.mean_, covariance).logpdf(rows).mean()

    best = likelihood(weight, noise)
    rng = np.random.default_rng(1)
    for _ in range(50):
        step = rng.normal(size=weight.shape) * 1e-2
        assert likelihood(weight + step, noise * np.exp(rng.normal() * 1e-2)) < best


def test_the_code_is_pcas_drawn_in_towards_the_mean(data):
    """By sqrt(L - s) / L, Tipping and Bishop's section 3.3."""
    pca, model = PCA(3).fit(data), ProbabilisticPCA(3).fit(data)
    values = pca.explained_variance_
    shrunk = pca.transform(data) * np.sqrt(values - model.noise_variance_) / values
    np.testing.assert_allclose(model.transform(data), shrunk, rtol=1e-10, atol=1e-10)


def test_the_model_recovers_what_drew_the_data():
    """The noise's estimate has a standard error of s sqrt(2 / (n (D - K))): within five."""
    rng = np.random.default_rng(0)
    truth = ProbabilisticPCA(2).fit(rng.normal(size=(100, 10)) * np.r_[5, 4, np.ones(8)])
    again = ProbabilisticPCA(2).fit(truth.sample(10_000, random_state=0))
    error = truth.noise_variance_ * np.sqrt(2 / (10_000 * 8))
    assert abs(again.noise_variance_ - truth.noise_variance_) < 5 * error


def test_with_all_components_nothing_is_lost_and_the_covariance_is_the_datas(data):
    model = ProbabilisticPCA().fit(data)
    np.testing.assert_allclose(model.inverse_transform(model.transform(data)), data, rtol=1e-10)
    np.testing.assert_allclose(model.get_covariance(), np.cov(data, rowvar=False), rtol=1e-11)
    assert 0 < model.noise_variance_ < 1e-12


def test_fewer_samples_than_features_share_the_noise_over_all_directions(data):
    rows = data[:6]
    eigenvalues = np.linalg.eigvalsh(np.cov(rows, rowvar=False))[::-1]
    model = ProbabilisticPCA(2).fit(rows)
    assert model.noise_variance_ == pytest.approx(eigenvalues[2:].sum() / 6, rel=1e-12)
    assert np.isfinite(model.score_samples(data)).all()


def test_data_in_a_subspace_keep_a_density(data):
    """A constant feature, and no noise in the others: rank two, and two factors."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50, 2)) @ rng.normal(size=(2, 5))
    X[:, 4] = 0.1
    model = ProbabilisticPCA(2).fit(X)
    assert model.noise_variance_ > 0
    assert np.isfinite(model.score_samples(X)).all()
    np.testing.assert_allclose(model.inverse_transform(model.transform(X)), X, atol=1e-12)
    assert model.score(X + np.eye(5)[4]) < model.score(X) - 1e10


def test_a_grid_search_finds_the_number_of_factors(data):
    search = GridSearchCV(ProbabilisticPCA(), {"n_components": [1, 2, 3, 4, 6]}, cv=4).fit(data)
    assert search.best_params_ == {"n_components": 3}


def test_in_a_pipeline(data):
    pipeline = make_pipeline(StandardScaler(), ProbabilisticPCA(3)).fit(data)
    assert pipeline.transform(data).shape == (400, 3)
    assert np.isfinite(pipeline.score(data))
    assert list(pipeline.get_feature_names_out()) == [f"probabilisticpca{i}" for i in range(3)]
