"""The linear factor model ``x = W h + b + noise``, shared by PCA, PPCA and factor analysis.

W is kept as scikit-learn keeps it, transposed: ``weight [K, D]``, a row a factor.

Reference: Goodfellow, Bengio, Courville, "Deep Learning", MIT Press, 2016, chapter 13.
"""

import math
from abc import abstractmethod
from collections.abc import Iterator
from numbers import Integral
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from aefast.distributed.agreement import agree
from aefast.distributed.group import Group, group_of
from aefast.estimators.conversion import (
    DTYPES,
    FloatTransformer,
    Matrix,
    MatrixLike,
    RandomState,
    all_or_nothing,
    check_codes,
    check_mergeable,
    draw_sample_seed,
    in_default_modes,
    row_blocks,
    without_nan,
)
from aefast.estimators.moments import Moments, as_double, of_all_ranks, shape_of_all_ranks
from aefast.functional import linear_act
from aefast.nn.likelihood import floored
from aefast.ops.shared import checks
from aefast.random import DrawStep, normal

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

# In deviations of all features: float32 codes of data as far from 0 are off by some 1e-5 of theirs.
FAR = 10
LARGEST = float(np.finfo(np.float32).max)

# float64 does not hold the squares of larger numbers.
RANGE = "some up to 1e150"


def check_squares(total: float) -> None:
    """Check that a sum of squares of the data, scaled or not, is in float64's range.

    Raises:
        ValueError: it is not.
    """
    if not np.isfinite(total):
        raise ValueError(f"X holds numbers whose squares leave float64's range; it takes {RANGE}")


def posterior(weight: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """The posterior mean E[h given x] as a linear map, and the model's log determinant.

    By the Woodbury identity, with ``M = I + W^T P^-1 W`` of K x K alone, P the noise's diagonal:
    ``E[h given x] = M^-1 W^T P^-1 (x - b)`` and ``log det(W W^T + P) = log det M + log det P``.

    Args:
        weight: ``[K, D]``.
        noise: ``[D]``, the noise's variances, above 0.

    Returns:
        ``M^-1 W^T P^-1``, ``[K, D]``, and the log-determinant of the covariance, a scalar.
    """
    scaled = weight / noise.sqrt()
    factor = torch.linalg.cholesky(
        scaled @ scaled.T + torch.eye(len(weight), dtype=weight.dtype, device=weight.device)
    )
    log_det = 2 * factor.diagonal().log().sum() + noise.log().sum()
    return torch.cholesky_solve(weight / noise, factor), log_det


def log_density(centered: Tensor, weight: Tensor, noise: Tensor) -> Tensor:
    """log N(x; b, W W^T + P) of the rows ``x - b [B, D]``: ``[B]``, nats.

    With h the posterior mean, the quadratic form is ``||P^-1/2 (x - b - W h)||^2 + ||h||^2``: a
    sum, where Woodbury's difference would cancel as the noise goes to 0.
    """
    encoder, log_det = posterior(weight, noise)
    latent = centered @ encoder.T
    residual = (centered - latent @ weight) / noise.sqrt()
    quadratic = residual.square().sum(1) + latent.square().sum(1)
    return -0.5 * (quadratic + log_det + len(noise) * math.log(2 * math.pi))


class LinearFactorModel(FloatTransformer):
    """The base class: its estimates are functions of the data's :class:`Moments`.

    A subclass estimates ``components_`` and ``noise_variance_`` from the moments. It may encode
    and decode otherwise than by the posterior mean and W.
    """

    n_components: Any

    @in_default_modes
    def fit(
        self, X: MatrixLike, y: object = None, *, process_group: "ProcessGroup | None" = None
    ) -> Self:
        """Estimate from X, an array or sparse matrix ``(n_samples, n_features)``.

        Args:
            X: the rows.
            y: ignored.
            process_group: None estimates from these rows alone. Of a
                ``torch.distributed.ProcessGroup``, such as ``torch.distributed.group.WORLD``, all
                ranks make the call, each with rows of its own, which may be none; and all get what
                one would from all the rows, to rounding.

        Raises:
            TypeError, ValueError: a parameter is of a wrong type or outside its range, or X has
                fewer than two samples, or on another rank another number of features. An error of
                one rank is raised on all.
        """
        with all_or_nothing(self):
            group = group_of(process_group)
            X = group.together(lambda: self._checked(X, 2 if group.size == 1 else 0))
            agree(group, self.get_params())
            samples, features = shape_of_all_ranks(group, X)
            self._check_components(
                min(samples, features), f"{samples} samples of {features} features"
            )
            if samples < self._least_samples(features):
                raise ValueError(
                    f"n_components is {self.n_components!r}; for {samples} samples of {features} "
                    "features it takes an int"
                )
            if self._learn_by_single_products(X, group):
                return self
            return self._learn(of_all_ranks(group, X))

    @in_default_modes
    def partial_fit(self, X: MatrixLike, y: object = None) -> Self:
        """Estimate from X and all rows that came before it, in fit too.

        The result is fit's on all the rows at once, to rounding, whatever the batches: the moments
        are added up and the model is estimated anew from them, in time and memory that grow with
        the number of rows up to that of the features, and no further. Until there are two samples,
        and ``n_components``, the rows are only counted in, and the model is not fitted yet.

        Raises:
            TypeError, ValueError: a parameter is of a wrong type or outside its range.
        """
        with all_or_nothing(self):
            self._check_parameters()
            first = not hasattr(self, "_moments")
            X = validate_data(self, X, accept_sparse="csr", dtype=DTYPES, reset=first)
            features = X.shape[1]
            self._check_components(features, f"{features} features")
            before = Moments.none(features) if first else self._moments
            return self._learn(before.including(X))

    @in_default_modes
    def merge(self, other: Self) -> Self:
        """Estimate from the rows that this estimator has seen and those of another one.

        The result is fit's on all the rows at once, to rounding: parts of the data may be fitted
        anywhere, by joblib or Dask, and merged in any order.

        Args:
            other: of the same class and number of features, after ``fit`` or ``partial_fit``; it
                stays as it is.

        Raises:
            TypeError, ValueError: it is not, or either has seen no rows.

        >>> import numpy as np
        >>> from aefast.estimators import PCA
        >>> X = np.random.default_rng(0).normal(size=(50, 3))
        >>> merged = PCA().fit(X[:20]).merge(PCA().fit(X[20:]))
        >>> np.allclose(merged.components_, PCA().fit(X).components_)
        True
        """
        missing = "has seen no rows; it takes one after fit or partial_fit"
        check_mergeable(self, other, "_moments", missing)
        moments, other_moments = self._moments, other._moments
        if len(moments.mean) != len(other_moments.mean):
            raise ValueError(
                f"other has seen {len(other_moments.mean)} features; it takes "
                f"{len(moments.mean)}, as this has"
            )
        with all_or_nothing(self):
            return self._learn(moments.merged(other_moments))

    @in_default_modes
    def transform(self, X: MatrixLike) -> np.ndarray:
        """The codes ``(n_samples, n_components)`` of the rows of X, in X's dtype.

        float32 rows run on the kernels; float64 ones on plain PyTorch.

        Raises:
            ValueError: X holds numbers whose products leave its dtype's range.
        """
        self._check_is_fitted()
        X = validate_data(self, X, accept_sparse="csr", dtype=DTYPES, reset=False)
        encoder, mean = self._encoder(), as_double(self.mean_)
        if X.dtype == np.float32 and self._lies_far_from_zero():
            center = mean.float()
            codes = _affine(X, encoder, encoder @ (center.double() - mean), center)
        else:
            codes = _affine(X, encoder, -encoder @ mean)
        return without_nan(codes, X, RANGE)

    @in_default_modes
    def inverse_transform(self, X: ArrayLike) -> np.ndarray:
        """The reconstructions ``(n_samples, n_features)`` of codes ``(n_samples, n_components)``,
        in the codes' dtype."""
        self._check_is_fitted()
        X = check_codes(X, self._n_features_out, "components")
        return _affine(X, self._decoder().T, as_double(self.mean_))

    @in_default_modes
    def score_samples(self, X: MatrixLike) -> np.ndarray:
        """The log-likelihood ``(n_samples,)`` of each row of X, in nats; float64.

        Raises:
            ValueError: X holds numbers whose products leave float64's range.
        """
        self._check_is_fitted()
        X = validate_data(self, X, accept_sparse="csr", dtype=DTYPES, reset=False)
        mean, (weight, noise) = as_double(self.mean_), self._generator()
        blocks = row_blocks(X, torch.float64)
        scores = [log_density(rows - mean, weight, noise) for rows in blocks]
        return without_nan(floored(torch.cat(scores)).numpy(), X, RANGE)

    def score(self, X: MatrixLike, y: object = None) -> float:
        """The mean log-likelihood of the rows of X, in nats."""
        return float(np.mean(self.score_samples(X)))

    @in_default_modes
    def sample(self, n_samples: int = 1, random_state: RandomState = None) -> np.ndarray:
        """Rows drawn from the model: ``W h + b + noise`` with standard normal h.

        Args:
            n_samples: how many.
            random_state: an int, a ``numpy.random.RandomState``, or None.

        Returns:
            float64 ``(n_samples, n_features)``.
        """
        self._check_is_fitted()
        seed = draw_sample_seed(n_samples, random_state)
        weight, noise = self._generator()
        latent = normal(seed, n_samples, len(weight), step=DrawStep.LATENT).double()
        scatter = normal(seed, n_samples, len(noise), step=DrawStep.VISIBLE) * noise.sqrt()
        return (latent @ weight + as_double(self.mean_) + scatter).numpy()

    @in_default_modes
    def get_covariance(self) -> np.ndarray:
        """The model's covariance ``W W^T + noise``, ``(n_features, n_features)``."""
        self._check_is_fitted()
        weight, noise = self._generator()
        return (weight.T @ weight + noise.diag()).numpy()

    @in_default_modes
    def get_precision(self) -> np.ndarray:
        """The inverse of the model's covariance, ``(n_features, n_features)``; by the Woodbury
        identity, ``P^-1 - P^-1 W M^-1 W^T P^-1``."""
        self._check_is_fitted()
        weight, noise = self._generator()
        return ((1 / noise).diag() - (weight / noise).T @ posterior(weight, noise)[0]).numpy()

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "components_")

    @abstractmethod
    def _estimate(self, moments: Moments, n_components: int) -> None:
        """Set ``components_``, ``noise_variance_`` and the subclass's other attributes."""

    def _checked(self, X: Matrix, least_samples: int) -> Any:
        self._check_parameters()
        return validate_data(
            self, X, accept_sparse="csr", dtype=DTYPES, ensure_min_samples=least_samples
        )

    def _check_parameters(self) -> None:
        if self.n_components is not None:
            checks.check_integer(self.n_components, "n_components", 2**31, low=1)

    def _check_components(self, most: int, data: str) -> None:
        """Check that the data can have so many components."""
        if isinstance(self.n_components, Integral) and int(self.n_components) > most:
            raise ValueError(
                f"n_components is {self.n_components}; it takes an int in [1, {most}] for {data}"
            )

    def _least_samples(self, features: int) -> int:
        """The fewest samples that give an estimate."""
        return max(2, int(self.n_components)) if isinstance(self.n_components, Integral) else 2

    def _check_is_fitted(self) -> None:
        message = None
        if hasattr(self, "_moments"):
            samples, features = self.n_samples_seen_, len(self._moments.mean)
            message = (
                f"%(name)s has seen {samples} samples; with n_components = {self.n_components!r} "
                f"it is fitted from {self._least_samples(features)} on"
            )
        check_is_fitted(self, msg=message)

    def _learn_by_single_products(self, X: Matrix, group: Group) -> bool:
        """Estimate from all ranks' rows by float32 products where they may be exact enough; whether
        they were."""
        return False

    def _learn(self, moments: Moments) -> Self:
        features = len(moments.mean)
        check_squares(moments.variances.sum())
        if moments.count >= self._least_samples(features):
            is_number = isinstance(self.n_components, Integral)
            most = min(moments.count, features)
            self._estimate(moments, int(self.n_components) if is_number else most)
        self._moments = moments
        self.mean_ = moments.mean.copy()
        self.n_samples_seen_ = moments.count
        return self

    def _lies_far_from_zero(self) -> bool:
        """Whether float32 rows must be centered before their products, which else would cancel. A
        mean that float32 does not hold is left to float64."""
        mean, deviation = self.mean_, self._moments.variances.sum() ** 0.5
        return bool(FAR * deviation < np.linalg.norm(mean) and np.abs(mean).max() < LARGEST)

    def _encoder(self) -> Tensor:
        """The matrix ``[K, D]`` that maps ``x - b`` to a code."""
        return posterior(*self._generator())[0]

    def _decoder(self) -> Tensor:
        """The matrix ``[K, D]`` whose transpose maps a code to ``x - b``."""
        return as_double(self.components_)

    def _generator(self) -> tuple[Tensor, Tensor]:
        """The weight ``[K, D]`` and the noise's variances ``[D]``, above 0."""
        weight = as_double(self.components_)
        return weight, as_double(self.noise_variance_).expand(weight.shape[1])

    @property
    def _n_features_out(self) -> int:
        return self.components_.shape[0]


def _affine(X: Matrix, weight: Tensor, bias: Tensor, center: Tensor | None = None) -> np.ndarray:
    """``(X - c) Wt + b`` in X's dtype; c is 0 without a center.

    It is computed in float64 where X is float64, or where the weight leaves float32's range, as an
    encoder's does for data near 0. Kernels do not take float64: PyTorch computes that.
    """
    float32_parameters = weight.float(), bias.float()
    if X.dtype == np.float64 or not all(
        parameter.isfinite().all() for parameter in float32_parameters
    ):
        blocks = _less(center, row_blocks(X, torch.float64))
        results = [torch.addmm(bias, rows, weight.T) for rows in blocks]
    else:
        results = [linear_act(rows, *float32_parameters) for rows in _less(center, row_blocks(X))]
    return torch.cat(results).numpy().astype(X.dtype, copy=False)


def _less(center: Tensor | None, blocks: Iterator[Tensor]) -> Iterator[Tensor]:
    """The rows less the center ``[D]``, where there is one."""
    return blocks if center is None else (rows - center for rows in blocks)
