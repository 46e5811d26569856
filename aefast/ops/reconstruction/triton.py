"""The reconstruction loss on the GPU, fused with the decoder's matrix product.

``compare_kernel`` computes a tile of the decoder's pre-activation z in registers, and from it the
loss and its gradients; z itself is never written. The other products are shared/triton_gemm.py's.
If no gradient is needed, and a code of up to 512 units fits on the chip, ``loss_kernel`` computes
the loss from x in one launch: it reads x once to encode some rows, and again to compare.

Sums are deterministic: each tile writes a partial sum, and these are added in the order of tiles.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import NamedTuple

import torch
from torch import Tensor

from aefast import backend
from aefast.ops.contractive.primitives import PenaltyPrimitives
from aefast.ops.corrupt.noise import Noise
from aefast.ops.linear_act.op import FROM_PREACTIVATION, saved_for_backward
from aefast.ops.reconstruction import panels
from aefast.ops.reconstruction.settings import Gradients, LossInputs, LossSettings, PerInput
from aefast.ops.shared import triton_activation, triton_gemm, triton_packed
from aefast.ops.shared.triton import (
    ACTIVATIONS,
    TYPE_NAMES,
    PlannedLaunch,
    Variant,
    cdiv,
    device_of,
)
from aefast.ops.shared.triton_gemm import Factors, Tile
from aefast.ops.shared.triton_packed import PackedLaunches

# The columns that the epilogue takes at a time: it needs registers for every element in flight.
EPILOGUE_COLUMNS = 32

LOSSES = {"mse": 0, "bce": 1}
# The combinations that compare_kernel is compiled for. Cross entropy takes a sigmoid's logits.
COMPARED = [*(("mse", activation) for activation in ACTIVATIONS), ("bce", "sigmoid")]


# Two blocks of these fit on a multiprocessor: one multiplies while the other compares. With 784
# columns an eighth of them is padding, and a quarter of tiles of 256. GELU would spill registers.
OVERLAPPING = {(90, "half"): (Tile(128, 128, 64, 4, 3), Tile(64, 64, 64, 4, 4))}


def tiles(generation: int, kind: str, activation: str) -> tuple[Tile, Tile]:
    """The large and the small tile of a comparison."""
    wide = triton_gemm.TILES[generation][kind]
    return wide if activation == "gelu" else OVERLAPPING.get((generation, kind), wide)


@dataclass(frozen=True)
class LossTile:
    """The block of rows that one program of ``loss_kernel`` takes, and its launch settings."""

    rows: int
    columns: int  # of x and of the reconstruction at a time
    block_hidden: int  # units of the code that are computed at a time: a wider accumulator spills
    hidden_blocks: int  # 1 or 2; together they hold the code
    warps: int
    stages: int


# There is none for float32 at "highest": the terms of its factors do not fit on the chip with a
# code. It takes compare_kernel.
LOSS_TILES: dict[int, dict[str, tuple[LossTile, ...]]] = {
    80: {
        "half": (LossTile(64, 64, 256, 1, 8, 2), LossTile(64, 64, 256, 2, 8, 2)),
        "tf32": (LossTile(64, 32, 256, 1, 8, 2), LossTile(64, 16, 256, 2, 8, 1)),
    },
    90: {
        "half": (LossTile(64, 64, 256, 1, 8, 2), LossTile(64, 64, 256, 2, 8, 2)),
        "tf32": (LossTile(64, 32, 256, 1, 8, 2), LossTile(64, 16, 256, 2, 8, 2)),
    },
    100: {
        "half": (LossTile(64, 64, 128, 2, 8, 2), LossTile(64, 64, 256, 2, 8, 2)),
        "tf32": (LossTile(64, 32, 256, 1, 8, 2),),
    },
}


@cache
def _loss_variant(dtype: torch.dtype, tile: LossTile) -> Variant:
    names = ("x", "encoder", "decoder", "target", "encoder_bias", "decoder_bias")
    types = {f"{name}_pointer": f"*{TYPE_NAMES[dtype]}" for name in names}
    types["loss_pointer"] = "*fp32"
    constants = {
        "BLOCK_ROWS": tile.rows,
        "BLOCK_COLUMNS": tile.columns,
        "BLOCK_HIDDEN": tile.block_hidden,
        "HIDDEN_BLOCKS": tile.hidden_blocks,
        "ALIGNMENT": triton_gemm.alignment(dtype),
    }
    kernel = "reconstruction.triton_kernels.loss_kernel"
    return Variant(kernel, types, constants, tile.warps, tile.stages, tensor_cores=True)


def _loss_tile(inputs: LossInputs) -> LossTile | None:
    """The settings of ``loss_kernel``; None where separate kernels serve: for a large code, few
    rows or a chip with little shared memory."""
    x, weight = inputs.x, inputs.encoder_weight
    if not triton_gemm.has_full_shared_memory(x.device):
        return None
    generation, multiprocessors = triton_gemm.chip(x.device)
    fitting = [
        tile
        for tile in LOSS_TILES[generation].get(triton_gemm.kind_of(x), ())
        if tile.hidden_blocks * tile.block_hidden >= weight.shape[0]
        and 2 * cdiv(x.shape[0], tile.rows) >= multiprocessors
    ]
    return fitting[0] if fitting else None


def _loss_alone(inputs: LossInputs, settings: LossSettings, tile: LossTile) -> Tensor:
    x, encoder_weight, encoder_bias, decoder_weight, decoder_bias, target = inputs
    if decoder_weight is None:
        decoder_weight = encoder_weight.t()
    hidden, columns = encoder_weight.shape
    programs = cdiv(x.shape[0], tile.rows)
    losses = x.new_empty(programs, dtype=torch.float32)
    x, encoder_weight, decoder_weight, target = (
        triton_gemm.aligned(tensor)
        for tensor in (x, encoder_weight, decoder_weight, x if target is None else target)
    )
    with device_of(x):
        _loss_variant(x.dtype, tile).launch(
            programs,
            x_pointer=x,
            encoder_pointer=encoder_weight,
            decoder_pointer=decoder_weight,
            target_pointer=target,
            encoder_bias_pointer=x if encoder_bias is None else encoder_bias.contiguous(),
            decoder_bias_pointer=x if decoder_bias is None else decoder_bias.contiguous(),
            loss_pointer=losses,
            x_row_stride=x.stride(0),
            encoder_row_stride=encoder_weight.stride(0),
            decoder_row_stride=decoder_weight.stride(0),
            target_row_stride=target.stride(0),
            rows=x.shape[0],
            columns=columns,
            hidden=hidden,
            encoder_bias_size=0 if encoder_bias is None else hidden,
            decoder_bias_size=0 if decoder_bias is None else columns,
            loss=LOSSES[settings.reconstruction],
            activation=ACTIVATIONS[settings.activation],
            output_activation=ACTIVATIONS[settings.output_activation],
        )
    return losses.sum(dtype=torch.float64)


@cache
def _compare_variant(
    generation: int,
    dtype: torch.dtype,
    operands: torch.dtype,
    kind: str,
    tile: Tile,
    layout: tuple[bool, bool],
    loss: str,
    activation: str,
) -> Variant:
    pointer = f"*{TYPE_NAMES[dtype]}"
    types = triton_gemm.operand_types(generation, operands, tile, layout)
    types |= dict.fromkeys(
        ("target_pointer", "bias_pointer", "grad_output_pointer", "grad_target_pointer"), pointer
    )
    types |= dict.fromkeys(("grad_bias_pointer", "loss_pointer"), "*fp32")
    constants = triton_gemm.tile_constants(generation, operands, kind, tile, layout)
    constants |= {"LOSS": LOSSES[loss], "ACTIVATION": ACTIVATIONS[activation]}
    kernel = "reconstruction.triton_kernels.compare_kernel"
    return Variant(kernel, types, constants, tile.warps, tile.stages, tensor_cores=True)


def variants(generation: int) -> Iterator[Variant]:
    """The kernels of this file that :func:`reconstruction_loss` can launch."""
    for dtype in TYPE_NAMES:
        for kind in triton_gemm.kinds(generation, dtype):
            operands = torch.bfloat16 if kind == "terms" else dtype
            for loss, activation in COMPARED:
                for tile in tiles(generation, kind, activation):
                    for right_by_depth in (False, True):
                        layout = (False, right_by_depth)
                        yield _compare_variant(
                            generation, dtype, operands, kind, tile, layout, loss, activation
                        )
            for loss_tile in LOSS_TILES[generation].get(kind, ()):
                yield _loss_variant(dtype, loss_tile)


def reconstruction_loss(
    inputs: LossInputs, settings: LossSettings, scale: float, needs_grad: PerInput[bool]
) -> tuple[float | Tensor, Gradients]:
    if settings.corruption is None and settings.contraction == 0 and not any(needs_grad):
        tile = _loss_tile(inputs)
        if tile is not None:
            return _loss_alone(inputs, settings, tile), PerInput(*[None] * len(inputs))
    return panels.reconstruction_loss(
        _Primitives(inputs.x.device), inputs, settings, scale, needs_grad
    )


def pays(inputs: LossInputs) -> bool:
    return True


class _Memory(NamedTuple):
    """What a comparison writes: padded gradients [rows, columns], and partial sums."""

    grad_output: Tensor | None
    grad_target: Tensor | None
    grad_bias: Tensor | None  # [row tiles, columns]
    losses: Tensor  # [row tiles, pieces of columns]

    def pointers(self, unwritten: Tensor) -> tuple[Tensor, ...]:
        """In the kernel's order. ``unwritten`` stands for gradients that are not needed."""
        return (
            unwritten if self.grad_output is None else self.grad_output,
            unwritten if self.grad_target is None else self.grad_target,
            self.losses if self.grad_bias is None else self.grad_bias,
            self.losses,
        )


def _memory(
    code: Tensor, columns: int, row_tiles: int, needs_grad: panels.ComparisonGradients
) -> _Memory:
    rows, padded_columns = code.shape[0], triton_gemm.padded(columns, code.dtype)
    float32 = partial(code.new_empty, dtype=torch.float32)
    return _Memory(
        code.new_empty(rows, padded_columns) if needs_grad.output else None,
        code.new_empty(rows, padded_columns) if needs_grad.target else None,
        float32(row_tiles, columns) if needs_grad.bias else None,
        float32(row_tiles, cdiv(columns, EPILOGUE_COLUMNS)),
    )


_packed = PackedLaunches()
# The kernel's pointers besides the factors, in its order.
POINTERS = tuple(
    f"{name}_pointer"
    for name in ("target", "bias", "grad_output", "grad_target", "grad_bias", "loss")
)


class _Primitives:
    """Implements panels.LossPrimitives."""

    def __init__(self, device: torch.device) -> None:
        self.panel_bytes = triton_gemm.panel_bytes(device)

    def operand(self, right: Tensor) -> Tensor:
        return right

    def corrupt(self, x: Tensor, noise: Noise) -> Tensor:
        return backend.implementation("corrupt", "triton").corrupt(x, noise)

    def encode(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, activation: str
    ) -> tuple[Tensor, Tensor | None]:
        keep_preactivation = activation in FROM_PREACTIVATION
        code, preactivation = triton_gemm.multiply(x, weight, bias, activation, keep_preactivation)
        return code, saved_for_backward(activation, code, preactivation)

    def compare(
        self,
        code: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor,
        settings: LossSettings,
        scale: float,
        needs_grad: panels.ComparisonGradients,
    ) -> panels.Compared:
        columns, target = weight.shape[0], triton_gemm.aligned(target)
        device = triton_packed.gpu_of(code)
        key = (
            *(device, *map(triton_packed.layout, (code, weight, target)), code.dtype),
            *(bias is None, settings.reconstruction, settings.output_activation, scale),
            *(needs_grad, triton_gemm.kind_of(code)),
        )
        packed = _packed.find(key)
        if packed is not None:
            memory = _memory(code, columns, packed.sizes[0], needs_grad)
            bias = code if bias is None else bias.contiguous()
            packed.run(code, weight, target, bias, *memory.pointers(code))
        else:
            read = triton_gemm.factors(code, weight, plain=False)
            planned, memory = _planned(read, code, bias, target, settings, scale, needs_grad)
            with device_of(code):
                planned.run()
            if device is not None and read.is_of(code, weight):
                _packed.add(key, device, planned, memory.losses.shape[0])
        grad_output, grad_target, grad_bias, losses = memory
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

    def contraction(self) -> PenaltyPrimitives:
        return backend.implementation("contractive", "triton").primitives()

    def multiply(self, left: Tensor, right: Tensor) -> Tensor:
        return triton_gemm.multiply(left, right)[0]

    def add_product(self, left: Tensor, right: Tensor, total: Tensor | None) -> Tensor:
        return triton_gemm.add_product(left.t(), right.t(), total)


def _planned(
    read: Factors,
    code: Tensor,
    bias: Tensor | None,
    target: Tensor,
    settings: LossSettings,
    scale: float,
    needs_grad: panels.ComparisonGradients,
) -> tuple[PlannedLaunch, _Memory]:
    """A comparison's launch, and what it writes."""
    rows, columns, _ = read.shape
    generation, multiprocessors = triton_gemm.chip(code.device)
    compared = settings.reconstruction, settings.output_activation
    pair = tiles(generation, read.kind, settings.output_activation)
    tile, _ = triton_gemm.choose_tile(pair, multiprocessors, read.shape)
    variant = _compare_variant(
        generation, code.dtype, read.left.dtype, read.kind, tile, read.layout, *compared
    )
    row_tiles = cdiv(rows, tile.rows)
    memory = _memory(code, columns, row_tiles, needs_grad)
    pointers = target, code if bias is None else bias.contiguous(), *memory.pointers(code)
    arguments = {
        **read.arguments(generation, tile),
        **dict(zip(POINTERS, pointers, strict=True)),
        "target_row_stride": target.stride(0),
        "bias_size": 0 if bias is None else columns,
        "scale": scale,
        "wants_output": int(needs_grad.output),
        "wants_bias": int(needs_grad.bias),
        "wants_target": int(needs_grad.target),
    }
    return PlannedLaunch(variant, row_tiles * cdiv(columns, tile.columns), arguments), memory
