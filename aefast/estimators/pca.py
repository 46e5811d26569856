"""Principal component analysis: the optimal linear autoencoder."""

from numbers import Integral, Real

import numpy as np
import torch
from sklearn.utils import check_random_state
from sklearn.utils.extmath import svd_flip
from torch import Tensor

from aefast.distributed.group import Group
from aefast.estimators.conversion import Matrix, RandomState
from aefast.estimators.dimension import by_likelihood, by_share
from aefast.estimators.linear_factor import LinearFactorModel
from aefast.estimators.moments import Moments, as_double, of_all_ranks
from aefast.estimators.spectrum import leading_axes
from aefast.ops.shared import checks

SOLVERS = ("auto", "full", "covariance_eigh", "arpack", "randomized")

# Samples a feature, from which on scikit-learn too takes the covariance of float32 data in float32.
TALL = 10

# The bound of an element's error in a covariance of float32 products: see Moments.including.
SINGLE_ROUNDING = 4096 * 2.0**-24


class PCA(LinearFactorModel):
    """Principal component analysis of data that come in batches of any size.

    With V the leading eigenvectors of the data's covariance and b its mean, the code is
    ``h = V (x - b)`` and the reconstruction ``V^T h + b``: of all linear codes of K numbers the
    one with the least squared error, which is the sum of the discarded eigenvalues. The results
    are those of :class:`sklearn.decomposition.PCA` with its full solver, signs included;
    ``partial_fit``, unlike :class:`sklearn.decomposition.IncrementalPCA`'s, is as exact as fit.

    The likelihood is that of Tipping and Bishop's model, as scikit-learn's:
    ``N(x; b, V^T (L - s I) V + s I)`` with L the kept eigenvalues and s the noise variance. The
    noise is taken to be at least the rounding of the largest eigenvalue. Data that lie in a
    subspace have no density: their likelihood is finite, and says nothing. ``whiten`` leaves the
    likelihood alone, as it should (scikit-learn's changes).

    Of float32 data with at least ten samples a feature ``fit`` takes the covariance's products in
    float32, and adds them up in float64: with u = 2^-24 an element C_ij of the covariance is off by
    at most 4096 u sqrt(C_ii C_jj), and on data at random by some 2 u of that. Where the noise
    variance, or the least eigenvalue if all are kept, is not above ``4096 u sqrt(max C_ii tr C)``,
    it takes them once more, in float64. ``svd_solver="full"``, ``n_components="mle"``, which looks
    at the least eigenvalues, and ``partial_fit``, whose earlier rows are gone, take them in float64
    alone, as all else is.

    Args:
        n_components: K, the numbers in a code, at most ``min(n_samples, n_features)``; None takes
            that many; a float in (0, 1) the fewest whose share of the variance is above it;
            ``"mle"`` Minka's estimate, for no fewer samples than features.
        whiten: divide the codes by their standard deviations. A code that does not vary in the
            data is 0.
        svd_solver: ``"full"``; or ``"auto"``, ``"covariance_eigh"``, ``"arpack"`` or
            ``"randomized"``, which are all one here: none of them approximates.
        random_state: for scikit-learn's sake; nothing is drawn.

    Attributes:
        components_: V, a unit eigenvector a row, the largest of its entries (in magnitude)
            positive; float64 ``(n_components, n_features)``.
        explained_variance_: their eigenvalues, largest first ``(n_components,)``. The covariance
            is normalized by ``n_samples - 1``.
        explained_variance_ratio_: their shares of the total variance; 0 where there is none.
        singular_values_: the singular values of the centered data.
        mean_: b, ``(n_features,)``.
        noise_variance_: the mean of the discarded eigenvalues among the first
            ``min(n_samples, n_features)``; 0 where all of these are kept.
        n_components_: K.
        n_samples_seen_: how many rows there were.
        n_features_in_: the number of features seen in fit.
        feature_names_in_: their names, where they have any.

    References:
        Goodfellow, Bengio, Courville, "Deep Learning", MIT Press, 2016, sections 2.12 and 14.2.
        Tipping, Bishop, "Probabilistic principal component analysis", Journal of the Royal
        Statistical Society B 61, 1999.

    >>> import numpy as np
    >>> from aefast.estimators import PCA
    >>> X = np.array([[0.0, 1.0], [1.0, 3.0], [2.0, 5.0], [3.0, 7.0]])
    >>> model = PCA(n_components=1).fit(X)
    >>> model.transform(X).round(2).ravel()
    array([-3.35, -1.12,  1.12,  3.35])
    >>> np.allclose(model.inverse_transform(model.transform(X)), X)
    True
    """

    def __init__(
        self,
        n_components: int | float | str | None = None,
        *,
        whiten: bool = False,
        svd_solver: str = "auto",
        random_state: RandomState = None,
    ) -> None:
        self.n_components = n_components
        self.whiten = whiten
        self.svd_solver = svd_solver
        self.random_state = random_state

    def _check_parameters(self) -> None:
        checks.check_choice(self.svd_solver, "svd_solver", SOLVERS)
        checks.check_flag(self.whiten, "whiten")
        check_random_state(self.random_state)
        given = self.n_components
        takes = "it takes an int from 1, a share of the variance in (0, 1), 'mle' or None"
        if isinstance(given, bool) or not (given is None or isinstance(given, Real | str)):
            raise TypeError(f"n_components is {given!r}; {takes}")
        is_count = isinstance(given, Integral) and int(given) > 0
        if not (given is None or given == "mle" or is_count or self._is_share()):
            raise ValueError(f"n_components is {given!r}; {takes}")

    def _is_share(self) -> bool:
        """Whether ``n_components`` is a share of the variance."""
        is_float = isinstance(self.n_components, Real) and not isinstance(
            self.n_components, Integral
        )
        return is_float and 0 < float(self.n_components) < 1

    def _least_samples(self, features: int) -> int:
        return max(2, features) if self.n_components == "mle" else super()._least_samples(features)

    def _learn_by_single_products(self, X: Matrix, group: Group) -> bool:
        is_tall = X.shape[0] >= TALL * X.shape[1]
        is_exact = self.svd_solver == "full" or self.n_components == "mle"
        is_single = X.dtype == np.float32 and is_tall and not is_exact
        if not any(group.gather(is_single)):
            return False
        self._learn(of_all_ranks(group, X, single=is_single))
        return all(group.gather(self._is_above_rounding()))  # all ranks go on alike

    def _is_above_rounding(self) -> bool:
        """Whether float32 products give the noise, or the least variance where all are kept."""
        variances = self._moments.variances
        among = min(self._moments.count, len(variances))
        is_whole = self.n_components_ == among
        least = self.explained_variance_[-1] if is_whole else self.noise_variance_
        return bool(least > SINGLE_ROUNDING * (variances.max() * variances.sum()) ** 0.5)

    def _estimate(self, moments: Moments, n_components: int) -> None:
        variances, axes, total = principal_axes(moments, n_components)
        n_components = self._component_count(variances.numpy(), moments.count)
        variances, axes = variances[:n_components], axes[:n_components].clone()
        self.components_ = axes.numpy()
        self.explained_variance_ = variances.numpy()
        self.explained_variance_ratio_ = self.explained_variance_ / (total or 1.0)
        self.singular_values_ = np.sqrt(self.explained_variance_ * (moments.count - 1))
        among = min(moments.count, len(moments.mean))
        self.noise_variance_ = mean_discarded(variances, total, among)
        self.n_components_ = n_components

    def _component_count(self, variances: np.ndarray, samples: int) -> int:
        """The number of principal axes to keep."""
        if self.n_components == "mle":
            return by_likelihood(variances, samples)
        if self._is_share():
            return by_share(variances, float(self.n_components))
        return len(variances)

    def _encoder(self) -> Tensor:
        axes, variances = as_double(self.components_), as_double(self.explained_variance_)
        if not self.whiten:
            return axes
        varies = variances > least_noise(variances, axes.shape[1])
        return torch.where(varies, variances.rsqrt(), 0.0)[:, None] * axes

    def _decoder(self) -> Tensor:
        axes, variances = as_double(self.components_), as_double(self.explained_variance_)
        return variances.sqrt()[:, None] * axes if self.whiten else axes

    def _generator(self) -> tuple[Tensor, Tensor]:
        axes, variances = as_double(self.components_), as_double(self.explained_variance_)
        weight, noise = with_noise(variances, axes, self.noise_variance_)
        return weight, torch.full((axes.shape[1],), noise, dtype=axes.dtype, device=axes.device)


def principal_axes(moments: Moments, n_components: int) -> tuple[Tensor, Tensor, float]:
    """The covariance's leading eigenvalues ``[K]``, the largest first, their eigenvectors
    ``[K, D]``, and the sum of all eigenvalues."""
    if moments.scatter is None:
        root = as_double(moments.root) / (moments.count - 1) ** 0.5
        _, scales, vectors = torch.linalg.svd(root, full_matrices=False)
        values, rows = scales[:n_components].square(), vectors[:n_components]
        total = float(root.square().sum())
    else:
        covariance = moments.scatter / (moments.count - 1)
        values, rows = leading_axes(covariance, n_components)
        total = float(covariance.trace())
    _, axes = svd_flip(None, rows.numpy(), u_based_decision=False)
    return values, torch.from_numpy(axes), total


def mean_discarded(variances: Tensor, total: float, among: int) -> float:
    """The mean of the ``among - K`` eigenvalues beside these K; 0 where there are none."""
    discarded = among - len(variances)
    return max(total - float(variances.sum()), 0.0) / discarded if discarded else 0.0


def least_noise(variances: Tensor, features: int) -> float:
    """The eigenvalues' rounding: a smaller one, or a smaller noise, cannot be told from 0."""
    double = torch.finfo(torch.float64)
    return max(float(variances[0]) * features * double.eps, double.tiny)


def with_noise(variances: Tensor, axes: Tensor, noise: float) -> tuple[Tensor, float]:
    """The weight ``[K, D]`` with which ``W W^T + noise I`` has these variances along these axes,
    and the noise, which is above 0.

    Where all axes are kept the least noise is exact: the variances are shared out otherwise
    between W and the noise, and the covariance is the same.
    """
    noise = max(noise, least_noise(variances, axes.shape[1]))
    return (variances - noise).clamp(min=0).sqrt()[:, None] * axes, noise
