"""The leading singular vectors of every sample's Jacobian, from products with it alone."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from aefast import random
from aefast.capture import refuse_capture
from aefast.ops.contractive import eager
from aefast.ops.contractive.settings import EncoderLayer
from aefast.ops.linear_act.op import run as linear_act
from aefast.ops.shared.precision import upcast
from aefast.ops.shared.public import result

# The iteration shrinks what is not wanted by (s_m / s_n)^2 each time, m being n and some more.
MORE = 8


@result
class Tangents(NamedTuple):
    """What :func:`aefast.functional.tangents` returns.

    Attributes:
        vectors: ``[..., n, D]``, orthonormal rows.
        values: ``[..., n]``, falling.
    """

    vectors: Tensor
    values: Tensor


@torch.no_grad()
def leading_directions(
    x: Tensor, layers: Sequence[EncoderLayer], n: int, iterations: int
) -> tuple[Tensor, Tensor]:
    """The right singular vectors [B, n, D] and the singular values [B, n] of J at x [B, D]."""
    refuse_capture(x.device, "tangents")
    dtype = x.dtype
    x = upcast(x)  # torch.linalg takes no half precision
    layers = [
        EncoderLayer(weight.to(x.dtype), None if bias is None else bias.to(x.dtype), activation)
        for weight, bias, activation in layers
    ]
    _, slopes = eager.encode(x, layers, linear_act)
    from_code = layers[-1].weight.shape[0] <= x.shape[1]

    def multiply(block: Tensor) -> Tensor:
        product = eager.pull if from_code else eager.push
        return product(layers, slopes, block, linear_act)

    def multiply_transposed(block: Tensor) -> Tensor:
        product = eager.push if from_code else eager.pull
        return product(layers, slopes, block, linear_act)

    width = layers[-1].weight.shape[0] if from_code else x.shape[1]
    rows = min(n + MORE, width)
    block = random.normal(0, rows, width, step=random.DrawStep.TANGENTS, device=x.device).to(
        x.dtype
    )
    block = _orthonormal(block.expand(x.shape[0], *block.shape))
    image = multiply(block)
    values = torch.linalg.vector_norm(image, dim=2)
    for _ in range(iterations):
        block = _orthonormal(multiply_transposed(image))
        image = multiply(block)
        values, before = torch.linalg.vector_norm(image, dim=2), values
        change = (values - before)[:, :n].abs().amax(1)
        if bool((change <= 4 * torch.finfo(x.dtype).eps * values.amax(1)).all()):
            break
    left, values, right = torch.linalg.svd(image, full_matrices=False)
    vectors = right if from_code else left.transpose(1, 2) @ block
    return turned(vectors[:, :n]).to(dtype), values[:, :n].to(dtype)


def _orthonormal(block: Tensor) -> Tensor:
    """Rows [B, m, N] that span the same, orthonormal."""
    return torch.linalg.qr(block.transpose(1, 2)).Q.transpose(1, 2)


def turned(vectors: Tensor) -> Tensor:
    """The sign of a singular vector is free: its largest component is made positive."""
    largest = vectors.gather(-1, vectors.abs().argmax(-1, keepdim=True))
    return vectors * torch.where(largest < 0, -1, 1)
