# mypy: allow-untyped-defs
"""GPU kernels for JumpReLU and gated codes: a pass over a code, and one in backward."""

import triton
import triton.language as tl

from aefast.ops.shared.triton_device import exp, round_to

# The numbers of triton.py's ESTIMATORS; 0 is none.
TANH = tl.constexpr(2)

INTEGERS = [
    "rows",
    "columns",
    "row_blocks",
    "preactivation_row_stride",
    "preactivation_column_stride",
    "product_row_stride",
    "product_column_stride",
    "values_row_stride",
    "values_column_stride",
    "grad_values_row_stride",
    "grad_values_column_stride",
    "grad_active_row_stride",
    "grad_active_column_stride",
    "grad_opened_row_stride",
    "grad_opened_column_stride",
    "grad_totals_stride",
    "estimator",
]
POINTERS = [
    "preactivation_pointer",
    "threshold_pointer",
    "values_pointer",
    "active_pointer",
    "counts_pointer",
    "grad_values_pointer",
    "grad_active_pointer",
    "grad_preactivation_pointer",
    "grad_threshold_pointer",
    "partial_pointer",
    "product_pointer",
    "gate_bias_pointer",
    "scale_pointer",
    "magnitude_bias_pointer",
    "opened_pointer",
    "totals_pointer",
    "grad_opened_pointer",
    "grad_totals_pointer",
    "grad_product_pointer",
]


@triton.jit
def locate(columns, COLUMNS: tl.constexpr):
    """A program's block: its number among the blocks of rows, its columns [COLUMNS], its number
    among the blocks of its rows, and how many these are. Offsets are made of them: 64-bit."""
    column_blocks = tl.cdiv(columns, COLUMNS)
    row_block = tl.program_id(0) // column_blocks
    column_block = (tl.program_id(0) - row_block * column_blocks).to(tl.int64)
    column = column_block * COLUMNS + tl.arange(0, COLUMNS)
    return row_block.to(tl.int64), column, column_block, column_blocks


@triton.jit
def inside(row, rows, column, columns, ALIGNMENT: tl.constexpr, ALIGNED: tl.constexpr):
    """Which elements of a tile exist. Where rows are ALIGNED they come in whole 16 bytes."""
    mask = (row < rows)[:, None] & (column < columns)[None, :]
    if ALIGNED:
        mask = tl.max_constancy(mask, [1, ALIGNMENT])
    return mask


@triton.jit
def tile_pointers(pointer, row, column, row_stride, column_stride, ALIGNED: tl.constexpr):
    """The addresses of a tile of a matrix of any strides, or of whole 16 bytes."""
    pointers = pointer + row[:, None] * row_stride
    if ALIGNED:
        pointers = tl.multiple_of(pointers + column[None, :], [1, 16])
    else:
        pointers += column[None, :] * column_stride
    return pointers


@triton.jit
def load(pointer, row, column, row_stride, column_stride, mask, ALIGNED: tl.constexpr):
    """A tile of a matrix in float32, zeros outside."""
    pointers = tile_pointers(pointer, row, column, row_stride, column_stride, ALIGNED)
    return tl.load(pointers, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def store(pointer, tile, row, column, columns, mask, ALIGNED: tl.constexpr):
    """Store a tile of a contiguous matrix."""
    pointers = tile_pointers(pointer, row, column, columns.to(tl.int64), 1, ALIGNED)
    tl.store(pointers, round_to(tile, pointer.dtype.element_ty), mask=mask)


@triton.jit
def load_row(pointer, column, columns):
    """A parameter's numbers [1, COLUMNS]."""
    return tl.load(pointer + column, mask=column < columns, other=0.0).to(tl.float32)[None, :]


@triton.jit(do_not_specialize=INTEGERS, do_not_specialize_on_alignment=POINTERS)
def jumprelu_kernel(
    preactivation_pointer,  # [rows, columns], any strides
    threshold_pointer,  # [columns]
    values_pointer,  # [rows, columns]
    active_pointer,  # as values; if COUNTED float32 [rows, column blocks]
    rows: tl.int32,
    columns: tl.int32,
    preactivation_row_stride: tl.int64,
    preactivation_column_stride: tl.int64,
    COUNTED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ALIGNMENT: tl.constexpr,  # elements in 16 bytes
    ALIGNED: tl.constexpr,  # the pre-activations can be read 16 bytes at a time
):
    """The values, and which are active, or how many of a row's in the block. NaN is active."""
    row_block, column, column_block, column_blocks = locate(columns, COLUMNS)
    row = row_block * ROWS + tl.arange(0, ROWS)
    mask = inside(row, rows, column, columns, ALIGNMENT, ALIGNED)
    z = load(
        preactivation_pointer, row, column, preactivation_row_stride,
        preactivation_column_stride, mask, ALIGNED,
    )  # fmt: skip
    is_off = z <= load_row(threshold_pointer, column, columns)
    store(values_pointer, tl.where(is_off, 0.0, z), row, column, columns, mask, ALIGNED)
    active = tl.where(is_off, 0.0, 1.0)
    if COUNTED:
        count = tl.sum(tl.where(mask, active, 0.0), axis=1)
        tl.store(active_pointer + row * column_blocks + column_block, count, mask=row < rows)
    else:
        store(active_pointer, active, row, column, columns, mask, ALIGNED)


@triton.jit
def weighted(grad_values, grad_active, distance, bandwidth, estimator):
    """K(u) times each gradient, u = distance / bandwidth."""
    if estimator == TANH:
        # 1 - tanh(2 u) ** 2 without the difference, which rounds away what it leaves.
        decay = exp(-4.0 * tl.abs(distance) / bandwidth)
        density = 4.0 * decay / ((1.0 + decay) * (1.0 + decay))
        density = tl.where(distance == distance, density, 0.0)
        grad_values *= density
        grad_active *= density
    else:
        is_near = tl.abs(distance) < bandwidth / 2
        grad_values = tl.where(is_near, grad_values, 0.0)
        grad_active = tl.where(is_near, grad_active, 0.0)
    return grad_values, grad_active


@triton.jit(do_not_specialize=INTEGERS, do_not_specialize_on_alignment=POINTERS)
def jumprelu_backward_kernel(
    grad_values_pointer,  # [rows, columns], any strides, also 0
    grad_active_pointer,  # likewise
    preactivation_pointer,  # likewise
    threshold_pointer,  # [columns]
    grad_preactivation_pointer,  # [rows, columns]
    partial_pointer,  # float32 [row blocks, 2, columns]: each block's sums
    rows: tl.int32,
    columns: tl.int32,
    grad_values_row_stride: tl.int64,
    grad_values_column_stride: tl.int64,
    grad_active_row_stride: tl.int64,
    grad_active_column_stride: tl.int64,
    preactivation_row_stride: tl.int64,
    preactivation_column_stride: tl.int64,
    bandwidth: tl.float32,
    estimator: tl.int32,  # 0: no sums
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STEPS: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    ALIGNED: tl.constexpr,  # all but grad_active, whose rows mostly are a number each
):
    """The gradient by the pre-activation, and, over STEPS * ROWS rows, the sums of both gradients
    times the estimate's density."""
    row_block, column, _, _ = locate(columns, COLUMNS)
    threshold = load_row(threshold_pointer, column, columns)
    by_values = tl.zeros((ROWS, COLUMNS), tl.float32)
    by_active = tl.zeros((ROWS, COLUMNS), tl.float32)
    for step in range(STEPS):
        row = (row_block * STEPS + step) * ROWS + tl.arange(0, ROWS)
        mask = inside(row, rows, column, columns, ALIGNMENT, ALIGNED)
        z = load(
            preactivation_pointer, row, column, preactivation_row_stride,
            preactivation_column_stride, mask, ALIGNED,
        )  # fmt: skip
        grad_values = load(
            grad_values_pointer, row, column,
            grad_values_row_stride, grad_values_column_stride, mask, ALIGNED,
        )  # fmt: skip
        grad = tl.where(z <= threshold, 0.0, grad_values)
        store(grad_preactivation_pointer, grad, row, column, columns, mask, ALIGNED)
        if estimator != 0:
            grad_active = load(
                grad_active_pointer, row, column,
                grad_active_row_stride, grad_active_column_stride, mask, False,
            )  # fmt: skip
            values, active = weighted(grad_values, grad_active, z - threshold, bandwidth, estimator)
            by_values += values
            by_active += active
    if estimator != 0:
        partial = partial_pointer + 2 * row_block * columns + column
        tl.store(partial, tl.sum(by_values, axis=0), mask=column < columns)
        partial += columns
        tl.store(partial, tl.sum(by_active, axis=0), mask=column < columns)


@triton.jit(do_not_specialize=INTEGERS, do_not_specialize_on_alignment=POINTERS)
def threshold_kernel(
    partial_pointer,  # float32 [row_blocks, 2, columns]
    threshold_pointer,  # [columns]
    grad_threshold_pointer,  # [columns]
    columns: tl.int32,
    row_blocks: tl.int32,
    bandwidth: tl.float32,
    BLOCKS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The thresholds' gradient of the blocks' sums, which are added in a fixed order."""
    column = tl.program_id(0).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    by_values = tl.zeros((BLOCKS, COLUMNS), tl.float32)
    by_active = tl.zeros((BLOCKS, COLUMNS), tl.float32)
    for first in range(0, row_blocks, BLOCKS):
        block = first + tl.arange(0, BLOCKS)
        mask = (block < row_blocks)[:, None] & (column < columns)[None, :]
        partial = partial_pointer + 2 * block.to(tl.int64)[:, None] * columns + column[None, :]
        by_values += tl.load(partial, mask=mask, other=0.0)
        by_active += tl.load(partial + columns, mask=mask, other=0.0)
    mask = column < columns
    threshold = tl.load(threshold_pointer + column, mask=mask, other=0.0).to(tl.float32)
    total = tl.sum(by_values, axis=0) * threshold + tl.sum(by_active, axis=0)
    grad = round_to(tl.div_rn(-total, bandwidth), grad_threshold_pointer.dtype.element_ty)
    tl.store(grad_threshold_pointer + column, grad, mask=mask)


@triton.jit(do_not_specialize=INTEGERS, do_not_specialize_on_alignment=POINTERS)
def gated_kernel(
    product_pointer,  # [rows, columns], any strides
    gate_bias_pointer,  # [columns]
    scale_pointer,  # [columns]
    magnitude_bias_pointer,  # [columns]
    values_pointer,  # [rows, columns]
    opened_pointer,  # [rows, columns]
    totals_pointer,  # float32 [rows, column blocks]
    rows: tl.int32,
    columns: tl.int32,
    product_row_stride: tl.int64,
    product_column_stride: tl.int64,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """The values, what opens the gates, and its sum in each row of the block. NaN is open."""
    row_block, column, column_block, column_blocks = locate(columns, COLUMNS)
    row = row_block * ROWS + tl.arange(0, ROWS)
    mask = inside(row, rows, column, columns, ALIGNMENT, ALIGNED)
    product = load(
        product_pointer, row, column, product_row_stride, product_column_stride, mask, ALIGNED
    )
    gate = product + load_row(gate_bias_pointer, column, columns)
    scale = load_row(scale_pointer, column, columns)
    magnitude = product * scale + load_row(magnitude_bias_pointer, column, columns)
    opened = tl.where(gate <= 0.0, 0.0, gate)
    values = tl.where((gate <= 0.0) | (magnitude <= 0.0), 0.0, magnitude)
    store(values_pointer, values, row, column, columns, mask, ALIGNED)
    store(opened_pointer, opened, row, column, columns, mask, ALIGNED)
    total = tl.sum(tl.where(mask, opened, 0.0), axis=1)
    tl.store(totals_pointer + row * column_blocks + column_block, total, mask=row < rows)


@triton.jit(do_not_specialize=INTEGERS, do_not_specialize_on_alignment=POINTERS)
def gated_backward_kernel(
    grad_values_pointer,  # [rows, columns], any strides, also 0
    grad_opened_pointer,  # likewise
    grad_totals_pointer,  # float32 [rows]
    product_pointer,  # [rows, columns], any strides
    gate_bias_pointer,  # [columns]
    scale_pointer,  # [columns]
    magnitude_bias_pointer,  # [columns]
    grad_product_pointer,  # [rows, columns]
    partial_pointer,  # float32 [row blocks, 3, columns]: by gate_bias, scale, magnitude_bias
    rows: tl.int32,
    columns: tl.int32,
    grad_values_row_stride: tl.int64,
    grad_values_column_stride: tl.int64,
    grad_opened_row_stride: tl.int64,
    grad_opened_column_stride: tl.int64,
    grad_totals_stride: tl.int64,
    product_row_stride: tl.int64,
    product_column_stride: tl.int64,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STEPS: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """The gradient by the product, and, over STEPS * ROWS rows, the sums of the parameters'."""
    row_block, column, _, _ = locate(columns, COLUMNS)
    gate_bias = load_row(gate_bias_pointer, column, columns)
    scale = load_row(scale_pointer, column, columns)
    magnitude_bias = load_row(magnitude_bias_pointer, column, columns)
    by_gate_bias = tl.zeros((ROWS, COLUMNS), tl.float32)
    by_scale = tl.zeros((ROWS, COLUMNS), tl.float32)
    by_magnitude_bias = tl.zeros((ROWS, COLUMNS), tl.float32)
    for step in range(STEPS):
        row = (row_block * STEPS + step) * ROWS + tl.arange(0, ROWS)
        mask = inside(row, rows, column, columns, ALIGNMENT, ALIGNED)
        product = load(
            product_pointer, row, column, product_row_stride, product_column_stride, mask, ALIGNED
        )
        grad_values = load(
            grad_values_pointer, row, column,
            grad_values_row_stride, grad_values_column_stride, mask, ALIGNED,
        )  # fmt: skip
        grad_opened = load(
            grad_opened_pointer, row, column,
            grad_opened_row_stride, grad_opened_column_stride, mask, ALIGNED,
        )  # fmt: skip
        grad_totals = tl.load(
            grad_totals_pointer + row * grad_totals_stride, mask=row < rows, other=0.0
        )
        is_off = product + gate_bias <= 0.0
        is_zero = is_off | (product * scale + magnitude_bias <= 0.0)
        by_gate = tl.where(is_off, 0.0, grad_opened + grad_totals[:, None])
        by_magnitude = tl.where(is_zero, 0.0, grad_values)
        grad = by_gate + by_magnitude * scale
        store(grad_product_pointer, grad, row, column, columns, mask, ALIGNED)
        by_gate_bias += by_gate
        by_scale += by_magnitude * product
        by_magnitude_bias += by_magnitude
    partial = partial_pointer + 3 * row_block * columns + column
    tl.store(partial, tl.sum(by_gate_bias, axis=0), mask=column < columns)
    partial += columns
    tl.store(partial, tl.sum(by_scale, axis=0), mask=column < columns)
    partial += columns
    tl.store(partial, tl.sum(by_magnitude_bias, axis=0), mask=column < columns)


@triton.jit(do_not_specialize=INTEGERS, do_not_specialize_on_alignment=POINTERS)
def active_latents_kernel(
    values_pointer,  # [rows, columns], any strides
    counts_pointer,  # float32 [row blocks, columns]
    rows: tl.int32,
    columns: tl.int32,
    values_row_stride: tl.int64,
    values_column_stride: tl.int64,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STEPS: tl.constexpr,
):
    """In how many of STEPS * ROWS rows each latent is above 0."""
    row_block, column, _, _ = locate(columns, COLUMNS)
    counts = tl.zeros((ROWS, COLUMNS), tl.float32)
    for step in range(STEPS):
        row = (row_block * STEPS + step) * ROWS + tl.arange(0, ROWS)
        mask = inside(row, rows, column, columns, 1, False)
        values = load(
            values_pointer, row, column, values_row_stride, values_column_stride, mask, False
        )
        counts += tl.where(values > 0.0, 1.0, 0.0)
    pointers = counts_pointer + row_block * columns + column
    tl.store(pointers, tl.sum(counts, axis=0), mask=column < columns)
