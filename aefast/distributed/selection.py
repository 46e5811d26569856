"""The largest numbers of all ranks, found without sending them.

Floats have the order of their bits, read as integers. So the least number that is selected is found
from its highest digit to its lowest: of each digit the ranks sum a histogram, which says what the
digit is. The messages are as long for any batch, and the selection is exact.
"""

import torch
from torch import Tensor

from aefast.distributed.group import Group

# Three histograms, of 2048 numbers at most, find a float32.
DIGIT_BITS = 11


def selected_counts(values: Tensor, count: int, group: Group) -> Tensor:
    """How many of each of this rank's rows ``[B, m]`` are among the ``count`` largest of all ranks'
    rows: ``[B]``.

    It is :func:`aefast.ops.topk.eager.selected_counts` of the ranks' rows, rank 0's first: NaN is
    the largest, and of equal values those of lower rows are taken first. The rows are in descending
    order.
    """
    keys = ordered_bits(values).flatten()
    bits = 8 * keys.element_size()
    is_above = torch.zeros_like(keys, dtype=torch.bool)
    is_equal = torch.ones_like(is_above)  # as far as the digits are known
    left = count
    for high in range(bits, 0, -DIGIT_BITS):
        low = max(0, high - DIGIT_BITS)
        digits = (keys >> low) & ((1 << (high - low)) - 1)
        histogram = torch.bincount(digits[is_equal], minlength=1 << (high - low))
        group.all_reduce(histogram).wait()
        at_least = histogram.flip(0).cumsum(0).flip(0)  # how many have this digit or a higher one
        digit = int((at_least >= left).sum()) - 1
        left -= int(at_least[digit] - histogram[digit])
        is_above |= is_equal & (digits > digit)
        is_equal &= digits == digit
    equal_counts = group.numbers(is_equal.sum())
    own_left = left - equal_counts[: group.rank].sum()
    is_selected = is_above | (is_equal & (is_equal.cumsum(0) <= own_left))
    return is_selected.view_as(values).sum(1)


def ordered_bits(values: Tensor) -> Tensor:
    """Integers whose bits, read without a sign, are in the order of floats of as many bits.

    Equal floats have equal ones: the two zeros, and all NaN, which are above infinity.
    """
    dtype = torch.int32 if values.dtype == torch.float32 else torch.int64
    limits = torch.iinfo(dtype)
    bits = values.contiguous().view(dtype)
    signed = torch.where(bits < 0, -(bits & limits.max), bits).masked_fill(
        values.isnan(), limits.max
    )
    return signed ^ limits.min
