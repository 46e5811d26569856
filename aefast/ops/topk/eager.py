"""Sparse codes over many latents, as the equations read.

Half precisions are computed, and ranked, in float32 and rounded once.
"""

import torch.nn.functional as F
from torch import Tensor

from aefast.ops.shared.precision import upcast


def topk_encode(x: Tensor, weight: Tensor, bias: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
    """Each row's k largest pre-activations; a stable sort leaves equal ones in their order."""
    preactivation = F.linear(upcast(x), upcast(weight), None if bias is None else upcast(bias))
    values, indices = preactivation.sort(dim=-1, descending=True, stable=True)
    return values[..., :k].to(x.dtype).contiguous(), indices[..., :k].contiguous()


def sparse_decode(values: Tensor, indices: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """bias + sum_i values_i weight[indices_i]."""
    chosen = F.embedding(indices, upcast(weight))
    output = (upcast(values).unsqueeze(-2) @ chosen).squeeze(-2)
    return (output if bias is None else output + upcast(bias)).to(values.dtype)


def sampled_product(left: Tensor, weight: Tensor, indices: Tensor) -> Tensor:
    """Those elements of left @ weight.T that indices name."""
    chosen = F.embedding(indices, upcast(weight))
    return (chosen @ upcast(left).unsqueeze(-1)).squeeze(-1).to(left.dtype)


def latent_sums(
    values: Tensor, indices: Tensor, rows: Tensor, latents: int
) -> tuple[Tensor, Tensor]:
    """codes.T @ rows, and codes.sum(0), of the dense codes [B, latents]."""
    products = upcast(values).unsqueeze(-1) * upcast(rows).unsqueeze(-2)
    flat = indices.reshape(-1)
    sums = products.new_zeros(latents, rows.shape[-1])
    sums = sums.index_add(0, flat, products.flatten(0, 1))
    totals = products.new_zeros(latents).index_add(0, flat, upcast(values).reshape(-1))
    return sums.to(values.dtype), totals.to(values.dtype)
