"""BatchTopK: the largest pre-activations of a whole batch, or all above a threshold.

A row may have any number of them. topk_encode gives each row's m largest, in descending order; m is
doubled until no row's last one is selected. So every backend serves, and none stores an array
[rows, latents]. The code's width depends on the data, which costs one synchronization a call.
"""

import functools
import math
from typing import Any

import torch
from torch import Tensor

from aefast import backend
from aefast.distributed import selection
from aefast.distributed.group import Group
from aefast.ops.shared import checks, dispatch
from aefast.ops.shared.autograd import Context, KernelFunction
from aefast.ops.shared.precision import upcast
from aefast.ops.shared.registered import registered
from aefast.ops.topk import eager, products
from aefast.ops.topk.products import latent_sums, run_kernel

# The first m, as a multiple of a row's mean number of active latents; then it is doubled.
FIRST_WIDTH = 4


def check_active(k: Any, weight: Tensor) -> float:
    """The mean number of active latents of a row."""
    k = checks.check_number(k, "k", 0)
    latents = weight.shape[0]
    if not 0 < k <= latents:
        raise ValueError(
            f"k is {k}; with weight's shape {list(weight.shape)} it takes a number in "
            f"(0, {latents}]"
        )
    return k


def encode(
    x: Tensor, weight: Tensor, bias: Tensor | None, k: float, threshold: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The values and latents ``[B, m]`` of the k B largest pre-activations of rows ``[B, D]``, or
    of all above ``threshold``. m is the largest number in a row; other rows are filled with 0."""
    arguments = x, weight, bias, k, threshold
    if dispatch.is_traced(x, weight, bias):
        dispatch.refuse_onnx("how wide a batch's top-k code is depends on x's values")
        if dispatch.is_defined_in_trace(x):
            return eager.batch_topk_encode(*arguments)[:2]
        return torch.ops.aefast.batch_topk_encode(*arguments)[:2]
    if x.is_meta or dispatch.is_vmapped():
        raise RuntimeError(
            "how wide a batch's code is depends on x's values: it takes neither a meta tensor nor "
            "torch.func.vmap"
        )
    name = backend.select(x.device, x.dtype)
    if name == "eager" or 0 in (x.numel(), weight.numel()) or dispatch.is_transformed(x):
        return eager.batch_topk_encode(*arguments)[:2]
    if dispatch.is_differentiated(x, weight, bias):
        return _BatchTopKEncode.apply(*arguments, Group())[:2]
    return _run(*arguments, Group())[:2]


def encode_shared(
    x: Tensor, weight: Tensor, bias: Tensor | None, k: float, group: Group
) -> tuple[Tensor, Tensor]:
    """As :func:`encode` of a batch of which each rank has some rows ``[B, D]``, or none: this
    rank's values and latents, ``[B, m]``, of the largest of all ranks' rows.

    Raises:
        OtherRankError: another rank has an error.
    """
    return _BatchTopKEncode.apply(x, weight, bias, k, None, group)[:2]


def _run(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    k: float,
    threshold: Tensor | None,
    group: Group,
) -> tuple[Tensor, Tensor, Tensor]:
    """Values, latents, and how many of each row are wanted ``[B]``."""
    is_defined = backend.select(x.device, x.dtype) == "eager" or 0 in (x.numel(), weight.numel())
    if is_defined and group.size == 1:
        return eager.batch_topk_encode(x, weight, bias, k, threshold)
    # Ranked, as every encoding, before it is rounded to a half precision.
    inputs = upcast(x), upcast(weight), None if bias is None else upcast(bias)
    count, latents = eager.batch_count(k, group.total(len(x))), len(weight)
    width = min(latents, FIRST_WIDTH * math.ceil(k))
    while True:
        largest = functools.partial(run_kernel, "topk_encode", *inputs, width)
        values, indices = group.together(largest)
        if group.size > 1:
            counts = selection.selected_counts(values, count, group)
        else:
            counts = eager.selected_counts(values, count, threshold)
        most = int(counts.max()) if len(counts) else 0
        (is_cut,) = group.any(most == width)
        if not is_cut or width == latents:
            break
        width = min(latents, 2 * width)
    return *eager.trimmed(values.to(x.dtype), indices, counts, max(1, most)), counts


class _BatchTopKEncode(KernelFunction):
    """Differentiable through the latents that were selected, which are held constant."""

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        return _run(*arguments)

    @staticmethod
    def setup_context(ctx: Context, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _, indices, counts = output
        ctx.mark_non_differentiable(indices, counts)
        ctx.save_for_backward(inputs[0], inputs[1], indices, counts)

    @staticmethod
    def backward(ctx: Context, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, weight, indices, counts = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grad = torch.where(eager.is_selected(indices, counts), grad, 0)
        grad_x = products.sparse_decode(grad, indices, weight, None) if needs_x else None
        sums = totals = None
        if needs_weight or needs_bias:
            sums, totals = latent_sums(grad, indices, x, weight.shape[0])
        gradients = grad_x, sums if needs_weight else None, totals if needs_bias else None
        return *gradients, *[None] * (len(ctx.needs_input_grad) - len(gradients))


@registered("aefast::batch_topk_encode")
def _registered(
    x: Tensor, weight: Tensor, bias: Tensor | None, k: float, threshold: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    return _run(x, weight, bias, k, threshold, Group())


@_registered.register_fake
def _(
    x: Tensor, weight: Tensor, bias: Tensor | None, k: float, threshold: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    most = torch.library.get_ctx().new_dynamic_size(min=1)
    values = x.new_empty(x.shape[0], most)
    return (
        values,
        values.new_empty(values.shape, dtype=torch.int64),
        x.new_empty(x.shape[0], dtype=torch.int64),
    )


_registered.register_autograd(
    _BatchTopKEncode.backward, setup_context=_BatchTopKEncode.setup_context
)
