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

from aefast.ops.contractive.primitives import Operand, PenaltyPrimitives
from aefast.ops.corrupt.noise import Noise
from aefast.ops.reconstruction.eager import noise_of
from aefast.ops.reconstruction.settings import Gradients, LossInputs, LossSettings, PerInput
from aefast.ops.shared.precision import upcast

FEWEST_ROWS = 128


class ComparisonGradients(NamedTuple):
    """Which gradients a panel's comparison computes."""

    output: bool
    bias: bool
    target: bool


class Compared(NamedTuple):
    """A panel's loss and gradients; None for a gradient that was not needed."""

    loss: float | Tensor  # the sum over the panel, unscaled
    grad_output: Any  # dz, [P, D]
    grad_bias: Any  # [D], float32
    grad_target: Any  # [P, D]


class LossPrimitives(Protocol):
    """The operations that a backend implements; the loss is composed of them."""

    panel_bytes: int  # what a panel's code and reconstruction, and their gradients, may take

    def operand(self, right: Tensor) -> Operand:
        """The right operand [N, K] of a product left @ right.T, made ready for all panels."""

    def corrupt(self, x: Tensor, noise: Noise) -> Tensor:
        """The panel x [P, D] with noise."""

    def encode(
        self, x: Tensor, weight: Operand, bias: Tensor | None, activation: str
    ) -> tuple[Tensor, Tensor | None]:
        """The code [P, H], and what its gradient needs: what linear_act calls ``saved``."""

    def compare(
        self,
        code: Tensor,
        weight: Operand,
        bias: Tensor | None,
        target: Tensor,
        settings: LossSettings,
        scale: float,
        needs_grad: ComparisonGradients,
    ) -> Compared:
        """Decode, compare with the target [P, D], and make ``scale`` times the gradients.

        bce is (1 - t) z - min(z, 0) + ln(1 + e^-|z|), term by term, as torch takes it.
        """

    def encode_backward(
        self,
        grad_output: Tensor,
        weight: Operand,
        saved: Tensor | None,
        activation: str,
        bias_needed: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """da [P, H] = (dz @ weight.T) * act', and its sum over the rows [H]."""

    def contraction(self) -> PenaltyPrimitives:
        """The primitives of the contractive penalty."""

    def multiply(self, left: Tensor, right: Operand) -> Tensor:
        """left [P, K] @ right.T, for a right operand made ready."""

    def add_product(self, left: Tensor, right: Tensor, total: Tensor | None) -> Tensor:
        """total + left [P, M].T @ right [P, N], float32; total is given up to it, None for none."""


def reconstruction_loss(
    primitives: LossPrimitives,
    inputs: LossInputs,
    settings: LossSettings,
    scale: float,
    needs_grad: PerInput[bool],
) -> tuple[float | Tensor, Gradients]:
    """The summed loss, unscaled, and ``scale`` times the gradients that are needed.

    The gradients of weights and biases come in float32, so that half precisions can be scaled
    before they are rounded; those of x and the target in x's dtype.
    """
    x, encoder_weight, encoder_bias, decoder_weight, decoder_bias, target = inputs
    if decoder_weight is None:
        decoder_weight = encoder_weight.t()
    code_needed = needs_grad.x or needs_grad.encoder_weight or needs_grad.encoder_bias
    target_needed = needs_grad.x if target is None else needs_grad.target
    comparison_needs = ComparisonGradients(
        code_needed or needs_grad.decoder_weight, needs_grad.decoder_bias, target_needed
    )

    penalty = Penalty(primitives, encoder_weight, settings, scale) if settings.contraction else None
    encoder, decoder = primitives.operand(encoder_weight), primitives.operand(decoder_weight)
    backward = None
    if code_needed:
        backward = EncoderBackward(primitives, inputs, settings, needs_grad, penalty)
    total: float | Tensor = 0.0
    grad_target = None if target is None or not needs_grad.target else _dense_like(target)
    grad_decoder = grad_decoder_bias = None
    for rows in panels_of(x, encoder_weight.shape[0], primitives.panel_bytes):
        clean = corrupted = x[rows]
        if settings.corruption is not None:
            corrupted = primitives.corrupt(clean, noise_of(settings, rows.start))
        code, saved = primitives.encode(corrupted, encoder, encoder_bias, settings.activation)
        compared = primitives.compare(
            code,
            decoder,
            decoder_bias,
            clean if target is None else target[rows],
            settings,
            scale,
            comparison_needs,
        )
        total = total + compared.loss
        if penalty is not None:
            total = total + penalty.forward(code, saved)
        if needs_grad.decoder_bias:
            grad_decoder_bias = _add(compared.grad_bias, grad_decoder_bias)
        if needs_grad.decoder_weight:
            grad_decoder = primitives.add_product(compared.grad_output, code, grad_decoder)
        if grad_target is not None:
            grad_target[rows] = compared.grad_target
        if backward is not None:
            backward.add(rows, corrupted, code, saved, compared)
    of_encoder = (None, None, None) if backward is None else backward.gradients()
    return total, PerInput(*of_encoder, grad_decoder, grad_decoder_bias, grad_target)


class EncoderBackward:
    """Backpropagation from the panels' reconstructions to x and to the encoder's parameters."""

    def __init__(
        self,
        primitives: LossPrimitives,
        inputs: LossInputs,
        settings: LossSettings,
        needs_grad: PerInput[bool],
        penalty: "Penalty | None",
    ) -> None:
        encoder, decoder = inputs.encoder_weight, inputs.decoder_weight
        self.primitives, self.settings, self.needs_grad = primitives, settings, needs_grad
        self.penalty = penalty
        self.is_tied, self.has_target = decoder is None, inputs.target is not None
        self.decoder = primitives.operand(encoder if decoder is None else decoder.t())
        self.encoder = primitives.operand(encoder.t()) if needs_grad.x else None
        self.grad_x = _dense_like(inputs.x) if needs_grad.x else None
        self.grad_weight: Tensor | None = None
        self.grad_bias: Tensor | None = None

    def add(
        self,
        rows: slice,
        corrupted: Tensor,
        code: Tensor,
        saved: Tensor | None,
        compared: Compared,
    ) -> None:
        """Add a panel's gradients to the sums, and write its rows of x's."""
        primitives, settings, needs_grad = self.primitives, self.settings, self.needs_grad
        if self.penalty is not None:
            product = primitives.multiply(compared.grad_output, self.decoder)
            grad_code, grad_bias = self.penalty.backward(code, saved, product)
        else:
            grad_code, grad_bias = primitives.encode_backward(
                compared.grad_output,
                self.decoder,
                saved,
                settings.activation,
                needs_grad.encoder_bias,
            )
        if needs_grad.encoder_bias:
            self.grad_bias = _add(grad_bias, self.grad_bias)
        if needs_grad.encoder_weight:
            self.grad_weight = primitives.add_product(grad_code, corrupted, self.grad_weight)
            if self.is_tied:
                self.grad_weight = primitives.add_product(
                    code, compared.grad_output, self.grad_weight
                )
        if self.grad_x is not None:
            grad = primitives.multiply(grad_code, self.encoder)
            if settings.corruption in ("masking", "salt_and_pepper"):
                grad = primitives.corrupt(grad, noise_of(settings, rows.start).masking())
            self.grad_x[rows] = grad if self.has_target else grad + compared.grad_target

    def gradients(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The gradients by x [B, D], by the weight [H, D] and by the bias [H]."""
        if self.penalty is not None and self.grad_weight is not None:
            self.grad_weight += self.penalty.weight_gradient()
        return self.grad_x, self.grad_weight, self.grad_bias


class Penalty:
    """``contraction ||J||^2`` of every row, and ``scale`` times its gradients."""

    def __init__(
        self, primitives: LossPrimitives, weight: Tensor, settings: LossSettings, scale: float
    ) -> None:
        self.primitives, self.weight, self.settings = primitives.contraction(), weight, settings
        self.factor = scale * settings.contraction
        self.lengths = self.primitives.row_lengths(upcast(weight))
        self.grad_lengths: Tensor | None = None

    def forward(self, code: Tensor, saved: Tensor | None) -> Tensor:
        saved = code if saved is None else saved
        penalties = self.primitives.penalty(saved, self.settings.activation, self.lengths)
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
            self.lengths.squares.new_full((len(code),), self.factor),
            self.lengths,
        )
        self.grad_lengths = _add(grad_lengths, self.grad_lengths)
        return grad, grad_bias

    def weight_gradient(self) -> Tensor:
        """Through the squared lengths of its rows."""
        assert self.grad_lengths is not None
        return self.lengths.weight_gradient(self.grad_lengths.float(), self.weight)


def _dense_like(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)


def _add(addend: Any, total: Tensor | None) -> Tensor:
    """A bias's gradient is short: float64 costs nothing."""
    return addend.double() if total is None else total + addend


def panels_of(x: Tensor, hidden: int, panel_bytes: int) -> list[slice]:
    """Equal parts of the batch, each a multiple of 32 rows but for the last."""
    batch, columns = x.shape
    row_bytes = 2 * (columns + hidden) * x.element_size()
    count = -(-batch // max(FEWEST_ROWS, panel_bytes // row_bytes))
    rows = -(-batch // (32 * count)) * 32
    return [slice(start, min(start + rows, batch)) for start in range(0, batch, rows)]
