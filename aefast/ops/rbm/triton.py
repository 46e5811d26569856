"""Gibbs sampling on the GPU: one kernel multiplies Bernoulli states and samples the next ones.

A Bernoulli state is exact in bfloat16, and a float32 weight is the exact sum of three bfloat16
numbers. So three bfloat16 products give a float32 product, where two float32 operands take six.
``"high"`` precision takes the first two of the three, ``"medium"`` the first. States are stored as
bfloat16 between half steps. Data that are not binary are split as the weight is. How many terms
they need is known to the device alone, so that the host need not wait for it.

Gaussian and clamped units take the products of shared/triton_gemm.py and a kernel that samples.
"""

from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor

from aefast.ops.rbm.primitives import ChainPrimitives, Operand, States
from aefast.ops.rbm.settings import ChainSettings, Machine
from aefast.ops.shared import triton_gemm, triton_terms
from aefast.ops.shared.precision import product_level
from aefast.ops.shared.triton import (
    PlannedLaunch,
    Variant,
    cdiv,
    device_of,
    launch_in_turn,
    seed_arguments,
)
from aefast.ops.shared.triton_gemm import Tile
from aefast.ops.shared.triton_terms import Terms

UNITS = 256  # groups of four adjacent columns that a program samples
STATISTICS_ROWS, STATISTICS_COLUMNS, STATISTICS_STEPS = 16, 128, 8

TERMS = {"highest": 3, "high": 2, "medium": 1}


@cache
def _draw_variant(gaussian: bool) -> Variant:
    names = ("values", "means", "deviation", "factor")
    types = {f"{name}_pointer": "*fp32" for name in names}
    return Variant("rbm.triton_kernels.draw_kernel", types, {"GAUSSIAN": gaussian, "UNITS": UNITS})


@cache
def _statistics_variant() -> Variant:
    types = {f"{name}_pointer": "*fp32" for name in ("inputs", "energy", "partial")}
    types["terms_pointer"] = "*bf16"
    constants = {
        "TERMS": TERMS["highest"],
        "ROWS": STATISTICS_ROWS,
        "COLUMNS": STATISTICS_COLUMNS,
        "STEPS": STATISTICS_STEPS,
        "ALIGNMENT": triton_terms.ALIGNMENT,
    }
    return Variant("rbm.triton_kernels.statistics_kernel", types, constants)


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
        "ALIGNMENT": triton_gemm.alignment(torch.bfloat16),
        "DESCRIPTORS": generation >= 90,
    }
    kernel = "rbm.triton_kernels.half_step_kernel"
    return Variant(kernel, types, constants, tile.warps, tile.stages, tensor_cores=True)


def variants(generation: int) -> Iterator[Variant]:
    """The kernels of this file that a chain can launch."""
    for gaussian in (False, True):
        yield _draw_variant(gaussian)
    yield _statistics_variant()
    for terms in TERMS.values():
        for aligned in (True, False):
            yield triton_terms.split_variant(terms, aligned, counts=True)
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


class _BernoulliPrimitives(_Primitives):
    """Bernoulli units, whose states are one bfloat16 term. Data may be split into up to three."""

    takes_bernoulli_steps = True

    def __init__(self, device_type: str) -> None:
        self.terms = TERMS[product_level(device_type)]

    def states(self, visible: Tensor) -> Terms:
        return triton_terms.split(visible, self.terms, counts=True)

    def tensor(self, states: Terms) -> Tensor:
        if states.values is not None:
            return states.values
        return states.matrix[:, : states.shape[1]].float()

    def operand(self, right: Tensor) -> Terms:
        self.one = torch.ones(1, dtype=torch.int32, device=right.device)
        return triton_terms.split(right, self.terms, counts=True)

    def linear(self, left: Terms, right: Terms, bias: Tensor | None) -> Tensor:
        values = right.matrix.new_empty(left.shape[0], right.shape[0], dtype=torch.float32)
        with device_of(values):
            self._half_step(left, right, bias, None, None, values, None, 0).run()
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
        with device_of(right.matrix):
            self._half_step(left, right, bias, beta, states, means, settings, step).run()
        return Terms(states, rows, (rows, columns), self.one), means

    def bernoulli_steps(
        self,
        hidden: Terms,
        visible: Terms,
        weight: Terms,
        transposed: Terms,
        biases: tuple[Tensor | None, Tensor | None],
        beta: Tensor | None,
        settings: ChainSettings,
        steps: range,
    ) -> None:
        of_hidden, of_visible = biases
        launches = [
            self._half_step(visible, weight, of_hidden, beta, hidden.matrix, None, settings, 0),
            self._half_step(
                hidden, transposed, of_visible, beta, visible.matrix, None, settings, 0
            ),
        ]
        device = weight.matrix.device
        with device_of(weight.matrix):
            launch_in_turn(launches, device, 2 * steps.start, len(steps))

    def statistics(
        self, states: Terms, weight: Terms, bias: Tensor | None, scale: float
    ) -> tuple[Tensor, Tensor | Terms, Tensor]:
        """At full precision the probabilities are made as terms, for :meth:`add_product`."""
        if self.terms < TERMS["highest"]:
            return super().statistics(states, weight, bias, scale)
        inputs = self.linear(states, weight, bias)
        rows, columns = inputs.shape
        width = triton_gemm.padded(columns, torch.bfloat16)
        term_rows = cdiv(rows, triton_terms.ROWS) * triton_terms.ROWS
        matrix = inputs.new_empty(self.terms * term_rows, width, dtype=torch.bfloat16)
        row_blocks = cdiv(term_rows, STATISTICS_ROWS * STATISTICS_STEPS)
        programs = row_blocks * cdiv(width, STATISTICS_COLUMNS)
        energy, partials = inputs.new_empty(programs), inputs.new_empty(row_blocks, columns)
        with device_of(inputs):
            _statistics_variant().launch(
                programs,
                inputs_pointer=inputs,
                terms_pointer=matrix,
                energy_pointer=energy,
                partial_pointer=partials,
                rows=rows,
                columns=columns,
                padded_columns=width,
                term_rows=term_rows,
                scale=scale,
            )
        probabilities = Terms(matrix, term_rows, (rows, columns))
        return energy.sum(), probabilities, partials.sum(0)

    def add_product(
        self, probabilities: Tensor | Terms, states: Terms, total: Tensor | None
    ) -> Tensor:
        if not isinstance(probabilities, Terms):
            return super().add_product(probabilities, states, total)
        kind = "states" if states.values is None else "terms"
        return triton_gemm.add_terms(probabilities, states, kind, total)

    def row_sum(self, states: Terms) -> Tensor:
        if states.values is not None:
            return states.values.sum(0)
        return states.matrix[:, : states.shape[1]].sum(0, dtype=torch.float32)

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
    ) -> PlannedLaunch:
        """To sample ``states`` with the settings, or to write the sums into ``values``."""
        shape = left.shape[0], right.shape[0], right.shape[1]
        device = right.matrix.device
        generation, multiprocessors = triton_gemm.chip(device)
        tiles = triton_gemm.TILES[generation]["bernoulli"]
        tile, _ = triton_gemm.choose_tile(tiles, multiprocessors, shape)
        read = triton_gemm.factors_of_terms(left, right, (False, False), "bernoulli", shape)
        seed = 0 if settings is None else settings.seed
        unread = right.matrix.new_empty(1, dtype=torch.float32)
        return PlannedLaunch(
            _half_step_variant(generation, tile, self.terms),
            cdiv(shape[0], tile.rows) * cdiv(shape[1], tile.columns),
            {
                **read.arguments(generation, tile),
                "states_pointer": left.matrix if states is None else states,
                "values_pointer": unread if values is None else values,
                "bias_pointer": unread if bias is None else bias.contiguous(),
                "factor_pointer": unread if beta is None else beta,
                "count_pointer": left.count,
                **seed_arguments(seed, device),
                "row_offset": 0 if settings is None else settings.row_offset,
                "step": step,
                "bias_size": 0 if bias is None else shape[1],
                "has_factor": int(beta is not None),
                "draws": int(states is not None),
                "keeps_means": int(values is not None),
            },
        )
