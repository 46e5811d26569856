"""The stochastic autoencoder: an encoder and a decoder that are distributions."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from aefast import random
from aefast.nn.autoencoder import check_draw, sample_noise
from aefast.nn.encoder_decoder import EncoderDecoder, example_of
from aefast.nn.likelihood import (
    DECODER_KINDS,
    MEAN_ACTIVATIONS,
    check_visible,
    distribution,
    floored,
    log_likelihood,
    sample_visible,
)
from aefast.nn.linear import Device
from aefast.nn.plain import known_by_its_parameters
from aefast.nn.replicas import check_replica
from aefast.nn.settings import fixed_choice, number
from aefast.nn.step_fields import StepFields
from aefast.nn.step_plan import loss_in_one_call
from aefast.ops.shared import checks, dispatch
from aefast.random import DrawStep


@known_by_its_parameters("log_var")
class StochasticAutoencoder(EncoderDecoder):
    """Draws its code, and says how likely its input is given the code.

    The encoder is p(h | x) = N(f(x), code_noise^2 I); the decoder p(x | h) is a product of
    Bernoulli or Gaussian distributions, whose mean is the decoding of h. Training minimizes
    ``-ln p(x | h)`` at an h drawn from the encoder. Drawing from the two in turn is a Markov chain
    over x: :meth:`sample` runs it.

    Args:
        visible: D, the size of each input row.
        hidden: H, the size of the code.
        layers: instead of these two, D, H_1, ..., H_L: the sizes from the input to the code.
        activation: of every layer but the last; its code should be bounded, or it outgrows the
            noise.
        code_noise: the standard deviation of the code given x, 0 or more.
        decoder_kind: ``"bernoulli"``, for x in [0, 1], or ``"gaussian"``, whose variance is
            learned, one for all units.
        device: of the parameters; None takes torch's default one.
        dtype: of the parameters; None takes torch's default one.

    Attributes:
        log_var: the log of the Gaussian decoder's variance, ``[1]``; None for Bernoulli.

    Raises:
        TypeError, ValueError: as :class:`aefast.nn.Autoencoder`.

    References:
        Goodfellow, Bengio, Courville, "Deep Learning", 2016, sections 14.4 and 20.11. Bengio, Yao,
        Alain, Vincent, "Generalized denoising auto-encoders as generative models", NIPS 2013.

    >>> import torch
    >>> from aefast.nn import StochasticAutoencoder
    >>> model = StochasticAutoencoder(64, 16)
    >>> x = torch.rand(5, 64)
    >>> model.loss(x).backward()
    >>> model.decode_distribution(model.encode_distribution(x).sample()).log_prob(x).shape
    torch.Size([5])
    >>> model.sample(3, steps=10, seed=0).shape
    torch.Size([3, 64])
    """

    log_var: Tensor | None
    decoder_kind: str = fixed_choice(DECODER_KINDS)
    code_noise: float = number(0)

    def __init__(
        self,
        visible: int | None = None,
        hidden: int | None = None,
        *,
        layers: Sequence[int] | None = None,
        activation: str = "tanh",
        code_noise: float = 0.3,
        decoder_kind: str = "bernoulli",
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        checks.check_choice(decoder_kind, "decoder_kind", DECODER_KINDS)
        super().__init__(
            visible,
            hidden,
            layers=layers,
            activation=activation,
            output_activation=MEAN_ACTIVATIONS[decoder_kind],
            device=device,
            dtype=dtype,
        )
        self.decoder_kind = decoder_kind
        self.code_noise = code_noise
        log_var = torch.zeros(1, device=device, dtype=dtype)
        self.register_parameter(
            "log_var", nn.Parameter(log_var) if decoder_kind == "gaussian" else None
        )

    def reset_parameters(self) -> None:
        """The variance, which the layers don't hold, begins at 1."""
        if self.log_var is not None:
            nn.init.zeros_(self.log_var)

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction of x, ``[..., D]``; in training with what the loss draws, a code from
        p(h | x), and in evaluation from its mean."""
        return self.decode(self._sample_code(x, None) if self.training else self.encode(x))

    def encode_distribution(self, x: Tensor) -> Distribution:
        """p(h | x), over codes ``[..., H]``."""
        mean = self.encode(x)
        return Independent(Normal(mean, self.code_noise, validate_args=False), 1)

    def decode_distribution(self, code: Tensor) -> Distribution:
        """p(x | h), over rows ``[..., D]``."""
        return distribution(self.decoder_kind, self.preactivation(code), self.log_var)

    def log_likelihood(self, x: Tensor, code: Tensor) -> Tensor:
        """ln p(x | h) at each row, in nats: ``[..., D]`` and ``[..., H]`` to ``[...]``.

        Raises:
            ValueError: the decoder is Bernoulli and x outside [0, 1], which is checked on a
                CPU only.
        """
        check_visible(x, self.decoder_kind)
        output = self.preactivation(code)
        return floored(log_likelihood(self.decoder_kind, x, output, self.log_var))

    def loss(
        self,
        x: Tensor,
        *,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        row_offset: int = 0,
    ) -> Tensor:
        """The mean over the rows of -ln p(x | h), in nats, at codes drawn from p(h | x): a scalar.
        Until its backward pass it holds what :meth:`aefast.nn.Autoencoder.loss` does, and takes the
        arguments that it takes, and raises its errors."""
        check_replica(self)
        check_draw(seed, generator, row_offset)
        loss = loss_in_one_call(self, x, seed, generator, row_offset)
        if loss is not None:
            return loss
        code = self._sample_code(x, seed, generator, row_offset)
        return -self.log_likelihood(x, code).mean()

    def step_fields(self) -> StepFields | str:
        """What :class:`aefast.step.plan.Plan` says beside the layers."""
        return {
            "objective": self.decoder_kind,
            "code_stage": "gaussian",
            "code_level": self.code_noise,
        }

    @torch.no_grad()
    def sample(
        self,
        samples: int,
        steps: int = 100,
        *,
        start: Tensor | None = None,
        seed: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Samples of Markov chains after some steps: the means of x given their last codes.

        A step draws a code given x; the next one begins with a draw of x given that code.

        Args:
            samples: how many chains.
            steps: at least 1.
            start: the rows x, ``[samples, D]`` or ``[D]``, that the chains begin at; None begins
                with codes drawn from N(0, I).
            seed: an int in [0, 2**63); None draws one from ``generator``.
            generator: a ``torch.Generator``; None takes torch's default one.

        Returns:
            ``[samples, D]``.

        Raises:
            TypeError, ValueError: an argument is of a wrong type, shape or range.
        """
        samples = checks.check_integer(samples, "samples", 2**31)
        steps = checks.check_integer(steps, "steps", 2**31, low=1)
        checks.check_seed_arguments(seed, generator)
        like = example_of(self)
        seed = int(dispatch.resolve_seed(seed, generator, like.device, False))
        if start is None:
            code = random.normal(
                seed, samples, self.hidden, step=DrawStep.LATENT, device=like.device
            )
            code = code.to(like.dtype)
        else:
            code = self._sample_code(self._check_start(start, samples), random.child_seed(seed, 0))
        for step in range(1, steps):
            step_seed = random.child_seed(seed, step)
            x = sample_visible(self.decode(code), self.log_var, step_seed)
            code = self._sample_code(x, step_seed)
        return self.decode(code)

    def _check_start(self, start: Tensor, samples: int) -> Tensor:
        checks.check_like(start, "start", example_of(self), "the weight")
        visible = self.visible
        if start.shape not in ((visible,), (samples, visible)):
            raise ValueError(
                f"start has shape {list(start.shape)}; it takes [{samples}, {visible}] or "
                f"[{visible}]"
            )
        return start.expand(samples, visible)

    def _sample_code(
        self,
        x: Tensor,
        seed: int | None,
        generator: torch.Generator | None = None,
        row_offset: int = 0,
    ) -> Tensor:
        draws = seed, generator, row_offset, DrawStep.CODE_NOISE
        return sample_noise(self.encode(x), "gaussian", self.code_noise, *draws)

    def extra_repr(self) -> str:
        return f"code_noise={self.code_noise}, decoder_kind={self.decoder_kind!r}"
