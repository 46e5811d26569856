"""Probabilistic PCA and factor analysis: densities of digits, and digits drawn from them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from aefast import random
from aefast.estimators import FactorAnalysis, ProbabilisticPCA
from aefast.figures.digits import load_digits, plot_images, subfigures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "Probabilistic PCA and factor analysis"
SIZE = (10, 4.8)
SIZES = (1, 2, 4, 8, 16, 24, 40, 56)
FEW, MANY = 8, 40
SHOWN = 16  # factors, of the models that are sampled
THEIRS = (2, 8, 16)  # at which scikit-learn's are fitted too
TOLERANCE = 0.1  # of factor analysis: nats of all training digits together


@dataclass(frozen=True)
class Measured:
    """Mean log-likelihoods of a held-out digit, in nats, by the number of components."""

    principal: dict[int, float]
    factors: dict[int, float]
    their_principal: dict[int, float]
    their_factors: dict[int, float]
    full: float  # of the Gaussian with all components
    # Of the models with SHOWN components; the noise as a standard deviation.
    principal_noise: float
    factors_noise: Tensor
    digits: Tensor
    principal_samples: Tensor
    factors_samples: Tensor

    @property
    def difference(self) -> float:
        """The largest difference of these likelihoods from scikit-learn's."""
        pairs = (self.principal, self.their_principal), (self.factors, self.their_factors)
        return max(abs(ours[size] - theirs[size]) for ours, theirs in pairs for size in THEIRS)


def measure() -> Measured:
    from sklearn import decomposition

    data, held_out = continuous_digits()
    principal = {size: ProbabilisticPCA(size).fit(data) for size in SIZES}
    factors = {size: FactorAnalysis(size, tol=TOLERANCE).fit(data) for size in SIZES}
    options = {"tol": TOLERANCE, "svd_method": "lapack", "noise_variance_init": data.var(0)}
    their_principal = {size: decomposition.PCA(size).fit(data) for size in THEIRS}
    their_factors = {size: decomposition.FactorAnalysis(size, **options) for size in THEIRS}
    for model in their_factors.values():
        model.fit(data)
    samples = [model[SHOWN].sample(20, random_state=0) for model in (principal, factors)]

    def scores(models: dict[int, Any]) -> dict[int, float]:
        return {size: model.score(held_out) for size, model in models.items()}

    return Measured(
        scores(principal),
        scores(factors),
        scores(their_principal),
        scores(their_factors),
        ProbabilisticPCA().fit(data).score(held_out),
        principal[SHOWN].noise_variance_ ** 0.5,
        torch.from_numpy(factors[SHOWN].noise_variance_).sqrt(),
        torch.from_numpy(held_out[:20]),
        *(torch.from_numpy(rows) for rows in samples),
    )


def continuous_digits() -> tuple[np.ndarray, np.ndarray]:
    """Training and held-out digits, each of the 17 shades spread evenly up to the next one: shades
    alone have no density, and some pixels are 0 in every digit."""
    data, _, held_out, _ = load_digits()
    spread = [random.uniform(seed, *part.shape) / 16 for seed, part in enumerate((data, held_out))]
    return (data + spread[0]).double().numpy(), (held_out + spread[1]).double().numpy()


def sentence(measured: Measured) -> str:
    low, high = measured.factors_noise.min().item(), measured.factors_noise.max().item()
    return (
        f"Factor analysis with {FEW} factors gives a held-out digit {measured.factors[FEW]:.1f} "
        f"nats of log-likelihood, probabilistic PCA with {MANY} components "
        f"{measured.principal[MANY]:.1f}: it learns a noise for each pixel (with {SHOWN} factors "
        f"from {low:.2f} to {high:.2f}) in place of one for all ({measured.principal_noise:.2f}). "
        f"scikit-learn's models have these likelihoods within {measured.difference:.0e}."
    )


def plot(measured: Measured, figure: "Figure") -> None:
    top, bottom = subfigures(figure, 2, 1, height_ratios=(3.6, 1))
    spacing = {"wspace": 0.05}
    left, *right = top.subplots(1, 3, width_ratios=(1.6, 1, 1), gridspec_kw=spacing)
    plot_likelihoods(left, measured)
    highest = measured.factors_noise.max()
    noises = {
        "Noise: probabilistic PCA": torch.full(
            (64,), measured.principal_noise, dtype=torch.float32, device="cpu"
        ),
        "Noise: factor analysis": measured.factors_noise,
    }
    for axes, (title, noise) in zip(right, noises.items(), strict=True):
        shades = axes.imshow(noise.reshape(8, 8).numpy(), cmap="viridis", vmin=0, vmax=highest)
        axes.set_title(title, fontsize=10, loc="left")
        axes.axis("off")
    label = "standard deviation of a pixel's noise"
    top.colorbar(shades, ax=right, label=label, shrink=0.6)
    rows = {
        "Held-out digits": measured.digits,
        f"Drawn from probabilistic PCA, {SHOWN} components": measured.principal_samples,
        f"Drawn from factor analysis, {SHOWN} factors": measured.factors_samples,
    }
    strips = bottom.subplots(1, 3, gridspec_kw=spacing)
    for axes, (title, images) in zip(strips, rows.items(), strict=True):
        plot_images(axes, images.clamp(0, 1), title)


def plot_likelihoods(axes: "Axes", measured: Measured) -> None:
    axes.axhline(measured.full, color="gray", linestyle="--", label="Gaussian, all components")
    curves = {
        "factor analysis": ("tab:blue", measured.factors, measured.their_factors),
        "probabilistic PCA": ("tab:red", measured.principal, measured.their_principal),
    }
    for label, (color, ours, theirs) in curves.items():
        axes.plot([*ours], [*ours.values()], ".-", color=color, label=label)
        axes.plot([*theirs], [*theirs.values()], "o", color=color, fillstyle="none")
    axes.plot([], [], "o", color="black", fillstyle="none", label="scikit-learn's")
    axes.set(xlabel="components", ylabel="nats of a held-out digit")
    axes.set_title("Log-likelihood", fontsize=10, loc="left")
    axes.legend(loc="lower right")
