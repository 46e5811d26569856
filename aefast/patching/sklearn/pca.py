"""scikit-learn's PCA by its two exact solvers, without the factors that its fit discards."""

from numbers import Integral
from typing import Any, NoReturn

import numpy as np
from scipy import linalg, sparse
from sklearn.decomposition import PCA
from sklearn.utils.extmath import svd_flip

from aefast.estimators.one_thread import one_thread_if_small
from aefast.patching.replacement import Replacement, UnsupportedCall

# With at least so many rows for each feature, QR and the SVD of its R are faster than the SVD of
# the data.
ROWS_A_FEATURE = 2
# Up to this share of the features, the leading eigenvectors are faster to find than all.
LEADING = 0.25
# With fewer features scikit-learn's own call is as fast: scipy's second thread pool costs time.
LEAST_FEATURES = {"full": 32, "covariance_eigh": 128}


NAME = "sklearn.decomposition.PCA"


def replacements() -> list[Replacement]:
    full = ("self", "X", "n_components", "xp", "is_array_api_compliant")
    truncated = ("self", "X", "n_components", "xp")
    return [
        Replacement(NAME, PCA, "_fit_full", full, fit_full),
        Replacement(NAME, PCA, "_fit_truncated", truncated, fit_truncated),
    ]


def fit_truncated(self: PCA, *_: object) -> NoReturn:
    """Replaces ``_fit_truncated`` only to count its calls: the original approximates the SVD."""
    raise UnsupportedCall(f"svd_solver={self._fit_svd_solver!r}")


def fit_full(
    self: PCA, X: np.ndarray, n_components: Any, xp: object, is_array_api_compliant: bool
) -> tuple[None, np.ndarray, np.ndarray, np.ndarray, bool, object]:
    """Replaces ``_fit_full``; returns what it returns, except for U, which fit discards."""
    _check_served(self, X, n_components, is_array_api_compliant)
    solve = _by_triangle if self._fit_svd_solver == "full" else _by_covariance
    variances, scales, axes, total = solve(self, X, n_components)
    samples, features = X.shape
    shares = variances / total
    if not isinstance(n_components, Integral):
        n_components = np.searchsorted(np.cumsum(shares), n_components, side="right") + 1
    leading = variances[:n_components]
    self.noise_variance_ = 0.0
    if n_components < min(samples, features):
        discarded = (total - leading.sum()) / (features - n_components)
        noise = variances[n_components:].mean() if len(variances) == features else discarded
        self.noise_variance_ = max(noise, noise.dtype.type(0))
    self.n_samples_, self.n_components_ = samples, n_components
    _, axes = svd_flip(None, axes, u_based_decision=False)
    self.components_ = axes[:n_components].copy()
    self.explained_variance_, self.explained_variance_ratio_ = leading.copy(), shares[:n_components]
    self.singular_values_ = scales[:n_components].copy()
    is_centered = self._fit_svd_solver == "full" and not self.copy
    return None, scales, axes, X, is_centered, xp


def _check_served(
    model: PCA, X: np.ndarray, n_components: Any, is_array_api_compliant: bool
) -> None:
    """
    Raises:
        UnsupportedCall: the call is not supported, or scikit-learn's own code is as fast.
    """
    if is_array_api_compliant or sparse.issparse(X):
        raise UnsupportedCall("an array that is not numpy's")
    if n_components == "mle":
        raise UnsupportedCall("n_components='mle'")
    samples, features = X.shape
    is_count = isinstance(n_components, Integral)
    if not 0 < n_components <= min(samples, features):
        raise UnsupportedCall("n_components outside the data's range")
    if features < LEAST_FEATURES[model._fit_svd_solver]:
        raise UnsupportedCall("few features, which leave nothing to gain")
    if model._fit_svd_solver == "full":
        if model.whiten:
            raise UnsupportedCall("whiten with svd_solver='full'")
        if samples < ROWS_A_FEATURE * features:
            raise UnsupportedCall("svd_solver='full' of few rows a feature")
    elif not is_count or n_components > LEADING * features:
        raise UnsupportedCall("svd_solver='covariance_eigh' for many components")


def _by_triangle(
    model: PCA, X: np.ndarray, n_components: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """All variances, singular values and axes, and the total variance, from the R of a QR.

    LAPACK's SVD of a tall matrix begins with the same QR, but also computes U.
    """
    model.mean_ = X.mean(axis=0)
    centered = X.copy() if model.copy else X
    centered -= model.mean_
    (triangle,) = linalg.qr(centered, mode="r", overwrite_a=model.copy, check_finite=False)
    _, scales, axes = linalg.svd(triangle[: X.shape[1]], full_matrices=False, check_finite=False)
    variances = scales**2 / (len(X) - 1)
    return variances, scales, axes, variances.sum()


def _by_covariance(
    model: PCA, X: np.ndarray, n_components: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """The leading variances, singular values and axes, and the total variance, by eigenvectors of
    the covariance, which is computed as scikit-learn computes it."""
    samples, features = X.shape
    model.mean_ = mean = X.mean(axis=0)
    covariance = X.T @ X
    covariance -= samples * mean[:, None] * mean
    covariance /= samples - 1
    total = covariance.trace()
    indices = features - n_components, features - 1
    with one_thread_if_small(features):
        values, vectors = linalg.eigh(covariance, subset_by_index=indices, check_finite=False)
    variances = values[::-1].clip(min=0)
    return variances, np.sqrt(variances * (samples - 1)), vectors.T[::-1], total
