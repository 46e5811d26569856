# mypy: allow-untyped-defs
"""Matrix products on the GPU: the tiles that every product kernel shares, and a dense layer's.

``gemm_kernel`` makes a layer's output, its input's gradient and its weight's; the activation is a
number it branches on once a tile, so that one binary serves all eight. Where the chip has a tensor
memory accelerator (sm_90 on) tiles arrive through tensor descriptors, elsewhere through pointers.

float32 follows ``torch.get_float32_matmul_precision()``:

``"highest"``
    Six bfloat16 products. A float32 is the exact sum of three bfloat16 numbers, and the three
    products left out are under 2^-23 of the term they belong to. Tensor cores round their sums
    toward zero, a bias that grows with depth, so each block of the depth starts from zero and is
    added to the running sum by ordinary arithmetic. ``tf32x3`` keeps 22 bits of each factor and
    would miss float32's accuracy at small depths; ``ieee`` leaves the tensor cores idle.
``"high"``, ``"medium"``
    One TF32 product, as torch's own CUDA matmul does for both.

Reference: Ootomo, Yokota, "Recovering single precision accuracy from tensor cores while surpassing
the FP32 theoretical peak performance", IJHPCA 36, 2022.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from aefast.ops.shared.triton import (
    ACTIVATIONS,
    INTERPRETED,
    TYPE_NAMES,
    Variant,
    activate,
    device_of,
    round_to,
)

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
    UNIT: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
):
    if DESCRIPTORS:
        tile = source.load([row_start, column_start])
    else:
        row = row_start + tl.arange(0, ROWS)
        column = column_start + tl.arange(0, COLUMNS)
        pointers = source + row.to(tl.int64)[:, None] * row_stride + column[None, :]
        # Rows are padded to whole units: the mask, too, is constant over every 16 bytes.
        mask = (row < rows)[:, None] & (column < tl.cdiv(columns, UNIT) * UNIT)[None, :]
        tile = tl.load(tl.multiple_of(pointers, [1, 16]), mask=mask, other=0.0)
    return tile


@triton.jit
def round_to_tf32(x):
    """float32 x with 11 significant bits; the tensor cores would cut the others off."""
    bits = tl.where(x == x, x, 0.0).to(tl.uint32, bitcast=True)
    rounded = ((bits + 0x1000) & 0xFFFFE000).to(tl.float32, bitcast=True)
    return tl.where(x == x, rounded, x)


@triton.jit
def as_operand(x, dtype: tl.constexpr):
    """x for the tensor cores; the interpreter multiplies bfloat16 as if it were integers."""
    if INTERPRETED:
        return x.to(tl.float32)
    else:
        return x.to(dtype)


@triton.jit
def _split(x):
    """float32 x as the sum of three bfloat16 numbers, exactly, the largest first."""
    cut = (x.to(tl.uint32, bitcast=True) & 0xFFFF0000).to(tl.float32, bitcast=True)
    # Rounding leaves the least behind, but would make an infinity of the largest numbers.
    high = tl.where(tl.abs(x) < 3.3e38, round_to(x, tl.bfloat16).to(tl.float32), cut)
    middle = round_to(x - high, tl.bfloat16)
    low = x - high - middle.to(tl.float32)
    return (
        as_operand(high, tl.bfloat16),
        as_operand(middle, tl.bfloat16),
        as_operand(low, tl.bfloat16),
    )


@triton.jit
def _multiply_float32(left, right, accumulator):
    """accumulator + left @ right by six bfloat16 products, smallest first."""
    left_high, left_middle, left_low = _split(left)
    right_high, right_middle, right_low = _split(right)
    product = tl.dot(left_low, right_high)
    product = tl.dot(left_high, right_low, product)
    product = tl.dot(left_middle, right_middle, product)
    product = tl.dot(left_middle, right_high, product)
    product = tl.dot(left_high, right_middle, product)
    # An infinity leaves NaN in its lower parts; the leading product alone then says what it gives.
    product = tl.where(product == product, product, 0.0)
    return accumulator + tl.dot(left_high, right_high, product)


@triton.jit
def place_of(tile, row_tiles, column_tiles, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr):
    """Where a tile of the output starts; row tiles that share a right operand follow each other."""
    group = tile // (column_tiles * GROUP)
    group_rows = tl.minimum(row_tiles - group * GROUP, GROUP)
    place = tile % (column_tiles * GROUP)
    row_start = (group * GROUP + place % group_rows) * BLOCK_ROWS
    return row_start, (place // group_rows) * BLOCK_COLUMNS


@triton.jit
def multiply_tile(
    left,
    right,
    left_row_stride,
    right_row_stride,
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
    UNIT: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
    TF32: tl.constexpr,
    ROUND: tl.constexpr,
):
    """One tile of left @ right.T, [BLOCK_ROWS, BLOCK_COLUMNS] float32, over `steps` of depth."""
    accumulator = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), dtype=tl.float32)
    for step in range(steps):
        depth_start = (first_step + step) * BLOCK_DEPTH
        if LEFT_BY_DEPTH:
            left_tile = load_tile(
                left, left_row_stride, depth_start, row_start, depth, rows,
                BLOCK_DEPTH, BLOCK_ROWS, UNIT, DESCRIPTORS,
            ).T  # fmt: skip
        else:
            left_tile = load_tile(
                left, left_row_stride, row_start, depth_start, rows, depth,
                BLOCK_ROWS, BLOCK_DEPTH, UNIT, DESCRIPTORS,
            )  # fmt: skip
        if RIGHT_BY_DEPTH:
            right_tile = load_tile(
                right, right_row_stride, depth_start, column_start, depth, columns,
                BLOCK_DEPTH, BLOCK_COLUMNS, UNIT, DESCRIPTORS,
            )  # fmt: skip
        else:
            right_tile = load_tile(
                right, right_row_stride, column_start, depth_start, columns, depth,
                BLOCK_COLUMNS, BLOCK_DEPTH, UNIT, DESCRIPTORS,
            ).T  # fmt: skip
        if left_tile.dtype != tl.float32:
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
    activation,
    keep_preactivation,
    accumulate,
    FUSED: tl.constexpr,
):
    """Add the bias, apply the activation and store, a narrow part of the tile at a time.

    An activation needs registers for every element in flight; a whole wide tile at once spills.
    """
    ROWS: tl.constexpr = accumulator.shape[0]
    COLUMNS: tl.constexpr = accumulator.shape[1]
    if COLUMNS > 32:
        halves = accumulator.reshape(ROWS, 2, COLUMNS // 2).permute(0, 2, 1)
        first, second = tl.split(halves)
        _finish(
            first, first_output_row, row_start, column_start, rows, padded_columns,
            output_pointer, preactivation_pointer, bias_pointer,
            bias_size, activation, keep_preactivation, accumulate, FUSED,
        )  # fmt: skip
        _finish(
            second, first_output_row, row_start, column_start + COLUMNS // 2, rows, padded_columns,
            output_pointer, preactivation_pointer, bias_pointer,
            bias_size, activation, keep_preactivation, accumulate, FUSED,
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
            accumulator = activate(accumulator, activation)
        pointers = tl.multiple_of(output_pointer + offset, [1, 16])
        if not FUSED:
            already = tl.load(pointers, mask=mask & (accumulate != 0), other=0.0)
            accumulator += already.to(tl.float32)
        tl.store(pointers, round_to(accumulator, dtype), mask=mask)


@triton.jit(
    do_not_specialize=[
        "left_row_stride",
        "right_row_stride",
        "rows",
        "columns",
        "depth",
        "splits",
        "bias_size",
        "activation",
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
    left,  # [rows, depth]; stored [depth, rows] if LEFT_BY_DEPTH
    right,  # [columns, depth]; stored [depth, columns] if RIGHT_BY_DEPTH
    output_pointer,  # [splits, rows, columns padded to whole units]
    preactivation_pointer,  # [rows, columns padded], written only if keep_preactivation
    bias_pointer,  # [bias_size]
    left_row_stride: tl.int64,
    right_row_stride: tl.int64,
    rows: tl.int32,
    columns: tl.int32,
    depth: tl.int32,
    splits: tl.int32,  # parts that the depth is cut into, each summed on its own
    bias_size: tl.int32,  # columns, or 0 for no bias
    activation: tl.int32,
    keep_preactivation: tl.int32,
    accumulate: tl.int32,  # add to the output, where nothing is fused
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
    LEFT_BY_DEPTH: tl.constexpr,
    RIGHT_BY_DEPTH: tl.constexpr,
    UNIT: tl.constexpr,  # elements in 16 bytes
    DESCRIPTORS: tl.constexpr,
    TF32: tl.constexpr,
    ROUND: tl.constexpr,  # to TF32 here; where the descriptors do it, tiles arrive rounded
    FLATTEN: tl.constexpr,  # one loop over all tiles: the next one's loads start before a store
):
    """output = act(left @ right.T + bias)."""
    row_tiles = tl.cdiv(rows, BLOCK_ROWS)
    column_tiles = tl.cdiv(columns, BLOCK_COLUMNS)
    tiles = row_tiles * column_tiles
    steps = tl.cdiv(tl.cdiv(depth, BLOCK_DEPTH), splits)
    padded_columns = tl.cdiv(columns, UNIT) * UNIT
    for task in tl.range(tl.program_id(0), tiles * splits, tl.num_programs(0), flatten=FLATTEN):
        split = task // tiles
        tile = task % tiles
        row_start, column_start = place_of(tile, row_tiles, column_tiles, BLOCK_ROWS, BLOCK_COLUMNS)
        accumulator = multiply_tile(
            left, right, left_row_stride, right_row_stride, row_start, column_start,
            rows, columns, depth, split * steps, steps, BLOCK_ROWS, BLOCK_COLUMNS, BLOCK_DEPTH,
            LEFT_BY_DEPTH, RIGHT_BY_DEPTH, UNIT, DESCRIPTORS, TF32, ROUND,
        )  # fmt: skip
        _finish(
            accumulator, split.to(tl.int64) * rows, row_start, column_start, rows, padded_columns,
            output_pointer, preactivation_pointer, bias_pointer,
            bias_size, activation, keep_preactivation, accumulate, not LEFT_BY_DEPTH,
        )  # fmt: skip


@dataclass(frozen=True)
class Tile:
    """What one program works on, and how."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int
    flatten: bool = False


# A large tile for products that fill the chip with it, and a small one for the others. A warp group
# of wgmma holds 64 rows, and 128x256 on two of them reads least from shared memory a product.
# float32's tiles are smaller for the registers, and on sm_100 for the tensor memory, that its
# products need; "binary" ones read three right tiles for each left one.
TILES = {
    80: {
        "half": (Tile(128, 128, 64, 8, 4), Tile(64, 64, 64, 4, 4)),
        "float32": (Tile(128, 64, 32, 8, 3), Tile(64, 64, 32, 4, 3)),
        "tf32": (Tile(128, 128, 32, 8, 3), Tile(64, 64, 32, 4, 3)),
        "binary": (Tile(128, 64, 64, 8, 3), Tile(64, 64, 64, 4, 3)),
    },
    90: {
        "half": (Tile(128, 256, 64, 8, 4, flatten=True), Tile(64, 64, 64, 4, 4)),
        "float32": (Tile(128, 128, 32, 8, 3), Tile(64, 64, 32, 4, 3)),
        "tf32": (Tile(128, 128, 32, 8, 4), Tile(64, 64, 32, 4, 4)),
        "binary": (Tile(128, 128, 64, 8, 3), Tile(64, 64, 64, 4, 3)),
    },
    100: {
        "half": (Tile(128, 256, 64, 8, 4), Tile(64, 64, 64, 4, 4)),
        "float32": (Tile(128, 64, 32, 8, 3), Tile(64, 64, 32, 4, 3)),
        "tf32": (Tile(128, 128, 32, 8, 4), Tile(64, 64, 32, 4, 4)),
        "binary": (Tile(128, 128, 64, 8, 3), Tile(64, 64, 64, 4, 3)),
    },
}
STEPS_PER_SPLIT = 16  # fewer would not pay for the partial sums' way through memory

DESCRIPTORS_ROUND = "round_f32_to_tf32" in TensorDescriptor.__dataclass_fields__


@dataclass(frozen=True)
class Plan:
    """How one product runs."""

    variant: Variant
    tile: Tile
    splits: int


@dataclass(frozen=True)
class Factors:
    """left [rows, depth] and right [columns, depth] of a product, as a kernel reads them.

    A factor stored by depth is [depth, rows] or [depth, columns]. Rows are filled up with zeros to
    whole units, and left may have more columns than right.
    """

    left: Tensor
    right: Tensor
    layout: tuple[bool, bool]  # whether each of them is stored by depth
    kind: str  # of TILES
    shape: tuple[int, int, int]  # rows, columns, depth

    @property
    def strides(self) -> tuple[int, int]:
        return self.left.stride(0), self.right.stride(0)

    def operands(self, generation: int, tile: Tile) -> list[Tensor | TensorDescriptor]:
        """The kernel's first two arguments."""
        if generation < 90:
            return [self.left, self.right]
        left_by_depth, right_by_depth = self.layout
        return [
            _descriptor(self.left, left_by_depth, tile.rows, tile.depth, self.kind),
            _descriptor(self.right, right_by_depth, tile.columns, tile.depth, self.kind),
        ]


def factors(left: Tensor, right: Tensor, *, plain: bool, kind: str | None = None) -> Factors:
    """The factors of left @ right.T, copied only where they cannot be read as they lie.

    plain: nothing is fused to the product; only then may left, too, be stored by depth.
    kind: a key of TILES; None for what torch's float32 matmul precision says.
    """
    shape = left.shape[0], right.shape[0], right.shape[1]
    if shape[2] == 0:
        left, right = left.new_zeros(shape[0], 1), right.new_zeros(shape[1], 1)
        shape = *shape[:2], 1
    # By depth: what is contiguous is the other dimension, as in a transposed view. The kernel takes
    # a left operand so only for a weight's gradient, and leaves bias and activation out of it.
    right_by_depth = _is_transposed(right)
    left_by_depth = plain and right_by_depth and _is_transposed(left)
    left = aligned(left.T if left_by_depth else left)
    right = aligned(right.T if right_by_depth else right)
    layout = (left_by_depth, right_by_depth)
    return Factors(left, right, layout, kind or kind_of(left.dtype), shape)


def kind_of(dtype: torch.dtype) -> str:
    """How products of this dtype are made now: a key of TILES."""
    if dtype != torch.float32:
        return "half"
    return "float32" if torch.get_float32_matmul_precision() == "highest" else "tf32"


@cache
def chip(device: torch.device) -> tuple[int, int]:
    """(generation in the tables, multiprocessors)."""
    if device.type != "cuda":
        return 90, 4  # interpreted
    properties = torch.cuda.get_device_properties(device)
    # sm_120 has mma.sync and less shared memory than sm_100, and runs what sm_80 runs.
    generation = {9: 90, 10: 100, 11: 100}.get(properties.major, 80)
    return generation, properties.multi_processor_count


def unit(dtype: torch.dtype) -> int:
    """Elements in 16 bytes: what a tensor descriptor and a vector access go by."""
    return 16 // dtype.itemsize


def padded(columns: int, dtype: torch.dtype) -> int:
    return triton.cdiv(columns, unit(dtype)) * unit(dtype)


def operand_types(
    generation: int, dtype: torch.dtype, tile: Tile, layout: tuple[bool, bool]
) -> dict[str, str]:
    """What the signature says of ``left`` and ``right``."""
    types = {}
    element = TYPE_NAMES[dtype]
    for name, by_depth, size in zip(
        ("left", "right"), layout, (tile.rows, tile.columns), strict=True
    ):
        block = [tile.depth, size] if by_depth else [size, tile.depth]
        types[name] = f"tensordesc<{element}{block}>" if generation >= 90 else f"*{element}"
    return types


def tile_constants(
    generation: int, dtype: torch.dtype, kind: str, tile: Tile, layout: tuple[bool, bool]
) -> dict[str, Any]:
    """The constants of every kernel that multiplies tiles."""
    left_by_depth, right_by_depth = layout
    descriptors = generation >= 90
    return {
        "BLOCK_ROWS": tile.rows,
        "BLOCK_COLUMNS": tile.columns,
        "BLOCK_DEPTH": tile.depth,
        "LEFT_BY_DEPTH": left_by_depth,
        "RIGHT_BY_DEPTH": right_by_depth,
        "UNIT": unit(dtype),
        "DESCRIPTORS": descriptors,
        "TF32": kind == "tf32",
        "ROUND": not (descriptors and DESCRIPTORS_ROUND),
    }


def _variant(
    generation: int,
    dtype: torch.dtype,
    output_dtype: torch.dtype,
    kind: str,
    tile: Tile,
    layout: tuple[bool, bool],
) -> Variant:
    types = operand_types(generation, dtype, tile, layout)
    types["output_pointer"] = types["preactivation_pointer"] = f"*{TYPE_NAMES[output_dtype]}"
    types["bias_pointer"] = f"*{TYPE_NAMES[dtype]}"
    constants = tile_constants(generation, dtype, kind, tile, layout)
    constants["FLATTEN"] = tile.flatten
    return Variant(gemm_kernel, types, constants, tile.warps, tile.stages, tensor_cores=True)


def choose_tile(
    generation: int, multiprocessors: int, kind: str, shape: tuple[int, int, int]
) -> tuple[Tile, int]:
    """The large tile where its copies fill half the chip, else the small one; how many copies."""
    large, small = TILES[generation][kind]
    tiles = triton.cdiv(shape[0], large.rows) * triton.cdiv(shape[1], large.columns)
    return (large if 2 * tiles >= multiprocessors else small), tiles


def plan(
    generation: int,
    multiprocessors: int,
    dtype: torch.dtype,
    kind: str,
    shape: tuple[int, int, int],
    layout: tuple[bool, bool],
    output_dtype: torch.dtype | None = None,
) -> Plan:
    """Choose the tile and the splits of one product.

    Only a weight's gradient (both operands stored by depth) is split: it alone is deep, the batch
    being its depth, and it has no activation that would have to wait for the whole sum.
    """
    large, small = TILES[generation][kind]
    tile, tiles = choose_tile(generation, multiprocessors, kind, shape)
    splits = 1
    if tile == small and all(layout):
        most = min(multiprocessors // tiles, shape[2] // (STEPS_PER_SPLIT * large.depth))
        if most > 1:
            tile, splits = large, most
    output_dtype = torch.float32 if splits > 1 else output_dtype or dtype
    return Plan(_variant(generation, dtype, output_dtype, kind, tile, layout), tile, splits)


def variants(generation: int) -> Iterator[Variant]:
    """Every binary that :func:`multiply` and :func:`add_product` can launch."""
    for dtype in TYPE_NAMES:
        for kind in ("float32", "tf32") if dtype == torch.float32 else ("half",):
            for tile in TILES[generation][kind]:
                for layout in ((False, False), (False, True), (True, True)):
                    yield _variant(generation, dtype, dtype, kind, tile, layout)
                if dtype != torch.float32:
                    yield _variant(generation, dtype, torch.float32, kind, tile, (True, True))


def _is_transposed(tensor: Tensor) -> bool:
    return tensor.stride(0) == 1 and tensor.stride(1) != 1


def is_aligned(tensor: Tensor) -> bool:
    """Whether every row of a matrix is whole 16-byte units, in order, and starts at one."""
    row_stride, column_stride = tensor.stride()
    return (
        column_stride == 1
        and tensor.shape[1] % unit(tensor.dtype) == 0
        and row_stride % unit(tensor.dtype) == 0
        and row_stride >= tensor.shape[1]
        and tensor.data_ptr() % 16 == 0
    )


def aligned(tensor: Tensor) -> Tensor:
    """The matrix where the kernel can read it, else a copy, its rows filled up with zeros."""
    if is_aligned(tensor):
        return tensor
    rows, columns = tensor.shape
    copy = tensor.new_zeros(rows, padded(columns, tensor.dtype))
    copy[:, :columns] = tensor
    return copy


def multiply(
    left: Tensor,
    right: Tensor,
    bias: Tensor | None = None,
    activation: str = "identity",
    keep_preactivation: bool = False,
    kind: str | None = None,
) -> tuple[Tensor, Tensor | None]:
    """act(left @ right.T + bias), and the pre-activation if it is to be kept."""
    rows, columns = left.shape[0], right.shape[0]
    if rows == 0 or columns == 0:
        output = left.new_empty(rows, columns)
        return output, output if keep_preactivation else None
    plain = bias is None and activation == "identity"
    read = factors(left, right, plain=plain, kind=kind)
    chosen = plan(*chip(left.device), left.dtype, read.kind, read.shape, read.layout)
    output = _output(chosen, read, left.dtype)
    preactivation = torch.empty_like(output[0]) if keep_preactivation else None
    _launch(chosen, read, output, preactivation, bias, activation, accumulate=False)
    result = output.sum(0).to(left.dtype) if chosen.splits > 1 else output[0]
    return (
        result[:, :columns].contiguous(),
        None if preactivation is None else preactivation[:, :columns].contiguous(),
    )


def add_product(left: Tensor, right: Tensor, total: Tensor | None) -> Tensor:
    """total + left @ right.T in float32, in total's memory if there is one."""
    columns = right.shape[0]
    read = factors(left, right, plain=True)
    chosen = plan(*chip(left.device), left.dtype, read.kind, read.shape, read.layout, torch.float32)
    if total is not None and chosen.splits == 1 and padded(columns, left.dtype) == columns:
        _launch(chosen, read, total[None], None, None, "identity", accumulate=True)
        return total
    output = _output(chosen, read, torch.float32)
    _launch(chosen, read, output, None, None, "identity", accumulate=False)
    product = output.sum(0)[:, :columns] if chosen.splits > 1 else output[0][:, :columns]
    return product.contiguous() if total is None else total.add_(product)


def _output(chosen: Plan, read: Factors, dtype: torch.dtype) -> Tensor:
    """[splits, rows, columns filled up to whole units]."""
    rows, columns, _ = read.shape
    dtype = torch.float32 if chosen.splits > 1 else dtype
    return read.left.new_empty(chosen.splits, rows, padded(columns, read.left.dtype), dtype=dtype)


def _launch(
    chosen: Plan,
    read: Factors,
    output: Tensor,
    preactivation: Tensor | None,
    bias: Tensor | None,
    activation: str,
    accumulate: bool,
) -> None:
    generation, multiprocessors = chip(read.left.device)
    tile = chosen.tile
    rows, columns, _ = read.shape
    tasks = triton.cdiv(rows, tile.rows) * triton.cdiv(columns, tile.columns) * chosen.splits
    with device_of(read.left):
        chosen.variant.launch(
            min(tasks, multiprocessors) if tile.flatten else tasks,
            *read.operands(generation, tile),
            output,
            output if preactivation is None else preactivation,
            read.left if bias is None else bias.contiguous(),
            *read.strides,
            *read.shape,
            chosen.splits,
            0 if bias is None else columns,
            ACTIVATIONS[activation],
            int(preactivation is not None),
            int(accumulate),
        )


def _descriptor(
    tensor: Tensor, by_depth: bool, size: int, depth: int, kind: str
) -> TensorDescriptor:
    block = [depth, size] if by_depth else [size, depth]
    descriptor = TensorDescriptor(tensor, list(tensor.shape), list(tensor.stride()), block)
    if kind == "tf32" and DESCRIPTORS_ROUND:
        descriptor.round_f32_to_tf32 = True
    return descriptor
