"""A chain of Gibbs steps, and contrastive divergence, composed of a backend's primitives."""

from typing import NamedTuple

import torch
from torch import Tensor

from aefast.ops.rbm.primitives import ChainPrimitives, Operand, States
from aefast.ops.rbm.settings import ChainSettings, Machine, Sample


def run_chain(
    primitives: ChainPrimitives, visible: Tensor, machine: Machine, settings: ChainSettings
) -> Sample:
    operands = primitives.operand(machine.weight), primitives.operand(machine.weight.t())
    start = primitives.states(visible) if machine.log_var is None else visible
    sample = _run(primitives, start, machine, operands, settings)
    return sample._replace(
        visible=primitives.tensor(sample.visible), hidden=primitives.tensor(sample.hidden)
    )


def _run(
    primitives: ChainPrimitives,
    visible: States,
    machine: Machine,
    operands: tuple[Operand, Operand],
    settings: ChainSettings,
) -> Sample:
    """k steps from states of the backend's own kind to states of that kind."""
    weight, transposed = operands
    beta = None if settings.beta is None else settings.beta.reshape(-1).float().contiguous()
    precision = deviation = factor = None
    if machine.log_var is not None:
        precision = torch.exp(-machine.log_var)
        deviation = torch.exp(machine.log_var / 2).contiguous()
        factor = None if beta is None else beta.rsqrt()
    initial, hidden_prob, visible_prob = visible, None, None
    step = 0
    while step < settings.k:
        keep = settings.return_probs and step == settings.k - 1
        scaled = visible if precision is None else visible * precision
        hidden, hidden_prob = primitives.sample_bernoulli(
            scaled, weight, machine.hidden_bias, beta, keep, settings, 2 * step
        )
        if deviation is None:
            visible, visible_prob = primitives.sample_bernoulli(
                hidden, transposed, machine.visible_bias, beta, keep, settings, 2 * step + 1
            )
        else:
            visible = primitives.linear(hidden, transposed, machine.visible_bias)
            visible_prob = primitives.sample_units(
                visible, deviation, factor, keep, settings, 2 * step + 1
            )
        if settings.clamp_mask is not None:
            visible = primitives.clamp(visible, initial, settings.clamp_mask)
        step += 1
        if step == 1 and settings.k > 2 and primitives.takes_bernoulli_steps:
            biases = machine.hidden_bias, machine.visible_bias
            steps = range(1, settings.k - 1)
            primitives.bernoulli_steps(
                hidden, visible, weight, transposed, biases, beta, settings, steps
            )
            step = steps.stop
    return Sample(visible, hidden, visible_prob, hidden_prob)


class Divergence(NamedTuple):
    """The difference of the mean free energies, and its gradients."""

    loss: Tensor
    grad_weight: Tensor | None
    grad_visible_bias: Tensor
    grad_hidden_bias: Tensor


def divergence(
    primitives: ChainPrimitives,
    visible: Tensor,
    chain: Tensor | None,
    machine: Machine,
    settings: ChainSettings,
    weight_needed: bool,
) -> tuple[Divergence, Tensor]:
    """Contrastive divergence of Bernoulli units, and the states that the chains end in."""
    operands = primitives.operand(machine.weight), primitives.operand(machine.weight.t())
    data = primitives.states(visible)
    start = data if chain is None else primitives.states(chain)
    end = _run(primitives, start, machine, operands, settings).visible
    tensor = primitives.tensor(end)
    total = None
    for states, scale in ((end, 1 / tensor.shape[0]), (data, -1 / visible.shape[0])):
        total = _add_phase(primitives, states, scale, operands[0], machine, total, weight_needed)
    assert total is not None
    return total, tensor


def _add_phase(
    primitives: ChainPrimitives,
    states: States,
    scale: float,
    weight: Operand,
    machine: Machine,
    total: Divergence | None,
    weight_needed: bool,
) -> Divergence:
    """total - scale * (the sum of F over the states): statistics are scaled as they are made, so
    that the phases' products need only be added."""
    energy, probabilities, grad_hidden = primitives.statistics(
        states, weight, machine.hidden_bias, scale
    )
    grad_visible = primitives.row_sum(states) * scale
    loss = energy * scale
    if machine.visible_bias is not None:
        loss += grad_visible @ machine.visible_bias
    grad_weight = None
    if weight_needed:
        partial = None if total is None else total.grad_weight
        grad_weight = primitives.add_product(probabilities, states, partial)
    if total is None:
        return Divergence(loss, grad_weight, grad_visible, grad_hidden)
    return Divergence(
        total.loss + loss,
        grad_weight,
        total.grad_visible_bias + grad_visible,
        total.grad_hidden_bias + grad_hidden,
    )
