"""The contractive autoencoder as a scikit-learn transformer."""

from dataclasses import dataclass

from aefast import nn
from aefast.estimators.autoencoder import Autoencoder


@dataclass(eq=False, repr=False, kw_only=True)
class ContractiveAutoencoder(Autoencoder):
    """An autoencoder whose code changes little where the data do:
    :class:`aefast.nn.ContractiveAutoencoder`, trained by Adam.

    The score is :class:`aefast.estimators.Autoencoder`'s: the reconstruction's, without the
    penalty.

    Args:
        contraction: the factor of the penalty ||J(x)||^2, 0 or more.

    The other parameters, and the attributes, are :class:`aefast.estimators.Autoencoder`'s.

    Reference:
        Rifai, Vincent, Muller, Glorot, Bengio, "Contractive auto-encoders: explicit invariance
        during feature extraction", ICML 2011.

    >>> import numpy as np
    >>> from aefast.estimators import ContractiveAutoencoder
    >>> X = np.random.default_rng(0).random((20, 6))
    >>> ContractiveAutoencoder(8, contraction=0.01, random_state=0).fit_transform(X).shape
    (20, 8)
    """

    contraction: float = 0.003

    _module_class = nn.ContractiveAutoencoder
