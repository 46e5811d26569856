"""The sparse autoencoder whose latents each learn a threshold."""

from typing import Unpack

import torch
from torch import Tensor, nn

from aefast.nn.candidates import candidates
from aefast.nn.dictionary import ENCODER_START, Code, DictionaryOptions, SparseDictionary
from aefast.nn.dictionary_modules import JumpReLUEncoder
from aefast.nn.input_normalization import Target
from aefast.nn.plain import known_by_its_parameters
from aefast.nn.reparametrized import renew_weights
from aefast.nn.settings import choice, number, positive
from aefast.nn.step_plan import PlannedDictionary
from aefast.ops.jumprelu import eager
from aefast.ops.jumprelu.op import ESTIMATORS, counted, jumprelu
from aefast.ops.shared import dispatch
from aefast.ops.topk.op import as_rows


@known_by_its_parameters(
    "encoder_weight", "encoder_bias", "decoder_weight", "decoder_bias", "threshold"
)
class JumpReLUSparseAutoencoder(SparseDictionary):
    """A sparse autoencoder whose latents are active above a threshold that each of them learns.

    The loss adds ``sparsity_weight`` times the mean number of active latents a row. What neither it
    nor the values have a gradient for is estimated from the pre-activations about the threshold, as
    far as ``bandwidth`` says. A threshold that an optimizer's step leaves below 0 counts as 0: no
    negative value passes. The loss sets it to 0 in training, so that it keeps its gradient.

    Args:
        visible: D, the size of each input row.
        latents: L, the size of the code.
        sparsity_weight: the factor of the number of active latents, 0 or more; None is 1/D, of a
            transcoder 1/O: SAELens' default, for its errors are sums over a row. It suits active
            values of about 1 and more.
        bandwidth: of the estimator, above 0.
        estimator: of the thresholds' gradient, ``"rectangle"`` or ``"tanh"``, as
            :func:`aefast.functional.jumprelu_encode` has them.
        initial_threshold: of each latent, 0 or more.
        options: as :class:`SparseDictionary`'s: ``outputs`` of a transcoder, ``aux_k``,
            ``aux_weight``, ``dead_after``, ``normalize_activations``, ``device`` and ``dtype``.

    Attributes:
        encoder_weight, encoder_bias, decoder_weight, decoder_bias, idle: as those of
            :class:`TopKSparseAutoencoder`.
        threshold: ``[L]``.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: a number is outside its range.

    Reference:
        Rajamanoharan et al., "Jumping ahead: improving reconstruction fidelity with JumpReLU sparse
        autoencoders", 2024.

    >>> import torch
    >>> from aefast.nn import JumpReLUSparseAutoencoder
    >>> model = JumpReLUSparseAutoencoder(64, 512, sparsity_weight=1e-3)
    >>> x = torch.randn(5, 64)
    >>> model.encode(x).shape
    torch.Size([5, 512])
    >>> model.loss(x).backward()
    """

    ENCODER = JumpReLUEncoder

    sparsity_weight: float = number(0)
    bandwidth: float = positive()
    estimator: str = choice(ESTIMATORS)
    initial_threshold: float = number(0)

    def __init__(
        self,
        visible: int,
        latents: int,
        *,
        sparsity_weight: float | None = None,
        bandwidth: float = 0.05,
        estimator: str = "rectangle",
        initial_threshold: float = 0.01,
        **options: Unpack[DictionaryOptions],
    ) -> None:
        super().__init__(visible, latents, **options)
        self.sparsity_weight = 1 / self.outputs if sparsity_weight is None else sparsity_weight
        self.bandwidth = bandwidth
        self.estimator = estimator
        self.initial_threshold = initial_threshold
        self.threshold = nn.Parameter(torch.empty_like(self.encoder_bias))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Directions uniform on the sphere, the encoder a tenth of them, biases 0, and the
        thresholds where they start."""
        super().reset_parameters()
        self.encoder_weight.mul_(ENCODER_START)
        self.threshold.fill_(self.initial_threshold)

    def encode(self, x: Tensor) -> Tensor:
        """The code of x, ``[..., L]``: 0 for a latent that is not active."""
        return jumprelu(*self._operands(self._preactivation(x))).values

    def _preactivation(self, x: Tensor) -> Tensor:
        renew_weights(self)
        return self._products(x, self.encoder_bias)

    def _operands(self, preactivation: Tensor) -> tuple[Tensor, Tensor, float, str]:
        """What :func:`jumprelu` takes."""
        threshold = self.threshold.clamp(min=0.0).to(preactivation.dtype)  # autocast's
        return preactivation, threshold, self.bandwidth, self.estimator

    def _objective(self, x: Tensor, target: Target) -> tuple[Tensor, Code, Tensor]:
        if self.training:
            self._raise_thresholds()
        preactivation = self._preactivation(x)
        return self._sparse_objective(x, preactivation, target) or self._dense_objective(
            preactivation, target
        )

    def _sparse_objective(
        self, x: Tensor, preactivation: Tensor, target: Target
    ) -> tuple[Tensor, Code, Tensor] | None:
        """The same of the latents alone that are active, or whose threshold has a gradient; None
        where that does not serve. The slope of tanh has no bounds."""
        if self.estimator != "rectangle" or not self._serves_candidates(
            x, JumpReLUSparseAutoencoder
        ):
            return None
        # Not an int: torch 2.11 exports none to ONNX where a float is meant.
        rows, threshold = as_rows(self._centered(x)), self.threshold.clamp(min=0.0)
        least = threshold.detach() - self.bandwidth / 2
        chosen = candidates(
            rows, self.encoder_weight, as_rows(preactivation), lambda z: ~(z <= least)
        )
        if chosen is None:
            return None
        values, active = eager.jumprelu(
            chosen.product + chosen.of_latents(self.encoder_bias),
            chosen.of_latents(threshold),
            self.bandwidth,
            self.estimator,
        )
        code = chosen.code(values)
        error, residual = target.error_of(code, self.decoder_weight, self.decoder_bias)
        count = chosen.code(active).values.sum(-1).mean()
        return error + self.sparsity_weight * count, code, residual

    def _dense_objective(
        self, preactivation: Tensor, target: Target
    ) -> tuple[Tensor, Code, Tensor]:
        values, count = counted(*self._operands(preactivation))
        error, residual = target.error(self.decode(values))
        loss = error + self.sparsity_weight * count.mean().to(values.dtype)
        return loss, values, residual

    def _raise_thresholds(self) -> None:
        # torch.compile makes of a write to an alias a loss without a gradient. A trace has no
        # torch.no_grad, and replays the step under autograd.
        if torch.compiler.is_compiling():
            with torch.no_grad():
                self.threshold.clamp_(min=0)
        elif dispatch.is_traced(self.threshold):
            self.threshold.detach().clamp_(min=0)
        else:
            # Autograd does not see it: a loss before, whose backward pass is still to come, holds
            # the same numbers, for it raised them itself.
            self.threshold.data.clamp_(min=0)

    def _constrain_encoder(self) -> None:
        self._raise_thresholds()

    def planned_step(self) -> PlannedDictionary | str:
        """The training step for the kernels; or why they cannot take it in one call."""
        return self._planned(
            self.threshold,
            threshold=self.threshold,
            selection="jumprelu",
            sparsity_weight=self.sparsity_weight,
            bandwidth=self.bandwidth,
            estimator=self.estimator,
        )

    def extra_repr(self) -> str:
        return (
            f"sparsity_weight={self.sparsity_weight}, bandwidth={self.bandwidth}, "
            f"estimator={self.estimator!r}, {super().extra_repr()}"
        )
