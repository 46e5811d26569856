"""Restricted Boltzmann machines with few hidden units, whose likelihood is exact."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from quality import Quality, binary_digits
from torch import Tensor

import aefast
from aefast import estimators

# Few enough for all their states to be enumerated.
HIDDEN_UNITS = 10
BATCH, CHAINS, LEARNING_RATE = 64, 256, 0.2
SETTINGS: dict[str, Any] = {"n_components": HIDDEN_UNITS, "learning_rate": 0.05}


Step = Callable[[Tensor, dict[str, Tensor], Any], dict[str, Tensor]]


class Machine(NamedTuple):
    """The weight ``[H, D]``, and the biases of the hidden and visible units."""

    weight: Any
    hidden_bias: Any
    visible_bias: Any


def likelihood(machine: Machine, rows: np.ndarray) -> float:
    """The mean log-likelihood of a machine's rows in nats, by all states of its hidden units."""
    weight, hidden_bias, visible_bias = (np.asarray(array, np.float64) for array in machine)
    states = np.array(list(itertools.product([0.0, 1.0], repeat=len(weight))))
    log_weights = states @ hidden_bias + np.logaddexp(0, states @ weight + visible_bias).sum(1)
    energies = rows @ visible_bias + np.logaddexp(0, rows @ weight.T + hidden_bias).sum(1)
    return float(energies.mean() - np.logaddexp.reduce(log_weights))


def machine_of_estimator(model: Any) -> Machine:
    return Machine(model.components_, model.intercept_hidden_, model.intercept_visible_)


def train_estimator(rows: np.ndarray, passes: int, seed: int) -> Machine:
    model = estimators.BernoulliRBM(n_iter=passes, random_state=seed, **SETTINGS)
    return machine_of_estimator(model.fit(rows))


def train_scikit_learn(rows: np.ndarray, passes: int, seed: int) -> Machine:
    from sklearn.neural_network import BernoulliRBM

    return machine_of_estimator(
        BernoulliRBM(n_iter=passes, random_state=seed, **SETTINGS).fit(rows)
    )


def start(rows: Tensor, seed: int) -> Machine:
    """rbms' own first parameters: small weights, and visible biases for the units' frequencies."""
    torch.manual_seed(seed)
    weight = torch.randn(HIDDEN_UNITS, rows.shape[1]) * 1e-2
    frequencies = rows.mean(0).clamp(1e-4, 1 - 1e-4)
    return Machine(weight, torch.zeros(HIDDEN_UNITS), frequencies.logit())


def train_module(array: np.ndarray, passes: int, seed: int) -> Machine:
    rows = torch.from_numpy(array)
    machine = aefast.nn.RBM(rows.shape[1], HIDDEN_UNITS, chains=CHAINS)
    parameters = (machine.weight, machine.hidden_bias, machine.visible_bias)
    with torch.no_grad():
        for parameter, value in zip(parameters, start(rows, seed), strict=True):
            parameter.copy_(value)
    optimizer = torch.optim.SGD(machine.parameters(), lr=LEARNING_RATE)
    aefast.fit(machine, rows, optimizer, epochs=passes, batch_size=BATCH, seed=seed)
    return Machine(*(parameter.detach() for parameter in parameters))


def rbms_step(batch: Tensor, chains: dict[str, Tensor], machine: Any) -> dict[str, Tensor]:
    """rbms' step with the gradient as it is, which is ours."""
    moved: dict[str, Tensor] = machine.sample_state(chains, 1)
    machine.compute_gradient(machine.init_chains(len(batch), start_v=batch), moved, centered=False)
    return moved


def rbms_own_step(batch: Tensor, chains: dict[str, Tensor], machine: Any) -> dict[str, Tensor]:
    """The step of rbms' ``train``: its gradient is centered, and divided by its norm."""
    from rbms.training.pcd import fit_batch_pcd

    moved, _ = fit_batch_pcd((batch, torch.ones(len(batch))), chains, machine, 1, 1.0)
    return moved


def train_rbms(array: np.ndarray, passes: int, seed: int, step: Step = rbms_step) -> Machine:
    """rbms' steps in a plain loop: its ``train`` writes a file in each of them."""
    from rbms.bernoulli_bernoulli.classes import BBRBM

    rows = torch.from_numpy(array)
    weight, hidden_bias, visible_bias = start(rows, seed)
    machine = BBRBM(weight.t().contiguous(), visible_bias, hidden_bias)
    machine.init_grad()
    chains = machine.init_chains(CHAINS)
    optimizer = torch.optim.SGD(machine.parameters(), lr=LEARNING_RATE, maximize=True)
    with torch.no_grad():
        for _ in range(passes):
            for batch in rows[torch.randperm(len(rows))].split(BATCH):
                chains = step(batch, chains, machine)
                optimizer.step()
    return Machine(machine.weight_matrix.t(), machine.hbias, machine.vbias)


def train_rbms_with_own_step(rows: np.ndarray, passes: int, seed: int) -> Machine:
    return train_rbms(rows, passes, seed, rbms_own_step)


# What a training reaches after so many passes hangs on its draws.
LIKELIHOOD: dict[str, Any] = {
    "score": likelihood,
    "seeds": 3,
    "measure": "a held-out negative log-likelihood of {:g} nats",
}
QUALITIES = {
    "BernoulliRBM 64-10": Quality(
        "sklearn", binary_digits, train_estimator, train_scikit_learn, target=-23.0, **LIKELIHOOD
    ),
    "RBM 64-10, PCD-1": Quality(
        "rbms", binary_digits, train_module, train_rbms, target=-23.0, **LIKELIHOOD
    ),
    "RBM 64-10, PCD-1, the peer's gradient centered and of norm 1": Quality(
        "rbms", binary_digits, train_module, train_rbms_with_own_step, target=-23.0, **LIKELIHOOD
    ),
}
