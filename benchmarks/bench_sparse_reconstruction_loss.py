"""The squared error of what sparse codes reconstruct, and the gradients of a training step."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from harness import Case
from torch import Tensor

from aefast.functional import sparse_reconstruction_loss

SIZES = [(1024, 32, 512, 8192), (4096, 32, 768, 16384)]  # rows, k, width, latents

Loss = Callable[..., Tensor]


def embedding_bag_loss(
    values: Tensor, indices: Tensor, weight: Tensor, bias: Tensor, target: Tensor
) -> Tensor:
    """PyTorch's quickest: it holds no array of rows by k by width."""
    rows = F.embedding_bag(indices, weight, per_sample_weights=values, mode="sum")
    return F.mse_loss(rows + bias, target)


def forward_backward(loss: Loss, *inputs: Tensor) -> tuple[Tensor, ...]:
    values, indices, weight, bias, target = inputs
    value = loss(values, indices, weight, bias, target)
    return value, *torch.autograd.grad(value, (values, weight, bias))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_forward_backward(
    compare: Callable[[Case], None], size: tuple[int, int, int, int], device: str
) -> None:
    def inputs(rows: int, k: int, width: int, latents: int) -> tuple[Tensor, ...]:
        values, weight, bias = (
            torch.randn(shape, device=device, requires_grad=True)
            for shape in ((rows, k), (latents, width), (width,))
        )
        indices = torch.randint(latents, (rows, k), device=device)
        return values, indices, weight, bias, torch.randn(rows, width, device=device)

    def check() -> None:
        timed = inputs(*size)
        ours = forward_backward(sparse_reconstruction_loss, *timed)
        torch.testing.assert_close(ours, forward_backward(embedding_bag_loss, *timed))

    rows, k, width, latents = size
    compare(
        Case(
            op="sparse_reconstruction_loss",
            name=f"{rows}x{width}-{latents} k{k} fwd+bwd float32",
            device=device,
            dtype=torch.float32,
            make_inputs=lambda: inputs(*size),
            ours=sparse_reconstruction_loss,
            eager=embedding_bag_loss,
            check=check,
            run=forward_backward,
            compiles=False,
        )
    )
