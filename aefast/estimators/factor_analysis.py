"""Factor analysis: a linear factor model with a noise of its own for each feature."""

import math
import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.extmath import svd_flip
from torch import Tensor

from aefast.estimators.conversion import RandomState
from aefast.estimators.linear_factor import LinearFactorModel, check_squares
from aefast.estimators.moments import Moments, as_double
from aefast.estimators.rotation import ROTATIONS, rotated
from aefast.estimators.spectrum import leading_axes
from aefast.ops.shared import checks

LEAST_NOISE = 1e-12

# scikit-learn's names of the solvers.
SVD_METHODS = ("lapack", "randomized")


class FactorAnalysis(LinearFactorModel):
    """The model ``x = W h + b + noise``, h standard normal, noise N(0, P) with a diagonal P.

    The likelihood is climbed in turns. Given P, the best W has a closed form: with L the K
    leading eigenvalues of ``P^-1/2 S P^-1/2``, S the data's covariance, and V their eigenvectors,
    ``W = P^1/2 V^T max(L - I, 0)^1/2``. Given W, the noise is ``P = diag(S - W W^T)``. The steps
    are those of :class:`sklearn.decomposition.FactorAnalysis` with ``svd_method="lapack"``, but
    take the covariance's root, and no longer for more samples; for fewer samples than features they
    take their number squared, and not the features'.

    It starts at P = diag(S), so that the units of the features do not matter. scikit-learn starts
    at P = I, the same on standardized data; on others that can end 300 nats below (on its breast
    cancer data with 5 factors), and be slower.

    The code is the posterior mean, ``E[h given x] = (I + W^T P^-1 W)^-1 W^T P^-1 (x - b)``, and its
    reconstruction ``W h + b``. W is determined up to a rotation of the factors.

    Args:
        n_components: K, the number of factors, at most ``min(n_samples, n_features)``; None takes
            that many.
        tol: the climb ends when a step adds less to the log-likelihood of all samples, in nats.
        max_iter: the most steps.
        rotation: ``"varimax"`` or ``"quartimax"`` rotates the factors to ones with few large
            entries; None leaves them as the climb does.
        svd_method: ``"lapack"`` or ``"randomized"``, which are one here: neither approximates.
        iterated_power: of scikit-learn's ``"randomized"``; not used.
        random_state: for scikit-learn's sake; nothing is drawn.

    Attributes:
        components_: W transposed, a factor a row, the largest of its entries (in magnitude)
            positive; float64 ``(n_components, n_features)``.
        noise_variance_: P's diagonal ``(n_features,)``, at least 1e-12, as scikit-learn has it:
            features in units that make their variances as small must be scaled.
        mean_: b, ``(n_features,)``.
        loglike_: the log-likelihood of all samples at each step, nats.
        n_iter_: the number of steps.
        n_samples_seen_: how many rows there were.
        n_features_in_: the number of features seen in fit.
        feature_names_in_: their names, where they have any.

    References:
        Barber, "Bayesian Reasoning and Machine Learning", Cambridge University Press, 2012,
        algorithm 21.1.
        Goodfellow, Bengio, Courville, "Deep Learning", MIT Press, 2016, section 13.1.

    >>> import numpy as np
    >>> from aefast.estimators import FactorAnalysis
    >>> X = np.array([[0.0, 1.0, 1.0], [1.0, 4.0, 0.0], [2.0, 4.0, 1.0], [3.0, 7.0, 0.0]])
    >>> model = FactorAnalysis(n_components=1).fit(X)
    >>> model.transform(X).shape, model.noise_variance_.shape
    ((4, 1), (3,))
    """

    def __init__(
        self,
        n_components: int | None = None,
        *,
        tol: float = 1e-2,
        max_iter: int = 1000,
        rotation: str | None = None,
        svd_method: str = "randomized",
        iterated_power: int = 3,
        random_state: RandomState = None,
    ) -> None:
        self.n_components = n_components
        self.tol = tol
        self.max_iter = max_iter
        self.rotation = rotation
        self.svd_method = svd_method
        self.iterated_power = iterated_power
        self.random_state = random_state

    def _check_parameters(self) -> None:
        super()._check_parameters()
        checks.check_number(self.tol, "tol", 0)
        checks.check_integer(self.max_iter, "max_iter", 2**31, low=1)
        checks.check_choice(self.svd_method, "svd_method", SVD_METHODS)
        checks.check_integer(self.iterated_power, "iterated_power", 2**31)
        check_random_state(self.random_state)
        if self.rotation is not None:
            checks.check_choice(self.rotation, "rotation", ROTATIONS)

    def _estimate(self, moments: Moments, n_components: int) -> None:
        variances = as_double(moments.variances)
        noise = variances.clamp(min=LEAST_NOISE)
        likelihoods = [-math.inf]
        for _ in range(self.max_iter):
            scale = noise.sqrt()
            top, axes = _scaled_axes(moments, scale, n_components)
            weight = scale * (top - 1).sqrt()[:, None] * axes
            # A factor of variance L gives log L + 1 where another direction gives its variance.
            excess = (top.log() + 1 - top).sum()
            trace = (variances / noise).sum()
            total = excess + trace + noise.log().sum() + len(noise) * math.log(2 * math.pi)
            likelihoods.append(-moments.count / 2 * float(total))
            if likelihoods[-1] - likelihoods[-2] < self.tol:
                break
            noise = (variances - weight.square().sum(0)).clamp(min=LEAST_NOISE)
        else:
            warnings.warn(
                f"FactorAnalysis did not converge in max_iter = {self.max_iter} steps",
                ConvergenceWarning,
                stacklevel=5,
            )
        factors = rotated(weight.numpy(), self.rotation) if self.rotation else weight.numpy()
        _, self.components_ = svd_flip(None, factors, u_based_decision=False)
        self.noise_variance_ = noise.numpy()
        self.loglike_ = likelihoods[1:]
        self.n_iter_ = len(self.loglike_)


def _scaled_axes(moments: Moments, scale: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The leading eigenvalues ``[count]``, at least 1, and eigenvectors ``[count, D]`` of the
    covariance of the data divided by ``scale [D]``.

    Raises:
        ValueError: that leaves float64's range, as of large data that the factors explain whole.
    """
    if moments.scatter is not None:
        # By numpy, on one thread: two of torch's would wait for those of numpy's products.
        rows, columns = (moments.count * scale).numpy()[:, None], scale.numpy()
        with np.errstate(over="ignore"):
            covariance = moments.scatter / rows / columns
            check_squares(covariance.trace())
        values, axes = leading_axes(covariance, count)
        return values.clamp(min=1), axes
    scaled = as_double(moments.root) / (moments.count**0.5 * scale)
    # A A^T has A^T A's eigenvalues but for zeros, and A^T u / sqrt(L) is an eigenvector.
    products = (scaled @ scaled.T).numpy()
    check_squares(float(np.trace(products)))
    values, vectors = leading_axes(products, count)
    top = values.clamp(min=1)
    return top, vectors @ scaled / top.sqrt()[:, None]
