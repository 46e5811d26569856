# mypy: allow-untyped-defs
"""GPU kernels for the reconstruction loss, fused with the decoder or with both layers."""

import triton
import triton.language as tl

from aefast.ops.reconstruction import triton as host
from aefast.ops.shared.triton_device import (
    GELU,
    SILU,
    activate,
    activation_gradient,
    log1p_exp_negative,
    round_to,
)
from aefast.ops.shared.triton_gemm_kernels import (
    as_operand,
    load_tile,
    multiply_tile,
    round_to_tf32,
    tile_start,
)

EPILOGUE_COLUMNS = tl.constexpr(host.EPILOGUE_COLUMNS)
CROSS_ENTROPY = tl.constexpr(host.LOSSES["bce"])


@triton.jit
def _loss(z, reconstruction, target, loss):
    """The loss of each element; z is the decoder's pre-activation."""
    difference = reconstruction - target
    value = difference * difference
    if loss == CROSS_ENTROPY:
        # From logits. In this order of terms the small loss of a confident, right prediction is
        # not rounded to 0.
        value = (1.0 - target) * z - tl.where(z < 0.0, z, 0.0) + log1p_exp_negative(tl.abs(z))
    return value


@triton.jit
def _gradients(z, reconstruction, target, loss, activation, scale):
    """The gradients by z and by the target, times scale."""
    difference = reconstruction - target
    grad_target = -2.0 * scale * difference
    saved = reconstruction
    if (activation == GELU) | (activation == SILU):
        saved = z
    grad = activation_gradient(-grad_target, saved, activation)
    if loss == CROSS_ENTROPY:
        grad = scale * difference  # the reconstruction is the sigmoid
        grad_target = -scale * z
    return grad, grad_target


@triton.jit
def _compare(
    z,
    row_start,
    column_start,
    rows,
    columns,
    padded_columns,
    target_pointer,
    bias_pointer,
    grad_output_pointer,
    grad_target_pointer,
    grad_bias_pointer,
    loss_pointer,
    target_row_stride,
    bias_size,
    scale,
    wants_output,
    wants_bias,
    wants_target,
    LOSS: tl.constexpr,
    ACTIVATION: tl.constexpr,
):
    """Compare a tile of the decoder's product with the target, a few columns at a time."""
    ROWS: tl.constexpr = z.shape[0]
    COLUMNS: tl.constexpr = z.shape[1]
    if COLUMNS > EPILOGUE_COLUMNS:
        halves = z.reshape(ROWS, 2, COLUMNS // 2).permute(0, 2, 1)
        first, second = tl.split(halves)
        _compare(
            first, row_start, column_start, rows, columns, padded_columns, target_pointer,
            bias_pointer, grad_output_pointer, grad_target_pointer, grad_bias_pointer, loss_pointer,
            target_row_stride, bias_size, scale, wants_output, wants_bias, wants_target, LOSS,
            ACTIVATION,
        )  # fmt: skip
        _compare(
            second, row_start, column_start + COLUMNS // 2, rows, columns, padded_columns,
            target_pointer, bias_pointer, grad_output_pointer, grad_target_pointer,
            grad_bias_pointer, loss_pointer, target_row_stride, bias_size, scale, wants_output,
            wants_bias, wants_target, LOSS, ACTIVATION,
        )  # fmt: skip
    else:
        row = row_start + tl.arange(0, ROWS)
        column = column_start + tl.arange(0, COLUMNS)
        wide_row = row.to(tl.int64)[:, None]
        inside = (row < rows)[:, None] & (column < columns)[None, :]
        written = (row < rows)[:, None] & (column < padded_columns)[None, :]
        bias = tl.load(bias_pointer + column, mask=column < bias_size, other=0.0)
        z += bias.to(tl.float32)[None, :]
        target_pointers = target_pointer + wide_row * target_row_stride + column[None, :]
        target = tl.load(tl.multiple_of(target_pointers, [1, 16]), mask=written, other=0.0)
        target = target.to(tl.float32)
        reconstruction = activate(z, ACTIVATION)
        value = tl.where(inside, _loss(z, reconstruction, target, LOSS), 0.0)
        grad, grad_target = _gradients(z, reconstruction, target, LOSS, ACTIVATION, scale)
        grad = tl.where(inside, grad, 0.0)
        row_tile = (row_start // ROWS).to(tl.int64)
        pieces = tl.cdiv(columns, COLUMNS)
        piece = column_start // COLUMNS
        tl.store(loss_pointer + row_tile * pieces + piece, tl.sum(value), mask=piece < pieces)
        if wants_bias != 0:
            sums = tl.sum(grad, axis=0)
            tl.store(grad_bias_pointer + row_tile * columns + column, sums, mask=column < columns)
        offset = wide_row * padded_columns + column[None, :]
        dtype: tl.constexpr = grad_output_pointer.dtype.element_ty
        if wants_output != 0:
            pointers = tl.multiple_of(grad_output_pointer + offset, [1, 16])
            tl.store(pointers, round_to(grad, dtype), mask=written)
        if wants_target != 0:
            pointers = tl.multiple_of(grad_target_pointer + offset, [1, 16])
            tl.store(pointers, round_to(grad_target, dtype), mask=written)


@triton.jit(
    do_not_specialize=[
        "left_row_stride",
        "right_row_stride",
        "left_term_rows",
        "right_term_rows",
        "target_row_stride",
        "rows",
        "columns",
        "depth",
        "bias_size",
        "scale",
        "wants_output",
        "wants_bias",
        "wants_target",
    ],
    do_not_specialize_on_alignment=[
        "left",
        "right",
        "target_pointer",
        "bias_pointer",
        "grad_output_pointer",
        "grad_target_pointer",
        "grad_bias_pointer",
        "loss_pointer",
    ],
)
def compare_kernel(
    left,  # the code, [rows, depth]
    right,  # the decoder's weight, [columns, depth]; stored [depth, columns] if RIGHT_BY_DEPTH
    target_pointer,  # [rows, columns padded to whole units]
    bias_pointer,  # [bias_size]
    grad_output_pointer,  # [rows, columns padded], written if wants_output
    grad_target_pointer,  # [rows, columns padded], written if wants_target
    grad_bias_pointer,  # [row tiles, columns] float32, written if wants_bias
    loss_pointer,  # [row tiles, pieces of columns] float32
    left_row_stride: tl.int64,
    right_row_stride: tl.int64,
    left_term_rows: tl.int32,  # between the first rows of two terms of left
    right_term_rows: tl.int32,
    target_row_stride: tl.int64,
    rows: tl.int32,
    columns: tl.int32,
    depth: tl.int32,
    bias_size: tl.int32,  # columns, or 0 for no bias
    scale: tl.float32,
    wants_output: tl.int32,
    wants_bias: tl.int32,
    wants_target: tl.int32,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
    LEFT_BY_DEPTH: tl.constexpr,
    RIGHT_BY_DEPTH: tl.constexpr,
    LEFT_TERMS: tl.constexpr,
    RIGHT_TERMS: tl.constexpr,
    ALIGNMENT: tl.constexpr,  # elements of an operand in 16 bytes
    DESCRIPTORS: tl.constexpr,
    TF32: tl.constexpr,
    ROUND: tl.constexpr,
    LOSS: tl.constexpr,
    ACTIVATION: tl.constexpr,
):
    """The loss of act(left @ right.T + bias) and its gradients; the product is never written."""
    # One tile for each program: Triton 3.7 cannot flatten a persistent loop around the branches.
    row_tiles = tl.cdiv(rows, BLOCK_ROWS)
    column_tiles = tl.cdiv(columns, BLOCK_COLUMNS)
    row_start, column_start = tile_start(
        tl.program_id(0), row_tiles, column_tiles, BLOCK_ROWS, BLOCK_COLUMNS
    )
    z = multiply_tile(
        left, right, left_row_stride, right_row_stride, left_term_rows, right_term_rows, row_start,
        column_start, rows, columns, depth, 0, tl.cdiv(depth, BLOCK_DEPTH), BLOCK_ROWS,
        BLOCK_COLUMNS, BLOCK_DEPTH, LEFT_BY_DEPTH, RIGHT_BY_DEPTH, LEFT_TERMS, RIGHT_TERMS,
        ALIGNMENT, DESCRIPTORS, TF32, ROUND,
    )  # fmt: skip
    OUTPUT_ALIGNMENT: tl.constexpr = 128 // target_pointer.dtype.element_ty.primitive_bitwidth
    padded_columns = tl.cdiv(columns, OUTPUT_ALIGNMENT) * OUTPUT_ALIGNMENT
    _compare(
        z, row_start, column_start, rows, columns, padded_columns, target_pointer, bias_pointer,
        grad_output_pointer, grad_target_pointer, grad_bias_pointer, loss_pointer,
        target_row_stride, bias_size, scale, wants_output, wants_bias, wants_target, LOSS,
        ACTIVATION,
    )  # fmt: skip


@triton.jit(
    do_not_specialize=[
        "x_row_stride",
        "encoder_row_stride",
        "decoder_row_stride",
        "target_row_stride",
        "rows",
        "columns",
        "hidden",
        "encoder_bias_size",
        "decoder_bias_size",
        "loss",
        "activation",
        "output_activation",
    ],
    do_not_specialize_on_alignment=[
        "x_pointer",
        "encoder_pointer",
        "decoder_pointer",
        "target_pointer",
        "encoder_bias_pointer",
        "decoder_bias_pointer",
        "loss_pointer",
    ],
)
def loss_kernel(
    x_pointer,  # [rows, columns padded to whole units]
    encoder_pointer,  # [hidden, columns padded]
    decoder_pointer,  # [columns, hidden padded]
    target_pointer,  # [rows, columns padded]
    encoder_bias_pointer,  # [encoder_bias_size]
    decoder_bias_pointer,  # [decoder_bias_size]
    loss_pointer,  # [programs] float32
    x_row_stride: tl.int64,
    encoder_row_stride: tl.int64,
    decoder_row_stride: tl.int64,
    target_row_stride: tl.int64,
    rows: tl.int32,
    columns: tl.int32,
    hidden: tl.int32,
    encoder_bias_size: tl.int32,  # hidden, or 0 for no bias
    decoder_bias_size: tl.int32,  # columns, or 0 for no bias
    loss: tl.int32,
    activation: tl.int32,
    output_activation: tl.int32,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr,  # units of the code that are computed at a time
    HIDDEN_BLOCKS: tl.constexpr,  # 1 or 2; together at least `hidden`
    ALIGNMENT: tl.constexpr,  # elements in 16 bytes
):
    """The loss of BLOCK_ROWS rows from x. Their code stays in registers."""
    row_start = tl.program_id(0) * BLOCK_ROWS
    code = _encode(
        x_pointer, encoder_pointer, encoder_bias_pointer, x_row_stride, encoder_row_stride,
        rows, columns, hidden, encoder_bias_size, activation, row_start, 0,
        BLOCK_ROWS, BLOCK_COLUMNS, BLOCK_HIDDEN, ALIGNMENT,
    )  # fmt: skip
    if HIDDEN_BLOCKS == 2:
        second_code = _encode(
            x_pointer, encoder_pointer, encoder_bias_pointer, x_row_stride, encoder_row_stride,
            rows, columns, hidden, encoder_bias_size, activation, row_start, BLOCK_HIDDEN,
            BLOCK_ROWS, BLOCK_COLUMNS, BLOCK_HIDDEN, ALIGNMENT,
        )  # fmt: skip
    row = row_start + tl.arange(0, BLOCK_ROWS)
    total = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), dtype=tl.float32)
    for start in range(0, columns, BLOCK_COLUMNS):
        decoder = load_tile(
            decoder_pointer, decoder_row_stride, start, 0, columns, hidden,
            BLOCK_COLUMNS, BLOCK_HIDDEN, ALIGNMENT, False,
        )  # fmt: skip
        z = _dot(code, decoder.T, tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), dtype=tl.float32))
        if HIDDEN_BLOCKS == 2:
            second_decoder = load_tile(
                decoder_pointer, decoder_row_stride, start, BLOCK_HIDDEN, columns, hidden,
                BLOCK_COLUMNS, BLOCK_HIDDEN, ALIGNMENT, False,
            )  # fmt: skip
            z = _dot(second_code, second_decoder.T, z)
        target = load_tile(
            target_pointer, target_row_stride, row_start, start, rows, columns,
            BLOCK_ROWS, BLOCK_COLUMNS, ALIGNMENT, False,
        )  # fmt: skip
        column = start + tl.arange(0, BLOCK_COLUMNS)
        bias = tl.load(decoder_bias_pointer + column, mask=column < decoder_bias_size, other=0.0)
        z += bias.to(tl.float32)[None, :]
        value = _loss(z, activate(z, output_activation), target.to(tl.float32), loss)
        total += tl.where((row < rows)[:, None] & (column < columns)[None, :], value, 0.0)
    tl.store(loss_pointer + tl.program_id(0), tl.sum(total))


@triton.jit
def _encode(
    x_pointer,
    encoder_pointer,
    encoder_bias_pointer,
    x_row_stride,
    encoder_row_stride,
    rows,
    columns,
    hidden,
    encoder_bias_size,
    activation,
    row_start,
    first_unit,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr,
    ALIGNMENT: tl.constexpr,
):
    """BLOCK_HIDDEN units of the code of BLOCK_ROWS rows, rounded to the factors' dtype."""
    code = tl.zeros((BLOCK_ROWS, BLOCK_HIDDEN), dtype=tl.float32)
    for start in range(0, columns, BLOCK_COLUMNS):
        x = load_tile(
            x_pointer, x_row_stride, row_start, start, rows, columns,
            BLOCK_ROWS, BLOCK_COLUMNS, ALIGNMENT, False,
        )  # fmt: skip
        weight = load_tile(
            encoder_pointer, encoder_row_stride, first_unit, start, hidden, columns,
            BLOCK_HIDDEN, BLOCK_COLUMNS, ALIGNMENT, False,
        )  # fmt: skip
        code = _dot(x, weight.T, code)
    unit = first_unit + tl.arange(0, BLOCK_HIDDEN)
    bias = tl.load(encoder_bias_pointer + unit, mask=unit < encoder_bias_size, other=0.0)
    # Units past `hidden` are act(0). They multiply zeros of the decoder's padded weight.
    code = activate(code + bias.to(tl.float32)[None, :], activation)
    return round_to(code, x_pointer.dtype.element_ty)


@triton.jit
def _dot(left, right, accumulator):
    """accumulator + left @ right; float32 factors are rounded to TF32."""
    if left.dtype == tl.float32:
        left, right = round_to_tf32(left), round_to_tf32(right)
        return tl.dot(left, right, accumulator, input_precision="tf32")
    else:
        return tl.dot(as_operand(left, left.dtype), as_operand(right, right.dtype), accumulator)
