"""The denoising autoencoder as a scikit-learn transformer."""

from dataclasses import dataclass

from aefast import nn
from aefast.estimators.autoencoder import Autoencoder


@dataclass(eq=False, repr=False, kw_only=True)
class DenoisingAutoencoder(Autoencoder):
    """Learns to undo noise: :class:`aefast.nn.DenoisingAutoencoder`, trained by Adam.

    Only training corrupts: the codes, the reconstructions and the score, as
    :class:`aefast.estimators.Autoencoder`'s, are those of X as it is.

    Args:
        corruption: ``"masking"``, ``"salt_and_pepper"`` or ``"gaussian"``.
        corruption_level: the probability that an element is hit, 0 to 1; for ``"gaussian"`` the
            standard deviation of the noise, 0 or more.
        output_activation: of the last layer.

    The other parameters, and the attributes, are :class:`aefast.estimators.Autoencoder`'s.

    Reference:
        Vincent, Larochelle, Bengio, Manzagol, "Extracting and composing robust features with
        denoising autoencoders", ICML 2008.

    >>> import numpy as np
    >>> from aefast.estimators import DenoisingAutoencoder
    >>> X = np.random.default_rng(0).random((20, 6))
    >>> DenoisingAutoencoder(8, corruption_level=0.5, random_state=0).fit_transform(X).shape
    (20, 8)
    """

    corruption: str = "masking"
    corruption_level: float = 0.3
    output_activation: str = "sigmoid"

    _module_class = nn.DenoisingAutoencoder
