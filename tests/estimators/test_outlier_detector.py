"""The outlier detector: scikit-learn's interface, and outliers put among a table's rows."""

import pickle

import numpy as np
import pytest

pytest.importorskip("sklearn")
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from aefast.estimators import (
    Autoencoder,
    AutoencoderOutlierDetector,
    DenoisingAutoencoder,
    VariationalAutoencoder,
)


@pytest.fixture(scope="module")
def table():
    """Rows of rank 2, and ten that are not, in units far apart; which are which."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(200, 2)) @ rng.normal(size=(2, 8)) + 0.05 * rng.normal(size=(200, 8))
    is_outlier = np.arange(200) % 20 == 3
    rows[is_outlier] = rng.normal(size=(10, 8)) * rows.std(0)
    return rows * np.logspace(-3, 3, 8) + 5, is_outlier


@parametrize_with_checks([AutoencoderOutlierDetector(Autoencoder(2, n_iter=2))])
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize(
    "estimator",
    [
        None,
        Autoencoder(2, activation="identity"),
        DenoisingAutoencoder((8, 2), activation="tanh", output_activation="identity"),
        VariationalAutoencoder((8, 2)),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_it_finds_the_outliers(estimator, table):
    rows, is_outlier = table
    detector = AutoencoderOutlierDetector(estimator, contamination=0.05, random_state=0)
    labels = detector.fit_predict(rows)
    scores = detector.score_samples(rows)
    assert roc_auc_score(is_outlier, -scores) > 0.9
    assert (labels == -1).sum() == 10
    assert np.array_equal(labels == -1, detector.decision_function(rows) < 0)
    assert np.array_equal(detector.decision_function(rows), scores - detector.offset_)
    again = clone(detector).fit(rows)
    assert np.array_equal(again.score_samples(rows), scores)
    loaded = pickle.loads(pickle.dumps(detector))
    assert np.array_equal(loaded.predict(rows), labels)


def test_its_parameters_are_the_estimators_too(table):
    detector = AutoencoderOutlierDetector(Autoencoder(2, random_state=1), random_state=None)
    detector.set_params(estimator__n_iter=3, contamination=0.5).fit(table[0])
    assert detector.estimator_.n_iter_ == 3
    assert detector.estimator_.random_state == 1
    assert not hasattr(detector.estimator, "module_")  # a clone was fitted
    assert (detector.predict(table[0]) == -1).sum() == 100
    assert AutoencoderOutlierDetector().fit(table[0][:20]).estimator_.hidden_layer_sizes == (4, 2)


def test_numbers_in_the_unit_interval(table):
    model = Autoencoder(2, reconstruction="bce", output_activation="sigmoid", n_iter=2)
    detector = AutoencoderOutlierDetector(model, standardize=False)
    pipeline = make_pipeline(MinMaxScaler(clip=True), detector).fit(table[0])
    assert pipeline.predict(table[0]).shape == (200,)
    assert detector.scaler_ is None
    with pytest.raises(ValueError, match=r"the cross-entropy takes numbers in \[0, 1\]"):
        AutoencoderOutlierDetector(model).fit(table[0])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"contamination": 0}, ValueError, "contamination is 0; it takes"),
        ({"contamination": 0.51}, ValueError, "contamination is 0.51; it takes"),
        ({"contamination": float("nan")}, ValueError, "contamination is nan; it takes"),
        ({"contamination": "auto"}, TypeError, "contamination is a str; it takes"),
        ({"standardize": "no"}, TypeError, "standardize is 'no'; it takes True or False"),
        ({"estimator": MinMaxScaler()}, TypeError, "estimator is a MinMaxScaler; it takes an auto"),
        ({"estimator": 3}, TypeError, "estimator is a int; it takes an autoencoder"),
    ],
)
def test_wrong_parameters(options, error, message, table):
    with pytest.raises(error, match=f"^{message}"):
        AutoencoderOutlierDetector(**options).fit(table[0])


@pytest.mark.parametrize("error", [FloatingPointError, KeyboardInterrupt])
def test_a_fit_that_ends_early_leaves_what_was_there(error, table, monkeypatch):
    """A new scaler beside the old autoencoder would give scores of neither."""

    def end(self, X):
        raise error

    detector = AutoencoderOutlierDetector(Autoencoder(2, n_iter=2), random_state=0).fit(table[0])
    scores = detector.score_samples(table[0])
    unfitted = clone(detector)
    monkeypatch.setattr(Autoencoder, "fit", end)
    for one in (detector, unfitted):
        with pytest.raises(error):
            one.fit(1000 * table[0] + 7)
    assert np.array_equal(detector.score_samples(table[0]), scores)
    with pytest.raises(NotFittedError):
        unfitted.predict(table[0])


def test_it_must_be_fitted_first(table):
    for method in ("predict", "decision_function", "score_samples"):
        with pytest.raises(NotFittedError):
            getattr(AutoencoderOutlierDetector(), method)(table[0])
