"""The tensors and the settings of a reconstruction's loss."""

from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class LossInputs(NamedTuple):
    """The tensors of the loss."""

    x: Tensor  # [B, D]
    encoder_weight: Tensor  # [H, D]
    encoder_bias: Tensor | None  # [H]
    decoder_weight: Tensor | None  # [D, H]; None ties it to the encoder's
    decoder_bias: Tensor | None  # [D]
    target: Tensor | None  # [B, D]; None takes x


class PerInput(NamedTuple, Generic[T]):
    """A flag or a gradient for each of them."""

    x: T
    encoder_weight: T
    encoder_bias: T
    decoder_weight: T
    decoder_bias: T
    target: T


Gradients = PerInput[Tensor | None]


class LossSettings(NamedTuple):
    """How the loss is computed."""

    activation: str
    output_activation: str
    reconstruction: str  # "mse" or "bce"
    corruption: str | None
    corruption_level: float
    seed: int | Tensor
    row_offset: int
    contraction: float = 0.0  # times a row's contractive penalty is added to the summed loss
    autocast: torch.dtype | None = None  # what products are to be as exact as; None where it is off
