# mypy: allow-untyped-defs
"""Matrix products on the GPU: ``gemm_kernel`` for a dense layer, and functions of a tile.

``gemm_kernel`` computes a layer's output, and the gradients by its input and weight. It is compiled
for each activation: with all eight in one kernel a wide tile has 480 KB of code, and compiles for a
quarter of a minute.

At ``"highest"`` precision a float32 product is six bfloat16 products. A float32 is the exact sum of
three bfloat16 numbers. Of their nine products the three smallest are left out: they are below 2^-23
of the result's term. Tensor cores round their sums toward zero, a bias that grows with depth. So
each block of the depth starts from zero, and is added to the running sum by ordinary arithmetic.
Operands come split, in LEFT_TERMS and RIGHT_TERMS, or are split in the loop.
``tf32x3`` keeps 22 bits of each factor and misses float32's accuracy at small depths; ``ieee`` does
not use the tensor cores.

Reference: Ootomo, Yokota, "Recovering single precision accuracy from tensor cores while surpassing
the FP32 theoretical peak performance", IJHPCA 36, 2022.
"""

import triton
import triton.language as tl

from aefast.ops.shared.triton_device import INTERPRETED, activate, round_to, store_tile

GROUP = tl.constexpr(8)  # row tiles that share a column tile's right operand in the L2


@triton.jit
def load_tile(
    source,  # a tensor descriptor, or a pointer to [rows, columns], rows 16-byte aligned
    row_stride,
    row_start,
    column_start,
    rows,
    columns,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
):
    """A tile [ROWS, COLUMNS]; zeros past the matrix."""
    if DESCRIPTORS:
        tile = source.load([row_start, column_start])
    else:
        row = row_start + tl.arange(0, ROWS)
        column = column_start + tl.arange(0, COLUMNS)
        pointers = source + row.to(tl.int64)[:, None] * row_stride + column[None, :]
        # Rows are padded to whole units, so that the mask is constant over every 16 bytes.
        mask = (row < rows)[:, None] & (column < tl.cdiv(columns, ALIGNMENT) * ALIGNMENT)[None, :]
        tile = tl.load(tl.multiple_of(pointers, [1, 16]), mask=mask, other=0.0)
    return tile


@triton.jit
def round_to_tf32(x):
    """float32 x rounded to TF32's 11 significant bits. The tensor cores would truncate instead."""
    bits = tl.where(x == x, x, 0.0).to(tl.uint32, bitcast=True)
    rounded = ((bits + 0x1000) & 0xFFFFE000).to(tl.float32, bitcast=True)
    return tl.where(x == x, rounded, x)


@triton.jit
def as_operand(x, dtype: tl.constexpr):
    """x as an operand of tl.dot. For the interpreter that is float32: it multiplies bfloat16 as if
    it were integers."""
    if INTERPRETED:
        return x.to(tl.float32)
    else:
        return x.to(dtype)


@triton.jit
def _split(x):
    """Three bfloat16 numbers whose sum is exactly float32 x, the largest first."""
    truncated = (x.to(tl.uint32, bitcast=True) & 0xFFFF0000).to(tl.float32, bitcast=True)
    # Rounding leaves the smallest remainder. It rounds the largest float32 to infinity, so these
    # are truncated.
    high = tl.where(tl.abs(x) < 3.3e38, round_to(x, tl.bfloat16).to(tl.float32), truncated)
    middle = round_to(x - high, tl.bfloat16)
    low = x - high - middle.to(tl.float32)
    return (
        as_operand(high, tl.bfloat16),
        as_operand(middle, tl.bfloat16),
        as_operand(low, tl.bfloat16),
    )


@triton.jit
def _multiply_float32(left, right, accumulator):
    """accumulator + left @ right by six bfloat16 products, the smallest first."""
    left_high, left_middle, left_low = _split(left)
    right_high, right_middle, right_low = _split(right)
    product = tl.dot(left_low, right_high)
    product = tl.dot(left_high, right_low, product)
    product = tl.dot(left_middle, right_middle, product)
    product = tl.dot(left_middle, right_high, product)
    product = tl.dot(left_high, right_middle, product)
    # The lower terms of an infinity are NaN. Then only the product of the highest terms counts.
    product = tl.where(product == product, product, 0.0)
    return accumulator + tl.dot(left_high, right_high, product)


@triton.jit
def tile_start(
    tile, row_tiles, column_tiles, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr
):
    """The first row and column of a tile of the output.

    GROUP row tiles with the same column tile are consecutive, so that they find the right operand
    in the L2 cache.
    """
    group = tile // (column_tiles * GROUP)
    group_rows = tl.minimum(row_tiles - group * GROUP, GROUP)
    index = tile % (column_tiles * GROUP)
    row_start = (group * GROUP + index % group_rows) * BLOCK_ROWS
    return row_start, (index // group_rows) * BLOCK_COLUMNS


@triton.jit
def _load_operand(
    source,
    row_stride,
    term,
    term_rows,
    start,
    depth_start,
    size,
    depth,
    SIZE: tl.constexpr,
    DEPTH: tl.constexpr,
    BY_DEPTH: tl.constexpr,
    TERMS: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
):
    """A tile [SIZE, DEPTH] of one term of an operand [size, depth]."""
    if BY_DEPTH:
        tile = load_tile(
            source, row_stride, term * term_rows + depth_start, start, TERMS * term_rows, size,
            DEPTH, SIZE, ALIGNMENT, DESCRIPTORS,
        ).T  # fmt: skip
    else:
        tile = load_tile(
            source, row_stride, term * term_rows + start, depth_start, TERMS * term_rows, depth,
            SIZE, DEPTH, ALIGNMENT, DESCRIPTORS,
        )  # fmt: skip
    return tile


@triton.jit
def multiply_tile(
    left,
    right,
    left_row_stride,
    right_row_stride,
    left_term_rows,
    right_term_rows,
    row_start,
    column_start,
    rows,
    columns,
    depth,
    first_step,
    steps,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
    LEFT_BY_DEPTH: tl.constexpr,
    RIGHT_BY_DEPTH: tl.constexpr,
    LEFT_TERMS: tl.constexpr,
    RIGHT_TERMS: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
    TF32: tl.constexpr,
    ROUND: tl.constexpr,
):
    """One tile of left @ right.T, [BLOCK_ROWS, BLOCK_COLUMNS] float32, over `steps` of depth."""
    accumulator = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), dtype=tl.float32)
    # The lower terms' products are small: their sum may be rounded toward zero at each step.
    lower = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), dtype=tl.float32)
    for step in range(steps):
        depth_start = (first_step + step) * BLOCK_DEPTH
        left_tile = _load_operand(
            left, left_row_stride, 0, left_term_rows, row_start, depth_start, rows, depth,
            BLOCK_ROWS, BLOCK_DEPTH, LEFT_BY_DEPTH, LEFT_TERMS, ALIGNMENT, DESCRIPTORS,
        )  # fmt: skip
        right_tile = _load_operand(
            right, right_row_stride, 0, right_term_rows, column_start, depth_start, columns, depth,
            BLOCK_COLUMNS, BLOCK_DEPTH, RIGHT_BY_DEPTH, RIGHT_TERMS, ALIGNMENT, DESCRIPTORS,
        ).T  # fmt: skip
        if LEFT_TERMS + RIGHT_TERMS > 2:
            left_high = as_operand(left_tile, tl.bfloat16)
            right_high = as_operand(right_tile, tl.bfloat16)
            if LEFT_TERMS == 3:
                left_middle = as_operand(
                    _load_operand(
                        left, left_row_stride, 1, left_term_rows, row_start, depth_start,
                        rows, depth, BLOCK_ROWS, BLOCK_DEPTH, LEFT_BY_DEPTH,
                        LEFT_TERMS, ALIGNMENT, DESCRIPTORS,
                    ), tl.bfloat16,
                )  # fmt: skip
                left_low = as_operand(
                    _load_operand(
                        left, left_row_stride, 2, left_term_rows, row_start, depth_start,
                        rows, depth, BLOCK_ROWS, BLOCK_DEPTH, LEFT_BY_DEPTH,
                        LEFT_TERMS, ALIGNMENT, DESCRIPTORS,
                    ), tl.bfloat16,
                )  # fmt: skip
                lower = tl.dot(left_low, right_high, lower)
            if RIGHT_TERMS == 3:
                right_middle = as_operand(
                    _load_operand(
                        right, right_row_stride, 1, right_term_rows, column_start, depth_start,
                        columns, depth, BLOCK_COLUMNS, BLOCK_DEPTH, RIGHT_BY_DEPTH,
                        RIGHT_TERMS, ALIGNMENT, DESCRIPTORS,
                    ).T, tl.bfloat16,
                )  # fmt: skip
                right_low = as_operand(
                    _load_operand(
                        right, right_row_stride, 2, right_term_rows, column_start, depth_start,
                        columns, depth, BLOCK_COLUMNS, BLOCK_DEPTH, RIGHT_BY_DEPTH,
                        RIGHT_TERMS, ALIGNMENT, DESCRIPTORS,
                    ).T, tl.bfloat16,
                )  # fmt: skip
                lower = tl.dot(left_high, right_low, lower)
            if LEFT_TERMS + RIGHT_TERMS == 6:
                lower = tl.dot(left_middle, right_middle, lower)
            if LEFT_TERMS == 3:
                lower = tl.dot(left_middle, right_high, lower)
            if RIGHT_TERMS == 3:
                lower = tl.dot(left_high, right_middle, lower)
            # With this argument, of which bfloat16 products make no use, the sum is not moved into
            # the product: each block of depth starts from zero.
            accumulator += tl.dot(left_high, right_high, max_num_imprecise_acc=1)
        elif left_tile.dtype != tl.float32:
            accumulator = tl.dot(
                as_operand(left_tile, left_tile.dtype),
                as_operand(right_tile, right_tile.dtype),
                accumulator,
            )
        elif TF32:
            if ROUND:
                left_tile = round_to_tf32(left_tile)
                right_tile = round_to_tf32(right_tile)
            accumulator = tl.dot(left_tile, right_tile, accumulator, input_precision="tf32")
        else:
            accumulator = _multiply_float32(left_tile, right_tile, accumulator)
    if LEFT_TERMS + RIGHT_TERMS > 2:
        # An infinity counts in the product of the highest terms alone.
        accumulator += tl.where(tl.abs(lower) < float("inf"), lower, 0.0)
    return accumulator


@triton.jit
def _finish(
    accumulator,
    first_output_row,
    row_start,
    column_start,
    rows,
    padded_columns,
    output_pointer,
    preactivation_pointer,
    bias_pointer,
    bias_size,
    keep_preactivation,
    accumulate,
    FUSED: tl.constexpr,
    ACTIVATION: tl.constexpr,
):
    """Add the bias to a tile, apply the activation and store, 32 columns at a time.

    An activation needs registers for every element in flight; a wide tile would spill.
    """
    ROWS: tl.constexpr = accumulator.shape[0]
    COLUMNS: tl.constexpr = accumulator.shape[1]
    if COLUMNS > 32:
        halves = accumulator.reshape(ROWS, 2, COLUMNS // 2).permute(0, 2, 1)
        first, second = tl.split(halves)
        _finish(
            first, first_output_row, row_start, column_start, rows, padded_columns,
            output_pointer, preactivation_pointer, bias_pointer,
            bias_size, keep_preactivation, accumulate, FUSED, ACTIVATION,
        )  # fmt: skip
        _finish(
            second, first_output_row, row_start, column_start + COLUMNS // 2, rows, padded_columns,
            output_pointer, preactivation_pointer, bias_pointer,
            bias_size, keep_preactivation, accumulate, FUSED, ACTIVATION,
        )  # fmt: skip
    else:
        row = row_start + tl.arange(0, ROWS)
        column = column_start + tl.arange(0, COLUMNS)
        offset = (first_output_row + row)[:, None] * padded_columns + column[None, :]
        mask = (row < rows)[:, None] & (column < padded_columns)[None, :]
        dtype: tl.constexpr = output_pointer.dtype.element_ty
        if FUSED:
            bias = tl.load(bias_pointer + column, mask=column < bias_size, other=0.0)
            accumulator += bias.to(tl.float32)[None, :]
            if keep_preactivation != 0:
                pointers = tl.multiple_of(preactivation_pointer + offset, [1, 16])
                tl.store(pointers, round_to(accumulator, dtype), mask=mask)
            accumulator = activate(accumulator, ACTIVATION)
        pointers = tl.multiple_of(output_pointer + offset, [1, 16])
        if not FUSED:
            already = tl.load(pointers, mask=mask & (accumulate != 0), other=0.0)
            accumulator += already.to(tl.float32)
        tl.store(pointers, round_to(accumulator, dtype), mask=mask)


@triton.jit(
    do_not_specialize=[
        "left_row_stride",
        "right_row_stride",
        "left_term_rows",
        "right_term_rows",
        "rows",
        "columns",
        "depth",
        "splits",
        "bias_size",
        "keep_preactivation",
        "accumulate",
    ],
    do_not_specialize_on_alignment=[
        "left",
        "right",
        "output_pointer",
        "preactivation_pointer",
        "bias_pointer",
    ],
)
def gemm_kernel(
    left,  # [LEFT_TERMS, rows, depth]; stored [LEFT_TERMS, depth, rows] if LEFT_BY_DEPTH
    right,  # [RIGHT_TERMS, columns, depth]; stored [.., depth, columns] if RIGHT_BY_DEPTH
    output_pointer,  # [splits, rows, columns padded to whole units]
    preactivation_pointer,  # [rows, columns padded], written only if keep_preactivation
    bias_pointer,  # [bias_size]
    left_row_stride: tl.int64,
    right_row_stride: tl.int64,
    left_term_rows: tl.int32,  # between the first rows of two terms of left
    right_term_rows: tl.int32,
    rows: tl.int32,
    columns: tl.int32,
    depth: tl.int32,
    splits: tl.int32,  # the number of parts of the depth, each with its own sum
    bias_size: tl.int32,  # columns, or 0 for no bias
    keep_preactivation: tl.int32,
    accumulate: tl.int32,  # add to the output, where nothing is fused
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
    LEFT_BY_DEPTH: tl.constexpr,
    RIGHT_BY_DEPTH: tl.constexpr,
    LEFT_TERMS: tl.constexpr,
    RIGHT_TERMS: tl.constexpr,
    ALIGNMENT: tl.constexpr,  # elements in 16 bytes
    DESCRIPTORS: tl.constexpr,
    TF32: tl.constexpr,
    ROUND: tl.constexpr,  # whether to round to TF32; not where the descriptors do
    FLATTEN: tl.constexpr,  # one loop over all tiles: loads of the next start before a store
    ACTIVATION: tl.constexpr,
):
    """output = act(left @ right.T + bias)."""
    row_tiles = tl.cdiv(rows, BLOCK_ROWS)
    column_tiles = tl.cdiv(columns, BLOCK_COLUMNS)
    tiles = row_tiles * column_tiles
    steps = tl.cdiv(tl.cdiv(depth, BLOCK_DEPTH), splits)
    padded_columns = tl.cdiv(columns, ALIGNMENT) * ALIGNMENT
    for task in tl.range(tl.program_id(0), tiles * splits, tl.num_programs(0), flatten=FLATTEN):
        split = task // tiles
        tile = task % tiles
        row_start, column_start = tile_start(
            tile, row_tiles, column_tiles, BLOCK_ROWS, BLOCK_COLUMNS
        )
        own_steps = steps
        if LEFT_TERMS + RIGHT_TERMS > 2:
            # Past its depth a term is followed by the next one, not by zeros.
            own_steps = tl.minimum(steps, tl.cdiv(depth, BLOCK_DEPTH) - split * steps)
        accumulator = multiply_tile(
            left, right, left_row_stride, right_row_stride, left_term_rows, right_term_rows,
            row_start, column_start, rows, columns, depth, split * steps, own_steps, BLOCK_ROWS,
            BLOCK_COLUMNS, BLOCK_DEPTH, LEFT_BY_DEPTH, RIGHT_BY_DEPTH, LEFT_TERMS, RIGHT_TERMS,
            ALIGNMENT, DESCRIPTORS, TF32, ROUND,
        )  # fmt: skip
        _finish(
            accumulator, split.to(tl.int64) * rows, row_start, column_start, rows, padded_columns,
            output_pointer, preactivation_pointer, bias_pointer,
            bias_size, keep_preactivation, accumulate, not LEFT_BY_DEPTH, ACTIVATION,
        )  # fmt: skip


@triton.jit(
    do_not_specialize=["source_row_stride", "rows", "columns", "padded_rows"],
    do_not_specialize_on_alignment=["source_pointer", "output_pointer"],
)
def transpose_kernel(
    source_pointer,  # [rows, columns]
    output_pointer,  # [columns, padded_rows]
    source_row_stride: tl.int64,
    rows: tl.int32,
    columns: tl.int32,
    padded_rows: tl.int32,  # rows, rounded up to whole units of 16 bytes
    SIZE: tl.constexpr,
    ALIGNMENT: tl.constexpr,
):
    """output = source.T, and zeros in its padding."""
    row_blocks = tl.cdiv(padded_rows, SIZE)
    row = (tl.program_id(0) % row_blocks) * SIZE + tl.arange(0, SIZE)
    column = (tl.program_id(0) // row_blocks) * SIZE + tl.arange(0, SIZE)
    source = source_pointer + row.to(tl.int64)[:, None] * source_row_stride + column[None, :]
    tile = tl.load(source, mask=(row < rows)[:, None] & (column < columns)[None, :], other=0.0)
    store_tile(output_pointer, tile.T, column, row, columns, padded_rows, ALIGNMENT)
