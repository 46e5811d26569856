"""Outlier detection by an autoencoder: rows that it reconstructs badly."""

import math
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, OutlierMixin, clone
from sklearn.preprocessing import StandardScaler
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted, validate_data

from aefast.data.elements import check_elements
from aefast.estimators.autoencoder import Autoencoder
from aefast.estimators.conversion import (
    DTYPES,
    MatrixLike,
    RandomState,
    all_or_nothing,
    largest,
)
from aefast.ops.shared import checks


class AutoencoderOutlierDetector(OutlierMixin, BaseEstimator):
    """Outliers are the rows to which an autoencoder gives the lowest scores.

    The autoencoder learns what most rows have in common. A row without it is reconstructed badly:
    its score, minus the mean squared error of its reconstruction, is low. Of a variational or a
    stochastic autoencoder the score is the likelihood's bound.

    Args:
        estimator: an autoencoder of :mod:`aefast.estimators`, of which a clone is fitted; None
            takes an :class:`aefast.estimators.Autoencoder` with tanh units, half as many in the
            hidden layer as there are features, and a quarter in the code.
        contamination: the share of outliers among the rows that are learned from, in (0, 0.5].
        standardize: give each feature mean 0 and variance 1 first. An autoencoder of numbers in
            [0, 1], with ``reconstruction="bce"`` or a Bernoulli decoder, takes False.
        random_state: an int, a ``numpy.random.RandomState``, or None, which takes the estimator's.

    Attributes:
        estimator_: the fitted autoencoder.
        scaler_: the fitted :class:`sklearn.preprocessing.StandardScaler`; or None.
        offset_: the score below which a row is an outlier: ``contamination`` of the scores of the
            rows that were learned from are.
        n_features_in_: the number of features seen in fit.
        feature_names_in_: their names, where they have any.

    Reference:
        Aggarwal, "Outlier analysis", 2nd edition, Springer, 2017, section 3.6.

    >>> import numpy as np
    >>> from aefast.estimators import AutoencoderOutlierDetector
    >>> X = np.random.default_rng(0).normal(size=(100, 1)) * [1.0, 2.0, 3.0, 4.0]
    >>> X[7] = [5.0, -5.0, 5.0, -5.0]
    >>> detector = AutoencoderOutlierDetector(contamination=0.01, random_state=0).fit(X)
    >>> np.flatnonzero(detector.predict(X) == -1)
    array([7])
    """

    def __init__(
        self,
        estimator: Any = None,
        *,
        contamination: float = 0.1,
        standardize: bool = True,
        random_state: RandomState = None,
    ) -> None:
        self.estimator = estimator
        self.contamination = contamination
        self.standardize = standardize
        self.random_state = random_state

    def fit(self, X: MatrixLike, y: object = None) -> Self:
        """Learn from X, an array ``(n_samples, n_features)``.

        Raises:
            TypeError, ValueError: a parameter is of a wrong type or outside its range, or X holds
                numbers that the estimator does not take.
            FloatingPointError: as the estimator's ``fit``.
        """
        with all_or_nothing(self):
            checks.check_positive(self.contamination, "contamination")
            checks.check_number(self.contamination, "contamination", 0, 0.5)
            checks.check_flag(self.standardize, "standardize")
            check_elements(X, "X")
            estimator = self._new_estimator()
            X = validate_data(self, X, dtype=DTYPES)
            if self.estimator is None:
                features = X.shape[1]
                estimator.set_params(
                    hidden_layer_sizes=(math.ceil(features / 2), math.ceil(features / 4))
                )
            self.scaler_ = StandardScaler().fit(X) if self.standardize else None
            scaled = self._scaled(X)
            self.estimator_ = estimator.fit(scaled)
            scores = self.estimator_.score_samples(scaled)
            self.offset_ = float(np.percentile(scores, 100 * self.contamination))
            return self

    def score_samples(self, X: MatrixLike) -> np.ndarray:
        """The estimator's score ``(n_samples,)`` of each row of X; the lower, the more of an
        outlier. float64."""
        check_is_fitted(self)
        check_elements(X, "X")
        X = validate_data(self, X, dtype=DTYPES, reset=False)
        scores: np.ndarray = self.estimator_.score_samples(self._scaled(X))
        return scores

    def decision_function(self, X: MatrixLike) -> np.ndarray:
        """``score_samples`` less ``offset_``: below 0 of outliers, ``(n_samples,)``."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: MatrixLike) -> np.ndarray:
        """-1 for each row of X that is an outlier, 1 for the others, ``(n_samples,)``."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def _new_estimator(self) -> Any:
        """The estimator as it is before fit."""
        estimator = Autoencoder(activation="tanh") if self.estimator is None else self.estimator
        if not (hasattr(estimator, "fit") and hasattr(estimator, "score_samples")):
            raise TypeError(
                f"estimator is a {type(estimator).__name__}; it takes an autoencoder of "
                "aefast.estimators, or another with fit and score_samples"
            )
        estimator = clone(estimator)
        if self.random_state is not None:
            estimator.set_params(random_state=self.random_state)
        return estimator

    def _scaled(self, X: np.ndarray) -> np.ndarray:
        if self.scaler_ is None:
            return X
        scaled: np.ndarray = self.scaler_.transform(X)
        if not np.isfinite(scaled).all():
            raise ValueError(
                f"X holds numbers up to {largest(X):g}, of which {X.dtype} does not hold the "
                "squares; with standardize it takes numbers of another scale"
            )
        return scaled

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = False
        return tags
