"""Sparse codes over many latents, as the equations read.

Half precisions are computed, and ranked, in float32 and rounded once.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from aefast.ops.shared import dispatch
from aefast.ops.shared.precision import upcast


def topk_encode(x: Tensor, weight: Tensor, bias: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
    """Each row's k largest pre-activations; a stable sort leaves equal ones in their order."""
    preactivation = F.linear(upcast(x), upcast(weight), None if bias is None else upcast(bias))
    values, indices = preactivation.sort(dim=-1, descending=True, stable=True)
    return values[..., :k].to(x.dtype).contiguous(), indices[..., :k].contiguous()


def any_topk_encode(
    x: Tensor, weight: Tensor, bias: Tensor | None, k: int
) -> tuple[Tensor, Tensor]:
    """As :func:`topk_encode`, but which of equal pre-activations are selected is the device's
    choice."""
    preactivation = F.linear(upcast(x), upcast(weight), None if bias is None else upcast(bias))
    values, indices = preactivation.topk(k, dim=-1)
    return values.to(x.dtype), indices


def sparse_decode(values: Tensor, indices: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """bias + sum_i values_i weight[indices_i]."""
    chosen = F.embedding(indices, upcast(weight))
    output = (upcast(values).unsqueeze(-2) @ chosen).squeeze(-2)
    return (output if bias is None else output + upcast(bias)).to(values.dtype)


def sampled_product(left: Tensor, weight: Tensor, indices: Tensor) -> Tensor:
    """The elements of left @ weight.T that indices name."""
    chosen = F.embedding(indices, upcast(weight))
    return (chosen @ upcast(left).unsqueeze(-1)).squeeze(-1).to(left.dtype)


def latent_sums(
    values: Tensor, indices: Tensor, rows: Tensor, latents: int
) -> tuple[Tensor, Tensor]:
    """codes.T @ rows, and codes.sum(0), of the dense codes [B, latents]."""
    products = upcast(values).unsqueeze(-1) * upcast(rows).unsqueeze(-2)
    flat = indices.reshape(-1)
    sums = products.new_zeros(latents, rows.shape[-1])
    sums = sums.index_add(0, flat, products.reshape(len(flat), rows.shape[-1]))
    totals = products.new_zeros(latents).index_add(0, flat, upcast(values).reshape(-1))
    return sums.to(values.dtype), totals.to(values.dtype)


def batch_topk_encode(
    x: Tensor, weight: Tensor, bias: Tensor | None, k: float, threshold: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The k B largest pre-activations of B rows, or all above the threshold, a row after the
    other; and how many each row has of them ``[B]``."""
    if len(x) == 0:
        code = topk_encode(x, weight, bias, 1)
        return *code, code[1].new_zeros(0)
    values, indices = topk_encode(upcast(x), weight, bias, len(weight))
    counts = selected_counts(values.detach(), batch_count(k, len(x)), threshold)
    most = max(1, int(counts.max()))
    return *trimmed(values.to(x.dtype), indices, counts, most), counts


def batch_count(k: float, rows: int) -> int:
    """How many latents of a batch are active: k a row on the average, at least one."""
    return max(1, int(k * rows))


def selected_counts(values: Tensor, count: int, threshold: Tensor | None) -> Tensor:
    """How many of each row are among the ``count`` largest of all, or above the threshold: ``[B]``.

    The rows of ``values`` are in descending order. NaN is the largest; of equal values those of
    lower rows are taken first.
    """
    if threshold is not None:
        return (~(values <= threshold)).sum(1)
    flat = values.reshape(-1)
    least = flat.kthvalue(flat.numel() - count + 1).values
    equal = torch.where(least.isnan(), flat.isnan(), flat == least)
    above = torch.where(least.isnan(), torch.zeros_like(equal), ~(flat <= least))
    left = count - above.sum()
    return (above | (equal & (equal.cumsum(0) <= left))).view_as(values).sum(1)


def is_selected(indices: Tensor, counts: Tensor) -> Tensor:
    """bool ``[B, m]``: the first ``counts`` of each row."""
    if dispatch.is_traced(indices):  # make_fx would hold this batch's m
        return torch.ones_like(indices).cumsum(1) <= counts[:, None]
    numbers = torch.arange(indices.shape[1], dtype=torch.int64, device=indices.device)
    return numbers < counts[:, None]


def trimmed(values: Tensor, indices: Tensor, counts: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The first ``most`` of each row, with values of 0 beyond its count."""
    values, indices = values[:, :most], indices[:, :most].contiguous()
    return torch.where(is_selected(indices, counts), values, 0), indices
