"""float32 matrices on the GPU as sums of bfloat16 matrices, which the tensor cores multiply."""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from aefast.ops.shared.triton import Variant, cdiv, device_of, strides_of

ALIGNMENT = 8  # bfloat16 numbers in 16 bytes
UNITS = 256  # that a program splits
ROWS = 64  # a term has whole blocks of so many rows: the deepest tile of a product


@dataclass(frozen=True)
class Terms:
    """A matrix [rows, columns] as a sum of bfloat16 matrices with padded columns.

    Where there are several, each is padded with rows of zeros to whole blocks.
    """

    matrix: Tensor  # the terms one below the other, [terms * term_rows, columns padded]
    term_rows: int
    shape: tuple[int, int]
    count: Tensor | None = None  # [1] on the device: the number of terms that are not all 0
    values: Tensor | None = None  # the float32 matrix that was split; None for sampled states


@cache
def split_variant(terms: int, aligned: bool, counts: bool) -> Variant:
    types = {"source_pointer": "*fp32", "terms_pointer": "*bf16", "count_pointer": "*i32"}
    constants = {
        "TERMS": terms,
        "UNITS": UNITS,
        "WIDTH": ALIGNMENT,
        "ALIGNED": aligned,
        "COUNTS": counts,
    }
    return Variant("shared.triton_terms_kernels.split_kernel", types, constants)


def split(values: Tensor, terms: int, counts: bool = False) -> Terms:
    """A float32 matrix as so many terms; with ``counts`` it is counted how many are needed."""
    rows, columns = values.shape
    units_per_row, term_rows = -(-columns // ALIGNMENT), -(-rows // ROWS) * ROWS
    matrix = values.new_empty(terms * term_rows, units_per_row * ALIGNMENT, dtype=torch.bfloat16)
    count = torch.ones(1, dtype=torch.int32, device=values.device) if counts else None
    unit_count = term_rows * units_per_row
    with device_of(values):
        split_variant(terms, _is_aligned(values), counts).launch(
            cdiv(unit_count, UNITS),
            source_pointer=values,
            terms_pointer=matrix,
            count_pointer=matrix.view(torch.int32) if count is None else count,
            **strides_of(source=values),
            rows=rows,
            columns=columns,
            term_rows=term_rows,
            unit_count=unit_count,
            units_per_row=units_per_row,
        )
    return Terms(matrix, term_rows, (rows, columns), count, values)


def _is_aligned(values: Tensor) -> bool:
    """Whether every unit can be read 16 bytes at a time."""
    row_stride, column_stride = values.stride()
    return (
        column_stride == 1
        and values.shape[1] % ALIGNMENT == 0
        and row_stride % 4 == 0
        and values.data_ptr() % 16 == 0
    )
