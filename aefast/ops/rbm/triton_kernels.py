# mypy: allow-untyped-defs
"""GPU kernels for Gibbs sampling: split into bfloat16 terms, half a Gibbs step, sample units."""

import triton
import triton.language as tl

from aefast.ops.shared.triton_device import (
    interleave,
    load_seed,
    normal_pair,
    philox,
    round_to,
    sigmoid,
    uniform,
)
from aefast.ops.shared.triton_gemm_kernels import as_operand, load_tile, tile_start


@triton.jit(
    do_not_specialize=["row_stride", "column_stride", "rows", "columns"],
    do_not_specialize_on_alignment=["source_pointer", "terms_pointer", "count_pointer"],
)
def split_kernel(
    source_pointer,  # [rows, columns]
    terms_pointer,  # [TERMS, rows, columns padded to whole units], bfloat16
    count_pointer,  # [1], 1 at first: TERMS if any term past the first is not 0
    row_stride: tl.int64,
    column_stride: tl.int64,
    rows: tl.int32,
    columns: tl.int32,
    TERMS: tl.constexpr,
    UNIT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Split float32 into a sum of bfloat16 terms, the largest first; zeros in the padding."""
    padded_columns = tl.cdiv(columns, UNIT) * UNIT
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    row = index // padded_columns
    column = index - row * padded_columns
    inside = row < rows
    source = source_pointer + row * row_stride + column * column_stride
    remainder = tl.load(source, mask=inside & (column < columns), other=0.0)
    size = rows.to(tl.int64) * padded_columns
    stored = tl.max_constancy(inside, UNIT)
    is_inexact = tl.zeros((BLOCK,), tl.int32)
    for term in tl.static_range(TERMS):
        # Rounding leaves the smallest remainder. But it rounds the largest float32 to infinity, so
        # these are truncated.
        truncated = (remainder.to(tl.uint32, bitcast=True) & 0xFFFF0000).to(
            tl.float32, bitcast=True
        )
        rounded = round_to(remainder, tl.bfloat16).to(tl.float32)
        value = tl.where(tl.abs(remainder) < 3.3e38, rounded, truncated)
        pointers = tl.multiple_of(terms_pointer + term * size + index, 16)
        tl.store(pointers, round_to(value, tl.bfloat16), mask=stored)
        # An infinity or NaN is in the first term alone; inf - inf would add NaN.
        remainder = tl.where(tl.abs(remainder) < float("inf"), remainder - value, 0.0)
        if term == 0:
            is_inexact = (remainder != 0.0).to(tl.int32)
    count = tl.max(is_inexact, 0) * (TERMS - 1) + 1
    tl.atomic_max(count_pointer, count, mask=count > 1)


@triton.jit
def _draw_tile(
    accumulator,
    row_start,
    column_start,
    rows,
    columns,
    states_pointer,
    values_pointer,
    bias_pointer,
    factor_pointer,
    key,
    row_offset,
    step,
    bias_size,
    has_factor,
    draws,
    keeps_means,
    UNIT: tl.constexpr,
):
    """Add the bias to a tile, then store the sums, or sample and store states.

    The tile is halved until it is 32 columns wide: the random words need registers for every
    element in flight.
    """
    ROWS: tl.constexpr = accumulator.shape[0]
    COLUMNS: tl.constexpr = accumulator.shape[1]
    if COLUMNS > 32:
        halves = accumulator.reshape(ROWS, 2, COLUMNS // 2).permute(0, 2, 1)
        first, second = tl.split(halves)
        _draw_tile(
            first, row_start, column_start, rows, columns, states_pointer, values_pointer,
            bias_pointer, factor_pointer, key, row_offset, step, bias_size, has_factor, draws,
            keeps_means, UNIT,
        )  # fmt: skip
        _draw_tile(
            second, row_start, column_start + COLUMNS // 2, rows, columns, states_pointer,
            values_pointer, bias_pointer, factor_pointer, key, row_offset, step, bias_size,
            has_factor, draws, keeps_means, UNIT,
        )  # fmt: skip
    else:
        row = row_start + tl.arange(0, ROWS)
        column = column_start + tl.arange(0, COLUMNS)
        bias = tl.load(bias_pointer + column, mask=column < bias_size, other=0.0)
        value = accumulator + bias[None, :]
        inside = (row < rows)[:, None] & (column < columns)[None, :]
        offset = row.to(tl.int64)[:, None] * columns + column[None, :]
        if draws != 0:
            factor = tl.load(factor_pointer + row, mask=(row < rows) & (has_factor != 0), other=1.0)
            value = sigmoid(factor[:, None] * value)
            unit = column_start // 4 + tl.arange(0, COLUMNS // 4)
            word_0, word_1, word_2, word_3 = philox(
                key, unit[None, :], (row.to(tl.int64) + row_offset)[:, None], step.to(tl.uint32)
            )
            drawn = interleave(uniform(word_0), uniform(word_1), uniform(word_2), uniform(word_3))
            state = tl.where((drawn < value) & inside, 1.0, 0.0)
            padded_columns = tl.cdiv(columns, UNIT) * UNIT
            pointers = states_pointer + row.to(tl.int64)[:, None] * padded_columns + column[None, :]
            mask = (row < rows)[:, None] & (column < padded_columns)[None, :]
            tl.store(
                tl.multiple_of(pointers, [1, 16]),
                state.to(tl.bfloat16),
                mask=tl.max_constancy(mask, [1, UNIT]),
            )
        if keeps_means != 0:
            tl.store(values_pointer + offset, value, mask=inside)


@triton.jit(
    do_not_specialize=[
        "left_row_stride",
        "right_row_stride",
        "seed",
        "seed_address",
        "row_offset",
        "step",
        "rows",
        "columns",
        "depth",
        "bias_size",
        "has_factor",
        "draws",
        "keeps_means",
    ],
    do_not_specialize_on_alignment=[
        "left",
        "right",
        "states_pointer",
        "values_pointer",
        "bias_pointer",
        "factor_pointer",
        "count_pointer",
    ],
)
def half_step_kernel(
    left,  # [left terms * rows, depth padded], bfloat16
    right,  # [TERMS * columns, depth padded], bfloat16
    states_pointer,  # [rows, columns padded], bfloat16, written if draws
    values_pointer,  # [rows, columns], probabilities, or sums, written if keeps_means
    bias_pointer,  # [bias_size]
    factor_pointer,  # [rows], read if has_factor
    count_pointer,  # [1], the number of left's terms
    left_row_stride: tl.int64,
    right_row_stride: tl.int64,
    seed: tl.int64,
    seed_address: tl.int64,  # 0, or the address of the seed in device memory
    row_offset: tl.int64,
    step: tl.int32,
    rows: tl.int32,
    columns: tl.int32,
    depth: tl.int32,
    bias_size: tl.int32,  # columns, or 0 for no bias
    has_factor: tl.int32,
    draws: tl.int32,
    keeps_means: tl.int32,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
    TERMS: tl.constexpr,
    UNIT: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
):
    """left @ right.T + bias, and states sampled from it: 1 where a uniform is below the sigmoid."""
    row_tiles = tl.cdiv(rows, BLOCK_ROWS)
    column_tiles = tl.cdiv(columns, BLOCK_COLUMNS)
    row_start, column_start = tile_start(
        tl.program_id(0), row_tiles, column_tiles, BLOCK_ROWS, BLOCK_COLUMNS
    )
    left_terms = tl.load(count_pointer)
    accumulator = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), dtype=tl.float32)
    for term in range(left_terms):
        # A tile past the last row of a term reads the next term's rows. They are never stored.
        left_start = (left_terms - 1 - term) * rows + row_start
        for block in range(tl.cdiv(depth, BLOCK_DEPTH)):
            left_tile = load_tile(
                left, left_row_stride, left_start, block * BLOCK_DEPTH, left_terms * rows, depth,
                BLOCK_ROWS, BLOCK_DEPTH, UNIT, DESCRIPTORS,
            )  # fmt: skip
            left_tile = as_operand(left_tile, tl.bfloat16)
            product = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), dtype=tl.float32)
            # The smallest term first, so that only the last sum is rounded at the result's size.
            for right_term in tl.static_range(TERMS):
                right_start = (TERMS - 1 - right_term) * columns + column_start
                right_tile = load_tile(
                    right, right_row_stride, right_start, block * BLOCK_DEPTH, TERMS * columns,
                    depth, BLOCK_COLUMNS, BLOCK_DEPTH, UNIT, DESCRIPTORS,
                ).T  # fmt: skip
                product = tl.dot(left_tile, as_operand(right_tile, tl.bfloat16), product)
            accumulator += product
        if term < left_terms - 1:
            # An infinite weight counts in the product with the left operand's first term alone.
            accumulator = tl.where(tl.abs(accumulator) < float("inf"), accumulator, 0.0)
    _draw_tile(
        accumulator, row_start, column_start, rows, columns, states_pointer, values_pointer,
        bias_pointer, factor_pointer, load_seed(seed, seed_address), row_offset, step, bias_size,
        has_factor, draws, keeps_means, UNIT,
    )  # fmt: skip


@triton.jit(
    do_not_specialize=[
        "seed",
        "seed_address",
        "row_offset",
        "step",
        "rows",
        "columns",
        "has_factor",
        "keeps_means",
    ],
    do_not_specialize_on_alignment=[
        "values_pointer",
        "means_pointer",
        "deviation_pointer",
        "factor_pointer",
    ],
)
def draw_kernel(
    values_pointer,  # [rows, columns]: inputs or means, which become states
    means_pointer,  # [rows, columns], written if keeps_means
    deviation_pointer,  # [columns], of Gaussian units
    factor_pointer,  # [rows], read if has_factor
    seed: tl.int64,
    seed_address: tl.int64,  # 0, or the address of the seed in device memory
    row_offset: tl.int64,
    step: tl.int32,
    rows: tl.int32,
    columns: tl.int32,
    has_factor: tl.int32,
    keeps_means: tl.int32,
    GAUSSIAN: tl.constexpr,
    UNITS: tl.constexpr,
):
    """Sample units in place. Bernoulli: 1 where a uniform is below sigmoid(factor * value).
    Gaussian: a normal number with mean ``value`` and standard deviation factor * deviation."""
    units_per_row = tl.cdiv(columns, 4)
    index = tl.program_id(0).to(tl.int64) * UNITS + tl.arange(0, UNITS)
    row = index // units_per_row
    unit = (index - row * units_per_row).to(tl.int32)
    column = unit[:, None] * 4 + tl.arange(0, 4)[None, :]
    mask = (row < rows)[:, None] & (column < columns)
    offset = row[:, None] * columns + column
    value = tl.load(values_pointer + offset, mask=mask, other=0.0)
    factor = tl.load(factor_pointer + row, mask=(row < rows) & (has_factor != 0), other=1.0)
    key = load_seed(seed, seed_address)
    word_0, word_1, word_2, word_3 = philox(
        key, unit[:, None], (row + row_offset)[:, None], step.to(tl.uint32)
    )
    if GAUSSIAN:
        normal_0, normal_1 = normal_pair(word_0, word_1)
        normal_2, normal_3 = normal_pair(word_2, word_3)
        noise = interleave(normal_0, normal_1, normal_2, normal_3)
        deviation = tl.load(deviation_pointer + column, mask=mask, other=0.0)
        mean = value
        state = value + factor[:, None] * deviation * noise
    else:
        drawn = interleave(uniform(word_0), uniform(word_1), uniform(word_2), uniform(word_3))
        mean = sigmoid(factor[:, None] * value)
        state = tl.where(drawn < mean, 1.0, 0.0)
    if keeps_means != 0:
        tl.store(means_pointer + offset, mean, mask=mask)
    tl.store(values_pointer + offset, state, mask=mask)
