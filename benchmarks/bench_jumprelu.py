"""JumpReLU and gated codes, with the gradients by the product's operands and all parameters.

A model's whole step is in bench_dictionaries.py.
"""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from bench_dictionaries import BANDWIDTH, JumpReLU
from bench_reconstruction import forward_backward
from harness import Case, Layer, assert_mostly_close
from torch import Tensor

from aefast.functional import gated_encode, jumprelu_encode


def loss_of(values: Tensor, active: Tensor) -> Tensor:
    return values.square().mean() + active.sum(-1).mean()


def ours(x: Tensor, weight: Tensor, bias: Tensor, threshold: Tensor) -> Tensor:
    return loss_of(*jumprelu_encode(x, weight, bias, threshold, BANDWIDTH))


def eager(x: Tensor, weight: Tensor, bias: Tensor, threshold: Tensor) -> Tensor:
    return loss_of(*JumpReLU.apply(F.linear(x, weight, bias), threshold))


def ours_gated(x: Tensor, *parameters: Tensor) -> Tensor:
    return loss_of(*gated_encode(x, *parameters))


def eager_gated(
    x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor, magnitude_bias: Tensor
) -> Tensor:
    product = F.linear(x, weight)
    gate = product + bias
    magnitude = (product * scale + magnitude_bias).relu()
    return loss_of(magnitude * (gate > 0), gate.relu())


def check(ours: Layer, eager: Layer, *inputs: Tensor) -> None:
    """Check the loss and its gradients against plain PyTorch's."""
    (loss, *actual), (expected_loss, *expected) = (
        forward_backward(layer, *inputs) for layer in (ours, eager)
    )
    torch.testing.assert_close(loss, expected_loss, rtol=1e-4, atol=0.0)
    for gradient, plain in zip(actual, expected, strict=True):
        assert_mostly_close([gradient], [plain], rtol=1e-3, atol=1e-3 * plain.abs().mean().item())


@pytest.mark.parametrize(
    ("device", "rows", "width", "latents"),
    [
        *(("cpu", 128, 512, 8192), ("cpu", 1024, 512, 8192), ("cpu", 1024, 256, 4096)),
        *(("cuda", 4096, 512, 8192), ("cuda", 4096, 2688, 86016)),
    ],
)
def test_encode(
    compare: Callable[[Case], None], device: str, rows: int, width: int, latents: int
) -> None:
    def make_inputs() -> tuple[Tensor, ...]:
        x = torch.randn(rows, width, device=device)
        weight = torch.randn(latents, width, device=device) / width**0.5
        # Some two of a hundred latents are active.
        threshold = torch.full((latents,), 2.0, device=device)
        bias = torch.zeros(latents, device=device)
        return x, *(tensor.requires_grad_() for tensor in (weight, bias, threshold))

    compare(
        Case(
            op="jumprelu",
            name=f"jumprelu_encode {rows}x{width}-{latents} float32 forward and backward",
            device=device,
            dtype=torch.float32,
            make_inputs=make_inputs,
            ours=ours,
            eager=eager,
            run=forward_backward,
            check=lambda: check(ours, eager, *make_inputs()),
        )
    )


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_gated(compare: Callable[[Case], None], device: str) -> None:
    rows, width, latents = 1024, 512, 8192

    def make_inputs() -> tuple[Tensor, ...]:
        x = torch.randn(rows, width, device=device)
        weight = torch.randn(latents, width, device=device) / width**0.5
        # Some two of a hundred gates are open.
        bias, magnitude_bias = (torch.full((latents,), -2.0, device=device) for _ in range(2))
        scale = torch.ones(latents, device=device)
        parameters = weight, bias, scale, magnitude_bias
        return x, *(tensor.requires_grad_() for tensor in parameters)

    compare(
        Case(
            op="jumprelu",
            name=f"gated_encode {rows}x{width}-{latents} float32 forward and backward",
            device=device,
            dtype=torch.float32,
            make_inputs=make_inputs,
            ours=ours_gated,
            eager=eager_gated,
            run=forward_backward,
            check=lambda: check(ours_gated, eager_gated, *make_inputs()),
            compiles=False,
        )
    )
