"""estimators.FactorAnalysis beside scikit-learn's, and where the data are poor."""

import warnings

import numpy as np
import pytest

pytest.importorskip("sklearn")
from scipy.stats import multivariate_normal
from sklearn.datasets import load_digits, load_wine
from sklearn.decomposition import FactorAnalysis as Theirs
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from aefast.estimators import FactorAnalysis, ProbabilisticPCA

# Both take the same steps. scikit-learn's adds 1e-12 to each deviation of the noise.
SAME_STEPS = 1e-9


@pytest.fixture(scope="module")
def data():
    """Three factors in eight features, each with a noise of its own."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(3, 8)) * [[4], [3], [2]]
    return rng.normal(size=(400, 3)) @ weight + rng.normal(size=(400, 8)) * np.linspace(1, 4, 8)


@pytest.mark.parametrize("components", [1, 3])
def test_on_standardized_data_the_steps_are_scikit_learns(data, components):
    X = StandardScaler().fit_transform(data)
    actual, expected = (
        FactorAnalysis(components).fit(X),
        Theirs(components, svd_method="lapack").fit(X),
    )
    assert actual.n_iter_ == expected.n_iter_ > 3
    np.testing.assert_allclose(actual.noise_variance_, expected.noise_variance_, rtol=SAME_STEPS)
    np.testing.assert_allclose(actual.loglike_, expected.loglike_, rtol=SAME_STEPS)
    np.testing.assert_allclose(
        actual.score_samples(X * 2), expected.score_samples(X * 2), rtol=SAME_STEPS
    )
    signs = np.sign((actual.components_ * expected.components_).sum(1))
    np.testing.assert_allclose(actual.components_, expected.components_ * signs[:, None], rtol=1e-7)
    np.testing.assert_allclose(actual.transform(X), expected.transform(X) * signs, atol=1e-8)


def test_from_the_same_start_the_likelihood_of_digits_is_scikit_learns():
    X = load_digits().data
    start = np.maximum(X.var(0), 1e-12)
    expected = Theirs(10, svd_method="lapack", noise_variance_init=start).fit(X)
    actual = FactorAnalysis(10).fit(X)
    assert (actual.noise_variance_[[0, 32, 39]] == 1e-12).all()  # the pixels that are always 0
    np.testing.assert_allclose(actual.score_samples(X), expected.score_samples(X), rtol=SAME_STEPS)


def test_where_units_differ_its_start_is_better_than_scikit_learns():
    X = load_wine().data
    actual, expected = FactorAnalysis(3).fit(X), Theirs(3, svd_method="lapack").fit(X)
    assert actual.loglike_[-1] > expected.loglike_[-1] + 90


def test_the_log_likelihood_of_the_steps_rises_and_ends_at_the_scores(data):
    model = FactorAnalysis(3, tol=1e-8).fit(data)
    assert (np.diff(model.loglike_) > 0)[:-1].all()
    assert model.loglike_[-1] == pytest.approx(model.score(data) * len(data), rel=1e-12)


def test_no_step_in_any_direction_raises_the_likelihood(data):
    model = FactorAnalysis(3, tol=1e-10).fit(data)
    weight, noise = model.components_, model.noise_variance_

    def likelihood(weight, noise):
        covariance = weight.T @ weight + np.diag(noise)
        return multivariate_normal(model.mean_, covariance).logpdf(data).mean()

    best = likelihood(weight, noise)
    rng = np.random.default_rng(1)
    for _ in range(50):
        step = rng.normal(size=weight.shape) * 1e-2
        assert likelihood(weight + step, noise * np.exp(rng.normal(size=8) * 1e-2)) < best


def test_at_its_optimum_the_noise_is_what_the_factors_leave(data):
    """And so the model's variances are the data's."""
    model = FactorAnalysis(3, tol=1e-10).fit(data)
    np.testing.assert_allclose(np.diag(model.get_covariance()), data.var(0), rtol=1e-6)


def test_it_fits_uneven_noise_better_than_probabilistic_pca(data):
    assert FactorAnalysis(3).fit(data).score(data) > ProbabilisticPCA(3).fit(data).score(data) + 0.1


def test_the_unit_of_a_feature_does_not_matter_to_the_likelihood(data):
    """But for the volume: each step is the same, in other units."""
    units = np.geomspace(1e-2, 1e2, 8)
    plain, scaled = FactorAnalysis(3).fit(data), FactorAnalysis(3).fit(data * units)
    likelihoods = scaled.score_samples(data * units) + np.log(units).sum()
    np.testing.assert_allclose(likelihoods, plain.score_samples(data), rtol=SAME_STEPS)
    np.testing.assert_allclose(
        np.abs(scaled.transform(data * units)), np.abs(plain.transform(data)), atol=1e-8
    )


def test_a_constant_feature_is_its_mean(data):
    X = data.copy()
    X[:, 2] = 0.1
    model = FactorAnalysis(3).fit(X)
    assert np.abs(model.components_[:, 2]).max() < 1e-20
    np.testing.assert_allclose(model.inverse_transform(model.transform(X))[:, 2], 0.1, rtol=1e-12)
    assert np.isfinite(model.score_samples(data)).all()


@pytest.mark.parametrize(("samples", "components"), [(5, 2), (5, 5), (400, 8), (2, None)])
def test_few_samples_and_many_factors(data, samples, components):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = FactorAnalysis(components).fit(data[:samples])
    assert (model.noise_variance_ >= 1e-12).all()
    assert np.isfinite(model.score_samples(data)).all()
    assert np.isfinite(model.inverse_transform(model.transform(data))).all()


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_too_few_steps_are_warned_of(data, method):
    message = "^FactorAnalysis did not converge in max_iter = 2 steps"
    with pytest.warns(ConvergenceWarning, match=message) as record:
        getattr(FactorAnalysis(3, max_iter=2), method)(data)
    assert record[0].filename == __file__


@pytest.mark.parametrize("rotation", ["varimax", "quartimax"])
def test_the_rotations_are_scikit_learns(data, rotation):
    X = StandardScaler().fit_transform(data)
    actual = FactorAnalysis(3, rotation=rotation, random_state=0).fit(X)
    reference = Theirs(3, svd_method="lapack", rotation=rotation).fit(X)
    order = np.abs(actual.components_ @ reference.components_.T).argmax(1)
    signs = np.sign((actual.components_ * reference.components_[order]).sum(1))
    expected = reference.components_[order] * signs[:, None]
    # The rotation ends where a step gains less than 1e-6, which leaves 1e-3 of the angle.
    np.testing.assert_allclose(actual.components_, expected, atol=1e-2)
    plain = FactorAnalysis(3).fit(X)
    assert np.abs(plain.components_ - actual.components_).max() > 0.1
    np.testing.assert_allclose(actual.score_samples(X), plain.score_samples(X), rtol=SAME_STEPS)


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"rotation": "oblimin"}, ValueError, "rotation is 'oblimin'"),
        ({"tol": -1}, ValueError, "tol is -1"),
        ({"tol": "small"}, TypeError, "tol is a str"),
        ({"max_iter": 0}, ValueError, "max_iter is 0"),
        ({"max_iter": 2.0}, TypeError, "max_iter is a float"),
    ],
)
def test_wrong_parameters(data, parameters, error, message):
    with pytest.raises(error, match=f"^{message}"):
        FactorAnalysis(2, **parameters).fit(data)


def test_a_grid_search_finds_the_number_of_factors(data):
    search = GridSearchCV(FactorAnalysis(), {"n_components": [1, 2, 3, 4, 5]}, cv=4).fit(data)
    assert search.best_params_ == {"n_components": 3}


def test_in_a_pipeline(data):
    pipeline = make_pipeline(StandardScaler(), FactorAnalysis(3)).fit(data)
    assert pipeline.transform(data).shape == (400, 3)
    assert list(pipeline.get_feature_names_out()) == [f"factoranalysis{i}" for i in range(3)]


def test_every_svd_method_is_exact_here():
    X = np.random.default_rng(0).normal(size=(40, 6))
    models = [FactorAnalysis(2, svd_method=m).fit(X) for m in ("lapack", "randomized")]
    assert np.array_equal(models[0].components_, models[1].components_)
    with pytest.raises(
        ValueError, match=r"^svd_method is 'full'; it takes one of lapack, randomized"
    ):
        FactorAnalysis(2, svd_method="full").fit(X)
