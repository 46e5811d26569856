"""Matrix products on the GPU: chooses the tiles and launches the kernels of triton_gemm_kernels.py.

Where the chip has a tensor memory accelerator (sm_90 on) tiles arrive through tensor descriptors,
elsewhere through pointers.

float32 follows torch's precision setting (precision.py). ``"highest"`` takes six bfloat16 products;
``"high"`` and ``"medium"`` take one TF32 product, as torch's own CUDA matmul does.

The operands of six products are split into three bfloat16 terms each: once, into memory, where
their elements are used often enough; else in the product's loop, whose arithmetic it then is that
takes longest.
"""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from aefast import backend
from aefast.ops.shared import triton_packed, triton_terms
from aefast.ops.shared.precision import product_level
from aefast.ops.shared.triton import (
    ACTIVATIONS,
    TYPE_NAMES,
    Descriptor,
    PlannedLaunch,
    Variant,
    cdiv,
    device_of,
)
from aefast.ops.shared.triton_packed import Packed, PackedLaunches
from aefast.ops.shared.triton_terms import Terms


@dataclass(frozen=True)
class Tile:
    """The block of a product that one program computes, and its launch settings."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int
    flatten: bool = False


# For each GPU generation and kind of product, a large tile for products that fill the chip with it,
# and a small one for the others. On sm_90 a warp group holds 64 rows; 128x256 on two warp groups
# reads least from shared memory for each product. float32 has smaller tiles: its six products need
# more registers, and on sm_100 more tensor memory. "bernoulli" reads three right tiles for each
# left one. "terms" reads three tiles of each operand, and "states" three left tiles for each right
# one.
TILES = {
    80: {
        "half": (Tile(128, 128, 64, 8, 4), Tile(64, 64, 64, 4, 4)),
        "float32": (Tile(128, 64, 32, 8, 3), Tile(64, 64, 32, 4, 3)),
        "tf32": (Tile(128, 128, 32, 8, 3), Tile(64, 64, 32, 4, 3)),
        "bernoulli": (Tile(128, 64, 64, 8, 3), Tile(64, 64, 64, 4, 3)),
        "terms": (Tile(64, 64, 32, 4, 3), Tile(64, 64, 32, 4, 3)),
        "states": (Tile(64, 64, 32, 4, 3), Tile(64, 64, 32, 4, 3)),
    },
    90: {
        "half": (Tile(128, 256, 64, 8, 4, flatten=True), Tile(64, 64, 64, 4, 4)),
        "float32": (Tile(128, 128, 32, 8, 3), Tile(64, 64, 32, 4, 3)),
        "tf32": (Tile(128, 128, 32, 8, 4), Tile(64, 64, 32, 4, 4)),
        "bernoulli": (Tile(128, 128, 64, 8, 3), Tile(64, 64, 64, 4, 3)),
        "terms": (Tile(128, 128, 64, 8, 2), Tile(64, 64, 64, 4, 2)),
        "states": (Tile(128, 128, 64, 8, 3), Tile(64, 64, 64, 4, 3)),
    },
    100: {
        "half": (Tile(128, 256, 64, 8, 4), Tile(64, 64, 64, 4, 4)),
        "float32": (Tile(128, 64, 32, 8, 3), Tile(64, 64, 32, 4, 3)),
        "tf32": (Tile(128, 128, 32, 8, 4), Tile(64, 64, 32, 4, 4)),
        "bernoulli": (Tile(128, 128, 64, 8, 3), Tile(64, 64, 64, 4, 3)),
        "terms": (Tile(64, 64, 32, 4, 2), Tile(64, 64, 32, 4, 2)),
        "states": (Tile(128, 128, 64, 8, 3), Tile(64, 64, 64, 4, 3)),
    },
}
TERMS = {"terms": (3, 3), "states": (3, 1)}  # of left and right; one for the other kinds
# Where the operands of float32 products are split in memory: there 64 steps of depth take 328
# instructions, and 1,242 with the splits among them. sm_80 has too few registers for large tiles,
# and sm_100 too little tensor memory.
SPLIT_IN_MEMORY = (90,)
# Operands are split in memory where their elements are used in at least so many sums, counted over
# both. With fewer, writing and reading the terms takes longer than splitting in the loops.
LEAST_USES = 512
# Hopper's tensor cores take TF32 by rows alone: an operand stored by depth is transposed through
# shared memory, for which they wait 200 to 350 of 700 to 850 cycles at each step. It is transposed
# once, in memory, where each of its elements is used in at least so many sums: twice as many as
# make up for the 8 bytes that are read and written for an element.
TRANSPOSE_IN_MEMORY = (90,)
LEAST_USES_TRANSPOSED = 4096
TRANSPOSED_SIZE = 64  # rows and columns that a program transposes
LAYOUTS = ((False, False), (False, True), (True, True))  # which operands are stored by depth
STEPS_PER_SPLIT = 16  # with fewer, writing and adding partial sums takes longer than it saves


class ProductPlan(NamedTuple):
    """The kernel, tile and number of splits of one product."""

    variant: Variant
    tile: Tile
    splits: int


class Factors(NamedTuple):
    """The operands of a product, left [rows, depth] and right [columns, depth], in memory that a
    kernel can read: each one or several terms, one below the other.

    An operand stored by depth is [depth, rows] or [depth, columns]. Rows are padded with zeros to
    whole units of 16 bytes. left may have more columns than right.
    """

    left: Tensor
    right: Tensor
    layout: tuple[bool, bool]  # whether each of them is stored by depth
    kind: str  # of TILES
    shape: tuple[int, int, int]  # rows, columns, depth
    term_rows: tuple[int, int]  # stored rows of a term of each

    def is_of(self, left: Tensor, right: Tensor) -> bool:
        """Whether the kernel reads these tensors where they lie, and no copies of them."""
        pairs = (self.left, left), (self.right, right)
        return all(read.data_ptr() == tensor.data_ptr() for read, tensor in pairs)

    def arguments(self, generation: int, tile: Tile) -> dict[str, Tensor | Descriptor | int]:
        """The arguments that every product kernel takes: operands, strides and shape."""
        left: Tensor | Descriptor = self.left
        right: Tensor | Descriptor = self.right
        if generation >= 90:
            left_by_depth, right_by_depth = self.layout
            left = _descriptor(self.left, left_by_depth, tile.rows, tile.depth, self.kind)
            right = _descriptor(self.right, right_by_depth, tile.columns, tile.depth, self.kind)
        rows, columns, depth = self.shape
        return {
            "left": left,
            "right": right,
            "left_row_stride": self.left.stride(0),
            "right_row_stride": self.right.stride(0),
            "left_term_rows": self.term_rows[0],
            "right_term_rows": self.term_rows[1],
            "rows": rows,
            "columns": columns,
            "depth": depth,
        }


def factors(left: Tensor, right: Tensor, *, plain: bool, kind: str | None = None) -> Factors:
    """The operands of left @ right.T, copied only where the kernels cannot read their layout.

    plain: no bias and no activation is fused. Only then may left be stored by depth.
    kind: a key of TILES; None for the one that torch's float32 matmul precision asks for.
    """
    shape = left.shape[0], right.shape[0], right.shape[1]
    if shape[2] == 0:
        left, right = left.new_zeros(shape[0], 1), right.new_zeros(shape[1], 1)
        shape = *shape[:2], 1
    # Stored by depth: the contiguous dimension is the other one, as in a transposed view. The
    # kernel reads a left operand like that only for a weight's gradient, without bias and
    # activation.
    right_by_depth = _is_transposed(right)
    left_by_depth = plain and right_by_depth and _is_transposed(left)
    left = left.T if left_by_depth else left
    right = right.T if right_by_depth else right
    layout = (left_by_depth, right_by_depth)
    if kind is None and kind_of(left) == "float32" and splits_in_memory(left.device, shape):
        terms = triton_terms.split(left, 3), triton_terms.split(right, 3)
        return factors_of_terms(*terms, layout, "terms", shape)
    kind = kind or kind_of(left)
    if kind == "tf32" and layout == (False, True) and transposes_in_memory(left.device, shape):
        right, layout = transposed(right), (False, False)
    left, right = aligned(left), aligned(right)
    term_rows = left.shape[0], right.shape[0]
    return Factors(left, right, layout, kind, shape, term_rows)


def factors_of_terms(
    left: Terms, right: Terms, layout: tuple[bool, bool], kind: str, shape: tuple[int, int, int]
) -> Factors:
    return Factors(
        left.matrix, right.matrix, layout, kind, shape, (left.term_rows, right.term_rows)
    )


def splits_in_memory(device: torch.device, shape: tuple[int, int, int]) -> bool:
    """Whether the operands of a float32 product are split once, not in its loop."""
    rows, columns, _ = shape
    return chip(device)[0] in SPLIT_IN_MEMORY and rows * columns >= LEAST_USES * (rows + columns)


def transposes_in_memory(device: torch.device, shape: tuple[int, int, int]) -> bool:
    """Whether the right operand of a TF32 product, stored by depth, is transposed before it.

    Not so a weight's gradient, both of whose operands would have to be: it uses each of their
    elements as often as the layer has units, and not as often as the batch has rows.
    """
    return chip(device)[0] in TRANSPOSE_IN_MEMORY and shape[0] >= LEAST_USES_TRANSPOSED


def kind_of(factor: Tensor) -> str:
    """The kind of product, a key of TILES, for an operand's dtype and the current precision."""
    if factor.dtype != torch.float32:
        return "half"
    return "float32" if product_level(factor.device.type) == "highest" else "tf32"


def kinds(generation: int, dtype: torch.dtype) -> tuple[str, ...]:
    """The kinds of product that operands of a dtype may take."""
    if dtype != torch.float32:
        return ("half",)
    return ("float32", "tf32", "terms")[: 3 if generation in SPLIT_IN_MEMORY else 2]


@cache
def chip(device: torch.device) -> tuple[int, int]:
    """A device's generation, a key of the tables, and its number of multiprocessors.

    Raises:
        BackendUnavailableError: the Triton kernels do not support this GPU.
    """
    if device.type != "cuda":
        return 90, 4  # interpreted
    properties = torch.cuda.get_device_properties(device)
    reason = backend.unfit((properties.major, properties.minor))
    if reason is not None:
        raise backend.BackendUnavailableError(f"backend 'triton' cannot run: {reason}")
    return generation_of(properties.major), properties.multi_processor_count


def generation_of(major: int) -> int:
    """The generation, a key of the tables, for a compute capability's major number, from 8 on.

    12.x has mma.sync and less shared memory than 10.x: it takes sm_80's tiles, as does any newer
    one that is not known yet.
    """
    return {9: 90, 10: 100, 11: 100}.get(major, 80)


@cache
def has_full_shared_memory(device: torch.device) -> bool:
    """Whether a block can use 163 KiB of shared memory, as on sm_80. On 8.6, 8.9 and 12.x it can
    use 99 KiB, on AMD's GPUs 64."""
    if device.type != "cuda":
        return True  # interpreted
    if torch.version.hip is not None:
        return False
    capability = torch.cuda.get_device_capability(device)
    return capability in ((8, 0), (8, 7)) or 9 <= capability[0] < 12


@cache
def panel_bytes(device: torch.device) -> int:
    """The memory that a panel of rows may take: a 128th of the GPU's.

    Larger panels mean fewer launches, and fewer last tiles that leave multiprocessors idle. It is a
    share of the total memory, not of the free memory: so sums are the same in every call.
    """
    least = 128 << 20
    if device.type != "cuda":
        return least  # interpreted
    return max(least, torch.cuda.get_device_properties(device).total_memory // 128)


def alignment(dtype: torch.dtype) -> int:
    """The number of elements in 16 bytes: tensor descriptors and vector accesses are so aligned."""
    return 16 // dtype.itemsize


def padded(columns: int, dtype: torch.dtype) -> int:
    """The number of columns, rounded up to whole vectors of 16 bytes."""
    return cdiv(columns, alignment(dtype)) * alignment(dtype)


def operand_types(
    generation: int, dtype: torch.dtype, tile: Tile, layout: tuple[bool, bool]
) -> dict[str, str]:
    """The types of ``left`` and ``right`` in a kernel's signature."""
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
) -> dict[str, int]:
    """The constants of every kernel that multiplies tiles."""
    left_by_depth, right_by_depth = layout
    left_terms, right_terms = TERMS.get(kind, (1, 1))
    descriptors = generation >= 90
    return {
        "BLOCK_ROWS": tile.rows,
        "BLOCK_COLUMNS": tile.columns,
        "BLOCK_DEPTH": tile.depth,
        "LEFT_BY_DEPTH": left_by_depth,
        "RIGHT_BY_DEPTH": right_by_depth,
        "LEFT_TERMS": left_terms,
        "RIGHT_TERMS": right_terms,
        "ALIGNMENT": alignment(dtype),
        "DESCRIPTORS": descriptors,
        "TF32": kind == "tf32",
        "ROUND": not descriptors,
    }


@cache
def _variant(
    generation: int,
    dtype: torch.dtype,
    output_dtype: torch.dtype,
    kind: str,
    tile: Tile,
    layout: tuple[bool, bool],
    activation: str,
) -> Variant:
    types = operand_types(generation, dtype, tile, layout)
    types["output_pointer"] = types["preactivation_pointer"] = f"*{TYPE_NAMES[output_dtype]}"
    types["bias_pointer"] = "*fp32" if kind in TERMS else f"*{TYPE_NAMES[dtype]}"
    constants = tile_constants(generation, dtype, kind, tile, layout)
    constants |= {"FLATTEN": tile.flatten, "ACTIVATION": ACTIVATIONS[activation]}
    kernel = "shared.triton_gemm_kernels.gemm_kernel"
    return Variant(kernel, types, constants, tile.warps, tile.stages, tensor_cores=True)


def choose_tile(
    tiles_of_kind: tuple[Tile, Tile], multiprocessors: int, shape: tuple[int, int, int]
) -> tuple[Tile, int]:
    """The large tile if so many fill half the chip, else the small one; and the number of large
    tiles in the product."""
    large, small = tiles_of_kind
    tiles = cdiv(shape[0], large.rows) * cdiv(shape[1], large.columns)
    return (large if 2 * tiles >= multiprocessors else small), tiles


@lru_cache(maxsize=1024)  # batches may have any number of rows
def plan(
    generation: int,
    multiprocessors: int,
    dtype: torch.dtype,
    kind: str,
    shape: tuple[int, int, int],
    layout: tuple[bool, bool],
    output_dtype: torch.dtype | None = None,
    activation: str = "identity",
) -> ProductPlan:
    """Choose the tile and the number of splits of one product.

    Only a weight's gradient, both of whose operands are stored by depth, is split along the depth.
    Its depth is the batch, which may be long, and no activation has to wait for the whole sum.
    """
    large, small = TILES[generation][kind]
    tile, tiles = choose_tile((large, small), multiprocessors, shape)
    splits = 1
    if tile == small and all(layout):
        most = min(multiprocessors // tiles, shape[2] // (STEPS_PER_SPLIT * large.depth))
        if most > 1:
            tile, splits = large, most
    output_dtype = torch.float32 if splits > 1 else output_dtype or dtype
    variant = _variant(generation, dtype, output_dtype, kind, tile, layout, activation)
    return ProductPlan(variant, tile, splits)


def variants(generation: int) -> Iterator[Variant]:
    """Every cubin that :func:`multiply` and :func:`add_product` can launch."""
    for dtype in TYPE_NAMES:
        for kind in ("float32", "tf32") if dtype == torch.float32 else ("half",):
            for tile in TILES[generation][kind]:
                for layout in LAYOUTS:
                    fused = ("identity",) if all(layout) else tuple(ACTIVATIONS)
                    for output_dtype in dict.fromkeys((dtype, torch.float32)):
                        for activation in fused if output_dtype == dtype else ("identity",):
                            yield _variant(
                                generation, dtype, output_dtype, kind, tile, layout, activation
                            )
    yield from _variants_of_terms(generation)
    if generation in TRANSPOSE_IN_MEMORY:
        yield _transpose_variant()


def _variants_of_terms(generation: int) -> Iterator[Variant]:
    types = torch.bfloat16, torch.float32
    by_depth = (True, True)
    for kind in TERMS:
        for tile in dict.fromkeys(TILES[generation][kind]):
            yield _variant(generation, *types, kind, tile, by_depth, "identity")
    if generation in SPLIT_IN_MEMORY:
        for tile in TILES[generation]["terms"]:
            for layout in LAYOUTS[:2]:
                for activation in ACTIVATIONS:
                    yield _variant(generation, *types, "terms", tile, layout, activation)
        for aligned_rows in (True, False):
            yield triton_terms.split_variant(3, aligned_rows, counts=False)


def _is_transposed(tensor: Tensor) -> bool:
    return tensor.stride(0) == 1 and tensor.stride(1) != 1


def is_aligned(tensor: Tensor) -> bool:
    """Whether every row of a matrix consists of whole 16-byte units and starts at a multiple of 16
    bytes."""
    row_stride, column_stride = tensor.stride()
    return (
        column_stride == 1
        and tensor.shape[1] % alignment(tensor.dtype) == 0
        and row_stride % alignment(tensor.dtype) == 0
        and row_stride >= tensor.shape[1]
        and tensor.data_ptr() % 16 == 0
    )


def aligned(tensor: Tensor) -> Tensor:
    """The matrix itself if :func:`is_aligned`, else a copy with its rows padded with zeros."""
    if is_aligned(tensor):
        return tensor
    rows, columns = tensor.shape
    copy = tensor.new_zeros(rows, padded(columns, tensor.dtype))
    copy[:, :columns] = tensor
    return copy


@cache
def _transpose_variant() -> Variant:
    types = {"source_pointer": "*fp32", "output_pointer": "*fp32"}
    constants = {"SIZE": TRANSPOSED_SIZE, "ALIGNMENT": alignment(torch.float32)}
    return Variant("shared.triton_gemm_kernels.transpose_kernel", types, constants)


def transposed(source: Tensor) -> Tensor:
    """A copy of source.T, whose rows are padded with zeros to whole units. Those of source are
    contiguous."""
    rows, columns = source.shape
    output = source.new_empty(columns, padded(rows, source.dtype))
    with device_of(source):
        _transpose_variant().launch(
            cdiv(output.shape[1], TRANSPOSED_SIZE) * cdiv(columns, TRANSPOSED_SIZE),
            source_pointer=source,
            output_pointer=output,
            source_row_stride=source.stride(0),
            rows=rows,
            columns=columns,
            padded_rows=output.shape[1],
        )
    return output


def multiply(
    left: Tensor,
    right: Tensor,
    bias: Tensor | None = None,
    activation: str = "identity",
    keep_preactivation: bool = False,
    kind: str | None = None,
) -> tuple[Tensor, Tensor | None]:
    """act(left @ right.T + bias), and the pre-activation or None."""
    rows, columns = left.shape[0], right.shape[0]
    if rows == 0 or columns == 0:
        output = left.new_empty(rows, columns)
        return output, output if keep_preactivation else None
    output, preactivation = _product(
        left, right, bias, activation, keep_preactivation, kind, left.dtype
    )
    return (
        _first_columns(output, columns),
        None if preactivation is None else _first_columns(preactivation, columns),
    )


_packed = PackedLaunches()


def _key(left: Tensor, right: Tensor, output_dtype: torch.dtype, *settings: Hashable) -> Hashable:
    layouts = triton_packed.layout(left), triton_packed.layout(right)
    kinds_of = kind_of(left), left.dtype, output_dtype
    return triton_packed.gpu_of(left), *layouts, *kinds_of, *settings


def packed(left: Tensor, right: Tensor) -> Packed | None:
    """The launch of left @ right.T, if an earlier one was packed. It writes a matrix without
    padding, as its third and its fourth tensor; the fifth is not read."""
    found = _packed.find(_key(left, right, left.dtype, True, "identity", False, None))
    is_whole = found is not None and found.sizes == (left.shape[0], right.shape[0])
    return found if is_whole else None


def _product(
    left: Tensor,
    right: Tensor,
    bias: Tensor | None,
    activation: str,
    keep_preactivation: bool,
    kind: str | None,
    output_dtype: torch.dtype,
) -> tuple[Tensor, Tensor | None]:
    """act(left @ right.T + bias) with padded columns, and the pre-activation or None."""
    device = triton_packed.gpu_of(left)
    settings = bias is None, activation, keep_preactivation, kind
    key = _key(left, right, output_dtype, *settings)
    found = _packed.find(key)
    if found is not None:
        output = left.new_empty(found.sizes, dtype=output_dtype)
        preactivation = torch.empty_like(output) if keep_preactivation else None
        written = output, output if preactivation is None else preactivation
        found.run(left, right, *written, left if bias is None else bias.contiguous())
        return output, preactivation
    plain = bias is None and activation == "identity"
    read = factors(left, right, plain=plain, kind=kind)
    chosen = plan(
        *chip(left.device),
        read.left.dtype,
        read.kind,
        read.shape,
        read.layout,
        output_dtype,
        activation,
    )
    output = _output(chosen, read, output_dtype)
    preactivation = torch.empty_like(output) if keep_preactivation else None
    planned = _planned(chosen, read, output, preactivation, bias, accumulate=False)
    with device_of(left):
        planned.run()
    if chosen.splits > 1:
        return output.sum(0).to(output_dtype), preactivation
    if device is not None and read.is_of(left, right):
        _packed.add(key, device, planned, *output.shape)
    return output, preactivation


def _first_columns(matrix: Tensor, columns: int) -> Tensor:
    """A matrix without its padding, as a copy: autograd refuses to change in place a view that a
    Function returned."""
    if matrix.shape[1] == columns:
        return matrix
    return matrix[:, :columns].clone(memory_format=torch.contiguous_format)


def add_product(left: Tensor, right: Tensor, total: Tensor | None) -> Tensor:
    """total + left @ right.T in float32, written into ``total`` if there is one, whatever its
    strides."""
    if total is None:
        product, _ = _product(left, right, None, "identity", False, None, torch.float32)
        return _first_columns(product, right.shape[0])
    return _add_factors(factors(left, right, plain=True), total)


def add_terms(left: Terms, right: Terms, kind: str, total: Tensor | None) -> Tensor:
    """total + left.T @ right, as :func:`add_product`, of operands that are split already."""
    shape = left.shape[1], right.shape[1], left.shape[0]
    return _add_factors(factors_of_terms(left, right, (True, True), kind, shape), total)


def _add_factors(read: Factors, total: Tensor | None) -> Tensor:
    columns = read.shape[1]
    chosen = plan(
        *chip(read.left.device),
        read.left.dtype,
        read.kind,
        read.shape,
        read.layout,
        torch.float32,
    )
    if total is not None and _is_output(total, chosen, read):
        _launch(chosen, read, total, accumulate=True)
        return total
    output = _output(chosen, read, torch.float32)
    _launch(chosen, read, output, accumulate=False)
    product = output.sum(0) if chosen.splits > 1 else output
    return _first_columns(product, columns) if total is None else total.add_(product[:, :columns])


def _is_output(total: Tensor, chosen: ProductPlan, read: Factors) -> bool:
    """Whether the kernel can add to ``total`` in place.

    Only its form for two operands stored by depth adds to its output; the others end in a bias and
    an activation.
    """
    columns = read.shape[1]
    return (
        chosen.splits == 1
        and all(read.layout)
        and padded(columns, read.left.dtype) == columns
        and total.is_contiguous()
        and total.data_ptr() % 16 == 0
    )


def _output(chosen: ProductPlan, read: Factors, dtype: torch.dtype) -> Tensor:
    """Memory for the output, [rows, padded columns]; for several splits [splits, rows, padded
    columns]."""
    rows, columns = read.shape[0], padded(read.shape[1], read.left.dtype)
    if chosen.splits > 1:
        return read.left.new_empty(chosen.splits, rows, columns, dtype=torch.float32)
    return read.left.new_empty(rows, columns, dtype=dtype)


def _planned(
    chosen: ProductPlan,
    read: Factors,
    output: Tensor,
    preactivation: Tensor | None,
    bias: Tensor | None,
    accumulate: bool,
) -> PlannedLaunch:
    generation, multiprocessors = chip(read.left.device)
    tile = chosen.tile
    rows, columns, _ = read.shape
    tasks = cdiv(rows, tile.rows) * cdiv(columns, tile.columns) * chosen.splits
    arguments = read.arguments(generation, tile) | {
        "output_pointer": output,
        "preactivation_pointer": output if preactivation is None else preactivation,
        "bias_pointer": _unread_bias(read, output) if bias is None else bias.contiguous(),
        "splits": chosen.splits,
        "bias_size": 0 if bias is None else columns,
        "keep_preactivation": int(preactivation is not None),
        "accumulate": int(accumulate),
    }
    programs = min(tasks, multiprocessors) if tile.flatten else tasks
    return PlannedLaunch(chosen.variant, programs, arguments)


def _launch(chosen: ProductPlan, read: Factors, output: Tensor, accumulate: bool) -> None:
    with device_of(read.left):
        _planned(chosen, read, output, None, None, accumulate).run()


def _unread_bias(read: Factors, output: Tensor) -> Tensor:
    """Memory of a bias's dtype, for a kernel that is told to read none."""
    return output if read.kind in TERMS else read.left


def _descriptor(tensor: Tensor, by_depth: bool, size: int, depth: int, kind: str) -> Descriptor:
    block = [depth, size] if by_depth else [size, depth]
    return Descriptor(tensor, block, round_to_tf32=kind == "tf32")
