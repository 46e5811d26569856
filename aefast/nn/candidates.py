"""Candidate latents: the few of a dense code that may be active. After one product with all
latents a training step computes these alone.

JumpReLU and gated dictionaries have no k. But once they are trained, a row has tens of active
latents of thousands, and the others have neither a value nor a gradient. So a step takes one
product with all latents, which finds the candidates, where it took six to eight.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from aefast import backend
from aefast.ops.shared import dispatch
from aefast.ops.topk.op import SparseCode
from aefast.ops.topk.products import sampled_product

if TYPE_CHECKING:
    from aefast.nn.dictionary import SparseDictionary

# The most candidates of a row, as a share of the latents. With more of them products with all
# latents are quicker: at 1024x256-4096 from a share of 1/4 on, and memory is less up to half of it.
MOST_CANDIDATES = 1 / 8
ROWS_ASKED_FIRST = 4


class Candidates(NamedTuple):
    """The latents of each row that may be active.

    Attributes:
        product: their rows' products with x ``[B, m]``, which have gradients.
        indices: int64 ``[B, m]``.
        is_filled: bool ``[B, m]``: False where a row has fewer than m, and the rest means nothing.
    """

    product: Tensor
    indices: Tensor
    is_filled: Tensor

    def of_latents(self, parameter: Tensor) -> Tensor:
        """What a parameter ``[L]`` holds of them, ``[B, m]``."""
        # Its gradient is added up by one thread, in order; that of parameter[indices] is by many.
        return parameter.index_select(0, self.indices.view(-1)).view_as(self.product)

    def code(self, values: Tensor) -> SparseCode:
        """A code of these values, with 0 where a row has no more candidates."""
        return SparseCode(torch.where(self.is_filled, values, 0), self.indices)


def serves(model: "SparseDictionary", x: Tensor) -> bool:
    """Whether a loss of x may be computed of the candidates alone: by the kernels of a CPU, outside
    traces and transforms, which hold no width that depends on the data."""
    if dispatch.is_traced(x, *model.parameters()) or dispatch.is_in_functorch():
        return False
    if x.device.type != "cpu" or x.dtype != torch.float32 or x.numel() == 0:
        return False
    if dispatch.autocast_dtype(x.device) is not None or dispatch.is_transformed(x):
        return False
    return backend.select(x.device, x.dtype) != "eager"


def candidates(
    x: Tensor, weight: Tensor, preactivation: Tensor, is_candidate: Callable[[Tensor], Tensor]
) -> Candidates | None:
    """The candidates of rows ``[B, D]``; None where a row has too many.

    Args:
        x: what is encoded.
        weight: the encoder's ``[L, D]``.
        preactivation: their products, ``[B, L]``.
        is_candidate: of some rows' products, which are candidates: bool.
    """
    most = MOST_CANDIDATES * len(weight)
    with torch.no_grad():
        # Where most rows have too many, the first ones do: it takes no pass over all of them.
        if is_candidate(preactivation[:ROWS_ASKED_FIRST]).sum(1).max() > most:
            return None
        are_candidates = is_candidate(preactivation)
    counts = are_candidates.sum(1)
    width = max(1, int(counts.max()))
    if width > most:
        return None
    rows, latents = are_candidates.nonzero(as_tuple=True)
    first = counts.cumsum(0) - counts
    numbers = torch.arange(len(rows), dtype=torch.int64, device=x.device)
    indices = latents.new_zeros(len(x), width)
    indices[rows, numbers - first[rows]] = latents
    is_filled = torch.arange(width, dtype=torch.int64, device=x.device) < counts[:, None]
    return Candidates(sampled_product(x, weight, indices), indices, is_filled)
