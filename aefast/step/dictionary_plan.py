"""What a training step of a sparse dictionary computes, whose code is each row's k largest
latents."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from aefast import backend
from aefast.ops.shared import dispatch
from aefast.step.parameters import unsuitable


class DictionaryPlan(NamedTuple):
    """A step of a top-k sparse autoencoder.

    The parameters are the encoder's weight ``[L, D]`` and bias, the latents' directions ``[L, O]``
    and the decoder's bias.

    Attributes:
        visible: D.
        outputs: O.
        latents: L.
        k: how many latents are active in a row.
        is_transcoder: whether the rows have targets of their own, which the decoder's bias belongs
            to. Otherwise it is subtracted from the input.
        aux_k: how many dead latents reconstruct the residual; 0 for none.
        aux_weight: the factor of their loss.
        dead_after: rows after which an inactive latent is dead.
    """

    visible: int
    outputs: int
    latents: int
    k: int
    is_transcoder: bool = False
    aux_k: int = 0
    aux_weight: float = 0.0
    dead_after: int = 0


def refusal(parameters: Sequence[Tensor], idle: Tensor) -> str | None:
    """Why the kernels do not take a step of these parameters and counts ``[L]``; None where they
    do."""
    reason = unsuitable(parameters)
    if reason is not None:
        return reason
    if idle.dtype != torch.int64 or not idle.is_cpu or not idle.is_contiguous():
        return "the counts of idle rows are not int64 on the CPU, one after the other"
    if not idle.data_ptr():
        return "the counts of idle rows have no memory: their storage was freed"
    name = backend.select(parameters[0].device, parameters[0].dtype)
    if name != "cpp":
        return f"backend {name!r} serves, and not the C++ kernels"
    if dispatch.is_traced(*parameters, idle) or dispatch.is_in_functorch():
        return "the call is traced or transformed"
    if dispatch.autocast_dtype(parameters[0].device) is not None:
        return "autocast is on"
    return None
