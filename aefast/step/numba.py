"""Training steps without the C++ extension: torch's matrix products and activations, outside its
autograd, and numba's loops for noise and comparisons.

The loops of a code are serial: half a million elements are done before a pool of threads begins.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from aefast.ops.corrupt.noise import Noise
from aefast.ops.corrupt.numba import corrupt
from aefast.ops.linear_act.eager import ACTIVATIONS
from aefast.ops.linear_act.op import saved_for_backward
from aefast.ops.reconstruction.numba import compare
from aefast.step import numba_kernels
from aefast.step.plan import CODE_STEPS, NOISE_STEPS, Plan, PlannedLayer

aten = torch.ops.aten

# Of a larger batch of a layer's units the ops serve, which hold less of it at a time.
MOST_ELEMENTS = 1 << 22

# The multiplications of a layer up to which numba's own product serves.
MOST_PRODUCTS = 1 << 17

# The gradient by a layer's pre-activation, as torch's autograd takes it, from the incoming one and
# what ``saved_for_backward`` returns.
ACTIVATION_GRADIENTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "relu": lambda grad, output: aten.threshold_backward.default(grad, output, 0),
    "leaky_relu": lambda grad, output: aten.leaky_relu_backward.default(grad, output, 0.01, True),
    "sigmoid": aten.sigmoid_backward.default,
    "tanh": aten.tanh_backward.default,
    "softplus": lambda grad, output: grad * -torch.expm1(-output),
    "gelu": aten.gelu_backward.default,
    "silu": aten.silu_backward.default,
}


class Program(NamedTuple):
    """A plan as these kernels take it.

    Attributes:
        refusal: why they do not; None where they do.
        widest: the most units of a layer, its inputs counted.
        largest_product: as the plan's, where numba's product knows all activations; else infinite.
        decoder: its layers. The last one of a cross-entropy gives the logits.
        tied_weights: the numbers of the weights that the decoder shares with the encoder.
    """

    refusal: str | None
    widest: int
    largest_product: float
    decoder: tuple[PlannedLayer, ...]
    tied_weights: tuple[int, ...]


@lru_cache(maxsize=256)
def program(plan: Plan) -> Program:
    """What does not change from call to call."""
    *inner, last = plan.decoder
    if plan.objective != "mse":
        last = last._replace(activation="identity")
    layers = *plan.encoder, *inner, last
    refusal = None
    if plan.penalty != "none" or plan.objective == "gaussian":
        refusal = "penalties and Gaussian errors are left to the ops"
    elif any(layer.norm or layer.dropout or layer.log_var_weight >= 0 for layer in layers):
        refusal = "normalization, dropout between layers and two heads are left to the ops"
    are_known = all(layer.activation in numba_kernels.ACTIVATIONS for layer in layers)
    return Program(
        refusal,
        max(max(layer.inputs, layer.outputs) for layer in layers),
        plan.largest_product if are_known else math.inf,
        (*inner, last),
        tuple(layer.weight for layer in plan.decoder if layer.is_tied),
    )


def refusal(plan: Plan, rows: int) -> str | None:
    """Why this module does not serve such a plan for so many rows; None where it does."""
    if not torch.is_grad_enabled():
        return "without gradients the ops serve"
    planned = program(plan)
    return "the batch is large" if rows * planned.widest > MOST_ELEMENTS else planned.refusal


def loss_and_gradients(
    plan: Plan,
    parameters: Sequence[Tensor],
    x: Tensor,
    seed: int,
    row_offset: int,
    gradients: Sequence[Tensor],
) -> float:
    """The loss of x ``[B, D]``. Writes the gradients by the parameters into ``gradients``, tensors
    of their shapes."""
    planned = program(plan)
    rows = len(x)
    inputs = x = x.contiguous()
    if plan.noise is not None:
        step = NOISE_STEPS[plan.noise]
        inputs = corrupt(x, Noise(plan.noise, plan.noise_level, 0.0, 1.0, seed, row_offset, step))
    kind = SmallLayers if rows * planned.largest_product <= MOST_PRODUCTS else Layers
    encoder = kind(plan.encoder, parameters, gradients)
    stage = STAGES[plan.code_stage](plan, seed, row_offset)
    decoder = kind(planned.decoder, parameters, gradients)
    output = decoder.forward(stage.forward(encoder.forward(inputs)))

    count = rows if plan.objective == "bernoulli" else x.numel()
    error, grad = compare("mse" if plan.objective == "mse" else "bce", output, x, 1 / count)

    grad = stage.backward(decoder.backward(grad))
    encoder.backward(grad, planned.tied_weights, needs_input=False)
    return error / count + stage.penalty


class Layers:
    """Layers one after the other, and what their gradients need."""

    def __init__(
        self,
        layers: Sequence[PlannedLayer],
        parameters: Sequence[Tensor],
        gradients: Sequence[Tensor],
    ) -> None:
        self.layers = layers
        self.parameters = parameters
        self.gradients = gradients
        self.passed: list[tuple[Tensor, Any]] = []

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            weight = self.parameters[layer.weight]
            bias = self.parameters[layer.bias] if layer.bias >= 0 else None
            output = F.linear(x, weight.t() if layer.is_tied else weight, bias)
            output, saved = self._activated(layer, output)
            self.passed.append((x, saved))
            x = output
        return x

    def _activated(self, layer: PlannedLayer, preactivation: Tensor) -> tuple[Tensor, Any]:
        """The layer's output, and what its gradient needs."""
        if layer.activation in numba_kernels.ACTIVATIONS:
            if layer.activation != "identity":
                activation = numba_kernels.ACTIVATIONS.index(layer.activation)
                at = preactivation.data_ptr()
                numba_kernels.activate_rows(at, *preactivation.shape, activation)
            return preactivation, preactivation
        output = ACTIVATIONS[layer.activation](preactivation)
        return output, saved_for_backward(layer.activation, output, preactivation)

    def backward(self, grad: Tensor, begun: Sequence[int] = (), needs_input: bool = True) -> Tensor:
        """The gradient by the input, where it is needed. Those by the parameters are written; they
        are added to those of the ``begun`` weights."""
        for number in reversed(range(len(self.layers))):
            layer, (x, saved) = self.layers[number], self.passed[number]
            grad = self._preactivation_gradient(layer, grad, saved)
            factors = (x.t(), grad) if layer.is_tied else (grad.t(), x)
            gradient = self.gradients[layer.weight]
            if layer.weight in begun:
                gradient.addmm_(*factors)
            else:
                torch.mm(*factors, out=gradient)
            if number > 0 or needs_input:
                weight = self.parameters[layer.weight]
                grad = torch.mm(grad, weight.t() if layer.is_tied else weight)
        return grad

    def _preactivation_gradient(self, layer: PlannedLayer, grad: Tensor, saved: Any) -> Tensor:
        """Also writes that by the bias."""
        bias = self.gradients[layer.bias] if layer.bias >= 0 else None
        if layer.activation in numba_kernels.ACTIVATIONS:
            at = grad.data_ptr(), saved.data_ptr(), 0 if bias is None else bias.data_ptr()
            activation = numba_kernels.ACTIVATIONS.index(layer.activation)
            numba_kernels.preactivation_backward(*at, *grad.shape, activation)
            return grad
        grad = ACTIVATION_GRADIENTS[layer.activation](grad, saved)
        if bias is not None:
            torch.sum(grad, 0, out=bias)
        return grad


class SmallLayers(Layers):
    """Layers of so few multiplications that a call of torch takes longer than they do."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            output = x.new_empty(len(x), layer.outputs)
            at = x.data_ptr(), *self._addresses(layer, self.parameters), output.data_ptr()
            numba_kernels.layer(*at, len(x), *self._shape(layer))
            self.passed.append((x, output))
            x = output
        return x

    def backward(self, grad: Tensor, begun: Sequence[int] = (), needs_input: bool = True) -> Tensor:
        for number in reversed(range(len(self.layers))):
            layer, (x, output) = self.layers[number], self.passed[number]
            weight_at, _ = self._addresses(layer, self.parameters)
            at = grad.data_ptr(), x.data_ptr(), weight_at, output.data_ptr()
            grad_x = torch.empty_like(x) if number > 0 or needs_input else None
            written = (
                *self._addresses(layer, self.gradients),
                0 if grad_x is None else grad_x.data_ptr(),
            )
            numba_kernels.layer_backward(
                *at, *written, len(x), *self._shape(layer), layer.weight in begun
            )
            grad = grad if grad_x is None else grad_x
        return grad

    @staticmethod
    def _addresses(layer: PlannedLayer, tensors: Sequence[Tensor]) -> tuple[int, int]:
        """Of the layer's weight and bias, or of their gradients; 0 for no bias."""
        bias_at = tensors[layer.bias].data_ptr() if layer.bias >= 0 else 0
        return tensors[layer.weight].data_ptr(), bias_at

    @staticmethod
    def _shape(layer: PlannedLayer) -> tuple[int, int, int, bool]:
        activation = numba_kernels.ACTIVATIONS.index(layer.activation)
        return layer.inputs, layer.outputs, activation, layer.is_tied


class PlainCode:
    """A code that the decoder gets as it is."""

    penalty = 0.0

    def __init__(self, plan: Plan, seed: int, row_offset: int) -> None:
        self.plan, self.seed, self.row_offset = plan, seed, row_offset

    def forward(self, code: Tensor) -> Tensor:
        return code

    def backward(self, grad: Tensor) -> Tensor:
        return grad


class NoisyCode(PlainCode):
    """A code with Gaussian noise."""

    def forward(self, code: Tensor) -> Tensor:
        return corrupt(code, self.noise("gaussian"))

    def noise(self, kind: str) -> Noise:
        step = CODE_STEPS[self.plan.code_stage].value
        level = self.plan.code_level
        return Noise(kind, level, 0.0, 1.0, self.seed, self.row_offset, step)


class DroppedCode(NoisyCode):
    """A code under dropout."""

    def forward(self, code: Tensor) -> Tensor:
        return corrupt(code, self.noise("masking")) / (1 - self.plan.code_level)

    def backward(self, grad: Tensor) -> Tensor:
        return self.forward(grad)


class SampledCode(PlainCode):
    """A sample of the posterior, whose mean and log variance are side by side, ``[B, 2 L]``."""

    def forward(self, code: Tensor) -> Tensor:
        self.code = code
        rows, latent = code.shape[0], code.shape[1] // 2
        sample, self.noise = code.new_empty(rows, latent), code.new_empty(rows, latent)
        self.weight = self.plan.divergence_weight / rows
        at = code.data_ptr(), sample.data_ptr(), self.noise.data_ptr()
        step = CODE_STEPS["posterior"].value
        divergence = numba_kernels.sample(*at, rows, latent, self.seed, self.row_offset, step)
        self.penalty = self.weight * divergence
        return sample

    def backward(self, grad: Tensor) -> Tensor:
        grad_code = torch.empty_like(self.code)
        tensors = grad, self.code, self.noise, grad_code
        numba_kernels.sample_backward(
            *(tensor.data_ptr() for tensor in tensors), *grad.shape, self.weight
        )
        return grad_code


STAGES = {
    "plain": PlainCode,
    "gaussian": NoisyCode,
    "dropout": DroppedCode,
    "posterior": SampledCode,
}
