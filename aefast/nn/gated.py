"""The sparse autoencoder whose latents are gated: one path says which are active, one how much."""

from typing import Unpack

import torch
from torch import Tensor, nn

from aefast.functional import linear_act
from aefast.nn.candidates import candidates
from aefast.nn.dictionary import ENCODER_START, Code, DictionaryOptions, SparseDictionary
from aefast.nn.dictionary_modules import GatedEncoder
from aefast.nn.input_normalization import Target
from aefast.nn.plain import known_by_its_parameters
from aefast.nn.reparametrized import renew_weights
from aefast.nn.settings import number
from aefast.nn.step_plan import PlannedDictionary
from aefast.ops.jumprelu.gated import gated
from aefast.ops.topk.op import as_rows


@known_by_its_parameters(
    *("encoder_weight", "encoder_bias", "decoder_weight", "decoder_bias"),
    *("magnitude_bias", "magnitude_scale"),
)
class GatedSparseAutoencoder(SparseDictionary):
    """A sparse autoencoder in which a gate says which latents are active, and another path how
    much: the penalty, which makes few active, does not shrink what they say. ::

        z = W (x - c),    gate = z + b,    magnitude = relu(exp(r) z + m)
        code = magnitude where gate > 0, else 0

    The loss adds ``sparsity_weight`` times the mean over rows of the sum of ``relu(gate)``, and, so
    that the gates learn to reconstruct, the mean squared error of what ``relu(gate)`` reconstructs
    with a decoder that is held. SAELens' loss trains the decoder by that error, too.

    Args:
        visible: D, the size of each input row.
        latents: L, the size of the code.
        sparsity_weight: the factor of the gates' penalty, 0 or more; None is 1/D, of a
            transcoder 1/O: SAELens' default, for its errors are sums over a row. It suits active
            values of about 1 and more.
        options: as :class:`SparseDictionary`'s: ``outputs`` of a transcoder, ``aux_k``,
            ``aux_weight``, ``dead_after``, ``normalize_activations``, ``device`` and ``dtype``.

    Attributes:
        encoder_weight, decoder_weight, decoder_bias, idle: as those of
            :class:`TopKSparseAutoencoder`.
        encoder_bias: b ``[L]``, the gates'.
        magnitude_bias: m ``[L]``.
        magnitude_scale: r ``[L]``.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: a number is outside its range.

    Reference:
        Rajamanoharan et al., "Improving dictionary learning with gated sparse autoencoders", 2024.

    >>> import torch
    >>> from aefast.nn import GatedSparseAutoencoder
    >>> model = GatedSparseAutoencoder(64, 512, sparsity_weight=1e-3)
    >>> x = torch.randn(5, 64)
    >>> model.encode(x).shape
    torch.Size([5, 512])
    >>> model.loss(x).backward()
    """

    ENCODER = GatedEncoder

    sparsity_weight: float = number(0)

    def __init__(
        self,
        visible: int,
        latents: int,
        *,
        sparsity_weight: float | None = None,
        **options: Unpack[DictionaryOptions],
    ) -> None:
        super().__init__(visible, latents, **options)
        self.sparsity_weight = 1 / self.outputs if sparsity_weight is None else sparsity_weight
        self.magnitude_bias = nn.Parameter(torch.empty_like(self.encoder_bias))
        self.magnitude_scale = nn.Parameter(torch.empty_like(self.encoder_bias))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Directions uniform on the sphere, the encoder a tenth of them, all else 0."""
        super().reset_parameters()
        self.encoder_weight.mul_(ENCODER_START)
        self.magnitude_bias.zero_()
        self.magnitude_scale.zero_()

    def encode(self, x: Tensor) -> Tensor:
        """The code of x, ``[..., L]``: 0 for a latent that is not active."""
        return self._gated(self._product(x))[0]

    def _product(self, x: Tensor) -> Tensor:
        renew_weights(self)
        return self._products(x, None)

    def _gated(self, product: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The code, what opens the gates, and the sum of that in each row."""
        scale = self.magnitude_scale.exp()
        return gated(product, self.encoder_bias, scale, self.magnitude_bias)

    def _objective(self, x: Tensor, target: Target) -> tuple[Tensor, Code, Tensor]:
        product = self._product(x)
        return self._sparse_objective(x, product, target) or self._dense_objective(product, target)

    def _sparse_objective(
        self, x: Tensor, product: Tensor, target: Target
    ) -> tuple[Tensor, Code, Tensor] | None:
        """The same of the latents alone whose gate is open; None where that does not serve."""
        if not self._serves_candidates(x, GatedSparseAutoencoder):
            return None
        rows = as_rows(self._centered(x))
        chosen = candidates(
            rows, self.encoder_weight, as_rows(product), lambda z: ~(z + self.encoder_bias <= 0)
        )
        if chosen is None:
            return None
        gate = chosen.product + chosen.of_latents(self.encoder_bias)
        scale = chosen.of_latents(self.magnitude_scale).exp()
        magnitude = (chosen.product * scale + chosen.of_latents(self.magnitude_bias)).relu()
        code = chosen.code(torch.where(gate <= 0, 0, magnitude))
        opened = chosen.code(gate.relu())
        error, residual = target.error_of(code, self.decoder_weight, self.decoder_bias)
        held = self.decoder_weight.detach(), self.decoder_bias.detach()
        by_gates, _ = target.error_of(opened, *held)
        penalty = self.sparsity_weight * opened.values.sum(-1).mean()
        return error + penalty + by_gates, code, residual

    def _dense_objective(self, product: Tensor, target: Target) -> tuple[Tensor, Code, Tensor]:
        code, opened, totals = self._gated(product)
        error, residual = target.error(self.decode(code))
        weight, bias = self.decoder_weight.detach(), self.decoder_bias.detach()
        by_gates, _ = target.error(linear_act(opened, weight.t(), bias))
        penalty = self.sparsity_weight * totals.mean().to(opened.dtype)
        return error + penalty + by_gates, code, residual

    def planned_step(self) -> PlannedDictionary | str:
        """The training step for the kernels; or why they cannot take it in one call."""
        return self._planned(
            self.magnitude_bias,
            self.magnitude_scale,
            selection="gated",
            sparsity_weight=self.sparsity_weight,
        )

    def extra_repr(self) -> str:
        return f"sparsity_weight={self.sparsity_weight}, {super().extra_repr()}"
