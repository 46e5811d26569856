"""The sparse autoencoder as a scikit-learn transformer."""

from dataclasses import dataclass

from aefast import nn
from aefast.estimators.autoencoder import Autoencoder


@dataclass(eq=False, repr=False, kw_only=True)
class SparseAutoencoder(Autoencoder):
    """Few units of its code are active at a time: :class:`aefast.nn.SparseAutoencoder`, trained by
    Adam.

    The score is :class:`aefast.estimators.Autoencoder`'s: the reconstruction's, without the
    penalty.

    Args:
        penalty: ``"kl"``, which takes a sigmoid code, or ``"l1"``.
        sparsity_weight: the factor of the penalty, 0 or more.
        sparsity_target: of ``"kl"``: the mean activity that each unit is drawn to, in (0, 1).

    The other parameters, and the attributes, are :class:`aefast.estimators.Autoencoder`'s.

    References:
        Ng, "Sparse autoencoder", CS294A lecture notes, Stanford, 2011. Goodfellow, Bengio,
        Courville, "Deep Learning", MIT Press, 2016, section 14.2.1.

    >>> import numpy as np
    >>> from aefast.estimators import SparseAutoencoder
    >>> X = np.random.default_rng(0).random((20, 6))
    >>> SparseAutoencoder(8, sparsity_target=0.1, random_state=0).fit_transform(X).shape
    (20, 8)
    """

    penalty: str = "kl"
    sparsity_weight: float = 1e-3
    sparsity_target: float = 0.05

    _module_class = nn.SparseAutoencoder
