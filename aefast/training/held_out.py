"""Held-out rows on the scale of the data: uint8 may be divided by 255, or be bits."""

from typing import TypeGuard

import numpy as np

from aefast.data import Dataset
from aefast.data.pairs import PairedRows
from aefast.data.tensor_rows import TensorRows

Rows = Dataset | TensorRows
Samples = Rows | PairedRows

# What stands beside divided uint8 may leave [0, 1] by so much, as noise does.
MARGIN = 0.5


def on_scale_of(data: Samples | None, held_out: Samples | None) -> Samples | None:
    """The held-out rows on the data's scale.

    Raises:
        ValueError: they are on another scale.
    """
    if isinstance(data, PairedRows) and isinstance(held_out, PairedRows):
        inputs = _rows_on_scale_of(data.inputs, held_out.inputs)
        targets = _rows_on_scale_of(data.targets, held_out.targets)
        return PairedRows(inputs, targets, "validation")
    if isinstance(data, Rows) and isinstance(held_out, Rows):
        return _rows_on_scale_of(data, held_out)
    return held_out


def _rows_on_scale_of(data: Rows, held_out: Rows) -> Rows:
    if _is_uint8(data) and _is_uint8(held_out):
        return _bytes_on_scale_of(data, held_out)
    if _is_divided(data):
        mismatch = (
            f"validation holds {{:g}}, and data is uint8, divided by {data.scale:g}; it takes "
            "uint8, or numbers in [0, 1]"
        )
        _check_near_unit(held_out, mismatch)
    elif _are_bits(data):
        mismatch = (
            f"validation holds {{:g}}, and data's {data.rows.dtype} numbers are 0 and 1; it takes "
            "numbers in [0, 1]"
        )
        _check_near_unit(held_out, mismatch)
    elif _is_divided(held_out):
        mismatch = (
            f"validation is uint8, divided by {held_out.scale:g}, and data holds {{:g}}; it takes "
            "numbers on the data's scale in the data's dtype"
        )
        _check_near_unit(data, mismatch)
    return held_out


def _bytes_on_scale_of(data: Dataset, held_out: Dataset) -> Dataset:
    """Divided by the data's scale: a few rows of images may hold 0 and 1 alone."""
    held_out = held_out.on_scale(data.scale)
    if _are_bits(data) and held_out.high > 1:
        raise ValueError(
            f"validation holds {held_out.high:g}, and data's uint8 numbers are 0 and 1, which are "
            "not divided by 255; it takes 0 and 1"
        )
    return held_out


def _is_uint8(rows: Rows) -> TypeGuard[Dataset]:
    return isinstance(rows, Dataset) and rows.rows.dtype == np.uint8


def _is_divided(rows: Rows) -> TypeGuard[Dataset]:
    return _is_uint8(rows) and rows.scale != 1


def _are_bits(rows: Rows) -> TypeGuard[Dataset]:
    if not isinstance(rows, Dataset) or rows.rows.dtype not in (np.bool_, np.uint8):
        return False
    return rows.scale == 1 and rows.high <= 1


def _check_near_unit(rows: Rows, mismatch: str) -> None:
    """Check that no number is far outside [0, 1], where divided uint8 are; ``mismatch`` is the
    error's text, with a place for the number."""
    if isinstance(rows, TensorRows):
        bounds = [bound.item() for bound in rows.rows.aminmax()]
    elif np.isfinite(rows.high):
        bounds = [rows.low, rows.high]
    else:  # of float32 in memory, whose bounds only the losses look at
        bounds = [float(rows.rows.min()), float(rows.rows.max())]
    for number in bounds:
        if abs(number - 0.5) > 0.5 + MARGIN:
            raise ValueError(mismatch.format(number))
