"""Gibbs sampling in a restricted Boltzmann machine, against what a user writes."""

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from bench_reconstruction import ROUNDING, RUNS
from bench_reconstruction import check as check_loss
from harness import Case, Inputs, Layer, Limit, relative_error
from samples import samples
from shapes import MORE_OP_SHAPES
from shapes import OP_SHAPES as CPU_SHAPES
from torch import Tensor

from aefast import backend, use_backend
from aefast.functional import contrastive_divergence, free_energy, gibbs

GPU_SHAPES = [("cuda", 16384, 784, 1024)]
LEARNING_RATE = 0.05


class Machine:
    """Bernoulli visible states and a machine's parameters."""

    def __init__(self, device: str, batch: int, visible: int, hidden: int, k: int = 1) -> None:
        self.device, self.batch, self.visible, self.hidden, self.k = (
            device,
            batch,
            visible,
            hidden,
            k,
        )

    def __call__(self) -> Inputs:
        """Weights of the size that training begins with."""
        options = {"device": self.device}
        return (
            samples(self.batch, self.visible, binary=True, **options),
            torch.randn(self.hidden, self.visible, **options) * 0.1,
            torch.randn(self.visible, **options) * 0.1,
            torch.randn(self.hidden, **options) * 0.1,
        )

    def products(self) -> Limit:
        """The chain's matrix products alone, into allocated memory."""
        hidden = torch.rand(self.batch, self.hidden, device=self.device)
        visible = torch.rand(self.batch, self.visible, device=self.device)

        def multiply(_: Tensor, weight: Tensor, *__: Tensor) -> None:
            for _step in range(self.k):
                torch.mm(visible, weight.t(), out=hidden)
                torch.mm(hidden, weight, out=visible)

        work = 4 * self.k * self.batch * self.visible * self.hidden
        return Limit("torch.mm", multiply, work=work, unit="TFLOP/s")


def sampler(draw: Callable[[Tensor], Tensor], k: int) -> Layer:
    """k steps as a loop in PyTorch."""

    def sample(visible: Tensor, weight: Tensor, bias: Tensor, hidden_bias: Tensor) -> Tensor:
        for _ in range(k):
            hidden = draw(torch.sigmoid(F.linear(visible, weight, hidden_bias)))
            visible = draw(torch.sigmoid(F.linear(hidden, weight.t(), bias)))
        return visible

    return sample


def with_rand(probability: Tensor) -> Tensor:
    return (torch.rand_like(probability) < probability).to(probability.dtype)


DRAWS = {"torch.bernoulli": torch.bernoulli, "rand < p": with_rand}


def ours(k: int) -> Layer:
    return lambda *inputs: gibbs(*inputs, k=k).visible


def without_grad(layer: Layer, *inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return layer(*inputs)


def check(machine: Machine) -> None:
    """Check the states against the definition, except for uniforms next to their probability. After
    many steps the chains' numbers may differ, and their activity may not."""
    inputs = machine()
    if machine.k > 1:
        states = ours(machine.k)(*inputs)
        by_chance = 3.5 / states.numel() ** 0.5  # five standard deviations of independent states
        expected_activity = sampler(with_rand, machine.k)(*inputs).mean()
        assert abs(states.mean() - expected_activity) < 0.02 + by_chance
    actual = gibbs(*inputs, seed=3).visible
    with use_backend("eager"):
        expected = gibbs(*inputs, seed=3).visible
    assert (actual != expected).float().mean() < 1e-4


@pytest.mark.parametrize(
    ("device", "batch", "visible", "hidden", "draw"),
    [
        *((*shape, draw) for draw in DRAWS for shape in CPU_SHAPES + GPU_SHAPES),
        *((*shape, "rand < p") for shape in MORE_OP_SHAPES),
    ],
)
def test_one_step(
    compare: Callable[[Case], None], device: str, batch: int, visible: int, hidden: int, draw: str
) -> None:
    compare(case(Machine(device, batch, visible, hidden), draw))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("k", [1, 10, 100])
def test_many_steps(compare: Callable[[Case], None], device: str, k: int) -> None:
    steps = case(Machine(device, 512, 784, 500, k), "torch.bernoulli")
    compare(replace(steps, compiles=False))


@pytest.mark.parametrize(("device", "batch", "visible", "hidden"), CPU_SHAPES + GPU_SHAPES)
def test_persistent_contrastive_divergence(
    compare: Callable[[Case], None], device: str, batch: int, visible: int, hidden: int
) -> None:
    """A whole update: one step of the chain, both phases' statistics, the parameters' change."""

    def eager(data: Tensor, weight: Tensor, bias: Tensor, hidden_bias: Tensor) -> Tensor:
        with torch.no_grad():
            positive = torch.sigmoid(F.linear(data, weight, hidden_bias))
            chain = sampler(torch.bernoulli, 1)(data, weight, bias, hidden_bias)
            negative = torch.sigmoid(F.linear(chain, weight, hidden_bias))
            rate = LEARNING_RATE / len(data)
            weight.addmm_(positive.t(), data, alpha=rate)
            weight.addmm_(negative.t(), chain, alpha=-rate)
            bias.add_(data.sum(0) - chain.sum(0), alpha=rate)
            hidden_bias.add_(positive.sum(0) - negative.sum(0), alpha=rate)
        return chain

    compare(update_case(Machine(device, batch, visible, hidden), eager, None))


def update(data: Tensor, *parameters: Tensor, seed: int | None = None) -> Tensor:
    leaves = [parameter.requires_grad_() for parameter in parameters]
    loss, chain = contrastive_divergence(data, *leaves, chain=data, seed=seed)
    gradients = torch.autograd.grad(loss, leaves)
    with torch.no_grad():
        torch._foreach_add_(leaves, gradients, alpha=-LEARNING_RATE)
    return chain


def check_update(machine: Machine) -> None:
    """Check an update against the definition's with the same random numbers, but for states whose
    uniform number is next to their probability."""
    data, *parameters = machine()
    changes = []
    for name in (backend.select(data.device, data.dtype), "eager"):
        trained = [parameter.clone() for parameter in parameters]
        with use_backend(name):
            update(data, *trained, seed=3)
        changes.append([a.detach() - b for a, b in zip(trained, parameters, strict=True)])
    for ours, theirs in zip(*changes, strict=True):
        assert relative_error(ours, theirs.double()) < 0.05


def update_case(machine: Machine, theirs: Layer, peer: str | None) -> Case:
    """A case without torch.compile: its update in place read memory that nobody had written (torch
    2.13, its libraries capped to AVX2), and left NaN in the parameters that all share."""
    shape = f"{machine.batch}x{machine.visible}-{machine.hidden}"
    return Case(
        op="contrastive_divergence",
        name=f"PCD-1 update {shape}" + (f" against {peer}" if peer else ""),
        device=machine.device,
        dtype=torch.float32,
        make_inputs=machine,
        ours=update,
        eager=theirs,
        check=lambda: check_update(machine),
        compiles=False,
    )


@pytest.mark.skipif(importlib.util.find_spec("sklearn") is None, reason="needs scikit-learn")
@pytest.mark.parametrize(("device", "batch", "visible", "hidden"), CPU_SHAPES)
@pytest.mark.parametrize("method", ["partial_fit, float64", "_fit, float32"])
def test_scikit_learns_update(
    compare: Callable[[Case], None], device: str, batch: int, visible: int, hidden: int, method: str
) -> None:
    """Beside scikit-learn, whose public step computes in float64 whatever it is given; what it
    calls for a step of fit() is as precise as ours."""
    from sklearn.neural_network import BernoulliRBM
    from sklearn.utils import check_random_state

    random = check_random_state(0)
    machine = Machine(device, batch, visible, hidden)
    data = machine()[0].numpy()
    rbm = BernoulliRBM(hidden, batch_size=batch, n_iter=1, random_state=0).fit(data)
    rbm.learning_rate = LEARNING_RATE

    def theirs(data: Tensor, *_: Tensor) -> Any:
        if method.startswith("partial_fit"):
            return rbm.partial_fit(data.numpy())
        return rbm._fit(data.numpy(), random)

    compare(update_case(machine, theirs, f"scikit-learn's {method}"))


@pytest.mark.skipif(importlib.util.find_spec("rbms") is None, reason="needs rbms")
@pytest.mark.parametrize(("device", "batch", "visible", "hidden"), CPU_SHAPES + GPU_SHAPES)
def test_rbms_update(
    compare: Callable[[Case], None], device: str, batch: int, visible: int, hidden: int
) -> None:
    from rbms.bernoulli_bernoulli.classes import BBRBM
    from rbms.training.pcd import fit_batch_pcd

    machine = Machine(device, batch, visible, hidden)
    _, weight, bias, hidden_bias = machine()
    model = BBRBM(weight.t().contiguous(), bias, hidden_bias)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, maximize=True)
    chains = model.init_chains(batch)
    row_weights = torch.ones(batch, 1, device=device)

    def theirs(data: Tensor, *_: Tensor) -> None:
        fit_batch_pcd((data, row_weights), chains, model, 1, 1.0, centered=False)
        optimizer.step()

    compare(update_case(machine, theirs, "rbms"))


def plain_energy(visible: Tensor, weight: Tensor, bias: Tensor, hidden_bias: Tensor) -> Tensor:
    return -(visible @ bias) - F.softplus(F.linear(visible, weight, hidden_bias)).sum(1)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("run", RUNS)
def test_free_energy(compare: Callable[[Case], None], device: str, run: str) -> None:
    machine = Machine(device, 1024, 784, 512)

    def make_inputs() -> Inputs:
        states, *parameters = machine()
        return states, *(parameter.requires_grad_() for parameter in parameters)

    compare(
        Case(
            op="free_energy",
            name=f"{run} 1024x784-512 highest",
            device=device,
            dtype=torch.float32,
            make_inputs=make_inputs,
            ours=free_energy,
            eager=plain_energy,
            check=lambda: check_loss(
                RUNS[run], make_inputs(), ROUNDING["highest"], free_energy, plain_energy
            ),
            run=RUNS[run],
        )
    )


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_call_overhead(compare: Callable[[Case], None], device: str) -> None:
    compare(case(Machine(device, 8, 8, 8), "torch.bernoulli", calls_in_round=500))


def case(machine: Machine, draw: str, calls_in_round: int = 1) -> Case:
    shape = f"{machine.batch}x{machine.visible}-{machine.hidden}"
    return Case(
        op="gibbs",
        name=f"k={machine.k} {shape}, eager draws by {draw}",
        device=machine.device,
        dtype=torch.float32,
        make_inputs=machine,
        ours=ours(machine.k),
        eager=sampler(DRAWS[draw], machine.k),
        check=lambda: check(machine),
        run=without_grad,
        limit=None if calls_in_round > 1 else machine.products(),
        calls_in_round=calls_in_round,
        states=machine.k * machine.batch * (machine.visible + machine.hidden),
    )
