"""The stochastic autoencoder as a scikit-learn transformer."""

from dataclasses import dataclass

from torch import Tensor

from aefast import nn
from aefast.estimators.generative import GenerativeAutoencoder


@dataclass(eq=False, repr=False, kw_only=True)
class StochasticAutoencoder(GenerativeAutoencoder):
    """An autoencoder whose encoder and decoder are distributions:
    :class:`aefast.nn.StochasticAutoencoder`, trained by Adam.

    ``transform`` gives the mean code, ``inverse_transform`` the mean row. The score of a row is
    E[ln p(x | h)], in nats, over codes h drawn from p(h | x): the mean over 64 draws, whose noise
    is the same for every row and every call: more rows do not lessen its error. ``sample`` runs a
    Markov chain of 100 steps.

    Args:
        hidden_layer_sizes: as :class:`aefast.estimators.Autoencoder` takes them, and all that
            trains it.
        activation: of every layer but the last; its code should be bounded, or it outgrows the
            noise.
        code_noise: the standard deviation of the code given x, 0 or more.
        decoder_kind: ``"bernoulli"``, for data in [0, 1]; ``"gaussian"``, whose variance is
            learned; or ``"auto"``, the first where the data lie in [0, 1], else the second.

    The attributes are :class:`aefast.estimators.Autoencoder`'s.

    Reference:
        Goodfellow, Bengio, Courville, "Deep Learning", MIT Press, 2016, sections 14.4 and 20.11.

    >>> import numpy as np
    >>> from aefast.estimators import StochasticAutoencoder
    >>> X = np.random.default_rng(0).random((20, 6))
    >>> model = StochasticAutoencoder(4, random_state=0).fit(X)
    >>> model.sample(3, random_state=0).shape
    (3, 6)
    """

    code_noise: float = 0.3

    _module_class = nn.StochasticAutoencoder

    def _score_draws(self, module: nn.StochasticAutoencoder, rows: Tensor, noise: Tensor) -> Tensor:
        codes = module.encode(rows).unsqueeze(1) + module.code_noise * noise
        return module.log_likelihood(rows.unsqueeze(1), codes).mean(1)
