"""Gibbs sampling on the GPU: one kernel multiplies Bernoulli states and samples the next ones.

A Bernoulli state is exact in bfloat16, and a float32 weight is the exact sum of three bfloat16
numbers. So three bfloat16 products give a float32 product, where two float32 operands take six.
``"high"`` precision takes the first two of the three, ``"medium"`` the first. States are stored as
bfloat16 between half steps. Data that are not binary are split as the weight is. How many terms
they need is known to the device alone, so that the host need not wait for it.

Gaussian and clamped units take the products of shared/triton_gemm.py and a kernel that samples.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from aefast.ops.rbm.primitives import ChainPrimitives, Operand, States
from aefast.ops.rbm.settings import ChainSettings, Machine
from aefast.ops.shared import triton_gemm
from aefast.ops.shared.precision import product_level
from aefast.ops.shared.triton import Variant, cdiv, device_of, seed_arguments
from aefast.ops.shared.triton_gemm import Tile

UNITS = 256  # groups of four adjacent columns that a program samples
SPLIT_ELEMENTS = 1024  # elements that a program splits

TERMS = {"highest": 3, "high": 2, "medium": 1}


@cache
def _draw_variant(gaussian: bool) -> Variant:
    names = ("values", "means", "deviation", "factor")
    types = {f"{name}_pointer": "*fp32" for name in names}
    return Variant("rbm.triton_kernels.draw_kernel", types, {"GAUSSIAN": gaussian, "UNITS": UNITS})


@cache
def _split_variant(terms: int) -> Variant:
    types = {"source_pointer": "*fp32", "terms_pointer": "*bf16", "count_pointer": "*i32"}
    unit = triton_gemm.unit(torch.bfloat16)
    constants = {"TERMS": terms, "UNIT": unit, "BLOCK": SPLIT_ELEMENTS}
    return Variant("rbm.triton_kernels.split_kernel", types, constants)


@cache
def _half_step_variant(generation: int, tile: Tile, terms: int) -> Variant:
    types = triton_gemm.operand_types(generation, torch.bfloat16, tile, (False, False))
    types |= {"states_pointer": "*bf16", "count_pointer": "*i32"}
    types |= {f"{name}_pointer": "*fp32" for name in ("values", "bias", "factor")}
    constants = {
        "BLOCK_ROWS": tile.rows,
        "BLOCK_COLUMNS": tile.columns,
        "BLOCK_DEPTH": tile.depth,
        "TERMS": terms,
        "UNIT": triton_gemm.unit(torch.bfloat16),
        "DESCRIPTORS": generation >= 90,
    }
    kernel = "rbm.triton_kernels.half_step_kernel"
    return Variant(kernel, types, constants, tile.warps, tile.stages, tensor_cores=True)


def variants(generation: int) -> Iterator[Variant]:
    """The kernels of this file that a chain can launch."""
    for gaussian in (False, True):
        yield _draw_variant(gaussian)
    for terms in TERMS.values():
        yield _split_variant(terms)
        for tile in triton_gemm.TILES[generation]["bernoulli"]:
            yield _half_step_variant(generation, tile, terms)


def primitives(machine: Machine, settings: ChainSettings) -> ChainPrimitives:
    bernoulli = machine.log_var is None and settings.clamp_mask is None
    return _BernoulliPrimitives(machine.weight.device.type) if bernoulli else _Primitives()


class _Primitives(ChainPrimitives):
    def linear(self, left: States, right: Operand, bias: Tensor | None) -> Tensor:
        return triton_gemm.multiply(left, right, bias)[0]

    def add_product(self, probabilities: Tensor, states: States, total: Tensor | None) -> Tensor:
        return triton_gemm.add_product(probabilities.t(), self.tensor(states).t(), total)

    def sample_units(
        self,
        values: Tensor,
        deviation: Tensor | None,
        factor: Tensor | None,
        keep: bool,
        settings: ChainSettings,
        step: int,
    ) -> Tensor | None:
        rows, columns = values.shape
        means = torch.empty_like(values) if keep else None
        with device_of(values):
            _draw_variant(deviation is not None).launch(
                cdiv(rows * cdiv(columns, 4), UNITS),
                values_pointer=values,
                means_pointer=values if means is None else means,
                deviation_pointer=values if deviation is None else deviation,
                factor_pointer=values if factor is None else factor,
                **seed_arguments(settings.seed, values.device),
                row_offset=settings.row_offset,
                step=step,
                rows=rows,
                columns=columns,
                has_factor=int(factor is not None),
                keeps_means=int(keep),
            )
        return means


@dataclass(frozen=True)
class Terms:
    """A matrix [rows, columns] as a sum of bfloat16 matrices with padded columns."""

    matrix: Tensor  # the terms one below the other, [terms * rows, columns padded]
    count: Tensor  # [1] on the device: the number of terms that are not all 0
    shape: tuple[int, int]
    values: Tensor | None = None  # the float32 matrix that was split; None for sampled states


def _split(values: Tensor, terms: int) -> Terms:
    rows, columns = values.shape
    width = triton_gemm.padded(columns, torch.bfloat16)
    matrix = values.new_empty(terms * rows, width, dtype=torch.bfloat16)
    count = torch.ones(1, dtype=torch.int32, device=values.device)
    with device_of(values):
        _split_variant(terms).launch(
            cdiv(rows * width, SPLIT_ELEMENTS),
            source_pointer=values,
            terms_pointer=matrix,
            count_pointer=count,
            row_stride=values.stride(0),
            column_stride=values.stride(1),
            rows=rows,
            columns=columns,
        )
    return Terms(matrix, count, (rows, columns), values)


class _BernoulliPrimitives(_Primitives):
    """Bernoulli units, whose states are one bfloat16 term. Data may be split into up to three."""

    def __init__(self, device_type: str) -> None:
        self.terms = TERMS[product_level(device_type)]

    def states(self, visible: Tensor) -> Terms:
        return _split(visible, self.terms)

    def tensor(self, states: Terms) -> Tensor:
        if states.values is not None:
            return states.values
        return states.matrix[:, : states.shape[1]].float()

    def operand(self, right: Tensor) -> Terms:
        self.one = torch.ones(1, dtype=torch.int32, device=right.device)
        return _split(right, self.terms)

    def linear(self, left: Terms, right: Terms, bias: Tensor | None) -> Tensor:
        values = right.matrix.new_empty(left.shape[0], right.shape[0], dtype=torch.float32)
        self._half_step(left, right, bias, None, None, values, None, 0)
        return values

    def sample_bernoulli(
        self,
        left: Terms,
        right: Terms,
        bias: Tensor | None,
        beta: Tensor | None,
        keep: bool,
        settings: ChainSettings,
        step: int,
    ) -> tuple[Terms, Tensor | None]:
        rows, columns = left.shape[0], right.shape[0]
        width = triton_gemm.padded(columns, torch.bfloat16)
        states = right.matrix.new_empty(rows, width)
        means = states.new_empty(rows, columns, dtype=torch.float32) if keep else None
        self._half_step(left, right, bias, beta, states, means, settings, step)
        return Terms(states, self.one, (rows, columns)), means

    def _half_step(
        self,
        left: Terms,
        right: Terms,
        bias: Tensor | None,
        beta: Tensor | None,
        states: Tensor | None,
        values: Tensor | None,
        settings: ChainSettings | None,
        step: int,
    ) -> None:
        """Sample ``states`` with the settings, or write the sums into ``values``."""
        shape = left.shape[0], right.shape[0], right.shape[1]
        device = right.matrix.device
        generation, multiprocessors = triton_gemm.chip(device)
        tile, _ = triton_gemm.choose_tile(generation, multiprocessors, "bernoulli", shape)
        read = triton_gemm.Factors(left.matrix, right.matrix, (False, False), "bernoulli", shape)
        seed = 0 if settings is None else settings.seed
        unread = right.matrix.new_empty(1, dtype=torch.float32)
        with device_of(right.matrix):
            _half_step_variant(generation, tile, self.terms).launch(
                cdiv(shape[0], tile.rows) * cdiv(shape[1], tile.columns),
                **read.arguments(generation, tile),
                states_pointer=left.matrix if states is None else states,
                values_pointer=unread if values is None else values,
                bias_pointer=unread if bias is None else bias.contiguous(),
                factor_pointer=unread if beta is None else beta,
                count_pointer=left.count,
                **seed_arguments(seed, device),
                row_offset=0 if settings is None else settings.row_offset,
                step=step,
                bias_size=0 if bias is None else shape[1],
                has_factor=int(beta is not None),
                draws=int(states is not None),
                keeps_means=int(values is not None),
            )
