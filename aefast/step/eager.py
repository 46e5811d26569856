"""An encoder-decoder's training loss in plain PyTorch: the definition that the kernels match."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from aefast import random
from aefast.ops.contractive import eager as contractive
from aefast.ops.contractive.settings import EncoderLayer
from aefast.ops.corrupt import eager as corrupt
from aefast.ops.corrupt.noise import Noise
from aefast.ops.linear_act import eager as linear_act
from aefast.ops.sparsity import eager as sparsity
from aefast.ops.variational import eager as variational
from aefast.random import DrawStep
from aefast.step.plan import CODE_STEPS, NOISE_STEPS, Plan, PlannedLayer, PlannedNorm


def loss(plan: Plan, parameters: Sequence[Tensor], x: Tensor, seed: int, row_offset: int) -> Tensor:
    """The loss of x ``[B, D]``: corrupt x, encode it, drop units of the code or sample it, decode
    it, and compare the output with x."""
    inputs = x
    if plan.noise is not None:
        step = NOISE_STEPS[plan.noise]
        inputs = noisy(x, plan.noise, plan.noise_level, seed, row_offset, step)
    code = inputs
    for number, layer in enumerate(plan.encoder):
        code = dropped(layer, apply(layer, parameters, code), seed, number, row_offset)
    decoded = decoder_input(plan, code, seed, row_offset)
    *inner, last = plan.decoder
    for number, layer in enumerate(inner, start=len(plan.encoder)):
        decoded = dropped(layer, apply(layer, parameters, decoded), seed, number, row_offset)
    output = apply(last._replace(activation="identity"), parameters, decoded)
    return compare(plan, parameters, output, x) + penalty(plan, parameters, inputs, code)


def apply(layer: PlannedLayer, parameters: Sequence[Tensor], x: Tensor) -> Tensor:
    """A layer's output; mean and log variance side by side for a posterior's layer."""
    if layer.log_var_weight >= 0:
        heads = (layer.weight, layer.bias), (layer.log_var_weight, layer.log_var_bias)
        return torch.cat([dense(layer, *head, parameters, x) for head in heads], -1)
    return dense(layer, layer.weight, layer.bias, parameters, x)


def dense(
    layer: PlannedLayer, weight: int, bias: int, parameters: Sequence[Tensor], x: Tensor
) -> Tensor:
    matrix = parameters[weight].t() if layer.is_tied else parameters[weight]
    vector = parameters[bias] if bias >= 0 else None
    norm = layer.norm
    if norm is None:
        return linear_act.linear_act(x, matrix, vector, layer.activation)
    if norm.follows_activation:
        x = linear_act.linear_act(x, matrix, vector, layer.activation)
        return normalized(norm, parameters, x)
    x = normalized(norm, parameters, linear_act.linear_act(x, matrix, vector, "identity"))
    return linear_act.ACTIVATIONS[layer.activation](x)


def normalized(norm: PlannedNorm, parameters: Sequence[Tensor], x: Tensor) -> Tensor:
    """Batch normalization by the batch's mean and variance."""
    scale = parameters[norm.scale] if norm.scale >= 0 else None
    shift = parameters[norm.shift] if norm.shift >= 0 else None
    return F.batch_norm(x, None, None, scale, shift, training=True, eps=norm.epsilon)


def dropped(layer: PlannedLayer, x: Tensor, seed: int, number: int, row_offset: int) -> Tensor:
    """A layer's units after its dropout. ``number`` is the layer's, counted from 0."""
    if not layer.dropout:
        return x
    seed = random.child_seed(seed, number)
    noise = noisy(x, "masking", layer.dropout, seed, row_offset, DrawStep.DROPOUT)
    return noise / (1 - layer.dropout)


def noisy(x: Tensor, kind: str, level: float, seed: int, row_offset: int, step: int) -> Tensor:
    return corrupt.corrupt(x, Noise(kind, level, 0.0, 1.0, seed, row_offset, step))


def decoder_input(plan: Plan, code: Tensor, seed: int, row_offset: int) -> Tensor:
    """The code after dropout or noise; for a posterior, a sample of it."""
    step = CODE_STEPS[plan.code_stage]
    if plan.code_stage == "dropout":
        dropped = noisy(code, "masking", plan.code_level, seed, row_offset, step)
        return dropped / (1 - plan.code_level)
    if plan.code_stage == "gaussian":
        return noisy(code, "gaussian", plan.code_level, seed, row_offset, step)
    if plan.code_stage == "posterior":
        return variational.reparameterize(*posterior(plan, code), seed, row_offset)
    return code


def posterior(plan: Plan, code: Tensor) -> tuple[Tensor, Tensor]:
    """The posterior's mean and its log variance within bounds, each ``[B, H]``."""
    mean, log_var = code.chunk(2, -1)
    return mean, log_var.clamp(*plan.log_var_bounds)


def compare(plan: Plan, parameters: Sequence[Tensor], output: Tensor, x: Tensor) -> Tensor:
    """The reconstruction error. ``output`` is the last layer's, before its activation."""
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
    """The penalty: the code's divergence from N(0, I), its mean activity, or the squared norm of
    the encoder's Jacobian."""
    total = torch.zeros((), dtype=code.dtype, device=code.device)
    if plan.code_stage == "posterior":
        divergence = variational.gaussian_kl(*posterior(plan, code)).mean()
        if math.isfinite(plan.divergence_limit):
            divergence = divergence.clamp(0, plan.divergence_limit)
        total = plan.divergence_weight * divergence
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
