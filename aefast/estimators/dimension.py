"""The number of components: by a share of the variance, or by Minka's estimate."""

import math

import numpy as np
from scipy.special import gammaln


def by_share(variances: np.ndarray, share: float) -> int:
    """The fewest leading variances, of all ``[D]``, whose sum is above a share of the whole."""
    shares = np.cumsum(variances) / (variances.sum() or 1.0)
    return min(int(np.searchsorted(shares, share, side="right")) + 1, len(variances))


def by_likelihood(variances: np.ndarray, samples: int) -> int:
    """The dimension in [1, D - 1], or 1 where D is 1, with the greatest approximate evidence.

    With L the variances in falling order, n samples and v_k the mean of those after the k-th, the
    logarithm of the evidence of k dimensions is, by Laplace's method,

        ln p(U) - n/2 sum_{i<=k} ln L_i - n (D - k)/2 ln v_k + (m + k)/2 ln 2 pi
            - 1/2 sum_{i<=k, j>i} ln((1/M_j - 1/L_i) (L_i - L_j) n) - k/2 ln n

    with m = D k - k (k + 1)/2, and M_j = L_j for j <= k, else v_k. A dimension whose variance is
    the largest one's rounding is none; differences are taken to be at least that rounding.

    Reference:
        Minka, "Automatic choice of dimensionality for PCA", NIPS 2000, equations 76 to 81.
    """
    features = len(variances)
    if features == 1 or variances[0] == 0:
        return 1
    rounding = features * np.finfo(np.float64).eps
    spectrum = np.maximum(
        variances / variances[0], rounding
    )  # The scale does not matter to the rank.
    rank = np.arange(1, features)
    mean_discarded = (spectrum.sum() - np.cumsum(spectrum)[:-1]) / (features - rank)
    mean_discarded = np.maximum(mean_discarded, rounding)

    halves = (features - rank + 1) / 2
    directions = np.cumsum(gammaln(halves) - halves * math.log(math.pi)) - rank * math.log(2)
    fit = (
        -samples
        / 2
        * (np.cumsum(np.log(spectrum))[:-1] + (features - rank) * np.log(mean_discarded))
    )
    pairs = features * rank - rank * (rank + 1) / 2
    volume = (pairs + rank) / 2 * math.log(2 * math.pi) - rank / 2 * math.log(samples)

    apart = np.log(np.maximum(spectrum[:, None] - spectrum, rounding))
    inverse = np.log(np.maximum(1 / spectrum - 1 / spectrum[:, None], rounding))
    beside = np.triu(np.ones((features, features)), 1)
    among_components = np.cumsum((inverse * beside).sum(0))[:-1]  # Pairs i < j <= k.
    against_rest = np.log(np.maximum(1 / mean_discarded[:, None] - 1 / spectrum, rounding))
    to_rest = (features - rank) * (np.tril(against_rest[:, :-1]).sum(1))
    differences = np.cumsum((apart * beside).sum(1))[:-1]
    curvature = among_components + to_rest + differences + pairs * math.log(samples)
    evidence = directions + fit + volume - curvature / 2
    evidence[spectrum[:-1] <= rounding] = -np.inf
    return int(np.argmax(evidence)) + 1
