"""Weights packed once per update, not once per call.

On matrix units packing a weight takes as long as multiplying some 64 rows with it: half of a call
at batch 128. A weight that comes again unchanged, in evaluation or in accumulating gradients, is
packed once and found here.

``Tensor._version`` counts the changes that autograd sees. It does not see ``weight.data.clamp_()``,
numpy's writes or ``weight.data = other``: so a fingerprint of 64 bits is compared each time, which
takes one read of the weight. Training, where every version is used once, pays for neither: a
version's first use is only noted.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from aefast.ops.shared import cpp


class _Entry(NamedTuple):
    key: tuple[object, ...]  # all that a pack depends on, but for the bits
    fingerprint: int | None = None
    packed: Tensor | None = None


_entries: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


# The matrix units' tiles: a product with a side below takes multiply-adds, which read no pack.
FEWEST = 32


def weight_operand(weight: Tensor, rows: int) -> cpp.RightOperand:
    """A layer's weight [H, D] as the right operand of x [rows, D] @ weight.T."""
    operand = cpp.right_operand(weight)
    if min(rows, *weight.shape) < FEWEST:
        return operand
    if not cpp.packing_pays(operand) or not _is_cacheable(weight):
        return operand
    key = (weight._version, weight.data_ptr(), weight.shape, operand.precision)
    entry = _entries.get(weight)
    if entry is None or entry.key != key:
        _entries[weight] = _Entry(key)
        return operand
    fingerprint = cpp.fingerprint(weight)
    if entry.packed is None or entry.fingerprint != fingerprint:
        entry = _Entry(key, fingerprint, cpp.packed_operand(weight).packed)
        _entries[weight] = entry
    return operand._replace(packed=entry.packed)


def _is_cacheable(weight: Tensor) -> bool:
    """Whether the same tensor may come again, its changes counted."""
    return weight.is_leaf and weight.is_contiguous() and not torch.is_inference(weight)
