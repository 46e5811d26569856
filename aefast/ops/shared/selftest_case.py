"""A case of the self-test, as the ``selftest.py`` of an op's folder lists them.

``cases()`` there gives at least one for each public function; no size is a multiple of anything.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from aefast import backend

SEED: dict[str, Any] = {"seed": 2**40 + 5, "row_offset": 11}


@dataclass(frozen=True)
class Case:
    """A function of tensors, which are rounded to each of the dtypes in turn."""

    op: str  # its folder in aefast.ops
    name: str
    function: Callable[..., Any]
    inputs: tuple[Tensor, ...]
    same_bits: bool = False  # whether a kernel must give eager's own result, to the last bit
    dtypes: tuple[torch.dtype, ...] = backend.KERNEL_DTYPES


Draw = Callable[..., Tensor]


def generators(seed: int = 0) -> tuple[Draw, Draw]:
    """``torch.randn`` and ``torch.rand``, the same numbers in every run."""
    generator = torch.Generator().manual_seed(seed)
    return partial(torch.randn, generator=generator), partial(torch.rand, generator=generator)


def layer(normal: Draw, uniform: Draw) -> tuple[Tensor, Tensor, Tensor]:
    """A batch [33, 47], and the weight and bias of a layer of 31 units."""
    return uniform(33, 47), normal(31, 47) / 4, normal(31) / 2


def two_layers(normal: Draw, uniform: Draw) -> tuple[Tensor, ...]:
    """The tensors of :func:`layer`, and the weight and bias of a second layer, of 13 units."""
    return *layer(normal, uniform), normal(13, 31) / 3, normal(13) / 2


def stacked(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, which takes lists, of x, weight, bias, weight and bias."""
    return lambda x, w, b, v, c: function(x, [w, v], [b, c])
