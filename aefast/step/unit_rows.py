"""Rows of a parameter that keep a norm of 1, a dictionary's directions: by the C++ kernels in one
pass, elsewhere in PyTorch's operators."""

from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from aefast import backend
from aefast.ops.shared import dispatch
from aefast.step import kernels


class Dictionary(Protocol):
    """A model whose directions an optimizer's step keeps at unit norm."""

    def project_decoder_gradient(self) -> None: ...

    def _constrain(self) -> None: ...

    def _own_directions(self) -> Tensor | None: ...


class UnitNorm(NamedTuple):
    """The hooks on an optimizer's step that keep a dictionary's directions at unit norm: kernels
    that take whole steps know them, and do the same in the step's pass over the directions."""

    dictionary: Dictionary

    def before(self, *_: object) -> None:
        self.dictionary.project_decoder_gradient()

    def after(self, *_: object) -> None:
        self.dictionary._constrain()


@torch.no_grad()
def normalize_rows(rows: Tensor) -> None:
    """Divide each of the rows ``[L, D]`` by its norm."""
    if _serves(rows):
        kernels().normalize_rows(rows)
    else:
        rows.copy_(F.normalize(rows, dim=1))


@torch.no_grad()
def project_rows(gradient: Tensor, rows: Tensor) -> None:
    """Take from each row's gradient what would change its norm; both are ``[L, D]``."""
    if _serves(gradient, rows):
        kernels().project_rows(gradient, rows)
    else:
        directions = F.normalize(rows, dim=1)
        gradient -= (gradient * directions).sum(1, keepdim=True) * directions


def _serves(*matrices: Tensor) -> bool:
    """Whether the kernels read these matrices as they lie in memory."""
    first = matrices[0]
    if dispatch.is_traced(*matrices) or dispatch.is_in_functorch():
        return False
    if any(matrix.dtype != torch.float32 or not _is_by_rows(matrix) for matrix in matrices):
        return False
    return backend.select(first.device, first.dtype) == "cpp"


def _is_by_rows(matrix: Tensor) -> bool:
    return (
        matrix.layout is torch.strided
        and matrix.data_ptr() != 0
        and not matrix.is_neg()
        and matrix.stride(1) == 1
        and matrix.stride(0) >= matrix.shape[1]
    )
