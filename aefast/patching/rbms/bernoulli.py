"""rbms' BBRBM: its Gibbs chains, and the log-likelihood's gradient from their states.

rbms keeps the weight as [D, H], the transpose of aefast's.
"""

from typing import Any

import torch
from rbms.bernoulli_bernoulli.classes import BBRBM
from torch import Tensor

from aefast import backend, random
from aefast.ops.rbm.primitives import ChainPrimitives, States
from aefast.ops.rbm.settings import ChainSettings, Machine
from aefast.ops.shared import dispatch
from aefast.patching.replacement import Replacement, UnsupportedCall
from aefast.torch_private import is_autocast_enabled_anywhere

NAME = "rbms.bernoulli_bernoulli.BBRBM"

# rbms clamps the means of visible units to [LEAST_MEAN, 1 - LEAST_MEAN].
LEAST_MEAN = 1e-7


def replacements() -> list[Replacement]:
    sampling = ("sample_hiddens", "sample_visibles")
    state = ("self", "chains", "n_steps", "beta")
    chains = ("self", "num_samples", "weights", "start_v")
    gradient = ("self", "data", "chains", "centered", "lambda_l1", "lambda_l2")
    return [
        Replacement(NAME, BBRBM, "sample_state", state, sample_state, relies_on=sampling),
        Replacement(NAME, BBRBM, "init_chains", chains, init_chains),
        Replacement(NAME, BBRBM, "compute_gradient", gradient, compute_gradient),
    ]


def sample_state(
    self: BBRBM, chains: dict[str, Tensor], n_steps: int, beta: float = 1.0
) -> dict[str, Tensor]:
    """Sample hidden and then visible units ``n_steps`` times, and the hidden units once more."""
    visible, weights = chains["visible"], chains["weights"]
    _check_served(self, visible)
    if not isinstance(n_steps, int) or not 1 <= n_steps < random.MOST_STEPS:
        raise UnsupportedCall("n_steps below 1, or too many for one seed")
    sampler = _Sampler(self, len(visible), beta)
    states = sampler.states(visible)
    for step in range(n_steps):
        hidden, _ = sampler.hidden(states, 2 * step, keep=False)
        states, visible_mag = sampler.visible(hidden, 2 * step + 1, keep=step == n_steps - 1)
    hidden, hidden_mag = sampler.hidden(states, 2 * n_steps, keep=True)
    tensor = sampler.primitives.tensor
    return {
        "visible": tensor(states),
        "weights": weights.clone(),
        "hidden": tensor(hidden),
        "hidden_mag": hidden_mag,
        "visible_mag": visible_mag,
    }


def init_chains(
    self: BBRBM, num_samples: int, weights: Tensor | None = None, start_v: Tensor | None = None
) -> dict[str, Tensor]:
    """Chains that start at given visible states, or at fair coins, with sampled hidden units."""
    weight = self.weight_matrix
    if start_v is not None:
        visible = start_v.to(device=weight.device, dtype=weight.dtype)
    elif isinstance(num_samples, int) and num_samples > 0:
        visible = torch.empty(num_samples, len(weight), dtype=weight.dtype, device=weight.device)
    else:
        raise UnsupportedCall("num_samples below 1, and no start_v")
    _check_served(self, visible)
    visible_mag = torch.full_like(visible, 0.5)
    if start_v is None:
        visible.bernoulli_(0.5)
    sampler = _Sampler(self, len(visible), 1.0)
    hidden, hidden_mag = sampler.hidden(sampler.states(visible), 0, keep=True)
    return {
        "visible": visible,
        "hidden": sampler.primitives.tensor(hidden),
        "visible_mag": visible_mag,
        "hidden_mag": hidden_mag,
        "weights": visible.new_ones(len(visible)) if weights is None else weights,
    }


def compute_gradient(
    self: BBRBM,
    data: dict[str, Tensor],
    chains: dict[str, Tensor],
    centered: bool = True,
    lambda_l1: float = 0.0,
    lambda_l2: float = 0.0,
) -> None:
    """Write the log-likelihood's gradient into the parameters' ``grad``.

    A kernel multiplies a bit matrix, so the product is taken with the states v themselves. For
    centered variables, with c and d the data's means, mean((v - c)(h - d)) is
    mean(v (h - d)) - c mean(h - d).
    """
    positive, positive_hidden, negative, negative_hidden = (
        state[kind] for state in (data, chains) for kind in ("visible", "hidden_mag")
    )
    weights = data["weights"].view(-1), chains["weights"].view(-1)
    _check_served(self, positive, weights[0], positive_hidden)
    _check_served(self, negative, weights[1], negative_hidden)
    if any(parameter.grad is None for parameter in self.parameters()):
        raise UnsupportedCall("a parameter without a grad")
    primitives = _primitives(self, None)
    bits = [
        primitives.states(dispatch.materialize(states, "visible"))
        for states in (positive, negative)
    ]
    if any(isinstance(states, Tensor) for states in bits):
        raise UnsupportedCall("grey states, whose products are PyTorch's own")
    row_weights = weights[0] / weights[0].sum(), torch.softmax(-weights[1], 0)
    positive_mean, negative_mean = (
        (weight @ visible).clamp_(LEAST_MEAN, 1 - LEAST_MEAN)
        for weight, visible in zip(row_weights, (positive, negative), strict=True)
    )
    positive_hidden_mean, negative_hidden_mean = (
        row_weights[0] @ positive_hidden,
        row_weights[1] @ negative_hidden,
    )
    offset = positive_hidden_mean if centered else torch.zeros_like(positive_hidden_mean)
    weighted_positive, weighted_negative = (
        (hidden - offset) * weight[:, None]
        for weight, hidden in zip(row_weights, (positive_hidden, negative_hidden), strict=True)
    )
    gradient = _product(primitives, bits[0], weighted_positive) - _product(
        primitives, bits[1], weighted_negative
    )
    gradient_visible = positive_mean - negative_mean
    gradient_hidden = positive_hidden_mean - negative_hidden_mean
    if centered:
        gradient.addr_(positive_mean, weighted_negative.sum(0) - weighted_positive.sum(0))
        gradient_visible -= gradient @ positive_hidden_mean
        gradient_hidden -= positive_mean @ gradient
    gradients = gradient, gradient_visible, gradient_hidden
    parameters = self.weight_matrix, self.vbias, self.hbias
    for parameter, grad in zip(parameters, gradients, strict=True):
        if lambda_l1 > 0:
            grad -= lambda_l1 * torch.sign(parameter)
        if lambda_l2 > 0:
            grad -= 2 * lambda_l2 * parameter
        parameter.grad.set_(grad)


class _Sampler:
    """Samples one layer of units given the other, for all chains at one inverse temperature."""

    def __init__(self, model: BBRBM, chains: int, beta: float) -> None:
        if not isinstance(beta, int | float) or not 0 <= beta < float("inf"):
            raise UnsupportedCall("beta is not a finite number of at least 0")
        seed = int(random.draw_seed(None, torch.device("cpu")))
        self.settings = ChainSettings(1, None, None, True, seed, 0)
        self.beta = None if beta == 1 else model.vbias.new_full((chains,), beta)
        self.primitives = _primitives(model, self.settings)
        weight = dispatch.materialize(model.weight_matrix, "weight_matrix").detach()
        self.operands = self.primitives.operand(weight.t()), self.primitives.operand(weight)
        self.biases = model.hbias.detach(), model.vbias.detach()

    def states(self, visible: Tensor) -> States:
        return self.primitives.states(dispatch.materialize(visible, "visible").detach())

    def hidden(self, states: States, step: int, keep: bool) -> tuple[States, Any]:
        return self._sample(0, states, step, keep)

    def visible(self, states: States, step: int, keep: bool) -> tuple[States, Any]:
        return self._sample(1, states, step, keep)

    def _sample(self, kind: int, states: States, step: int, keep: bool) -> tuple[States, Any]:
        return self.primitives.sample_bernoulli(
            states, self.operands[kind], self.biases[kind], self.beta, keep, self.settings, step
        )


def _primitives(model: BBRBM, settings: ChainSettings | None) -> ChainPrimitives:
    weight = model.weight_matrix
    name = backend.select(weight.device, weight.dtype)
    machine = Machine(weight.t(), model.vbias, model.hbias, None)
    primitives: ChainPrimitives = backend.implementation("rbm", name).primitives(machine, settings)
    return primitives


def _product(primitives: ChainPrimitives, visible: States, hidden: Tensor) -> Tensor:
    """visible [B, D].T @ hidden [B, H]."""
    return primitives.add_product(hidden, visible, None).t().contiguous()


def _check_served(
    model: BBRBM, visible: Tensor, weights: Tensor | None = None, hidden: Tensor | None = None
) -> None:
    """
    Raises:
        UnsupportedCall: the kernels do not support the states, or autograd, autocast or a trace
            is on.
    """
    parameters = model.weight_matrix, model.vbias, model.hbias
    tensors = [t for t in (visible, weights, hidden, *parameters) if t is not None]
    if dispatch.is_traced(*tensors) or dispatch.is_in_functorch():
        raise UnsupportedCall("the call is traced or transformed")
    if any(t.dtype != torch.float32 or not t.is_cpu for t in tensors):
        raise UnsupportedCall("not float32 on a CPU")
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        raise UnsupportedCall("gradients by autograd")
    if is_autocast_enabled_anywhere():
        raise UnsupportedCall("autocast")
    if backend.select(visible.device, visible.dtype) == "eager":
        raise UnsupportedCall("no kernels run here")
    rows, (width, units) = len(visible), model.weight_matrix.shape
    shapes = [(visible, (rows, width)), (weights, (rows,)), (hidden, (rows, units))]
    if not rows or any(t is not None and t.shape != shape for t, shape in shapes):
        raise UnsupportedCall("states of other shapes than the model's")
