"""What a reconstruction's loss is made of: its inputs and its settings."""

from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class PerInput(NamedTuple, Generic[T]):
    """A tensor, a flag or a gradient for each input of the loss."""

    x: T  # [B, D]
    encoder_weight: T  # [H, D]
    encoder_bias: T  # [H]
    decoder_weight: T  # [D, H]; None ties it to the encoder's
    decoder_bias: T  # [D]
    target: T  # [B, D]; None takes x


class LossSettings(NamedTuple):
    """How the loss is computed."""

    activation: str
    output_activation: str
    loss: str  # "mse" or "bce"
    corruption: str | None
    corruption_level: float
    seed: int | Tensor
    row_offset: int
    contraction: float = 0.0  # times a row's contractive penalty is added to the summed loss
    autocast: torch.dtype | None = None  # what products are to be as exact as; None where it is off
