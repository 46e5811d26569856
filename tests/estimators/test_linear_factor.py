"""What PCA, probabilistic PCA and factor analysis share, on all three."""

import pickle
import warnings

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")
from scipy import sparse
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks

from aefast import backend
from aefast.estimators import PCA, FactorAnalysis, ProbabilisticPCA
from aefast.estimators.linear_factor import log_density, posterior

# Equal up to the rounding of an eigenvector, which is eps times the largest eigenvalue over the
# smallest gap between two: the spectrum of `data` below keeps that under 100.
ROUNDING = 1e-12

models = pytest.mark.parametrize(
    "model",
    [PCA(2), PCA(2, whiten=True), ProbabilisticPCA(2), FactorAnalysis(2)],
    ids=["pca", "whitened", "probabilistic", "factors"],
)


@pytest.fixture(scope="module")
def data():
    """Three factors in six features, with noise."""
    rng = np.random.default_rng(0)
    weight = np.linalg.qr(rng.normal(size=(6, 6)))[0][:3] * [[5], [4], [3]]
    return rng.normal(size=(300, 3)) @ weight + rng.normal(size=(300, 6)) + [9, 0, -9, 5, 1, 0]


@parametrize_with_checks(
    [
        PCA(),
        PCA(1, whiten=True),
        ProbabilisticPCA(),
        ProbabilisticPCA(1),
        FactorAnalysis(),
        FactorAnalysis(1),
    ]
)
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@models
@pytest.mark.parametrize("sizes", [[300], [2, 298], [3, 2, 1, 294], [100, 1, 99, 100]])
def test_partial_fit_on_batches_is_fit_on_all(data, model, sizes):
    whole, parts = clone(model).fit(data), clone(model)
    for batch in np.split(data, np.cumsum(sizes)[:-1]):
        assert parts.partial_fit(batch) is parts
    assert parts.n_samples_seen_ == 300
    for name in ("components_", "mean_", "noise_variance_"):
        np.testing.assert_allclose(
            getattr(parts, name), getattr(whole, name), rtol=ROUNDING, atol=30 * ROUNDING
        )
    np.testing.assert_allclose(
        parts.score_samples(data), whole.score_samples(data), rtol=30 * ROUNDING
    )


@models
def test_partial_fit_goes_on_from_fit_and_fit_begins_anew(data, model):
    model = clone(model).fit(data[:100])
    model.partial_fit(data[100:])
    np.testing.assert_allclose(model.mean_, data.mean(0), rtol=ROUNDING, atol=ROUNDING)
    assert model.fit(data[:100]).n_samples_seen_ == 100
    assert np.array_equal(model.components_, clone(model).fit(data[:100]).components_)


@models
def test_the_score_is_the_density_of_the_covariance(data, model):
    model = clone(model).fit(data)
    density = multivariate_normal(model.mean_, model.get_covariance())
    np.testing.assert_allclose(model.score_samples(data), density.logpdf(data), rtol=ROUNDING)
    assert model.score(data) == pytest.approx(density.logpdf(data).mean(), rel=ROUNDING)


@pytest.mark.parametrize("model", [PCA(1), ProbabilisticPCA(1), FactorAnalysis(1)])
def test_the_density_sums_to_one(data, model):
    """The trapezoidal rule is as good as exact on a Gaussian that eight deviations hold."""
    model = clone(model).fit(data[:, :2])
    deviation = np.sqrt(np.diag(model.get_covariance()))
    axes = [m + s * np.linspace(-8, 8, 401) for m, s in zip(model.mean_, deviation, strict=True)]
    grid = np.stack(np.meshgrid(*axes), -1).reshape(-1, 2)
    area = np.prod(deviation * 16 / 400)
    assert np.exp(model.score_samples(grid)).sum() * area == pytest.approx(1, abs=1e-12)


@models
def test_samples_have_the_models_mean_and_covariance(data, model):
    """Each within five of its own standard errors; (C_ii C_jj + C_ij^2) / n is a covariance's."""
    model = clone(model).fit(data)
    covariance = model.get_covariance()
    drawn = model.sample(20_000, random_state=0)
    variances = np.diag(covariance)
    error = np.sqrt((np.outer(variances, variances) + covariance**2) / len(drawn))
    assert (np.abs(np.cov(drawn, rowvar=False) - covariance) < 5 * error).all()
    assert (np.abs(drawn.mean(0) - model.mean_) < 5 * np.sqrt(variances / len(drawn))).all()


@models
def test_the_same_state_draws_the_same_samples(data, model):
    model = clone(model).fit(data)
    drawn = model.sample(3, random_state=1)
    assert np.array_equal(drawn, model.sample(3, random_state=1))
    assert not np.array_equal(drawn, model.sample(3, random_state=2))
    assert drawn.shape == (3, 6)


def test_the_posterior_is_bayess_rule():
    """By enumeration: the joint covariance of (h, x), conditioned."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 7, generator=generator, dtype=torch.float64)
    noise = torch.rand(7, generator=generator, dtype=torch.float64) + 0.1
    covariance = weight.T @ weight + noise.diag()
    encoder, log_det = posterior(weight, noise)
    torch.testing.assert_close(encoder, weight @ covariance.inverse(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(log_det, covariance.logdet(), rtol=1e-12, atol=1e-12)


def test_the_density_keeps_its_digits_as_the_noise_vanishes():
    """On one axis with W = 1 the density is known; Woodbury's difference loses all at 1e-16."""
    weight = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    for noise in (1e-4, 1e-10, 1e-16):
        variances = torch.tensor([1 + noise, noise], dtype=torch.float64)
        x = torch.tensor([[3.0, 2 * noise**0.5]], dtype=torch.float64)
        exact = -0.5 * (x**2 / variances + variances.log() + np.log(2 * np.pi)).sum()
        density = log_density(x, weight, torch.full((2,), noise, dtype=torch.float64))
        assert float(density) == pytest.approx(float(exact), rel=1e-12)


@models
def test_float32_rows_come_out_as_float32_and_as_right(data, model):
    """A sum of n products is off by n eps times the sum of their magnitudes, at the most; the
    rounding of x, W and b adds three."""
    model = clone(model).fit(data)
    rows = data.astype(np.float32)
    codes, exact = model.transform(rows), model.transform(rows.astype(np.float64))
    assert codes.dtype == np.float32
    assert exact.dtype == np.float64
    encoder = np.abs(model._encoder().numpy())
    bound = 9 * np.finfo(np.float32).eps * (np.abs(rows) + np.abs(model.mean_)) @ encoder.T
    assert (np.abs(codes - exact) < bound).all()
    assert model.inverse_transform(codes).dtype == np.float32
    assert model.inverse_transform(exact).dtype == np.float64


@models
def test_sparse_rows_are_the_dense_ones(data, model):
    data = np.maximum(data, 0)
    dense, thin = clone(model).fit(data), clone(model).fit(sparse.csr_matrix(data))
    assert np.array_equal(dense.components_, thin.components_)
    assert np.array_equal(dense.transform(data), thin.transform(sparse.csr_matrix(data)))
    assert np.array_equal(dense.score_samples(data), thin.score_samples(sparse.csr_matrix(data)))


@pytest.mark.parametrize("name", ["cpp", "numba", "eager"])
def test_on_every_backend_in_either_precision(data, name):
    if backend.unavailable(name, "cpu"):
        pytest.skip(f"{name} cannot run here")
    model = ProbabilisticPCA(2).fit(data)
    expected = model.transform(data)
    with backend.use_backend(name):
        assert np.array_equal(clone(model).fit(data).transform(data), expected)
        single = model.transform(data.astype(np.float32))
    np.testing.assert_allclose(single, expected, rtol=0, atol=1e-5)


@models
@pytest.mark.parametrize(
    "mode", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)]
)
def test_the_mode_of_the_caller_changes_nothing(data, model, mode):
    rows = data.astype(np.float32)
    expected = clone(model).fit(rows)
    with mode():
        inside = clone(model).fit(rows)
        assert np.array_equal(inside.transform(rows), expected.transform(rows))
        assert np.array_equal(inside.score_samples(rows), expected.score_samples(rows))
    inside.partial_fit(rows)


@models
@pytest.mark.parametrize("default", ["dtype", "device"])
def test_torchs_defaults_change_nothing(data, model, default, defaults):
    expected = clone(model).fit(data)
    results = [
        expected.transform(data.astype(np.float32)),
        expected.transform(data),
        expected.score_samples(data),
        expected.sample(3, random_state=0),
        expected.get_covariance(),
    ]
    defaults(default)
    inside = clone(model).fit(data)
    actual = [
        inside.transform(data.astype(np.float32)),
        inside.transform(data),
        inside.score_samples(data),
        inside.sample(3, random_state=0),
        inside.get_covariance(),
    ]
    assert all(map(np.array_equal, actual, results))


@models
def test_a_model_that_must_not_be_written_to(data, model, tmp_path):
    """As joblib maps it from a file."""
    joblib = pytest.importorskip("joblib")
    joblib.dump(clone(model).fit(data), tmp_path / "model")
    mapped = joblib.load(tmp_path / "model", mmap_mode="r")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert mapped.transform(data).shape == (300, 2)
        assert mapped.sample(2).shape == (2, 6)
        assert mapped.partial_fit(data).n_samples_seen_ == 600


@models
def test_of_few_rows_with_many_features_nothing_is_as_large_as_their_square(model):
    """Which would be 20 GB."""
    rows = np.random.default_rng(0).normal(size=(4, 50_000))
    model = clone(model).fit(rows)
    assert len(pickle.dumps(model)) < 3 * rows.nbytes
    assert np.isfinite(model.partial_fit(rows * 2).score_samples(rows)).all()


@models
def test_the_mean_may_be_written_to(data, model):
    """The rows yet to come are still added to the mean of those before."""
    model = clone(model).fit(data[:100])
    model.mean_[:] = 0
    np.testing.assert_allclose(model.partial_fit(data[100:]).mean_, data.mean(0), rtol=ROUNDING)


@models
def test_the_codes_have_names(data, model):
    kind = type(model).__name__.lower()
    assert list(clone(model).fit(data).get_feature_names_out()) == [f"{kind}0", f"{kind}1"]


@models
def test_one_sample_has_no_covariance(data, model):
    with pytest.raises(ValueError, match="1 sample"):
        clone(model).set_params(n_components=1).fit(data[:1])


@models
@pytest.mark.parametrize("sizes", [[1, 299], [3, 1, 296], [1, 1, 1, 1, 1, 295]])
def test_a_stream_may_begin_with_fewer_samples_than_components(data, model, sizes):
    """They are counted in; the model is fitted once there are enough."""
    whole, parts = clone(model).set_params(n_components=5).fit(data), clone(model)
    parts.set_params(n_components=5)
    for batch in np.split(data, np.cumsum(sizes)[:-1]):
        parts.partial_fit(batch)
        if parts.n_samples_seen_ < 5:
            message = (
                f"has seen {parts.n_samples_seen_} samples; with n_components = 5 it is fitted"
            )
            with pytest.raises(NotFittedError, match=message):
                parts.transform(data)
    np.testing.assert_allclose(
        parts.score_samples(data), whole.score_samples(data), rtol=30 * ROUNDING
    )


@models
def test_a_batch_that_is_refused_is_not_counted(data, model):
    model = clone(model).set_params(n_components=7)
    with pytest.raises(ValueError, match=r"n_components is 7; it takes an int in \[1, 6\] for 6"):
        model.partial_fit(data[:3])
    model.set_params(n_components=5)
    assert model.partial_fit(data[:10]).n_samples_seen_ == 10
    with pytest.raises(ValueError, match="NaN"):
        model.partial_fit(data * np.nan)
    assert model.n_samples_seen_ == 10


@models
def test_the_precision_is_the_covariances_inverse(data, model):
    model = clone(model).fit(data)
    product = model.get_precision() @ model.get_covariance()
    np.testing.assert_allclose(product, np.eye(6), atol=1e-12)


@models
def test_codes_of_another_width_are_refused(data, model):
    model = clone(model).fit(data)
    with pytest.raises(ValueError, match=r"^X has 3 columns; it takes one for each of the 2 "):
        model.inverse_transform(data[:, :3])


@models
@pytest.mark.parametrize(
    ("components", "error", "message"),
    [
        (0, ValueError, "n_components is 0"),
        (
            7,
            ValueError,
            r"n_components is 7; it takes an int in \[1, 6\] for 300 samples of 6 feat",
        ),
        (True, TypeError, "n_components is (a bool|True); it takes an int"),
        (1.5, (TypeError, ValueError), r"n_components is (a float|1\.5); it takes an int"),
        ("best", (TypeError, ValueError), "n_components is (a str|'best'); it takes an int"),
    ],
)
def test_wrong_numbers_of_components(data, model, components, error, message):
    with pytest.raises(error, match=f"^{message}"):
        clone(model).set_params(n_components=components).fit(data)


@models
@pytest.mark.parametrize("offset", [0, 1000])
def test_float32_codes_of_data_far_from_zero_do_not_cancel(data, model, offset):
    """The products of rows that are not centered would be off by offset * 2**-24, and more."""
    X = (data + offset).astype(np.float32)
    model = clone(model).fit(X)
    exact = model.transform(X.astype(np.float64))
    np.testing.assert_allclose(model.transform(X), exact, rtol=0, atol=5e-6 * exact.std())


# What the linear models make of data that float32, or a variance, can hardly hold.
EXTREMES = {
    "tiny": lambda X: X * 1e-30,
    "huge": lambda X: X * 1e30,
    "units": lambda X: X * np.geomspace(1e-25, 1e25, 6),
    "far": lambda X: X + 1e6,
    "constant": lambda X: np.full_like(X, 0.1),
    "outlier": lambda X: np.concatenate([X, 1e15 * X[:1]]),
}


@models
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("extreme", EXTREMES.values(), ids=EXTREMES)
def test_extreme_data_give_finite_numbers(data, model, extreme, dtype):
    X = extreme(data).astype(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = clone(model).fit(X)
        codes = model.transform(X)
        actual = [codes, model.inverse_transform(codes), model.score_samples(X), model.sample(3)]
    actual += [model.components_, model.noise_variance_, model.get_covariance()]
    assert all(np.isfinite(array).all() for array in actual)


@models
def test_an_unheard_of_outliers_score_is_a_very_low_number(data, model):
    """Its squares pass float64."""
    model = clone(model).fit(data)
    outlier = data.astype(np.float64)
    outlier[3, 1] = 1e300
    assert np.isfinite(model.score_samples(outlier)).all()
    assert model.score(outlier) < -1e200


def test_samples_are_counted_by_an_int(data):
    with pytest.raises(ValueError, match=r"^n_samples is 0"):
        PCA().fit(data).sample(0)
