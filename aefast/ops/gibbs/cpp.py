"""Gibbs sampling in C++: csrc/gibbs.cpp, around the products of csrc/gemm.cpp."""

import torch
from torch import Tensor

from aefast import backend
from aefast.ops.gibbs import chain
from aefast.ops.gibbs.settings import Machine, Sample, Settings
from aefast.ops.shared import cpp as shared

_C = backend.extension()


def gibbs(visible: Tensor, machine: Machine, settings: Settings) -> Sample:
    return chain.gibbs(_Kernels(), visible, machine, settings)


class _Kernels:
    """What chain.Kernels asks for."""

    def operand(self, right: Tensor) -> shared.RightOperand:
        return shared.packed_operand(right)

    def linear(self, left: Tensor, right: shared.RightOperand, bias: Tensor | None) -> Tensor:
        return shared.linear_act(left, right, bias, "identity", False)[0]

    def draw_bernoulli(
        self, values: Tensor, beta: Tensor | None, keep: bool, settings: Settings, step: int
    ) -> Tensor | None:
        return _draw(values, None, beta, keep, settings, step)

    def draw_gaussian(
        self,
        values: Tensor,
        deviation: Tensor,
        beta: Tensor | None,
        keep: bool,
        settings: Settings,
        step: int,
    ) -> Tensor | None:
        beta = None if beta is None else beta.rsqrt()
        return _draw(values, deviation.contiguous(), beta, keep, settings, step)


def _draw(
    values: Tensor,
    deviation: Tensor | None,
    factor: Tensor | None,
    keep: bool,
    settings: Settings,
    step: int,
) -> Tensor | None:
    means = torch.empty_like(values) if keep else None
    _C.draw(
        values.data_ptr(),
        0 if means is None else means.data_ptr(),
        0 if deviation is None else deviation.data_ptr(),
        0 if factor is None else factor.data_ptr(),
        *values.shape,
        int(settings.seed),
        settings.row_offset,
        step,
        torch.get_num_threads(),
    )
    return means
