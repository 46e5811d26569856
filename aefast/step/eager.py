"""The step's definition in plain PyTorch, differentiable as often as the mathematics is."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from aefast.ops.contractive import eager as contractive
from aefast.ops.contractive.settings import EncoderLayer
from aefast.ops.corrupt import eager as corrupt
from aefast.ops.corrupt.noise import Noise
from aefast.ops.linear_act import eager as linear_act
from aefast.ops.sparsity import eager as sparsity
from aefast.ops.variational import eager as variational
from aefast.step.plan import CODE_STEPS, NOISE_STEPS, Plan, PlannedLayer


def loss(plan: Plan, parameters: Sequence[Tensor], x: Tensor, seed: int, row_offset: int) -> Tensor:
    """Corrupt x ``[B, D]``, encode it, change the code, decode that, and compare with x."""
    inputs = x
    if plan.noise is not None:
        step = NOISE_STEPS[plan.noise]
        inputs = noisy(x, plan.noise, plan.noise_level, seed, row_offset, step)
    code = inputs
    for layer in plan.encoder:
        code = apply(layer, parameters, code)
    decoded = changed_code(plan, code, seed, row_offset)
    *inner, last = plan.decoder
    for layer in inner:
        decoded = apply(layer, parameters, decoded)
    output = apply(last._replace(activation="identity"), parameters, decoded)
    return compare(plan, parameters, output, x) + penalty(plan, parameters, inputs, code)


def apply(layer: PlannedLayer, parameters: Sequence[Tensor], x: Tensor) -> Tensor:
    weight = parameters[layer.weight]
    bias = parameters[layer.bias] if layer.bias >= 0 else None
    return linear_act.linear_act(x, weight.t() if layer.is_tied else weight, bias, layer.activation)


def noisy(x: Tensor, kind: str, level: float, seed: int, row_offset: int, step: int) -> Tensor:
    return corrupt.corrupt(x, Noise(kind, level, 0.0, 1.0, seed, row_offset, step))


def changed_code(plan: Plan, code: Tensor, seed: int, row_offset: int) -> Tensor:
    step = CODE_STEPS[plan.code_stage]
    if plan.code_stage == "dropout":
        dropped = noisy(code, "masking", plan.code_level, seed, row_offset, step)
        return dropped / (1 - plan.code_level)
    if plan.code_stage == "gaussian":
        return noisy(code, "gaussian", plan.code_level, seed, row_offset, step)
    if plan.code_stage == "posterior":
        mean, log_var = code.chunk(2, -1)
        return variational.reparameterize(mean, log_var, seed, row_offset)
    return code


def compare(plan: Plan, parameters: Sequence[Tensor], output: Tensor, x: Tensor) -> Tensor:
    """The error of the last layer's output before its activation."""
    if plan.objective == "mse":
        return F.mse_loss(linear_act.ACTIVATIONS[plan.decoder[-1].activation](output), x)
    if plan.objective == "bce":
        return F.binary_cross_entropy_with_logits(output, x)
    if plan.objective == "bernoulli":
        return F.binary_cross_entropy_with_logits(output, x, reduction="sum") / len(x)
    log_var = parameters[plan.log_var]
    square = (x - output).square() * (-log_var).exp()
    return 0.5 * (square + log_var + math.log(2 * math.pi)).sum(-1).mean()


def penalty(plan: Plan, parameters: Sequence[Tensor], inputs: Tensor, code: Tensor) -> Tensor:
    """What the code costs: its divergence, its activity, or the encoder's Jacobian."""
    total = torch.zeros((), dtype=code.dtype, device=code.device)
    if plan.code_stage == "posterior":
        total = plan.divergence_weight * variational.gaussian_kl(*code.chunk(2, -1)).mean()
    if plan.penalty == "kl":
        return total + plan.penalty_weight * sparsity.kl_sparsity(code, plan.penalty_target)
    if plan.penalty == "l1":
        return total + plan.penalty_weight * sparsity.l1_sparsity(code)
    if plan.penalty == "contraction":
        layers = [
            EncoderLayer(
                parameters[layer.weight],
                parameters[layer.bias] if layer.bias >= 0 else None,
                layer.activation,
            )
            for layer in plan.encoder
        ]
        _, slopes = contractive.encode(inputs, layers)
        norms = contractive.squared_norms(layers, slopes, None, None).sum(1)
        return total + plan.penalty_weight * norms.mean()
    return total
