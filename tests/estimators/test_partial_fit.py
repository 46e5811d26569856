"""A partial_fit that raises leaves the estimator as it was."""

import pickle

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from aefast import estimators

ROWS = np.random.default_rng(0).random((12, 5))
KINDS = [name for name in estimators.__all__ if hasattr(getattr(estimators, name), "partial_fit")]


def estimator(kind):
    parameters = {"random_state": 0} if hasattr(getattr(estimators, kind)(), "random_state") else {}
    return getattr(estimators, kind)(2, **parameters)


@pytest.mark.filterwarnings("ignore:X holds")
@pytest.mark.parametrize("kind", KINDS)
def test_a_failed_partial_fit_changes_nothing(kind):
    model = estimator(kind)
    for wrong in (ROWS * 1e200, ROWS * np.nan):
        with pytest.raises((ValueError, FloatingPointError)), np.errstate(all="ignore"):
            model.partial_fit(wrong)
        assert vars(model) == vars(estimator(kind))
        with pytest.raises(NotFittedError):
            check_is_fitted(model)
    model.partial_fit(ROWS[:, :4]).partial_fit(ROWS[:6, :4])
    again = pickle.loads(pickle.dumps(model))
    for wrong in (ROWS[:, :4] * 1e200, ROWS):
        with pytest.raises((ValueError, FloatingPointError)), np.errstate(all="ignore"):
            model.partial_fit(wrong)
    for fitted in (model, again):
        fitted.partial_fit(ROWS[6:, :4])
    for method in ("transform", "score_samples"):
        actual, expected = (getattr(fitted, method)(ROWS[:, :4]) for fitted in (model, again))
        np.testing.assert_array_equal(actual, expected)
