"""The loss of a reconstruction and its gradients, in one pass over panels of rows.

A panel's code, its reconstruction and their gradients stay in cache from the encoder's product to
the weights' gradients, and are then gone: beside the gradients asked for, nothing of the batch's
size is ever written. With the encoder's weight E and bias b, the decoder's V and c:

    a = corrupt(x) Et + b,  code = act(a),  z = code Vt + c,  loss = sum l(z, target)
    dz = l'(z),             dV += dzt code,       dc += sum dz
    da = dz V * act'(a),    dE += dat corrupt(x), db += sum da,  dx = corrupt'(da E)

Tied weights are V = Et. The gradients are made here, in the forward pass: a backward pass that
computed the code and z anew would take seven products instead of five. How the batch is cut into
panels depends on its shape alone, so that the sums are the same for any number of threads.
"""

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from aefast.ops.contractive.passes import squared_lengths
from aefast.ops.contractive.primitives import PenaltyPrimitives
from aefast.ops.corrupt.noise import Noise
from aefast.ops.reconstruction.eager import noise_of
from aefast.ops.reconstruction.settings import Gradients, LossInputs, LossSettings, PerInput

FEWEST_ROWS = 128


class Wanted(NamedTuple):
    """Which gradients a panel's comparison is to make."""

    output: bool
    bias: bool
    target: bool


class Compared(NamedTuple):
    """What became of it: tensors, and None for what was not wanted."""

    loss: float | Tensor  # the sum over the panel, unscaled
    grad_output: Any  # dz, [P, D]
    grad_bias: Any  # [D], float32
    grad_target: Any  # [P, D]


class LossPrimitives(Protocol):
    """What a backend brings."""

    panel_bytes: int  # what a panel's code and reconstruction, and their gradients, may take

    def operand(self, right: Tensor) -> Any:
        """The right operand [N, K] of a product left @ right.T, made ready for all panels."""

    def corrupt(self, x: Tensor, noise: Noise) -> Tensor:
        """The panel x [P, D] with noise."""

    def encode(
        self, x: Tensor, weight: Any, bias: Tensor | None, activation: str
    ) -> tuple[Tensor, Tensor | None]:
        """The code [P, H], and what its gradient needs: what linear_act calls ``saved``."""

    def compare(
        self,
        code: Tensor,
        weight: Any,
        bias: Tensor | None,
        target: Tensor,
        settings: LossSettings,
        scale: float,
        wanted: Wanted,
    ) -> Compared:
        """Decode, compare with the target [P, D], and make ``scale`` times the gradients.

        bce is (1 - t) z - min(z, 0) + ln(1 + e^-|z|), term by term, as torch takes it.
        """

    def encode_backward(
        self,
        grad_output: Tensor,
        weight: Any,
        saved: Tensor | None,
        activation: str,
        bias_needed: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """da [P, H] = (dz @ weight.T) * act', and its sum over the rows [H]."""

    def contraction(self) -> PenaltyPrimitives:
        """What the contractive penalty is made with."""

    def multiply(self, left: Tensor, right: Any) -> Tensor:
        """left [P, K] @ right.T, for a right operand made ready."""

    def add_product(self, left: Tensor, right: Tensor, total: Tensor | None) -> Tensor:
        """total + left [P, M].T @ right [P, N], float32; total is given up to it, None for none."""


def reconstruction_loss(
    primitives: LossPrimitives,
    inputs: LossInputs,
    settings: LossSettings,
    scale: float,
    needed: PerInput[bool],
) -> tuple[float | Tensor, Gradients]:
    """The summed loss, unscaled, and ``scale`` times the gradients that are needed.

    The gradients of weights and biases come in float32, so that half precisions can be scaled
    before they are rounded; those of x and the target in x's dtype.
    """
    x, encoder_weight, encoder_bias, decoder_weight, decoder_bias, target = inputs
    tied = decoder_weight is None
    if decoder_weight is None:
        decoder_weight = encoder_weight.t()
    code_needed = needed.x or needed.encoder_weight or needed.encoder_bias
    target_needed = needed.x if target is None else needed.target
    wanted = Wanted(code_needed or needed.decoder_weight, needed.decoder_bias, target_needed)

    penalty = Penalty(primitives, encoder_weight, settings, scale) if settings.contraction else None
    encoder, decoder = primitives.operand(encoder_weight), primitives.operand(decoder_weight)
    decoder_transposed = primitives.operand(decoder_weight.t()) if code_needed else None
    encoder_transposed = primitives.operand(encoder_weight.t()) if needed.x else None
    total: float | Tensor = 0.0
    grad_x = _dense_like(x) if needed.x else None
    grad_target = None if target is None or not needed.target else _dense_like(target)
    grad_encoder = grad_encoder_bias = grad_decoder = grad_decoder_bias = None
    for rows in panels_of(x, encoder_weight.shape[0], primitives.panel_bytes):
        clean = corrupted = x[rows]
        if settings.corruption is not None:
            noise = noise_of(settings, rows.start)
            corrupted = primitives.corrupt(clean, noise)
        code, saved = primitives.encode(corrupted, encoder, encoder_bias, settings.activation)
        compared = primitives.compare(
            code,
            decoder,
            decoder_bias,
            clean if target is None else target[rows],
            settings,
            scale,
            wanted,
        )
        total = total + compared.loss
        if penalty is not None:
            total = total + penalty.forward(code, saved)
        if needed.decoder_bias:
            grad_decoder_bias = _add(compared.grad_bias, grad_decoder_bias)
        if needed.decoder_weight:
            grad_decoder = primitives.add_product(compared.grad_output, code, grad_decoder)
        if grad_target is not None:
            grad_target[rows] = compared.grad_target
        if not code_needed:
            continue

        if penalty is not None:
            product = primitives.multiply(compared.grad_output, decoder_transposed)
            grad_code, grad_bias = penalty.backward(code, saved, product)
        else:
            grad_code, grad_bias = primitives.encode_backward(
                compared.grad_output,
                decoder_transposed,
                saved,
                settings.activation,
                needed.encoder_bias,
            )
        if needed.encoder_bias:
            grad_encoder_bias = _add(grad_bias, grad_encoder_bias)
        if needed.encoder_weight:
            grad_encoder = primitives.add_product(grad_code, corrupted, grad_encoder)
            if tied:
                grad_encoder = primitives.add_product(code, compared.grad_output, grad_encoder)
        if grad_x is not None:
            grad_corrupted = primitives.multiply(grad_code, encoder_transposed)
            if settings.corruption in ("masking", "salt_and_pepper"):
                grad_corrupted = primitives.corrupt(grad_corrupted, noise.masking())
            grad_x[rows] = (
                grad_corrupted if target is not None else grad_corrupted + compared.grad_target
            )
    if penalty is not None and grad_encoder is not None:
        grad_encoder += penalty.weight_gradient()
    return total, PerInput(
        grad_x, grad_encoder, grad_encoder_bias, grad_decoder, grad_decoder_bias, grad_target
    )


class Penalty:
    """``contraction ||J||^2`` of every row, and ``scale`` times its gradients."""

    def __init__(
        self, primitives: LossPrimitives, weight: Tensor, settings: LossSettings, scale: float
    ) -> None:
        self.primitives, self.weight, self.settings = primitives.contraction(), weight, settings
        self.factor = scale * settings.contraction
        self.squared_lengths = squared_lengths(self.primitives, weight)
        self.grad_lengths: Tensor | None = None

    def forward(self, code: Tensor, saved: Tensor | None) -> Tensor:
        saved = code if saved is None else saved
        penalties = self.primitives.penalty(saved, self.settings.activation, self.squared_lengths)
        return self.settings.contraction * penalties.sum(dtype=torch.float64)

    def backward(
        self, code: Tensor, saved: Tensor | None, grad_code: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """da with the penalty's share, and its sum over the rows."""
        saved = code if saved is None else saved
        grad, grad_bias, grad_lengths = self.primitives.penalty_backward(
            saved,
            self.settings.activation,
            grad_code,
            self.squared_lengths.new_full((len(code),), self.factor),
            self.squared_lengths,
        )
        self.grad_lengths = _add(grad_lengths, self.grad_lengths)
        return grad, grad_bias

    def weight_gradient(self) -> Tensor:
        """Through the squared lengths of its rows."""
        assert self.grad_lengths is not None
        return 2 * self.grad_lengths.float()[:, None] * self.weight


def _dense_like(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)


def _add(part: Any, total: Tensor | None) -> Tensor:
    """A bias's gradient is short: float64 costs nothing."""
    return part.double() if total is None else total + part


def panels_of(x: Tensor, hidden: int, panel_bytes: int) -> list[slice]:
    """Equal parts of the batch, each a multiple of 32 rows but for the last."""
    batch, columns = x.shape
    row_bytes = 2 * (columns + hidden) * x.element_size()
    count = -(-batch // max(FEWEST_ROWS, panel_bytes // row_bytes))
    rows = -(-batch // (32 * count)) * 32
    return [slice(start, min(start + rows, batch)) for start in range(0, batch, rows)]
