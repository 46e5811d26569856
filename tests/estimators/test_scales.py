"""Of finite rows an estimator gives right numbers, or an error that says what it takes: no NaN."""

import re
from inspect import signature

import numpy as np
import pytest
from sklearn.base import clone

from aefast import estimators

ROWS = np.random.default_rng(0).random((12, 5))

MODELS = {
    "rbm": lambda: estimators.BernoulliRBM(2, n_iter=1, random_state=0),
    "sparse coding": lambda: estimators.SparseCoding(2, n_iter=1, random_state=0),
    "pca": lambda: estimators.PCA(2),
    "probabilistic pca": lambda: estimators.ProbabilisticPCA(2),
    "factor analysis": lambda: estimators.FactorAnalysis(2),
}


def outcomes(model, scales):
    """Of each method and scale: an error's message, or whether there is no NaN."""
    for scale in scales:
        X = (ROWS - 0.5) * scale
        for rows in (X, X.astype(np.float32)) if scale < 1e37 else (X,):
            for method in (model.transform, model.score_samples):
                with np.errstate(all="ignore"):
                    try:
                        yield not np.isnan(method(rows)).any()
                    except ValueError as error:
                        yield str(error)


@pytest.mark.filterwarnings("ignore:X holds")  # of a machine that has learned from any numbers
@pytest.mark.parametrize("kind", MODELS)
def test_rows_too_large_for_a_fitted_model_are_an_error_or_a_number(kind):
    model = MODELS[kind]().fit(ROWS - 0.5)
    message = r"X holds numbers up to \S+, whose products leave .*; it takes (numbers|some) "
    for outcome in outcomes(model, (1e-300, 1e30, 1e60, 1e150, 1e300, 1.7e308)):
        assert outcome is True or re.match(message, str(outcome))
    assert any(outcome is True for outcome in outcomes(model, [1e-300]))
    if kind in ("rbm", "sparse coding"):
        assert not any(outcome is True for outcome in outcomes(model, [1e300]))


@pytest.mark.parametrize("samples", [4, 12])
def test_factors_that_leave_no_noise_of_large_rows_are_an_error_or_numbers(samples):
    """float64 holds the squares, but not once they are divided by the least noise. Whether a factor
    leaves more than that of its features is a question of rounding."""
    rows = np.repeat(np.arange(samples)[:, None] - samples / 2, 5, axis=1)
    outcomes = []
    for scale in np.arange(1, 7) * 1e148:
        try:
            model = estimators.FactorAnalysis(1).fit(scale * rows)
            outcomes.append(np.isfinite(model.components_).all())
        except ValueError as error:
            outcomes.append(str(error))
    message = "X holds numbers whose squares leave float64's range; it takes some up to 1e150"
    assert set(outcomes) <= {message, True}
    assert message in outcomes


def test_probabilistic_pca_encodes_float32_rows_near_0():
    X = ((ROWS - 0.5) * 1e-44).astype(np.float32)
    model = estimators.ProbabilisticPCA(2).fit(X)
    codes = model.transform(X)
    assert codes.dtype == np.float32
    np.testing.assert_allclose(codes, model.transform(X.astype(np.float64)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rows", [ROWS * 1e300, ROWS.astype(np.float32) * np.float32(1e-45)])
def test_an_outlier_detector_says_which_numbers_it_cannot_standardize(rows):
    detector = estimators.AutoencoderOutlierDetector(random_state=0)
    with np.errstate(all="ignore"), pytest.raises(ValueError, match=r"^X holds numbers up to"):
        detector.fit(rows)


def calls_with(model, fitted, X):
    """Each way of giving an estimator rows, or codes."""
    for name in ("fit", "partial_fit"):
        if hasattr(model, name):
            yield getattr(model, name), X
    for name in ("transform", "score_samples", "inverse_transform", "gibbs", "predict"):
        if hasattr(fitted, name):
            yield getattr(fitted, name), X


@pytest.mark.parametrize("kind", estimators.__all__)
def test_times_and_what_a_mask_hides_are_no_numbers(kind):
    """scikit-learn reads the one as nanoseconds, and the others all the same."""
    model = getattr(estimators, kind)()
    model.set_params(**{name: 1 for name in ("n_iter", "n_components") if hasattr(model, name)})
    fitted = clone(model).fit(ROWS)
    masked = np.ma.masked_greater(ROWS, 0.9)
    times = (ROWS * 1e9).astype("datetime64[s]")
    for call, X in calls_with(model, fitted, masked):
        name = next(iter(signature(call).parameters))
        with pytest.raises(ValueError, match=rf"^{name} has \d+ masked numbers; it takes none"):
            call(X)
        with pytest.raises(
            ValueError, match=rf"^{name}\[1\] has \d+ masked numbers; it takes none"
        ):
            call(**{name: list(X)})
    for call, X in calls_with(model, fitted, times):
        name = next(iter(signature(call).parameters))
        with pytest.raises(
            TypeError, match=rf"^{name} has dtype datetime64\[s\]; it takes numbers"
        ):
            call(X)
    if hasattr(fitted, "transform"):
        unmasked = np.ma.masked_array(ROWS, False)
        np.testing.assert_array_equal(fitted.transform(unmasked), fitted.transform(ROWS))


@pytest.mark.parametrize(
    ("scale", "warns"), [(11, True), (9, False), (1 / 99, False), (1 / 101, True)]
)
def test_rows_on_another_scale_are_warned_of(scale, warns, recwarn):
    X = ROWS / ROWS.max()
    model = estimators.Autoencoder(2, n_iter=1, random_state=0).fit(255 * X)
    model.transform(255 * scale * np.tile(X, (5, 1)))
    messages = [str(one.message) for one in recwarn if one.category is UserWarning]
    message = r"X holds numbers up to \S+; the model has learned from numbers up to 255: they may"
    assert [bool(re.match(message, one)) for one in messages] == [True] * warns


def test_a_few_small_rows_are_not_warned_of(recwarn):
    X = np.random.default_rng(0).lognormal(0, 2, (300, 5))
    model = estimators.Autoencoder(2, n_iter=1, random_state=0).fit(X)
    small = X[X.max(1) < X.max() / 101]
    assert len(small) >= 20
    model.transform(small[:20])
    assert not [one for one in recwarn if "learned from numbers" in str(one.message)]
