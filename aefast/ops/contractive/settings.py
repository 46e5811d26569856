"""The encoder's layers and the penalty's settings, as every backend takes them."""

from typing import NamedTuple

from torch import Tensor


class EncoderLayer(NamedTuple):
    """One layer of an encoder: act(x Wt + b)."""

    weight: Tensor  # [out, in]
    bias: Tensor | None  # [out], or None
    activation: str


class PenaltySettings(NamedTuple):
    """Everything but the tensors."""

    probes: int  # 0 for the exact penalty
    hessian_noise: float  # the standard deviation; 0 for no second-order term
    hessian_weight: float
    seed: int | Tensor
    row_offset: int
