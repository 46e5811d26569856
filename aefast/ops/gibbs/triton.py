# mypy: allow-untyped-defs
"""Gibbs sampling on the GPU, around the products of shared/triton_gemm.py."""

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from aefast.ops.gibbs import chain
from aefast.ops.gibbs.kernels import Kernels
from aefast.ops.gibbs.settings import Machine, Sample, Settings
from aefast.ops.shared import triton_gemm
from aefast.ops.shared.triton import (
    Variant,
    device_of,
    interleave,
    load_seed,
    normal_pair,
    philox,
    seed_arguments,
    sigmoid,
    uniform,
)

UNITS = 256  # of four adjacent columns, a program


@triton.jit(
    do_not_specialize=[
        "seed",
        "seed_address",
        "row_offset",
        "step",
        "rows",
        "columns",
        "has_factor",
        "keeps_means",
    ],
    do_not_specialize_on_alignment=[
        "values_pointer",
        "means_pointer",
        "deviation_pointer",
        "factor_pointer",
    ],
)
def draw_kernel(
    values_pointer,  # [rows, columns]: inputs or means, which become states
    means_pointer,  # [rows, columns], written if keeps_means
    deviation_pointer,  # [columns], of Gaussian units
    factor_pointer,  # [rows], read if has_factor
    seed: tl.int64,
    seed_address: tl.int64,  # 0, or where the seed stands in device memory
    row_offset: tl.int64,
    step: tl.int32,
    rows: tl.int32,
    columns: tl.int32,
    has_factor: tl.int32,
    keeps_means: tl.int32,
    GAUSSIAN: tl.constexpr,
    UNITS: tl.constexpr,
):
    """Half a step's draw: 1 where the uniform is below sigmoid(factor value), or a normal number of
    this mean and of the standard deviation factor deviation."""
    units_per_row = tl.cdiv(columns, 4)
    index = tl.program_id(0).to(tl.int64) * UNITS + tl.arange(0, UNITS)
    row = index // units_per_row
    unit = (index - row * units_per_row).to(tl.int32)
    column = unit[:, None] * 4 + tl.arange(0, 4)[None, :]
    mask = (row < rows)[:, None] & (column < columns)
    offset = row[:, None] * columns + column
    value = tl.load(values_pointer + offset, mask=mask, other=0.0)
    factor = tl.load(factor_pointer + row, mask=(row < rows) & (has_factor != 0), other=1.0)
    key = load_seed(seed, seed_address)
    word_0, word_1, word_2, word_3 = philox(
        key, unit[:, None], (row + row_offset)[:, None], step.to(tl.uint32)
    )
    if GAUSSIAN:
        normal_0, normal_1 = normal_pair(word_0, word_1)
        normal_2, normal_3 = normal_pair(word_2, word_3)
        noise = interleave(normal_0, normal_1, normal_2, normal_3)
        deviation = tl.load(deviation_pointer + column, mask=mask, other=0.0)
        mean = value
        state = value + factor[:, None] * deviation * noise
    else:
        drawn = interleave(uniform(word_0), uniform(word_1), uniform(word_2), uniform(word_3))
        mean = sigmoid(factor[:, None] * value)
        state = tl.where(drawn < mean, 1.0, 0.0)
    if keeps_means != 0:
        tl.store(means_pointer + offset, mean, mask=mask)
    tl.store(values_pointer + offset, state, mask=mask)


def _variant(gaussian: bool) -> Variant:
    names = ("values", "means", "deviation", "factor")
    types = {f"{name}_pointer": "*fp32" for name in names}
    return Variant(draw_kernel, types, {"GAUSSIAN": gaussian, "UNITS": UNITS})


def variants(generation: int) -> Iterator[Variant]:
    """What a chain can launch beside linear_act's kernels."""
    for gaussian in (False, True):
        yield _variant(gaussian)


def gibbs(visible: Tensor, machine: Machine, settings: Settings) -> Sample:
    return chain.gibbs(_Kernels(), visible, machine, settings)


def divergence(
    visible: Tensor,
    chains: Tensor | None,
    machine: Machine,
    settings: Settings,
    weight_needed: bool,
) -> tuple[chain.Divergence, Tensor]:
    return chain.divergence(_Kernels(), visible, chains, machine, settings, weight_needed)


class _Kernels(Kernels):
    def linear(self, left: Tensor, right: Tensor, bias: Tensor | None) -> Tensor:
        return triton_gemm.multiply(left, right, bias)[0]

    def add_product(self, probabilities: Tensor, states: Tensor, total: Tensor | None) -> Tensor:
        return triton_gemm.add_product(probabilities.t(), states.t(), total)

    def bernoulli(
        self, values: Tensor, beta: Tensor | None, keep: bool, settings: Settings, step: int
    ) -> Tensor | None:
        return _draw(values, None, beta, keep, settings, step)

    def gaussian(
        self,
        values: Tensor,
        deviation: Tensor,
        beta: Tensor | None,
        keep: bool,
        settings: Settings,
        step: int,
    ) -> Tensor | None:
        factor = None if beta is None else beta.rsqrt()
        return _draw(values, deviation.contiguous(), factor, keep, settings, step)


def _draw(
    values: Tensor,
    deviation: Tensor | None,
    factor: Tensor | None,
    keep: bool,
    settings: Settings,
    step: int,
) -> Tensor | None:
    rows, columns = values.shape
    means = torch.empty_like(values) if keep else None
    with device_of(values):
        _variant(deviation is not None).launch(
            triton.cdiv(rows * triton.cdiv(columns, 4), UNITS),
            values,
            values if means is None else means,
            values if deviation is None else deviation,
            values if factor is None else factor,
            *seed_arguments(settings.seed, values.device),
            settings.row_offset,
            step,
            rows,
            columns,
            int(factor is not None),
            int(keep),
        )
    return means
