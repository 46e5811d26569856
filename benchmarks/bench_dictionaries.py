"""A training step of the sparse autoencoders whose codes are no row's k largest: batch top-k,
matryoshka, JumpReLU and gated. Top-k's is in bench_topk.py.

The step is the loss, its gradients and torch's fused Adam, on both sides. PyTorch's loss holds the
dense code, as those who train such models write it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from bench_topk import Training, compare_steps, our_loss
from harness import Case, Inputs
from torch import Tensor

from aefast import nn

K = 32
BANDWIDTH = 0.05


def preactivation(model: Any, x: Tensor) -> Tensor:
    return F.linear(x - model.decoder_bias, model.encoder_weight, model.encoder_bias)


def decoded(model: Any, code: Tensor) -> Tensor:
    return torch.addmm(model.decoder_bias, code, model.decoder_weight)


def batch_topk_code(model: Any, x: Tensor) -> Tensor:
    dense = preactivation(model, x).relu().flatten()
    values, indices = dense.topk(int(model.k * len(x)), sorted=False)
    return torch.zeros_like(dense).scatter(0, indices, values).view(len(x), -1)


def batch_topk_loss(model: Any, x: Tensor) -> Tensor:
    return F.mse_loss(decoded(model, batch_topk_code(model, x)), x)


def matryoshka_loss(model: Any, x: Tensor) -> Tensor:
    """Each prefix adds its own latents to what the one before reconstructs."""
    code = batch_topk_code(model, x)
    output, loss, start = model.decoder_bias, x.new_zeros(()), 0
    for end in model.prefixes:
        output = output + code[:, start:end] @ model.decoder_weight[start:end]
        loss, start = loss + F.mse_loss(output, x), end
    return loss / len(model.prefixes)


class JumpReLU(torch.autograd.Function):
    """Values above a threshold, and whether they are; the gradients are those of the paper."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
        active = (z > threshold).to(z.dtype)
        ctx.save_for_backward(z, threshold, active)
        return z * active, active

    @staticmethod
    def backward(ctx: Any, grad_value: Tensor, grad_active: Tensor) -> tuple[Tensor, Tensor]:
        z, threshold, active = ctx.saved_tensors
        is_near = (z - threshold).abs() < BANDWIDTH / 2
        slope = (threshold * grad_value + grad_active) * is_near
        return grad_value * active, -slope.sum(0) / BANDWIDTH


def jumprelu_loss(model: Any, x: Tensor) -> Tensor:
    code, active = JumpReLU.apply(preactivation(model, x), model.threshold)
    error = F.mse_loss(decoded(model, code), x)
    return error + model.sparsity_weight * active.sum(-1).mean()


def gated_loss(model: Any, x: Tensor) -> Tensor:
    product = F.linear(x - model.decoder_bias, model.encoder_weight)
    gate = product + model.encoder_bias
    magnitude = (product * model.magnitude_scale.exp() + model.magnitude_bias).relu()
    opened = gate.relu()
    held = torch.addmm(model.decoder_bias.detach(), opened, model.decoder_weight.detach())
    error = F.mse_loss(decoded(model, magnitude * (gate > 0)), x) + F.mse_loss(held, x)
    return error + model.sparsity_weight * opened.sum(-1).mean()


@dataclass(frozen=True)
class Kind:
    """A model, by its sizes and its device, and its loss in PyTorch's own operators."""

    model: Callable[..., Any]
    loss: Callable[[Any, Tensor], Tensor]


KINDS = {
    "batch top-k": Kind(
        lambda *sizes, **options: nn.BatchTopKSparseAutoencoder(*sizes, K, **options),
        batch_topk_loss,
    ),
    "matryoshka": Kind(
        lambda *sizes, **options: nn.MatryoshkaSparseAutoencoder(*sizes, K, **options),
        matryoshka_loss,
    ),
    "JumpReLU": Kind(
        lambda *sizes, **options: nn.JumpReLUSparseAutoencoder(
            *sizes, bandwidth=BANDWIDTH, **options
        ),
        jumprelu_loss,
    ),
    "gated": Kind(nn.GatedSparseAutoencoder, gated_loss),
}


def contenders(kind: Kind, width: int, latents: int, device: str) -> tuple[Training, Training]:
    """Both contenders, with the same initial parameters."""
    model, twin = (kind.model(width, latents, device=device) for _ in range(2))
    twin.load_state_dict(model.state_dict())
    return Training(model, our_loss), Training(twin, kind.loss)


@pytest.mark.parametrize("size", [(1024, 256, 4096), (1024, 512, 8192)], ids=str)
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_step(
    compare: Callable[[Case], None], device: str, name: str, size: tuple[int, int, int]
) -> None:
    rows, width, latents = size
    ours, theirs = contenders(KINDS[name], width, latents, device)

    def make_inputs() -> Inputs:
        return (torch.randn(rows, width, device=device),)

    def check() -> None:
        compare_steps((ours, ours.model), (theirs, theirs.model), *make_inputs())

    compare(
        Case(
            op="dictionary",
            name=f"{name} step {rows}x{width}-{latents} float32",
            device=device,
            dtype=torch.float32,
            make_inputs=make_inputs,
            ours=ours,
            eager=theirs,
            check=check,
            compiles=False,
        )
    )
