"""What the ranks of a test's process group select among their rows; without pytest."""

import math
from typing import Any

import torch
from torch import Tensor

from aefast.distributed.group import current
from aefast.ops.topk import batch

WIDTH, LATENTS = 3, 30


def _whole_numbers(rows: int) -> Tensor:
    """Whose products are exact, and many of them equal."""
    generator = torch.Generator().manual_seed(rows)
    return torch.randint(-2, 3, (rows, WIDTH), generator=generator).float()


def _uneven() -> Tensor:
    """One rank's row has more latents than all other rows together."""
    x = torch.ones(9, WIDTH)
    x[5] = 100
    return x


# Rows, k, what the bias is, and how many rows each of three ranks has.
CASES: dict[str, tuple[Tensor, float, list[float], list[int]]] = {
    "ties": (_whole_numbers(20), 4, [0.0], [7, 6, 7]),
    "below a row": (_whole_numbers(20), 0.3, [0.0], [7, 6, 7]),
    "one latent": (_whole_numbers(5), 1e-9, [0.0], [1, 2, 2]),
    "all latents": (_whole_numbers(6), LATENTS, [0.0], [2, 2, 2]),
    "all are equal": (torch.zeros(12, WIDTH), 2.5, [1.0], [4, 4, 4]),
    "all are zeros of both signs": (torch.zeros(9, WIDTH), 2.5, [0.0, -0.0], [3, 3, 3]),
    "all are negative": (torch.zeros(9, WIDTH), 3, [-1.0, -2.0, -1.0], [3, 3, 3]),
    "a rank has none": (_whole_numbers(20), 4, [0.0], [12, 0, 8]),
    "more than a rank's own": (_whole_numbers(21), 20, [0.0], [1, 19, 1]),
    "one row has most": (_uneven(), 3, [0.0], [3, 3, 3]),
    "no number": (_whole_numbers(9), 2, [0.0, math.nan, math.inf, -math.inf, 1.0], [3, 3, 3]),
    "no number at all": (_whole_numbers(9), 2, [math.nan], [3, 3, 3]),
}


def operands(name: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, float]:
    x, k, biases, _ = CASES[name]
    generator = torch.Generator().manual_seed(1)
    weight = torch.randint(-2, 3, (LATENTS, WIDTH), generator=generator).float()
    bias = torch.tensor(biases).repeat(LATENTS)[:LATENTS]
    return x.to(dtype), weight.to(dtype), bias.to(dtype), k


def dense(values: Tensor, indices: Tensor) -> Tensor:
    """All latents, and NaN, which a code may hold, as 1e9: ``[B, L]``."""
    dense_code = values.new_zeros(len(values), LATENTS)
    return dense_code.scatter_add(1, indices, values.detach()).nan_to_num(1e9, 1e8, -1e8)


def selected(dtype: torch.dtype) -> dict[str, tuple[Tensor, ...]]:
    """Of each case this rank's code, and its rows' gradients of the codes' sum of squares."""
    group = current()
    results = {}
    for name, (_, _, _, counts) in CASES.items():
        x, weight, bias, k = operands(name, dtype)
        first = sum(counts[: group.rank])
        local = x[first : first + counts[group.rank]].requires_grad_()
        code = batch.encode_shared(local, weight.requires_grad_(), bias, k, group)
        gradients: Any = torch.autograd.grad(code[0].square().sum(), (local, weight))
        results[name] = (dense(*code), *gradients)
    return results
