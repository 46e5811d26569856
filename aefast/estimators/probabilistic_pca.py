"""Probabilistic PCA: a linear factor model whose noise is the same in every direction."""

from aefast.estimators.linear_factor import LinearFactorModel
from aefast.estimators.moments import Moments
from aefast.estimators.pca import mean_discarded, principal_axes, with_noise


class ProbabilisticPCA(LinearFactorModel):
    """The model ``x = W h + b + noise``, h standard normal, noise N(0, s I), at its optimum.

    With L the K leading eigenvalues of the data's covariance and V their eigenvectors, the
    likelihood is greatest at ``W = V^T (L - s I)^1/2``, with s the mean of the discarded
    eigenvalues. The code is the posterior mean, ``E[h given x] = (W^T W + s I)^-1 W^T (x - b)``,
    and its reconstruction ``W h + b``.

    The covariance is normalized by ``n_samples - 1``, as scikit-learn's is: for no fewer samples
    than features the likelihoods are :class:`sklearn.decomposition.PCA`'s. With fewer samples
    s is still the mean over all ``n_features - K``, as the optimum has it, where scikit-learn's
    leaves out the eigenvalues that are 0 for want of samples.

    s is at least the rounding of the largest eigenvalue, so that the model has a density where
    the data have none: with all components kept, or where the data lie in a subspace.

    Args:
        n_components: K, the number of factors, at most ``min(n_samples, n_features)``; None takes
            that many.

    Attributes:
        components_: W transposed, a factor a row, the largest of its entries (in magnitude)
            positive; float64 ``(n_components, n_features)``.
        noise_variance_: s.
        mean_: b, ``(n_features,)``.
        n_samples_seen_: how many rows there were.
        n_features_in_: the number of features seen in fit.
        feature_names_in_: their names, where they have any.

    References:
        Tipping, Bishop, "Probabilistic principal component analysis", Journal of the Royal
        Statistical Society B 61, 1999, equations 7 and 8.
        Goodfellow, Bengio, Courville, "Deep Learning", MIT Press, 2016, section 13.1.

    >>> import numpy as np
    >>> from aefast.estimators import ProbabilisticPCA
    >>> X = np.array([[0.0, 1.0], [1.0, 4.0], [2.0, 4.0], [3.0, 7.0]])
    >>> model = ProbabilisticPCA(n_components=1).fit(X)
    >>> round(model.noise_variance_, 3), round(model.score(X), 3)
    (0.133, -2.588)
    >>> model.sample(2, random_state=0).shape
    (2, 2)
    """

    def __init__(self, n_components: int | None = None) -> None:
        self.n_components = n_components

    def _estimate(self, moments: Moments, n_components: int) -> None:
        variances, axes, total = principal_axes(moments, n_components)
        noise = mean_discarded(variances, total, axes.shape[1])
        weight, self.noise_variance_ = with_noise(variances, axes, noise)
        self.components_ = weight.numpy()
