"""The leading singular vectors of every sample's Jacobian J [H, D].

Of a narrow code or x, on a CPU, they are made of the eigenvectors of the Gram matrix J Jt or Jt J,
in float64: an error e in it is one of at most sqrt(e) in a value, so that float64's rounding is
1e-8 of the largest value, less than float32's own. Else, and of a float64 J, they are found by
subspace iteration, from products with J that never write it.
"""

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

# The widest code or x whose Gram matrix serves. Where the values fall slowly it took a twelfth of
# the iteration's time at 784-64, a sixth at 784-128, half of it at 784-256 (a Zen 4, one thread).
WIDEST_GRAM = 128
# The most memory of a product of all samples of a panel.
PANEL_BYTES = 2**26
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
    width = layers[-1].weight.shape[0] if from_code else x.shape[1]
    is_float32_on_cpu = x.dtype == torch.float32 and x.device.type == "cpu"
    if is_float32_on_cpu and width <= WIDEST_GRAM:
        vectors, values = _by_gram_matrix(layers, slopes, n, from_code)
    else:
        vectors, values = _by_iteration(layers, slopes, n, from_code, iterations)
    return turned(vectors).to(dtype), values.to(dtype)


def _by_gram_matrix(
    layers: Sequence[EncoderLayer], slopes: list[Tensor], n: int, from_code: bool
) -> tuple[Tensor, Tensor]:
    """A panel of samples after the other."""
    layers = [EncoderLayer(weight.double(), None, activation) for weight, _, activation in layers]
    rows = layers[-1].weight.shape[0] if from_code else layers[0].weight.shape[1]
    columns = max(max(layer.weight.shape) for layer in layers)
    samples = max(1, PANEL_BYTES // (8 * rows * columns))
    panels = zip(*(slope.double().split(samples) for slope in slopes), strict=True)
    found = [_directions_of_panel(layers, list(panel), n, from_code) for panel in panels]
    vectors, values = map(torch.cat, zip(*found, strict=True))
    return vectors, values


def _directions_of_panel(
    layers: Sequence[EncoderLayer], slopes: list[Tensor], n: int, from_code: bool
) -> tuple[Tensor, Tensor]:
    """In float64, as the weights and slopes are."""
    squares, vectors = torch.linalg.eigh(_gram_matrix(layers, slopes, from_code))
    values = squares[:, -n:].flip(1).clamp(min=0).sqrt()
    leading = vectors[:, :, -n:].flip(2).mT
    if from_code:  # these are of the code: times J they are x's, as long as the values
        leading = _orthonormal(eager.pull(layers, slopes, leading))
    return leading, values


def _gram_matrix(layers: Sequence[EncoderLayer], slopes: list[Tensor], from_code: bool) -> Tensor:
    """J Jt [B, H, H], or Jt J [B, D, D]."""
    weight, slope = layers[0].weight, slopes[0]
    if from_code and len(layers) == 1:
        return slope.unsqueeze(2) * (weight @ weight.t()) * slope.unsqueeze(1)
    if from_code:
        rows = eager.pull(layers, slopes, None)
    else:
        identity = torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device)
        rows = eager.push(layers, slopes, identity.unsqueeze(0))
    return rows @ rows.mT


def _by_iteration(
    layers: Sequence[EncoderLayer], slopes: list[Tensor], n: int, from_code: bool, iterations: int
) -> tuple[Tensor, Tensor]:
    """By subspace iteration, in the slopes' dtype."""

    def multiply(block: Tensor) -> Tensor:
        product = eager.pull if from_code else eager.push
        return product(layers, slopes, block, linear_act)

    def multiply_transposed(block: Tensor) -> Tensor:
        product = eager.push if from_code else eager.pull
        return product(layers, slopes, block, linear_act)

    slope = slopes[0]
    width = layers[-1].weight.shape[0] if from_code else layers[0].weight.shape[1]
    rows = min(n + MORE, width)
    block = random.normal(0, rows, width, step=random.DrawStep.TANGENTS, device=slope.device)
    block = _orthonormal(block.to(slope.dtype).expand(slope.shape[0], *block.shape))
    image = multiply(block)
    values = torch.linalg.vector_norm(image, dim=2)
    for _ in range(iterations):
        block = _orthonormal(multiply_transposed(image))
        image = multiply(block)
        values, before = torch.linalg.vector_norm(image, dim=2), values
        change = (values - before)[:, :n].abs().amax(1)
        if bool((change <= 4 * torch.finfo(values.dtype).eps * values.amax(1)).all()):
            break
    left, values, right = torch.linalg.svd(image, full_matrices=False)
    vectors = right if from_code else left.transpose(1, 2) @ block
    return vectors[:, :n], values[:, :n]


def _orthonormal(block: Tensor) -> Tensor:
    """Rows [B, m, N] that span the same, orthonormal."""
    return torch.linalg.qr(block.transpose(1, 2)).Q.transpose(1, 2)


def turned(vectors: Tensor) -> Tensor:
    """The sign of a singular vector is free: its largest component is made positive."""
    largest = vectors.gather(-1, vectors.abs().argmax(-1, keepdim=True))
    return vectors * torch.where(largest < 0, -1, 1)
