# mypy: allow-untyped-defs
"""The reconstruction loss on the GPU: the decoder's product is compared where it is made.

``compare_kernel`` holds a tile of z in registers, makes the loss and its gradients of it and writes
those alone; the other products are shared/triton_gemm.py's. Where no gradient is wanted and a
code of up to 512 units fits on the chip, ``loss_kernel`` goes from x to the loss in one: it walks x
once for the code of some rows, and a second time to compare.

Sums are deterministic: each tile writes its own part, added up afterwards in the order of tiles.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from aefast import backend
from aefast.ops.jacobian.kernels import Kernels as Contraction
from aefast.ops.linear_act import FROM_PREACTIVATION, what_backward_needs
from aefast.ops.reconstruction import panels
from aefast.ops.reconstruction.settings import PerInput, Settings
from aefast.ops.shared import triton_activation, triton_gemm
from aefast.ops.shared.triton import (
    ACTIVATIONS,
    GELU,
    SILU,
    TYPE_NAMES,
    Variant,
    activate,
    activation_gradient,
    device_of,
    log1p_exp_negative,
    round_to,
)
from aefast.ops.shared.triton_gemm import (
    Tile,
    as_operand,
    load_tile,
    multiply_tile,
    place_of,
    round_to_tf32,
)

# How wide a piece of a tile is: an epilogue needs registers for every element in flight.
PIECE = tl.constexpr(32)

LOSSES = {"mse": 0, "bce": 1}
CROSS_ENTROPY = tl.constexpr(LOSSES["bce"])


@triton.jit
def _loss(z, reconstruction, target, loss):
    """The loss of each element."""
    difference = reconstruction - target
    value = difference * difference
    if loss == CROSS_ENTROPY:
        # From logits. Summed in this order, a confident and right prediction keeps its small loss.
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
    loss,
    activation,
    scale,
    wants_output,
    wants_bias,
    wants_target,
):
    """Compare a tile of the decoder's product with the target, a narrow piece at a time."""
    ROWS: tl.constexpr = z.shape[0]
    COLUMNS: tl.constexpr = z.shape[1]
    if COLUMNS > PIECE:
        halves = z.reshape(ROWS, 2, COLUMNS // 2).permute(0, 2, 1)
        first, second = tl.split(halves)
        _compare(
            first, row_start, column_start, rows, columns, padded_columns, target_pointer,
            bias_pointer, grad_output_pointer, grad_target_pointer, grad_bias_pointer, loss_pointer,
            target_row_stride, bias_size, loss, activation, scale, wants_output, wants_bias,
            wants_target,
        )  # fmt: skip
        _compare(
            second, row_start, column_start + COLUMNS // 2, rows, columns, padded_columns,
            target_pointer, bias_pointer, grad_output_pointer, grad_target_pointer,
            grad_bias_pointer, loss_pointer, target_row_stride, bias_size, loss, activation, scale,
            wants_output, wants_bias, wants_target,
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
        reconstruction = activate(z, activation)
        value = tl.where(inside, _loss(z, reconstruction, target, loss), 0.0)
        grad, grad_target = _gradients(z, reconstruction, target, loss, activation, scale)
        grad = tl.where(inside, grad, 0.0)
        part = (row_start // ROWS).to(tl.int64)
        pieces = tl.cdiv(columns, COLUMNS)
        piece = column_start // COLUMNS
        tl.store(loss_pointer + part * pieces + piece, tl.sum(value), mask=piece < pieces)
        if wants_bias != 0:
            sums = tl.sum(grad, axis=0)
            tl.store(grad_bias_pointer + part * columns + column, sums, mask=column < columns)
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
        "target_row_stride",
        "rows",
        "columns",
        "depth",
        "bias_size",
        "loss",
        "activation",
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
    target_row_stride: tl.int64,
    rows: tl.int32,
    columns: tl.int32,
    depth: tl.int32,
    bias_size: tl.int32,  # columns, or 0 for no bias
    loss: tl.int32,
    activation: tl.int32,
    scale: tl.float32,
    wants_output: tl.int32,
    wants_bias: tl.int32,
    wants_target: tl.int32,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
    LEFT_BY_DEPTH: tl.constexpr,
    RIGHT_BY_DEPTH: tl.constexpr,
    UNIT: tl.constexpr,  # elements in 16 bytes
    DESCRIPTORS: tl.constexpr,
    TF32: tl.constexpr,
    ROUND: tl.constexpr,
):
    """The loss of act(left @ right.T + bias) and its gradients; the product is never written."""
    # A program a tile: Triton 3.7 cannot flatten a persistent loop around the branches below.
    row_tiles = tl.cdiv(rows, BLOCK_ROWS)
    column_tiles = tl.cdiv(columns, BLOCK_COLUMNS)
    row_start, column_start = place_of(
        tl.program_id(0), row_tiles, column_tiles, BLOCK_ROWS, BLOCK_COLUMNS
    )
    z = multiply_tile(
        left, right, left_row_stride, right_row_stride, row_start, column_start,
        rows, columns, depth, 0, tl.cdiv(depth, BLOCK_DEPTH), BLOCK_ROWS, BLOCK_COLUMNS,
        BLOCK_DEPTH, LEFT_BY_DEPTH, RIGHT_BY_DEPTH, UNIT, DESCRIPTORS, TF32, ROUND,
    )  # fmt: skip
    _compare(
        z, row_start, column_start, rows, columns, tl.cdiv(columns, UNIT) * UNIT, target_pointer,
        bias_pointer, grad_output_pointer, grad_target_pointer, grad_bias_pointer, loss_pointer,
        target_row_stride, bias_size, loss, activation, scale, wants_output, wants_bias,
        wants_target,
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
    PART: tl.constexpr,  # units of the code that are made at a time
    PARTS: tl.constexpr,  # 1 or 2; together at least `hidden`
    UNIT: tl.constexpr,  # elements in 16 bytes
):
    """From x to the loss of BLOCK_ROWS rows, whose code never leaves the chip."""
    row_start = tl.program_id(0) * BLOCK_ROWS
    code = _encode(
        x_pointer, encoder_pointer, encoder_bias_pointer, x_row_stride, encoder_row_stride,
        rows, columns, hidden, encoder_bias_size, activation, row_start, 0,
        BLOCK_ROWS, BLOCK_COLUMNS, PART, UNIT,
    )  # fmt: skip
    if PARTS == 2:
        second_code = _encode(
            x_pointer, encoder_pointer, encoder_bias_pointer, x_row_stride, encoder_row_stride,
            rows, columns, hidden, encoder_bias_size, activation, row_start, PART,
            BLOCK_ROWS, BLOCK_COLUMNS, PART, UNIT,
        )  # fmt: skip
    row = row_start + tl.arange(0, BLOCK_ROWS)
    total = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), dtype=tl.float32)
    for start in range(0, columns, BLOCK_COLUMNS):
        decoder = load_tile(
            decoder_pointer, decoder_row_stride, start, 0, columns, hidden,
            BLOCK_COLUMNS, PART, UNIT, False,
        )  # fmt: skip
        z = _dot(code, decoder.T, tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), dtype=tl.float32))
        if PARTS == 2:
            second_decoder = load_tile(
                decoder_pointer, decoder_row_stride, start, PART, columns, hidden,
                BLOCK_COLUMNS, PART, UNIT, False,
            )  # fmt: skip
            z = _dot(second_code, second_decoder.T, z)
        target = load_tile(
            target_pointer, target_row_stride, row_start, start, rows, columns,
            BLOCK_ROWS, BLOCK_COLUMNS, UNIT, False,
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
    PART: tl.constexpr,
    UNIT: tl.constexpr,
):
    """PART units of the code of BLOCK_ROWS rows, rounded to the factors' dtype."""
    code = tl.zeros((BLOCK_ROWS, PART), dtype=tl.float32)
    for start in range(0, columns, BLOCK_COLUMNS):
        x = load_tile(
            x_pointer, x_row_stride, row_start, start, rows, columns,
            BLOCK_ROWS, BLOCK_COLUMNS, UNIT, False,
        )  # fmt: skip
        weight = load_tile(
            encoder_pointer, encoder_row_stride, first_unit, start, hidden, columns,
            PART, BLOCK_COLUMNS, UNIT, False,
        )  # fmt: skip
        code = _dot(x, weight.T, code)
    unit = first_unit + tl.arange(0, PART)
    bias = tl.load(encoder_bias_pointer + unit, mask=unit < encoder_bias_size, other=0.0)
    # Past `hidden` the code is act(0), and meets zeros of the decoder's weight.
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


@dataclass(frozen=True)
class Strip:
    """The rows whose code one program of ``loss_kernel`` holds, and how."""

    rows: int
    columns: int  # of x and of the reconstruction at a time
    part: int  # units of the code that are made at a time: a wider accumulator spills
    parts: int
    warps: int
    stages: int


# float32 at "highest" takes two kernels: the terms of its factors would not fit beside a code.
STRIPS: dict[int, dict[str, tuple[Strip, ...]]] = {
    80: {
        "half": (Strip(64, 64, 256, 1, 8, 2), Strip(64, 64, 256, 2, 8, 2)),
        "tf32": (Strip(64, 32, 256, 1, 8, 2), Strip(64, 16, 256, 2, 8, 1)),
    },
    90: {
        "half": (Strip(64, 64, 256, 1, 8, 2), Strip(64, 64, 256, 2, 8, 2)),
        "tf32": (Strip(64, 32, 256, 1, 8, 2), Strip(64, 16, 256, 2, 8, 2)),
    },
    100: {
        "half": (Strip(64, 64, 128, 2, 8, 2), Strip(64, 64, 256, 2, 8, 2)),
        "tf32": (Strip(64, 32, 256, 1, 8, 2),),
    },
}


def _loss_variant(dtype: torch.dtype, strip: Strip) -> Variant:
    names = ("x", "encoder", "decoder", "target", "encoder_bias", "decoder_bias")
    types = {f"{name}_pointer": f"*{TYPE_NAMES[dtype]}" for name in names}
    types["loss_pointer"] = "*fp32"
    constants = {
        "BLOCK_ROWS": strip.rows,
        "BLOCK_COLUMNS": strip.columns,
        "PART": strip.part,
        "PARTS": strip.parts,
        "UNIT": triton_gemm.unit(dtype),
    }
    return Variant(loss_kernel, types, constants, strip.warps, strip.stages, tensor_cores=True)


def _strip(inputs: PerInput[Any]) -> Strip | None:
    """How ``loss_kernel`` serves; None where two kernels do: a large code, or few rows."""
    x, weight = inputs.x, inputs.encoder_weight
    generation, multiprocessors = triton_gemm.chip(x.device)
    fitting = [
        strip
        for strip in STRIPS[generation].get(triton_gemm.kind_of(x.dtype), ())
        if strip.parts * strip.part >= weight.shape[0]
        and 2 * triton.cdiv(x.shape[0], strip.rows) >= multiprocessors
    ]
    return fitting[0] if fitting else None


def _loss_alone(inputs: PerInput[Any], settings: Settings, strip: Strip) -> Tensor:
    x, encoder_weight, encoder_bias, decoder_weight, decoder_bias, target = inputs
    if decoder_weight is None:
        decoder_weight = encoder_weight.t()
    hidden, columns = encoder_weight.shape
    programs = triton.cdiv(x.shape[0], strip.rows)
    losses = x.new_empty(programs, dtype=torch.float32)
    tensors = [
        triton_gemm.aligned(tensor)
        for tensor in (x, encoder_weight, decoder_weight, x if target is None else target)
    ]
    with device_of(x):
        _loss_variant(x.dtype, strip).launch(
            programs,
            *tensors,
            x if encoder_bias is None else encoder_bias.contiguous(),
            x if decoder_bias is None else decoder_bias.contiguous(),
            losses,
            *(tensor.stride(0) for tensor in tensors),
            x.shape[0],
            columns,
            hidden,
            0 if encoder_bias is None else hidden,
            0 if decoder_bias is None else columns,
            LOSSES[settings.loss],
            ACTIVATIONS[settings.activation],
            ACTIVATIONS[settings.output_activation],
        )
    return losses.sum(dtype=torch.float64)


def _compare_variant(
    generation: int, dtype: torch.dtype, kind: str, tile: Tile, layout: tuple[bool, bool]
) -> Variant:
    pointer = f"*{TYPE_NAMES[dtype]}"
    types = triton_gemm.operand_types(generation, dtype, tile, layout)
    types |= dict.fromkeys(
        ("target_pointer", "bias_pointer", "grad_output_pointer", "grad_target_pointer"), pointer
    )
    types |= dict.fromkeys(("grad_bias_pointer", "loss_pointer"), "*fp32")
    constants = triton_gemm.tile_constants(generation, dtype, kind, tile, layout)
    return Variant(compare_kernel, types, constants, tile.warps, tile.stages, tensor_cores=True)


def variants(generation: int) -> Iterator[Variant]:
    """What :func:`reconstruction_loss` can launch beside corrupt's and linear_act's kernels."""
    for dtype in TYPE_NAMES:
        for kind in ("float32", "tf32") if dtype == torch.float32 else ("half",):
            for tile in triton_gemm.TILES[generation][kind]:
                for right_by_depth in (False, True):
                    layout = (False, right_by_depth)
                    yield _compare_variant(generation, dtype, kind, tile, layout)
            for strip in STRIPS[generation].get(kind, ()):
                yield _loss_variant(dtype, strip)


def reconstruction_loss(
    inputs: PerInput[Any], settings: Settings, scale: float, needed: PerInput[bool]
) -> tuple[float | Tensor, PerInput[Any]]:
    if settings.corruption is None and settings.contraction == 0 and not any(needed):
        strip = _strip(inputs)
        if strip is not None:
            return _loss_alone(inputs, settings, strip), PerInput(*[None] * len(inputs))
    return panels.reconstruction_loss(_Kernels(), inputs, settings, scale, needed)


def pays(inputs: PerInput[Any]) -> bool:
    return True


class _Kernels:
    """What panels.Kernels asks for."""

    panel_bytes = 128 << 20  # a panel has to fill all multiprocessors several times

    def operand(self, right: Tensor) -> Tensor:
        return right

    def corrupt(
        self, x: Tensor, kind: str, level: float, seed: int | Tensor, row_offset: int
    ) -> Tensor:
        corrupt = backend.implementation("corrupt", "triton").corrupt
        return corrupt(x, kind, level, 0.0, 1.0, seed, row_offset)

    def encode(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, activation: str
    ) -> tuple[Tensor, Tensor | None]:
        keep_preactivation = activation in FROM_PREACTIVATION
        code, preactivation = triton_gemm.multiply(x, weight, bias, activation, keep_preactivation)
        return code, what_backward_needs(activation, code, preactivation)

    def compare(
        self,
        code: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor,
        settings: Settings,
        scale: float,
        wanted: panels.Wanted,
    ) -> panels.Compared:
        read = triton_gemm.factors(code, weight, plain=False)
        rows, columns, _ = read.shape
        generation, multiprocessors = triton_gemm.chip(code.device)
        tile, _ = triton_gemm.choose_tile(generation, multiprocessors, read.kind, read.shape)
        row_tiles = triton.cdiv(rows, tile.rows)
        target = triton_gemm.aligned(target)
        padded_columns = triton_gemm.padded(columns, code.dtype)
        unwritten = code  # where a kernel takes a pointer that it makes no use of
        grad_output = code.new_empty(rows, padded_columns) if wanted.output else None
        grad_target = code.new_empty(rows, padded_columns) if wanted.target else None
        float32 = partial(code.new_empty, dtype=torch.float32)
        losses = float32(row_tiles, triton.cdiv(columns, PIECE.value))
        grad_bias = float32(row_tiles, columns) if wanted.bias else None
        chosen = _compare_variant(generation, code.dtype, read.kind, tile, read.layout)
        with device_of(code):
            chosen.launch(
                row_tiles * triton.cdiv(columns, tile.columns),
                *read.operands(generation, tile),
                target,
                unwritten if bias is None else bias.contiguous(),
                unwritten if grad_output is None else grad_output,
                unwritten if grad_target is None else grad_target,
                losses if grad_bias is None else grad_bias,
                losses,
                *read.strides,
                target.stride(0),
                *read.shape,
                0 if bias is None else columns,
                LOSSES[settings.loss],
                ACTIVATIONS[settings.output_activation],
                scale,
                int(wanted.output),
                int(wanted.bias),
                int(wanted.target),
            )
        return panels.Compared(
            losses.sum(dtype=torch.float64),
            None if grad_output is None else grad_output[:, :columns],
            None if grad_bias is None else grad_bias.sum(0, dtype=torch.float64),
            None if grad_target is None else grad_target[:, :columns],
        )

    def encode_backward(
        self,
        grad_output: Tensor,
        weight: Tensor,
        saved: Tensor | None,
        activation: str,
        bias_needed: bool,
    ) -> tuple[Tensor, Tensor | None]:
        grad, _ = triton_gemm.multiply(grad_output, weight)
        if saved is None:
            return grad, grad.sum(0, dtype=torch.float64) if bias_needed else None
        grad, partials = triton_activation.activation_backward(grad, saved, activation)
        grad_bias = partials.sum(0, dtype=torch.float64) if bias_needed else None
        return grad[:, : weight.shape[0]], grad_bias

    def contraction(self) -> Contraction:
        return backend.implementation("jacobian", "triton").kernels()

    def multiply(self, left: Tensor, right: Tensor) -> Tensor:
        return triton_gemm.multiply(left, right)[0]

    def add_product(self, left: Tensor, right: Tensor, total: Tensor | None) -> Tensor:
        return triton_gemm.add_product(left.t(), right.t(), total)
