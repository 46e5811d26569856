"""A restricted Boltzmann machine, judged by its exact likelihood, and what it draws."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from aefast.figures.digits import load_digits, plot_images, shuffled, subfigures
from aefast.nn import RBM, annealed_importance_sampling, exact_log_partition
from aefast.nn.initialization import initialized
from aefast.training.engines import TrainingLoop
from aefast.training.evaluation import loss_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "A restricted Boltzmann machine nearly reaches the best likelihood"
SIZE = (11, 6)
SIDE = 4
STEPS = 4000
LEVEL = 0.5  # above which a pixel is on


@dataclass(frozen=True)
class Measured:
    """Log-likelihoods are means over patterns or digits, in nats."""

    bound: float  # of any model of bars and stripes
    steps: list[int]
    likelihoods: list[float]  # exact, after each of the steps
    patterns: Tensor  # samples, [1000, 16]
    hits: float  # the share of them that are bars or stripes
    features: Tensor  # of the digits' machine, [64, 64]
    digits: Tensor  # means of the visible units given samples, [40, 64]
    held_out: float  # with ln Z by annealed importance sampling
    interval: float  # half its 95 % confidence interval
    independent: float  # of pixels on their own with the training digits' frequencies


def measure() -> Measured:
    patterns, bound = bars_and_stripes()
    machine = initialized(lambda: RBM(SIDE**2, 24, chains=300, k=10), seed=0)
    steps, likelihoods = [0], [exact_likelihood(machine, patterns)]
    for step, _ in enumerate(learning(machine, [patterns] * STEPS, weight_decay=0), 1):
        if step % 200 == 0:
            steps.append(step)
            likelihoods.append(exact_likelihood(machine, patterns))
    drawn = machine.sample(1000, k=1000, seed=0)
    hits = (torch.cdist(drawn, patterns, p=1).amin(1) == 0).float().mean().item()
    return Measured(bound, steps, likelihoods, drawn, hits, *measure_digits())


def measure_digits() -> tuple[Tensor, Tensor, float, float, float]:
    data, held_out = ((images > LEVEL).float() for images in load_digits()[::2])
    frequency = data.mean(0).clamp(0.01, 0.99)
    machine = initialized(lambda: RBM(data.shape[1], 64, chains=500), seed=0)
    with torch.no_grad():
        machine.visible_bias.copy_(frequency.logit())
    batches = [data[rows] for rows in shuffled(len(data), 100, epochs=100)]
    for _ in learning(machine, batches, weight_decay=1e-4):
        pass
    log_partition = annealed_importance_sampling(machine, data, betas=1000, seed=0)
    likelihood = machine.log_likelihood(held_out, log_partition.estimate).mean().item()
    alone = held_out @ frequency.log() + (1 - held_out) @ (1 - frequency).log()
    with torch.no_grad():
        digits = machine.visible_mean(machine(machine.sample(40, k=1000, seed=0)))
    features = machine.weight.detach()
    half = (log_partition.high - log_partition.low) / 2
    return features, digits, likelihood, half, alone.mean().item()


def learning(machine: RBM, batches: Sequence[Tensor], *, weight_decay: float) -> Iterator[None]:
    """Gradient steps with a rate that falls to 0; the machine may be looked at after each."""
    optimizer = torch.optim.SGD(
        machine.parameters(), lr=0.1, momentum=0.5, weight_decay=weight_decay
    )
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.01, len(batches))
    loop = TrainingLoop(machine, optimizer, partial(loss_of, machine), "the rate falls each step")
    for step, batch in enumerate(batches):
        loop.step(batch, seed=step)
        schedule.step()
        yield


def bars_and_stripes() -> tuple[Tensor, float]:
    """All patterns of whole rows and of whole columns, [32, 16], and the best log-likelihood: the
    full and the empty one are in both."""
    lines = torch.tensor(
        list(itertools.product((0.0, 1.0), repeat=SIDE)), dtype=torch.float32, device="cpu"
    )
    rows = lines[:, :, None].expand(-1, SIDE, SIDE)
    patterns = torch.cat((rows, rows.mT)).reshape(-1, SIDE**2)
    share = torch.unique(patterns, dim=0, return_counts=True)[1] / len(patterns)
    return patterns, (share * share.log()).sum().item()


def exact_likelihood(machine: RBM, patterns: Tensor) -> float:
    return machine.log_likelihood(patterns, exact_log_partition(machine)).mean().item()


def sentence(measured: Measured) -> str:
    return (
        f"On {SIDE}x{SIDE} bars and stripes the exact log-likelihood rises from "
        f"{measured.likelihoods[0]:.2f} to {measured.likelihoods[-1]:.2f} nats a pattern, where no "
        f"model passes {measured.bound:.2f}, and {measured.hits:.0%} of the samples are bars or "
        f"stripes; on held-out digits it reaches {measured.held_out:.1f} nats (ln Z within "
        f"{measured.interval:.2f} by annealed importance sampling), independent pixels "
        f"{measured.independent:.1f}."
    )


def plot(measured: Measured, figure: "Figure") -> None:
    left, right = subfigures(figure, 1, 2, width_ratios=(1, 1.25))
    top, bottom = left.subplots(2, 1, height_ratios=(1.4, 1))
    top.plot(measured.steps, measured.likelihoods, color="tab:blue", label="machine, exact")
    top.axhline(measured.bound, color="tab:red", linestyle="--", label="best of any model")
    top.axhline(-math.log(2) * SIDE**2, color="gray", linestyle=":", label="any pattern alike")
    top.set(
        xlabel="training step", ylabel="log-likelihood (nats a pattern)", title="Bars and stripes"
    )
    top.legend()
    title = f"Samples: {measured.hits:.0%} are bars or stripes"
    plot_images(bottom, measured.patterns[:40], title)
    bottom.images[0].set_clim(-0.3, 1)  # an empty pattern is gray, the gaps are white
    above, below = right.subplots(2, 1, height_ratios=(1, 1))
    order = measured.features.norm(dim=1).argsort(descending=True)
    plot_images(above, measured.features[order], "Digits: weights of the hidden units", columns=13)
    plot_images(below, measured.digits, "Digits: samples (means of the visible units)")
