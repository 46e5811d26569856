"""The variational autoencoder as a scikit-learn transformer."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

from torch import Tensor

from aefast import nn
from aefast.estimators.generative import GenerativeAutoencoder
from aefast.functional import gaussian_kl
from aefast.nn.likelihood import bounded, log_likelihood


@dataclass(eq=False, repr=False)
class VariationalAutoencoder(GenerativeAutoencoder):
    """A generative model and its encoder: :class:`aefast.nn.VariationalAutoencoder`, trained by
    Adam.

    ``transform`` gives the mean of q(z | x), ``inverse_transform`` that of p(x | z). The score of a
    row is its evidence lower bound, in nats, whichever bound was trained: the divergence is exact,
    the expectation a mean over 64 draws of z, whose noise is the same for every row and every call:
    more rows do not lessen its error.

    Args:
        hidden_layer_sizes: the sizes of the encoder's hidden layers, which the decoder mirrors, and
            last that of z; an int makes both linear.
        learning_rate: and all that trains it, as :class:`aefast.estimators.Autoencoder` takes it.
        activation: of the hidden layers.
        decoder_kind: ``"bernoulli"``, for data in [0, 1]; ``"gaussian"``; or ``"auto"``, the first
            where the data lie in [0, 1], else the second.
        variance: what a Gaussian decoder learns: ``"shared"`` one variance of all features,
            ``"units"`` one of each.
        bound: what training maximizes, ``"elbo"`` or ``"importance"``.
        samples: how many z training draws for each row.
        kl_weight: of the divergence in training, 0 or more; not 1 takes the elbo. The score's is 1.

    The attributes are :class:`aefast.estimators.Autoencoder`'s; with no hidden layer the rows of
    ``components_`` are those of z's means, then of its log variances.

    References:
        Kingma, Welling, "Auto-encoding variational Bayes", ICLR 2014. Burda, Grosse,
        Salakhutdinov, "Importance weighted autoencoders", ICLR 2016.

    >>> import numpy as np
    >>> from aefast.estimators import VariationalAutoencoder
    >>> X = np.random.default_rng(0).random((20, 6))
    >>> model = VariationalAutoencoder((8, 2), random_state=0).fit(X)
    >>> model.transform(X).shape, model.sample(3, random_state=0).shape
    ((20, 2), (3, 6))
    """

    hidden_layer_sizes: int | Sequence[int] = (128, 8)
    _: KW_ONLY
    variance: str = "shared"
    bound: str = "elbo"
    samples: int = 1
    kl_weight: float = 1.0

    _module_class = nn.VariationalAutoencoder

    def _new_module(self, sizes: list[int], options: dict[str, Any]) -> nn.VariationalAutoencoder:
        visible, *layers, latent = sizes
        return nn.VariationalAutoencoder(visible, latent, layers=layers, **options)

    def _score_draws(
        self, module: nn.VariationalAutoencoder, rows: Tensor, noise: Tensor
    ) -> Tensor:
        mean, log_var = bounded(*module.posterior(rows))
        codes = mean.unsqueeze(1) + (log_var / 2).exp().unsqueeze(1) * noise
        output = module.preactivation(codes)
        decoded = log_likelihood(module.decoder_kind, rows.unsqueeze(1), output, module.log_var)
        return decoded.mean(1) - gaussian_kl(mean, log_var)
