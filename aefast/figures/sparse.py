"""A sparse autoencoder: few of the code's units are active at a time."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from aefast.figures.digits import load_digits, plot_images, subfigures, train
from aefast.nn import SparseAutoencoder
from aefast.nn.initialization import initialized

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "A sparse autoencoder keeps to its target"
SIZE = (11, 5.6)
HIDDEN = 100
TARGET = 0.05
KL_WEIGHT = 0.1
L1_WEIGHTS = (0.0, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
L1_SHOWN = 4  # of these weights, the one whose features are drawn


@dataclass(frozen=True)
class Measured:
    """Measures of 100 units over held-out digits; the mean activities are over the training's."""

    means: dict[str, Tensor]  # each sigmoid unit's mean activity, [100]
    activities: dict[str, Tensor]  # of all sigmoid units, [360 * 100]
    zeros: list[float]  # the share of relu activities that are 0, by the weight of l1
    errors: list[float]  # squared error of a digit, by the weight of l1
    features: dict[str, Tensor]  # the decoder's weights, [100, 64]


def measure() -> Measured:
    data, _, held_out, _ = load_digits()
    plain = trained(data, "kl", 0.0, "sigmoid")
    kl = trained(data, "kl", KL_WEIGHT, "sigmoid")
    l1 = [trained(data, "l1", weight, "relu") for weight in L1_WEIGHTS]
    with torch.no_grad():
        both = {"no penalty": plain, "kl": kl}
        means = {name: model.encode(data).mean(0) for name, model in both.items()}
        activities = {name: model.encode(held_out).flatten() for name, model in both.items()}
        zeros = [(model.encode(held_out) == 0).float().mean().item() for model in l1]
        errors = [(model(held_out) - held_out).square().sum(1).mean().item() for model in l1]
    shown = {"no penalty": plain, "kl": kl, "l1": l1[L1_SHOWN]}
    features = {name: model.decoder[0].weight.detach().t() for name, model in shown.items()}
    return Measured(means, activities, zeros, errors, features)


def trained(data: Tensor, penalty: str, weight: float, activation: str) -> SparseAutoencoder:
    model = initialized(
        lambda: SparseAutoencoder(
            data.shape[1],
            HIDDEN,
            penalty=penalty,
            sparsity_weight=weight,
            sparsity_target=TARGET,
            activation=activation,
        ),
        seed=0,
    )
    learning_rate = 1e-2 if activation == "sigmoid" else 3e-3
    train(model, data, epochs=60, learning_rate=learning_rate)
    return model


def sentence(measured: Measured) -> str:
    deviation = (measured.means["kl"] / TARGET - 1).abs()
    return (
        f"With the kl penalty the mean activity of each of {HIDDEN} units comes within "
        f"{deviation.mean():.1%} of the target {TARGET} on average, {deviation.max():.0%} at most "
        f"(without it the mean is {measured.means['no penalty'].mean():.2f}); with l1 the share of "
        f"activities that are 0 rises from {measured.zeros[0]:.0%} to {measured.zeros[-1]:.0%}."
    )


def plot(measured: Measured, figure: "Figure") -> None:
    top, bottom = subfigures(figure, 2, 1, height_ratios=(1.2, 1))
    left, middle, right = top.subplots(1, 3)
    bins = torch.linspace(0, 1, 41, dtype=torch.float32, device="cpu")
    around = bins - 0.0125  # the target is in the middle of one
    for name, color in (("no penalty", "tab:blue"), ("kl", "tab:red")):
        options: dict[str, Any] = {"color": color, "alpha": 0.6, "label": name}
        left.hist(measured.means[name].numpy(), bins=around.tolist(), **options)
        middle.hist(measured.activities[name].numpy(), bins=bins.tolist(), density=True, **options)
    left.axvline(TARGET, color="black", linestyle="--", label=f"target {TARGET}")
    left.set(xlabel="mean activity of a unit", ylabel="units", title="Each unit's mean")
    middle.set(xlabel="activity at a digit", ylabel="density", title="All activities", yscale="log")
    left.legend()
    middle.legend()
    positions = range(len(L1_WEIGHTS))
    right.plot(positions, measured.zeros, "o-", color="tab:red", label="share of zeros")
    right.plot(positions, measured.errors, "s--", color="gray", label="squared error of a digit")
    right.set_xticks(positions, [f"{weight:g}" for weight in L1_WEIGHTS], fontsize=9)
    right.set(xlabel="weight of l1", ylim=(0, None), title="Relu units with l1")
    right.legend()
    titles = ("no penalty", f"kl, weight {KL_WEIGHT}", f"l1, weight {L1_WEIGHTS[L1_SHOWN]}")
    panels = bottom.subplots(1, 3)
    for axes, title, features in zip(panels, titles, measured.features.values(), strict=True):
        largest = features.norm(dim=1).topk(40).indices
        plot_images(axes, features[largest], f"The 40 largest features, {title}")
