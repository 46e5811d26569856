# mypy: allow-untyped-defs
"""GPU kernels for Gibbs sampling: half a Gibbs step, sample units, statistics of a phase."""

import triton
import triton.language as tl

from aefast.ops.shared.triton_device import (
    interleave,
    load_seed,
    normal_pair,
    philox,
    sigmoid,
    softplus,
    store_tile,
    uniform,
)
from aefast.ops.shared.triton_gemm_kernels import as_operand, load_tile, tile_start
from aefast.ops.shared.triton_terms_kernels import next_term


@triton.jit
def _uniforms(key, row, column_start, row_offset, step, COLUMNS: tl.constexpr):
    """The uniforms of some rows, in COLUMNS columns from a multiple of 4 on."""
    column_block = column_start // 4 + tl.arange(0, COLUMNS // 4)
    word_0, word_1, word_2, word_3 = philox(
        key, column_block[None, :], (row.to(tl.int64) + row_offset)[:, None], step.to(tl.uint32)
    )
    return interleave(uniform(word_0), uniform(word_1), uniform(word_2), uniform(word_3))


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
    ALIGNMENT: tl.constexpr,
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
            keeps_means, ALIGNMENT,
        )  # fmt: skip
        _draw_tile(
            second, row_start, column_start + COLUMNS // 2, rows, columns, states_pointer,
            values_pointer, bias_pointer, factor_pointer, key, row_offset, step, bias_size,
            has_factor, draws, keeps_means, ALIGNMENT,
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
            drawn = _uniforms(key, row, column_start, row_offset, step, COLUMNS)
            state = tl.where((drawn < value) & inside, 1.0, 0.0).to(tl.bfloat16)
            padded_columns = tl.cdiv(columns, ALIGNMENT) * ALIGNMENT
            store_tile(states_pointer, state, row, column, rows, padded_columns, ALIGNMENT)
        if keeps_means != 0:
            tl.store(values_pointer + offset, value, mask=inside)


@triton.jit(
    do_not_specialize=[
        "left_row_stride",
        "right_row_stride",
        "left_term_rows",
        "right_term_rows",
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
    left,  # [left terms * left_term_rows, depth padded], bfloat16
    right,  # [TERMS * right_term_rows, depth padded], bfloat16
    states_pointer,  # [rows, columns padded], bfloat16, written if draws
    values_pointer,  # [rows, columns], probabilities, or sums, written if keeps_means
    bias_pointer,  # [bias_size]
    factor_pointer,  # [rows], read if has_factor
    count_pointer,  # [1], the number of left's terms
    left_row_stride: tl.int64,
    right_row_stride: tl.int64,
    left_term_rows: tl.int32,  # between the first rows of two terms of left
    right_term_rows: tl.int32,
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
    ALIGNMENT: tl.constexpr,
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
    # Two sums, as in multiply_tile: the tensor cores add the lower terms' products up, which need
    # not be waited for one by one.
    lower = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), dtype=tl.float32)
    for term in range(left_terms):
        # A tile past the last row of a term reads the next term's rows. They are never stored.
        left_start = (left_terms - 1 - term) * left_term_rows + row_start
        for block in range(tl.cdiv(depth, BLOCK_DEPTH)):
            left_tile = load_tile(
                left, left_row_stride, left_start, block * BLOCK_DEPTH,
                left_terms * left_term_rows, depth, BLOCK_ROWS, BLOCK_DEPTH, ALIGNMENT, DESCRIPTORS,
            )  # fmt: skip
            left_tile = as_operand(left_tile, tl.bfloat16)
            for right_term in tl.static_range(TERMS - 1, -1, -1):  # the smallest term first
                right_tile = load_tile(
                    right, right_row_stride, right_term * right_term_rows + column_start,
                    block * BLOCK_DEPTH, TERMS * right_term_rows, depth, BLOCK_COLUMNS, BLOCK_DEPTH,
                    ALIGNMENT, DESCRIPTORS,
                ).T  # fmt: skip
                right_tile = as_operand(right_tile, tl.bfloat16)
                if TERMS == 1:
                    accumulator = tl.dot(left_tile, right_tile, accumulator)
                elif right_term > 0:
                    lower = tl.dot(left_tile, right_tile, lower)
                else:
                    accumulator += tl.dot(left_tile, right_tile, max_num_imprecise_acc=1)
        if term < left_terms - 1:
            # An infinite weight counts in the product with the left operand's first term alone.
            accumulator = tl.where(tl.abs(accumulator) < float("inf"), accumulator, 0.0)
    if TERMS > 1:
        accumulator += lower
    _draw_tile(
        accumulator, row_start, column_start, rows, columns, states_pointer, values_pointer,
        bias_pointer, factor_pointer, load_seed(seed, seed_address), row_offset, step, bias_size,
        has_factor, draws, keeps_means, ALIGNMENT,
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


@triton.jit(
    do_not_specialize=["rows", "columns", "padded_columns", "term_rows", "scale"],
    do_not_specialize_on_alignment=[
        "inputs_pointer",
        "terms_pointer",
        "energy_pointer",
        "partial_pointer",
    ],
)
def statistics_kernel(
    inputs_pointer,  # [rows, columns]: those of the hidden units
    terms_pointer,  # [TERMS, term_rows, padded_columns], bfloat16
    energy_pointer,  # [programs]
    partial_pointer,  # [row blocks, columns]
    rows: tl.int32,
    columns: tl.int32,
    padded_columns: tl.int32,
    term_rows: tl.int32,  # at least rows
    scale: tl.float32,
    TERMS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STEPS: tl.constexpr,
    ALIGNMENT: tl.constexpr,
):
    """The sum of softplus(a), and sigmoid(a) times scale: its terms, and its column sums."""
    column_blocks = tl.cdiv(padded_columns, COLUMNS)
    row_block = tl.program_id(0) // column_blocks
    column = (tl.program_id(0) % column_blocks) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    energy = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for step in range(STEPS):
        row = (row_block * STEPS + step) * ROWS + tl.arange(0, ROWS)
        wide_row = row.to(tl.int64)[:, None]
        inside = (row < rows)[:, None] & (column < columns)[None, :]
        inputs = tl.load(
            inputs_pointer + wide_row * columns + column[None, :], mask=inside, other=0.0
        )
        energy += tl.where(inside, softplus(inputs), 0.0)
        remainder = tl.where(inside, scale * sigmoid(inputs), 0.0)
        total += remainder
        stored = (row < term_rows)[:, None] & (column < padded_columns)[None, :]
        for term in tl.static_range(TERMS):
            value, remainder = next_term(remainder)
            offset = (term * term_rows.to(tl.int64) + wide_row) * padded_columns + column[None, :]
            pointers = tl.multiple_of(terms_pointer + offset, [1, 16])
            tl.store(pointers, value, mask=tl.max_constancy(stored, [1, ALIGNMENT]))
    partial = partial_pointer + row_block.to(tl.int64) * columns + column
    tl.store(partial, tl.sum(total, axis=0), mask=column < columns)
    tl.store(energy_pointer + tl.program_id(0), tl.sum(energy))
