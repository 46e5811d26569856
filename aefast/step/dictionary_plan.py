"""What a training step of a sparse dictionary computes."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from aefast import backend
from aefast.ops.shared import dispatch
from aefast.step.parameters import unsuitable


class DictionaryPlan(NamedTuple):
    """A step of a sparse dictionary.

    The parameters are the encoder's weight ``[L, D]`` and bias, the latents' directions ``[L, O]``
    and the decoder's bias; then JumpReLU's thresholds, or of gated codes the magnitudes' bias and
    the logarithm of their scale, ``[L]`` each.

    Attributes:
        visible: D.
        outputs: O.
        latents: L.
        selection: which latents are active: ``"topk"``, each row's k largest, or ``"batch_topk"``,
            as many a row on the average, the largest of the batch; ``"jumprelu"``, those above a
            threshold that each learns; or ``"gated"``.
        k: how many latents are active in a row; 0 where nothing limits them.
        ranks_by_norm: whether the largest are those by pre-activation times the direction's norm.
        prefixes: rising numbers of latents, the last of them L: the loss is the mean over what so
            many first latents reconstruct. Empty for all latents alone.
        is_transcoder: whether the rows have targets of their own, which the decoder's bias belongs
            to. Otherwise it is subtracted from the input.
        aux_k: how many dead latents reconstruct the residual; 0 for none.
        aux_weight: the factor of their loss.
        sparsity_weight: the factor of the number of active latents, or of what opens the gates.
        bandwidth: of the thresholds' gradient.
        estimator: of that, ``"rectangle"`` or ``"tanh"``.
        dead_after: rows after which an inactive latent is dead.
        threshold_rate: how far a step moves the threshold towards the batch's smallest active
            value; 0 where there is none.
    """

    visible: int
    outputs: int
    latents: int
    selection: str
    k: float = 0.0
    ranks_by_norm: bool = False
    prefixes: tuple[int, ...] = ()
    is_transcoder: bool = False
    aux_k: int = 0
    aux_weight: float = 0.0
    sparsity_weight: float = 0.0
    bandwidth: float = 0.0
    estimator: str = "rectangle"
    dead_after: int = 0
    threshold_rate: float = 0.0


def refusal(parameters: Sequence[Tensor], idle: Tensor, threshold: Tensor | None) -> str | None:
    """Why the kernels do not take a step of these parameters, counts ``[L]`` and threshold; None
    where they do."""
    reason = unsuitable(parameters)
    if reason is not None:
        return reason
    if idle.dtype != torch.int64 or not idle.is_cpu or not idle.is_contiguous():
        return "the counts of idle rows are not int64 on the CPU, one after the other"
    if not idle.data_ptr():
        return "the counts of idle rows have no memory: their storage was freed"
    reason = None if threshold is None else unsuitable([threshold], "the threshold")
    if reason is not None:
        return reason
    name = backend.select(parameters[0].device, parameters[0].dtype)
    if name != "cpp":
        return f"backend {name!r} serves, and not the C++ kernels"
    if dispatch.is_traced(*parameters, idle) or dispatch.is_in_functorch():
        return "the call is traced or transformed"
    if dispatch.autocast_dtype(parameters[0].device) is not None:
        return "autocast is on"
    return None
