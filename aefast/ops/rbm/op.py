"""Gibbs sampling, contrastive divergence and free energy: checks and the registered op.

A backend module has one function,

``primitives(machine, settings) -> ChainPrimitives``

the steps of primitives.py for float32 states; chain.py goes through them.
"""

import math
from typing import Any

import torch
from torch import Tensor

from aefast import backend, random
from aefast.ops.linear_act.op import run as linear_act
from aefast.ops.rbm import eager
from aefast.ops.rbm.chain import divergence, run_chain
from aefast.ops.rbm.settings import ChainSettings, Machine, Sample
from aefast.ops.shared import checks, dispatch
from aefast.ops.shared.autograd import Context, KernelFunction, SavedGradients, connected, is_one
from aefast.ops.shared.registered import registered

VISIBLE_KINDS = ("bernoulli", "gaussian")

# Where a backend has a kernel; elsewhere the definition serves.
FUSED: dict[str, tuple[torch.dtype, ...]] = {
    "cpp": (torch.float32,),
    "numba": (torch.float32,),
    "triton": (torch.float32,),
    "eager": (),
}


def sample_chain(
    visible: Tensor,
    machine: Machine,
    k: int = 1,
    *,
    beta: Any = None,
    clamp_mask: Tensor | None = None,
    return_probs: bool = False,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    row_offset: int = 0,
) -> Sample:
    """``gibbs`` of a machine and states that are checked: states made here need no second look."""
    k = check_steps(k)
    beta = _check_beta(beta, visible, machine)
    _check_clamp_mask(clamp_mask, visible)
    row_offset = checks.check_integer(row_offset, "row_offset", 2**62)
    checks.check_seed_arguments(seed, generator)
    traced = dispatch.is_traced(visible, *machine)
    resolved_seed = dispatch.resolve_seed(seed, generator, visible.device, traced)
    settings = ChainSettings(k, beta, clamp_mask, return_probs, resolved_seed, row_offset)
    with torch.no_grad(), dispatch.without_autocast(visible.device):
        return _gibbs(visible, machine, settings, traced)


def divergence_of_chains(
    visible: Tensor,
    machine: Machine,
    k: int = 1,
    *,
    chain: Tensor | None = None,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    row_offset: int = 0,
) -> tuple[Tensor, Tensor]:
    """``contrastive_divergence`` of a machine and states that are checked."""
    k = check_steps(k)
    row_offset = checks.check_integer(row_offset, "row_offset", 2**62)
    checks.check_seed_arguments(seed, generator)
    start = visible if chain is None else chain
    traced = dispatch.is_traced(start, visible, *machine)
    drawn = dispatch.resolve_seed(seed, generator, visible.device, traced)
    settings = ChainSettings(k, None, None, False, drawn, row_offset)
    with dispatch.without_autocast(visible.device):
        if not traced and _is_fused(visible, chain, machine):
            return _fused_divergence(visible, chain, machine, settings)
        with torch.no_grad():
            end = _gibbs(start, machine, settings, traced).visible
        return _energy_difference(visible, end, machine), end


def check_steps(k: int) -> int:
    return checks.check_integer(k, "k", random.MOST_STEPS, low=1)


def check_machine(
    visible: Tensor,
    weight: Tensor,
    visible_bias: Tensor | None,
    hidden_bias: Tensor | None,
    visible_kind: str = "bernoulli",
    log_var: Tensor | None = None,
) -> Machine:
    """The machine; an error names what does not fit the states or the weight."""
    checks.check_choice(visible_kind, "visible_kind", VISIBLE_KINDS)
    checks.check_tensor(visible, "visible")
    checks.check_like(weight, "weight", visible, "visible")
    if weight.dim() != 2:
        raise ValueError(f"weight has shape {list(weight.shape)}; it takes [H, D]")
    hidden, width = weight.shape
    fitting = f"with weight's shape [{hidden}, {width}] it takes"
    if visible.dim() < 1 or visible.shape[-1] != width:
        raise ValueError(f"visible has shape {list(visible.shape)}; {fitting} [..., {width}]")
    for argument, tensor, size in (
        ("visible_bias", visible_bias, width),
        ("hidden_bias", hidden_bias, hidden),
        ("log_var", log_var, width),
    ):
        if tensor is None:
            continue
        checks.check_like(tensor, argument, visible, "visible")
        if list(tensor.shape) != [size]:
            raise ValueError(f"{argument} has shape {list(tensor.shape)}; {fitting} [{size}]")
    if log_var is not None and visible_kind != "gaussian":
        raise ValueError(f"log_var is given and visible_kind {visible_kind!r}; it takes 'gaussian'")
    if visible_kind == "gaussian" and log_var is None:
        log_var = visible.new_zeros(width)
    return Machine(weight, visible_bias, hidden_bias, log_var)


def check_chain(chain: Tensor, visible: Tensor, weight: Tensor) -> None:
    """Persistent chains have the data's dtype, device and width."""
    checks.check_like(chain, "chain", visible, "visible")
    if chain.dim() < 1 or chain.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"chain has shape {list(chain.shape)}; "
            f"with weight's shape {list(weight.shape)} it takes [..., {weight.shape[1]}]"
        )


def check_states(visible: Tensor, argument: str, visible_kind: str) -> None:
    """Bernoulli states lie in [0, 1]."""
    if visible_kind == "bernoulli":
        checks.check_unit_interval(visible, argument, "Bernoulli units take")


def _check_beta(beta: Any, visible: Tensor, machine: Machine) -> Tensor | None:
    """A column [B, 1]."""
    if beta is None:
        return None
    rows = math.prod(visible.shape[:-1])
    if not isinstance(beta, Tensor):
        beta = checks.check_number(beta, "beta", 0, torch.finfo(visible.dtype).max)
        beta = visible.new_full((), beta)
    checks.check_like(beta, "beta", visible, "visible")
    if beta.shape not in ((), visible.shape[:-1]):
        raise ValueError(
            f"beta has shape {list(beta.shape)}; it takes a number or one for each row, "
            f"{list(visible.shape[:-1])}"
        )
    unseen = dispatch.is_traced(beta) or dispatch.is_in_functorch()
    if beta.device.type == "cpu" and not unseen and beta.numel():
        least, most = (bound.item() for bound in torch.aminmax(beta))
        if not (least >= 0 and most < math.inf) or (least == 0 and machine.log_var is not None):
            domain = "at least 0" if machine.log_var is None else "above 0 for Gaussian units"
            wrong = least if not least > 0 else most
            raise ValueError(f"beta is {wrong:g}; it takes finite numbers {domain}")
    return beta.expand(visible.shape[:-1]).reshape(rows, 1)


def _check_clamp_mask(clamp_mask: Any, visible: Tensor) -> None:
    if clamp_mask is None:
        return
    if not isinstance(clamp_mask, Tensor) or clamp_mask.dtype != torch.bool:
        kind = clamp_mask.dtype if isinstance(clamp_mask, Tensor) else type(clamp_mask).__name__
        raise TypeError(f"clamp_mask is {kind}; it takes a boolean tensor")
    try:
        clamp_mask.expand(visible.shape)
    except RuntimeError:
        raise ValueError(
            f"clamp_mask has shape {list(clamp_mask.shape)}; "
            f"it takes visible's shape, {list(visible.shape)}, or one that broadcasts to it"
        ) from None
    if clamp_mask.device != visible.device:
        raise ValueError(
            f"clamp_mask is on {clamp_mask.device}; it takes visible's device, {visible.device}"
        )


def _gibbs(visible: Tensor, machine: Machine, settings: ChainSettings, traced: bool) -> Sample:
    leading = visible.shape[:-1]
    rows = visible.reshape(math.prod(leading), visible.shape[-1])
    if settings.clamp_mask is not None:
        mask = settings.clamp_mask.expand(visible.shape).reshape(rows.shape)
        settings = settings._replace(clamp_mask=mask)
    run = _run
    if traced:
        defined = dispatch.is_defined_in_trace(visible, checks.FLOATING)
        run = eager.gibbs if defined else _registered_call
    sample = run(rows, machine, settings)
    # A list: torch 2.11 cannot compile a tuple that is made of a generator and returned.
    return Sample._make(
        [None if tensor is None else tensor.reshape(*leading, tensor.shape[1]) for tensor in sample]
    )


def _run(visible: Tensor, machine: Machine, settings: ChainSettings) -> Sample:
    name = backend.select(visible.device, visible.dtype)
    if (
        visible.dtype not in FUSED[name]
        or 0 in (visible.numel(), machine.weight.numel())
        or dispatch.is_in_functorch()
        or dispatch.is_transformed(visible)
    ):
        return eager.gibbs(visible, machine, settings)
    visible = dispatch.materialize(visible, "visible").detach()
    primitives = backend.implementation("rbm", name).primitives(machine, settings)
    return run_chain(primitives, visible, _materialize(machine), settings)


def _materialize(machine: Machine) -> Machine:
    return Machine._make(
        (
            None if tensor is None else dispatch.materialize(tensor, argument).detach()
            for argument, tensor in zip(machine._fields, machine, strict=True)
        )
    )


def energy(visible: Tensor, machine: Machine) -> Tensor:
    """The definition's, with the hidden units' part in one kernel."""
    weight, visible_bias, hidden_bias, log_var = machine
    scaled = visible if log_var is None else visible * torch.exp(-log_var)
    hidden_term = linear_act(scaled, weight, hidden_bias, "softplus").sum(-1)
    if log_var is not None:
        difference = visible if visible_bias is None else visible - visible_bias
        return (difference * torch.exp(-log_var / 2)).square().sum(-1) / 2 - hidden_term
    return -hidden_term if visible_bias is None else -(visible @ visible_bias) - hidden_term


def _energy_difference(visible: Tensor, end: Tensor, machine: Machine) -> Tensor:
    return energy(visible, machine).mean() - energy(end, machine).mean()


def _is_fused(visible: Tensor, chain: Tensor | None, machine: Machine) -> bool:
    """Whether a kernel makes contrastive divergence's gradients along with the chain: those by
    Bernoulli units' parameters."""
    states = (visible,) if chain is None else (visible, chain)
    return (
        machine.log_var is None
        and visible.dtype in FUSED[backend.select(visible.device, visible.dtype)]
        and 0 not in (machine.weight.numel(), *(tensor.numel() for tensor in states))
        and not dispatch.is_differentiated(*states)
        and not dispatch.is_transformed(*states)
        and not dispatch.is_in_functorch()
    )


def _fused_divergence(
    visible: Tensor, chain: Tensor | None, machine: Machine, settings: ChainSettings
) -> tuple[Tensor, Tensor]:
    rows = visible.reshape(-1, visible.shape[-1])
    chains = None if chain is None else chain.reshape(-1, visible.shape[-1])
    parameters = machine[:3]
    needs_grad = tuple(
        torch.is_grad_enabled() and tensor is not None and tensor.requires_grad
        for tensor in parameters
    )
    saved_gradients = SavedGradients(machine.weight)
    loss, end = _ContrastiveDivergence.apply(
        *parameters, rows, chains, settings, needs_grad, saved_gradients
    )
    return loss, end.reshape(visible.shape if chain is None else chain.shape)


class _ContrastiveDivergence(KernelFunction):
    """Contrastive divergence; ``saved_gradients`` holds the gradients between the two passes.

    Backward gives them away, and a second one, through a graph that was retained, computes them
    anew. A large batch's take no more memory than the hidden units' inputs in both phases would.
    """

    @staticmethod
    def forward(
        weight: Tensor,
        visible_bias: Tensor | None,
        hidden_bias: Tensor | None,
        visible: Tensor,
        chain: Tensor | None,
        settings: ChainSettings,
        needs_grad: tuple[bool, ...],
        saved_gradients: SavedGradients,
    ) -> tuple[Tensor, Tensor]:
        machine = _materialize(Machine(weight, visible_bias, hidden_bias, None))
        visible = dispatch.materialize(visible, "visible").detach()
        start = None if chain is None else dispatch.materialize(chain, "chain").detach()
        name = backend.select(visible.device, visible.dtype)
        primitives = backend.implementation("rbm", name).primitives(machine, settings)
        saves = any(needs_grad) and (
            2 * len(visible) >= weight.shape[1] or saved_gradients.is_first()
        )
        result, end = divergence(
            primitives, visible, start, machine, settings, saves and needs_grad[0]
        )
        if saves:
            saved_gradients.append(result[1:])
        return result.loss, end

    @staticmethod
    def setup_context(ctx: Context, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        *tensors, _, _, ctx.needs_grad, ctx.saved_gradients = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, output[1])

    @staticmethod
    def backward(ctx: Context, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 8
        weight, visible_bias, hidden_bias, visible, end = ctx.saved_tensors
        defined = (
            torch.is_grad_enabled() or dispatch.is_transformed(grad) or dispatch.is_traced(grad)
        )
        if ctx.saved_gradients and not defined:
            gradients = ctx.saved_gradients.pop()
        else:  # to be differentiated again, batched or traced, or made once already
            machine = Machine(weight, visible_bias, hidden_bias, None)
            gradients = eager.divergence_gradients(visible, end, machine)
        if defined or not is_one(grad):
            scaled = (None if g is None else g * grad for g in gradients)
            gradients = connected(scaled, (grad, weight, visible_bias, hidden_bias))
        gradients = (g if need else None for g, need in zip(gradients, ctx.needs_grad, strict=True))
        return *gradients, None, None, None, None, None


@registered("aefast::gibbs")
def _registered(
    visible: Tensor,
    weight: Tensor,
    visible_bias: Tensor | None,
    hidden_bias: Tensor | None,
    log_var: Tensor | None,
    k: int,
    beta: Tensor | None,
    clamp_mask: Tensor | None,
    return_probs: bool,
    seed: Tensor,
    row_offset: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The sample; empty probabilities where they are not asked for."""
    kind = "bernoulli" if log_var is None else "gaussian"
    machine = check_machine(visible, weight, visible_bias, hidden_bias, kind, log_var)
    if visible.dim() != 2:
        raise ValueError(f"visible has shape {list(visible.shape)}; the registered op takes [B, D]")
    k = check_steps(k)
    check_states(visible, "visible", kind)
    if beta is not None:
        beta = _check_beta(beta.reshape(-1), visible, machine)
    _check_clamp_mask(clamp_mask, visible)
    checks.check_integer(row_offset, "row_offset", 2**62)
    checks.check_seed_tensor(seed)
    settings = ChainSettings(k, beta, clamp_mask, return_probs, seed, row_offset)
    with torch.no_grad():
        sample = _run(visible, machine, settings)
    empty = visible.new_empty(0)
    return (
        sample.visible,
        sample.hidden,
        empty if sample.visible_prob is None else sample.visible_prob,
        empty.clone() if sample.hidden_prob is None else sample.hidden_prob,
    )


@_registered.register_fake
def _(visible: Tensor, weight: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, probs = visible.shape[0], arguments[6]
    width, hidden = visible.shape[1], weight.shape[0]
    return (
        visible.new_empty(batch, width),
        visible.new_empty(batch, hidden),
        visible.new_empty((batch, width) if probs else (0,)),
        visible.new_empty((batch, hidden) if probs else (0,)),
    )


def _no_gradients(ctx: Context, *_: Any) -> tuple[None, ...]:
    return (None,) * 11


def _not_differentiable(ctx: Context, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.mark_non_differentiable(*output)


_registered.register_autograd(_no_gradients, setup_context=_not_differentiable)


def _registered_call(visible: Tensor, machine: Machine, settings: ChainSettings) -> Sample:
    weight, visible_bias, hidden_bias, log_var = machine
    k, beta, clamp_mask, return_probs, seed, row_offset = settings
    drawn, hidden, visible_prob, hidden_prob = torch.ops.aefast.gibbs(
        visible, weight, visible_bias, hidden_bias, log_var, k, beta, clamp_mask, return_probs,
        random.seed_tensor(seed, visible.device), row_offset,
    )  # fmt: skip
    if not return_probs:
        return Sample(drawn, hidden, None, None)
    return Sample(drawn, hidden, visible_prob, hidden_prob)
