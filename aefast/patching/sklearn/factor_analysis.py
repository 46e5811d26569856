"""scikit-learn's FactorAnalysis.fit: its steps on the covariance, whatever the number of rows."""

import math
import warnings

import numpy as np
from numpy.typing import ArrayLike
from scipy import linalg, sparse
from sklearn.base import _fit_context
from sklearn.decomposition import FactorAnalysis
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.extmath import randomized_svd, squared_norm
from sklearn.utils.validation import validate_data

from aefast.patching.replacement import Replacement, UnsupportedCall

ROWS_A_FEATURE = 2
LEAST_FEATURES = 5  # with fewer features a step takes as long as its calls' overhead
LEAST_NOISE = 1e-12
OVERSAMPLES = 10  # the default of randomized_svd

# 1 is subtracted from the eigenvalues of the scaled covariance. For a larger trace than this, or an
# eigenvalue so much smaller than the largest, float64 loses too many digits: the original runs.
LARGEST_TRACE = 1e6
LEAST_SHARE = 1e-8

# The leading singular values of a scaled matrix, squared; their right vectors; and the sum of the
# squares of the discarded ones.
Leading = tuple[np.ndarray, np.ndarray, float]


def replacement() -> Replacement:
    return Replacement(
        "sklearn.decomposition.FactorAnalysis",
        FactorAnalysis,
        "fit",
        ("self", "X", "y"),
        fit,
        relies_on=("_rotate",),
    )


@_fit_context(prefer_skip_nested_validation=True)
def fit(self: FactorAnalysis, X: ArrayLike, y: ArrayLike | None = None) -> FactorAnalysis:
    """Replaces ``FactorAnalysis.fit``."""
    if sparse.issparse(X):
        raise UnsupportedCall("sparse rows")
    if np.ndim(X) == 2 and np.shape(X)[1] < LEAST_FEATURES:  # before anything that takes time
        raise UnsupportedCall("few features, which leave nothing to gain")
    data: np.ndarray = validate_data(self, X, dtype=np.float64)
    samples, features = data.shape
    n_components = features if self.n_components is None else self.n_components
    if samples < ROWS_A_FEATURE * features:
        raise UnsupportedCall("few rows a feature")
    if not 1 <= n_components < features:
        raise UnsupportedCall("no component, or as many as features")
    initial = self.noise_variance_init
    if initial is not None and len(initial) != features:
        raise UnsupportedCall("noise_variance_init of another length")
    mean = data.mean(axis=0)
    rows = data - mean
    rows /= math.sqrt(samples)
    decomposition = _Decomposition(self, rows, n_components)
    noise = np.ones(features) if initial is None else np.array(initial)
    loadings, noise, likelihoods = _maximize(self, decomposition, noise, samples)
    self.mean_ = mean
    self.components_ = loadings
    if self.rotation is not None:
        self.components_ = self._rotate(loadings)
    self.noise_variance_ = noise
    self.loglike_ = likelihoods
    self.n_iter_ = len(likelihoods)
    return self


def _maximize(
    model: FactorAnalysis, decomposition: "_Decomposition", noise: np.ndarray, samples: int
) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """The loadings ``[K, D]``, the noise variances ``[D]`` and each step's log-likelihood.

    The steps are scikit-learn's: algorithm 21.1 of Barber, "Bayesian Reasoning and Machine
    Learning".
    """
    constant = len(noise) * math.log(2 * math.pi) + decomposition.n_components
    variances = decomposition.variances
    likelihoods: list[float] = []
    before = -math.inf
    for step in range(model.max_iter):
        scale = np.sqrt(noise) + LEAST_NOISE
        top, axes, discarded = decomposition(scale)
        unscaled = np.sqrt(np.maximum(top - 1, 0))[:, None] * axes
        total = constant + np.log(top).sum() + discarded + np.log(noise).sum()
        likelihoods.append(-samples / 2 * total)
        is_last = likelihoods[-1] - before < model.tol
        if is_last or step == model.max_iter - 1:
            # The last decomposition is the original's, so that the components have its signs.
            top, axes, _ = decomposition.original(scale)
            unscaled = np.sqrt(np.maximum(top - 1, 0))[:, None] * axes
        loadings = unscaled * scale
        if is_last:
            break
        before = likelihoods[-1]
        noise = np.maximum(variances - np.square(loadings).sum(0), LEAST_NOISE)
    else:
        warnings.warn(
            "FactorAnalysis did not converge. You might want to increase the number of iterations.",
            ConvergenceWarning,
            stacklevel=5,
        )
    return loadings, noise, likelihoods


class _Decomposition:
    """The leading part of the SVD of ``rows / scale``, computed from the rows' covariance.

    Args:
        model: the model, for its method and random state.
        rows: the centered rows ``[N, D]``, divided by the square root of N.
        n_components: the number of singular values.
    """

    def __init__(self, model: FactorAnalysis, rows: np.ndarray, n_components: int) -> None:
        self.model = model
        self.rows = rows
        self.n_components = n_components
        self.covariance = rows.T @ rows
        self.variances = self.covariance.diagonal().copy()
        self.is_randomized = model.svd_method == "randomized"
        self.random_state = check_random_state(model.random_state)
        self.state_before: dict[str, object] | tuple[object, ...] = ()

    def __call__(self, scale: np.ndarray) -> Leading:
        if self.is_randomized:
            self.state_before = self.random_state.get_state()
        if (self.variances / scale**2).sum() > LARGEST_TRACE:
            return self.original(scale)
        covariance = self.covariance / (scale[:, None] * scale)
        find = self._randomized if self.is_randomized else self._leading
        values, axes = find(covariance)
        if len(values) < self.n_components or values[-1] < LEAST_SHARE * values[0]:
            return self.original(scale)
        return values, axes, covariance.trace() - values.sum()

    def original(self, scale: np.ndarray) -> Leading:
        """The decomposition by scikit-learn's own code; a randomized one draws the same numbers as
        the last call."""
        scaled, count = self.rows / scale, self.n_components
        if not self.is_randomized:
            _, scales, axes = linalg.svd(scaled, full_matrices=False, check_finite=False)
            return scales[:count] ** 2, axes[:count], squared_norm(scales[count:])
        self.random_state.set_state(self.state_before)
        _, scales, axes = randomized_svd(
            scaled, count, random_state=self.random_state, n_iter=self.model.iterated_power
        )
        return scales**2, axes, squared_norm(scaled) - squared_norm(scales)

    def _leading(self, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        size = len(covariance)
        indices = size - self.n_components, size - 1
        values, vectors = linalg.eigh(covariance, subset_by_index=indices, check_finite=False)
        return values[::-1].clip(min=0), vectors.T[::-1]

    def _randomized(self, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The result of ``randomized_svd`` of A, with the same random numbers, from C = A^T A.

        That is the SVD of A restricted to the range of A C^p Q, where Q is standard normal. With Y
        a basis of the range of C^p Q, and Y^T C Y = Z t Z^T, an orthonormal basis of that range is
        A Y Z t^-1/2.
        """
        size = len(covariance)
        basis = self.random_state.normal(size=(size, self.n_components + OVERSAMPLES))
        for _ in range(self.model.iterated_power):
            basis = linalg.qr(covariance @ basis, mode="economic", check_finite=False)[0]
        image = covariance @ basis
        values, vectors = linalg.eigh(basis.T @ image, check_finite=False)
        is_significant = values > size * np.finfo(float).eps * values[-1]
        # The transpose of A in that basis.
        projected = image @ (vectors[:, is_significant] / np.sqrt(values[is_significant]))
        axes, scales, _ = linalg.svd(projected, full_matrices=False, check_finite=False)
        return scales[: self.n_components] ** 2, axes.T[: self.n_components]
