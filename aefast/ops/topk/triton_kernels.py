# mypy: allow-untyped-defs
"""GPU kernels for sparse codes over many latents: select the k largest, decode, differentiate."""

import triton
import triton.language as tl

from aefast.ops.shared.triton_device import round_to

INTEGERS = ["row_stride", "width", "first", "active", "latents", "columns", "blocks"]
POINTERS = [
    "panel_pointer",
    "best_pointer",
    "values_pointer",
    "indices_pointer",
    "weight_pointer",
    "bias_pointer",
    "output_pointer",
    "left_pointer",
    "products_pointer",
    "order_pointer",
    "begin_pointer",
    "rows_pointer",
    "sums_pointer",
    "totals_pointer",
]


@triton.jit(do_not_specialize=INTEGERS, do_not_specialize_on_alignment=POINTERS)
def merge_kernel(
    panel_pointer,  # float32 [rows, width] with row_stride: pre-activations
    best_pointer,  # int64 [rows, CAPACITY]: each row's largest candidates so far, descending
    row_stride: tl.int64,
    width: tl.int32,
    first: tl.int64,  # the panel's first latent
    CAPACITY: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Merge a panel's largest pre-activations into each row's candidates.

    A candidate is a value and its latent in one integer, whose order is descending by value, then
    ascending by latent. NaN is the largest value, and -0 equals 0.
    """
    row = tl.program_id(0).to(tl.int64)
    least: tl.constexpr = -0x8000000000000000
    slots = best_pointer + row * CAPACITY + tl.arange(0, CAPACITY)
    best = tl.load(slots)
    threshold = tl.min(best, 0)
    for start in range(0, width, CHUNK):
        column = start + tl.arange(0, CHUNK)
        value = tl.load(panel_pointer + row * row_stride + column, mask=column < width, other=0.0)
        bits = (value + 0.0).to(tl.int32, bitcast=True)
        bits = tl.where(value == 0.0, 0, bits)
        order = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
        order = tl.where(value != value, 0x7FFFFFFF, order).to(tl.int64)
        candidates = (order << 32) + (0xFFFFFFFF - (first + column).to(tl.int64))
        candidates = tl.where(column < width, candidates, least)
        if tl.max(candidates, 0) > threshold:
            both = tl.join(best, tl.topk(candidates, CAPACITY))
            best = tl.topk(tl.reshape(both, [2 * CAPACITY]), CAPACITY)
            threshold = tl.min(best, 0)
    tl.store(slots, best)


@triton.jit
def decoded(
    values_pointer,  # [rows, active]
    indices_pointer,  # int64 [rows, active]
    weight_pointer,  # [latents, columns]
    bias_pointer,  # [columns]
    active,
    latents,
    columns,
    blocks,  # blocks of COLUMNS in a row
    COLUMNS: tl.constexpr,
):
    """A program's block of a row's reconstruction: the sum of value times latent, plus the bias.

    Latents outside the weight count as zeros. Returns the reconstruction, its elements' offsets in
    [rows, columns] and their mask, all [COLUMNS].
    """
    program = tl.program_id(0).to(tl.int64)
    row = program // blocks
    column = (program - row * blocks) * COLUMNS + tl.arange(0, COLUMNS)
    mask = column < columns
    total = tl.zeros((COLUMNS,), tl.float32)
    for i in range(active):
        latent = tl.load(indices_pointer + row * active + i)
        value = tl.load(values_pointer + row * active + i).to(tl.float32)
        inside = (latent >= 0) & (latent < latents)
        source = tl.load(weight_pointer + latent * columns + column, mask=mask & inside, other=0.0)
        total += value * source.to(tl.float32)
    total += tl.load(bias_pointer + column, mask=mask, other=0.0).to(tl.float32)
    return total, row * columns + column, mask


@triton.jit(do_not_specialize=INTEGERS, do_not_specialize_on_alignment=POINTERS)
def decode_kernel(
    values_pointer,  # [rows, active]
    indices_pointer,  # int64 [rows, active]
    weight_pointer,  # [latents, columns]
    bias_pointer,  # [columns]
    output_pointer,  # [rows, columns]
    active: tl.int32,
    latents: tl.int64,
    columns: tl.int64,
    blocks: tl.int64,  # blocks of COLUMNS in a row
    COLUMNS: tl.constexpr,
):
    """The reconstructions of sparse codes."""
    total, element, mask = decoded(
        values_pointer, indices_pointer, weight_pointer, bias_pointer,
        active, latents, columns, blocks, COLUMNS,
    )  # fmt: skip
    kind = output_pointer.dtype.element_ty
    tl.store(output_pointer + element, round_to(total, kind), mask=mask)


@triton.jit(do_not_specialize=INTEGERS, do_not_specialize_on_alignment=POINTERS)
def sample_kernel(
    left_pointer,  # [rows, columns]
    weight_pointer,  # [latents, columns]
    indices_pointer,  # int64 [rows, active]
    products_pointer,  # [rows, active]
    active: tl.int32,
    latents: tl.int64,
    columns: tl.int64,
    COLUMNS: tl.constexpr,
):
    """The product of a row with one of its active latents."""
    program = tl.program_id(0).to(tl.int64)
    row = program // active
    latent = tl.load(indices_pointer + program)
    inside = (latent >= 0) & (latent < latents)
    total = tl.zeros((COLUMNS,), tl.float32)
    start = columns * 0
    while start < columns:
        column = start + tl.arange(0, COLUMNS)
        mask = (column < columns) & inside
        left = tl.load(left_pointer + row * columns + column, mask=mask, other=0.0)
        source = tl.load(weight_pointer + latent * columns + column, mask=mask, other=0.0)
        total += left.to(tl.float32) * source.to(tl.float32)
        start += COLUMNS
    kind = products_pointer.dtype.element_ty
    tl.store(products_pointer + program, round_to(tl.sum(total, 0), kind))


@triton.jit(do_not_specialize=INTEGERS, do_not_specialize_on_alignment=POINTERS)
def sums_kernel(
    values_pointer,  # [rows * active]
    order_pointer,  # int64 [rows * active]: the elements sorted by latent, and in each by row
    begin_pointer,  # int64 [latents + 1]: where each latent's elements begin
    rows_pointer,  # [rows, columns]
    sums_pointer,  # [latents, columns]
    totals_pointer,  # [latents]
    active: tl.int32,
    columns: tl.int64,
    blocks: tl.int64,
    COLUMNS: tl.constexpr,
):
    """Sum, for each latent, value times row over the rows where it is active; and the values. Rows
    are added in their order."""
    program = tl.program_id(0).to(tl.int64)
    latent = program // blocks
    block = program - latent * blocks
    column = block * COLUMNS + tl.arange(0, COLUMNS)
    mask = column < columns
    position = tl.load(begin_pointer + latent)
    end = tl.load(begin_pointer + latent + 1)
    sums = tl.zeros((COLUMNS,), tl.float32)
    total = columns.to(tl.float32) * 0.0
    while position < end:
        element = tl.load(order_pointer + position)
        value = tl.load(values_pointer + element).to(tl.float32)
        source = tl.load(rows_pointer + element // active * columns + column, mask=mask, other=0.0)
        sums += value * source.to(tl.float32)
        total += value
        position += 1
    kind = sums_pointer.dtype.element_ty
    tl.store(sums_pointer + latent * columns + column, round_to(sums, kind), mask=mask)
    if block == 0:
        tl.store(totals_pointer + latent, round_to(total, kind))
