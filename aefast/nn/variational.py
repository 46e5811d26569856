"""The variational autoencoder."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from aefast import random
from aefast.deprecation import warn_of_old_name
from aefast.functional import gaussian_kl, reparameterize
from aefast.nn.autoencoder import check_draw
from aefast.nn.encoder_decoder import example_of, named_layers
from aefast.nn.likelihood import (
    DECODER_KINDS,
    MEAN_ACTIVATIONS,
    bounded,
    check_visible,
    floored,
    log_likelihood,
    sample_visible,
)
from aefast.nn.linear import Device, FactoryOptions, LinearAct, stack_preactivation
from aefast.nn.plain import has_own_methods, is_plain, known_by_its_parameters
from aefast.nn.replicas import check_replica
from aefast.nn.settings import HasSettings, fixed_choice, integer, setting
from aefast.nn.sharded import Shardable
from aefast.nn.step_fields import StepFields
from aefast.nn.step_plan import loss_in_one_call
from aefast.ops.linear_act.op import ACTIVATIONS
from aefast.ops.shared import checks, dispatch

# The state dict's old names of the layers that end the encoder and the decoder.
OLD_NAMES = {"posterior_layer": "encoder", "output": "decoder"}

BOUNDS = ("elbo", "importance")
VARIANCES = ("shared", "units")

# Elements of the widest layer that a piece of log_likelihood's samples may take: 64 MiB.
ELEMENTS_AT_ONCE = 2**24


@known_by_its_parameters()
class GaussianEncoder(nn.Sequential):
    """q(z | x): the hidden layers, and one that makes the means, then the log variances.

    Its call is the code, which is the mean.
    """

    def forward(self, x: Tensor, with_log_var: bool = False) -> Any:
        """The mean, ``[..., D]`` to ``[..., latent]``; or the mean and the log variance."""
        mean, log_var = super().forward(x).chunk(2, -1)
        return (mean, log_var) if with_log_var else mean

    def __getitem__(self, index: int | slice) -> Any:
        return nn.Sequential(*list(self)[index]) if isinstance(index, slice) else list(self)[index]


def _check_bound(model: "VariationalAutoencoder", value: str, name: str) -> str:
    checks.check_choice(value, name, BOUNDS)
    _check_together(value, model.__dict__.get("kl_weight", 1))
    return value


def _check_kl_weight(model: "VariationalAutoencoder", value: float, name: str) -> float:
    weight = checks.check_number(value, name, 0)
    _check_together(model.bound, value)
    return weight


def _check_together(bound: str, kl_weight: float) -> None:
    if bound != "elbo" and kl_weight != 1:
        raise ValueError(f"kl_weight is {kl_weight}; with bound {bound!r} it takes 1")


@known_by_its_parameters("log_var")
class VariationalAutoencoder(HasSettings, Shardable):
    """A generative model ``p(x | z) p(z)``, and the encoder ``q(z | x)`` that it is trained with.

    p(z) = N(0, I); q(z | x) is a Gaussian with a diagonal covariance, whose mean and log variance
    a network makes from x; p(x | z) a product of Bernoulli or Gaussian distributions, whose means
    another one makes from z. Training maximizes a lower bound on ln p(x)::

        elbo:        E_q [ln p(x | z)] - KL(q(z | x) || p(z))
        importance:  E_q [ln 1/K sum_k p(x, z_k) / q(z_k | x)]

    With another ``kl_weight`` than 1 training maximizes ``E_q [ln p(x | z)] - kl_weight KL``, which
    bounds nothing: above 1 the code's units grow independent, below 1 the reconstructions sharp.

    Args:
        visible: D, the size of each input row.
        latent: the size of z.
        layers: the sizes of the encoder's hidden layers, which the decoder mirrors; none makes
            both linear.
        activation: of the hidden layers, one of :class:`aefast.nn.LinearAct`'s.
        decoder_kind: ``"bernoulli"``, for x in [0, 1], or ``"gaussian"``.
        variance: what a Gaussian decoder learns: ``"shared"`` one variance of all units, with which
            a linear model is probabilistic PCA; ``"units"`` one of each, factor analysis.
        bound: what training maximizes, ``"elbo"`` or ``"importance"``.
        samples: K, how many z training draws for each row, at least 1.
        kl_weight: of the divergence in training, 0 or more; not 1 takes the elbo. An attribute of
            the model, which a warm-up may change between steps.
        device: of the parameters; None takes torch's default one.
        dtype: of the parameters; None takes torch's default one.

    Attributes:
        encoder: from x to the code, the mean of q(z | x); with ``with_log_var=True``, to the mean
            and the log variance, as :meth:`loss` calls it.
        decoder: from the code to the mean of p(x | z).
        log_var: the log of the Gaussian decoder's variance, ``[1]`` or ``[D]``; None for
            Bernoulli.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: one is outside its range, or a choice is unknown.

    References:
        Kingma, Welling, "Auto-encoding variational Bayes", ICLR 2014. Burda, Grosse,
        Salakhutdinov, "Importance weighted autoencoders", ICLR 2016. Higgins et al., "beta-VAE:
        learning basic visual concepts with a constrained variational framework", ICLR 2017.

    >>> import torch
    >>> from aefast.nn import VariationalAutoencoder
    >>> model = VariationalAutoencoder(64, 2, layers=[32])
    >>> x = torch.rand(5, 64)
    >>> model.loss(x).backward()
    >>> model.elbo(x).shape, model.sample(3, seed=0).shape
    (torch.Size([5]), torch.Size([3, 64]))
    """

    log_var: Tensor | None
    decoder_kind: str = fixed_choice(DECODER_KINDS)
    bound: str = setting(_check_bound)
    samples: int = integer(1)
    kl_weight: float = setting(_check_kl_weight)

    def __init__(
        self,
        visible: int,
        latent: int,
        *,
        layers: Sequence[int] = (),
        activation: str = "tanh",
        decoder_kind: str = "bernoulli",
        variance: str = "shared",
        bound: str = "elbo",
        samples: int = 1,
        kl_weight: float = 1.0,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        named = {"visible": visible, "latent": latent, **named_layers(layers)}
        for name, size in named.items():
            checks.check_integer(size, name, 2**31, low=1)
        checks.check_choice(activation, "activation", ACTIVATIONS)
        checks.check_choice(variance, "variance", VARIANCES)
        self.decoder_kind = decoder_kind
        self.bound = bound
        self.samples = samples
        self.kl_weight = kl_weight
        self.visible = visible
        self.latent = latent
        self.layers = list(layers)
        sizes = [visible, *layers]
        self.output_activation = MEAN_ACTIVATIONS[decoder_kind]
        factory_options: FactoryOptions = {"device": device, "dtype": dtype}
        self.encoder = GaussianEncoder(
            *_layers(sizes, activation, factory_options),
            LinearAct(sizes[-1], 2 * latent, **factory_options),
        )
        sizes = [latent, *reversed(sizes)]
        self.decoder = nn.Sequential(
            *_layers(sizes[:-1], activation, factory_options),
            LinearAct(sizes[-2], visible, activation=self.output_activation, **factory_options),
        )
        log_var = torch.zeros(1 if variance == "shared" else visible, **factory_options)
        self.register_parameter(
            "log_var", nn.Parameter(log_var) if decoder_kind == "gaussian" else None
        )

    def reset_parameters(self) -> None:
        """The variance, which the layers don't hold, begins at 1."""
        if self.log_var is not None:
            nn.init.zeros_(self.log_var)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """q(z | x)'s mean and log variance: ``[..., D]`` to twice ``[..., latent]``."""
        mean, log_var = self.encoder(x, with_log_var=True)
        return mean, log_var

    def encode(self, x: Tensor) -> Tensor:
        """The mean of q(z | x): ``[..., D]`` to ``[..., latent]``."""
        return self.encoder(x)

    def decode(self, code: Tensor) -> Tensor:
        """The mean of p(x | z): ``[..., latent]`` to ``[..., D]``."""
        return self.decoder(code)

    def preactivation(self, code: Tensor) -> Tensor:
        """The mean of p(x | z) before its activation: of a Bernoulli decoder, the logits.

        Raises:
            TypeError: as :func:`aefast.nn.linear.invert`.
        """
        return stack_preactivation(self.decoder, code, self.output_activation)

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction of x, ``[..., D]``; in training with what the loss draws, a code from
        q(z | x), and in evaluation from its mean."""
        if not self.training:
            return self.decode(self.encode(x))
        return self.decode(reparameterize(*bounded(*self.posterior(x))))

    @property
    def posterior_layer(self) -> nn.Module:
        """The old name of ``encoder[-1]``, which warns."""
        warn_of_old_name("posterior_layer", "encoder[-1]")
        return self.encoder[-1]

    @property
    def output(self) -> nn.Module:
        """The old name of ``decoder[-1]``, which warns."""
        warn_of_old_name("output", "decoder[-1]")
        return self.decoder[-1]

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *arguments: Any
    ) -> None:
        """Load a state dict, also one with the old names."""
        for old, part in OLD_NAMES.items():
            new = f"{prefix}{part}.{len(getattr(self, part)) - 1}."
            old = f"{prefix}{old}."
            for name in [name for name in state_dict if name.startswith(old)]:
                state_dict[new + name.removeprefix(old)] = state_dict.pop(name)
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def loss(
        self,
        x: Tensor,
        *,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        row_offset: int = 0,
    ) -> Tensor:
        """The negative mean bound over the rows of x, in nats: a scalar. Its divergence is weighted
        by ``kl_weight``. Until its backward pass it holds what :meth:`aefast.nn.Autoencoder.loss`
        does.

        Args:
            x: ``[B, D]``.
            seed: the codes' noise is a function of it, an int in [0, 2**63); None draws one from
                ``generator``.
            generator: a ``torch.Generator``; None takes torch's default one.
            row_offset: the number of x's first row, where a batch is split over processes. The K
                samples of a batch are drawn at rows row_offset * K to (row_offset + B) * K.

        Raises:
            TypeError, ValueError: as :meth:`elbo`; of a Bernoulli decoder x outside [0, 1] is
                refused on a CPU only.
            RuntimeError: ``DistributedDataParallel`` wraps the model: it takes a
                :class:`aefast.nn.LossModule`.
        """
        check_replica(self)
        check_draw(seed, generator, row_offset)
        loss = loss_in_one_call(self, x, seed, generator, row_offset)
        if loss is not None:
            return loss
        bound = self.elbo if self.bound == "elbo" else self.importance_bound
        options = {"samples": self.samples, "seed": seed, "generator": generator}
        if self.kl_weight == 1:
            return -bound(x, row_offset=row_offset, **options).mean()  # type: ignore[arg-type]
        likelihood, divergence = self._terms(x, self.samples, seed, generator, row_offset)
        return -floored(likelihood - self.kl_weight * divergence).mean()

    @property
    def is_plain(self) -> bool:
        """Whether the parameters say all that calling the layers would do."""
        return is_plain(self) and not has_own_methods(self)

    def step_layers(self) -> tuple[list[nn.Module], list[nn.Module]]:
        """The layers of a training step, to the posterior and back."""
        return list(self.encoder), list(self.decoder)

    def step_fields(self) -> StepFields | str:
        """What a step's plan says beside its layers; or why none says it all."""
        if self.bound != "elbo" or self.samples != 1:
            return "the step draws one sample a row, for the evidence lower bound"
        return {
            "objective": self.decoder_kind,
            "code_stage": "posterior",
            "divergence_weight": self.kl_weight,
        }

    def elbo(
        self,
        x: Tensor,
        samples: int = 1,
        *,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        row_offset: int = 0,
    ) -> Tensor:
        """The evidence lower bound of each row, in nats: ``[..., D]`` to ``[...]``.

        The divergence is exact, the expectation a mean over ``samples`` draws of z.
        """
        likelihood, divergence = self._terms(x, samples, seed, generator, row_offset)
        return floored(likelihood - divergence)

    def importance_bound(
        self,
        x: Tensor,
        samples: int = 1,
        *,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        row_offset: int = 0,
    ) -> Tensor:
        """The importance-weighted bound of each row, in nats: ``[..., D]`` to ``[...]``.

        It grows with the number of samples, from the evidence lower bound towards ln p(x).
        """
        check_visible(x, self.decoder_kind)
        mean, log_var = bounded(*self.posterior(x))
        weights = self._log_weights(x, mean, log_var, samples, seed, generator, row_offset)
        return floored(weights.logsumexp(-1) - math.log(samples))

    @torch.no_grad()
    def log_likelihood(
        self,
        x: Tensor,
        samples: int = 5000,
        *,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        row_offset: int = 0,
    ) -> Tensor:
        """ln p(x) of each row, in nats, by importance sampling: ``[B, D]`` to ``[B]``.

        The bound of ``samples`` draws, in pieces that fit in memory; too low on average, by less
        the more samples there are. A row's draws do not depend on the rows beside it.

        Raises:
            TypeError, ValueError: an argument is of a wrong type or outside its range, or x is not
                ``[B, D]``.

        Of a row so far off that its likelihood is 0 it is a very low number, never an infinity.
        """
        samples = checks.check_integer(samples, "samples", 2**31, low=1)
        checks.check_seed_arguments(seed, generator)
        checks.check_tensor(x, "x")
        if x.dim() != 2:
            raise ValueError(f"x has shape {list(x.shape)}; it takes [B, {self.visible}]")
        check_visible(x, self.decoder_kind)
        seed = int(dispatch.resolve_seed(seed, generator, x.device, False))
        widest = max([self.visible, *self.layers])
        at_once = min(samples, max(1, ELEMENTS_AT_ONCE // widest))
        rows_at_once = max(1, ELEMENTS_AT_ONCE // widest // at_once)
        estimates = [x.new_empty(0)]
        for first in range(0, len(x), rows_at_once):
            rows = x[first : first + rows_at_once]
            mean, log_var = bounded(*self.posterior(rows))
            sums = []
            for number, start in enumerate(range(0, samples, at_once)):
                count = min(at_once, samples - start)
                piece_seed = random.child_seed(seed, number)
                draws = count, piece_seed, None, row_offset + first
                sums.append(self._log_weights(rows, mean, log_var, *draws).logsumexp(-1))
            estimates.append(torch.stack(sums).logsumexp(0) - math.log(samples))
        return floored(torch.cat(estimates))

    @torch.no_grad()
    def sample(
        self,
        samples: int,
        *,
        draw: bool = False,
        seed: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """New rows ``[samples, D]``: the means of p(x | z) at z drawn from N(0, I).

        Args:
            samples: how many.
            draw: draw the rows from p(x | z), too.
            seed: an int in [0, 2**63); None draws one from ``generator``.
            generator: a ``torch.Generator``; None takes torch's default one.

        Raises:
            TypeError, ValueError: an argument is of a wrong type or outside its range.
        """
        samples = checks.check_integer(samples, "samples", 2**31)
        checks.check_seed_arguments(seed, generator)
        like = example_of(self)
        seed = int(dispatch.resolve_seed(seed, generator, like.device, False))
        z = random.normal(
            seed, samples, self.latent, step=random.DrawStep.LATENT, device=like.device
        )
        mean = self.decode(z.to(like.dtype))
        return sample_visible(mean, self.log_var, seed) if draw else mean

    def _terms(
        self,
        x: Tensor,
        samples: int,
        seed: int | None,
        generator: torch.Generator | None,
        row_offset: int,
    ) -> tuple[Tensor, Tensor]:
        """E_q [ln p(x | z)] and the divergence, ``[...]`` each."""
        check_visible(x, self.decoder_kind)
        mean, log_var = bounded(*self.posterior(x))
        z = self._draw(mean, log_var, samples, seed, generator, row_offset)
        return self._log_likelihood(x, z).mean(-1), gaussian_kl(mean, log_var)

    def _draw(
        self,
        mean: Tensor,
        log_var: Tensor,
        samples: int,
        seed: int | None,
        generator: torch.Generator | None,
        row_offset: int,
    ) -> Tensor:
        """z ~ q(z | x), ``[..., samples, latent]``: a row's samples are drawn at adjacent rows."""
        samples = checks.check_integer(samples, "samples", 2**31, low=1)
        shape = (*mean.shape[:-1], samples, self.latent)
        return reparameterize(
            mean.unsqueeze(-2).expand(shape),
            log_var.unsqueeze(-2).expand(shape),
            seed=seed,
            generator=generator,
            row_offset=row_offset * samples,
        )

    def _log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """ln p(x | z) of rows ``[..., D]`` and samples ``[..., K, latent]``: ``[..., K]``."""
        output = self.preactivation(z)
        return log_likelihood(self.decoder_kind, x.unsqueeze(-2), output, self.log_var)

    def _log_weights(
        self,
        x: Tensor,
        mean: Tensor,
        log_var: Tensor,
        samples: int,
        seed: int | None,
        generator: torch.Generator | None,
        row_offset: int,
    ) -> Tensor:
        """ln p(x, z) - ln q(z | x) at samples of z, ``[..., K]``; the two densities' constants
        cancel."""
        if dispatch.autocast_dtype(x.device) is not None:
            # In bfloat16 the weights were off by 0.08 nats at 8 latent units.
            mean, log_var = mean.float(), log_var.float()
        # The noise itself: z - mean has few of its digits where a code is far from 0.
        nothing = torch.zeros_like(mean)
        noise = self._draw(nothing, nothing, samples, seed, generator, row_offset)
        log_var = log_var.unsqueeze(-2)
        z = mean.unsqueeze(-2) + (0.5 * log_var).exp() * noise
        likelihood = self._log_likelihood(x, z)
        return likelihood + 0.5 * (noise.square() + log_var - z.square()).sum(-1)

    def extra_repr(self) -> str:
        return (
            f"decoder_kind={self.decoder_kind!r}, bound={self.bound!r}, samples={self.samples}, "
            f"kl_weight={self.kl_weight}"
        )


def _layers(
    sizes: list[int], activation: str, factory_options: FactoryOptions
) -> Iterator[LinearAct]:
    for below, above in pairwise(sizes):
        yield LinearAct(below, above, activation=activation, **factory_options)
