"""A denoising autoencoder learns the vector field that points back to the data."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from aefast.figures.digits import train, train_to_the_optimum
from aefast.nn import DenoisingAutoencoder
from aefast.nn.initialization import initialized

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "A denoising autoencoder points back to the data"
SIZE = (9, 4.2)
LEVEL = 0.15  # standard deviation of the noise
GAUSSIAN_LEVEL = 0.5


@dataclass(frozen=True)
class Measured:
    """The field r(x) - x around a curve, and how near the learned score is to the exact one."""

    curve: Tensor
    grid: Tensor
    field: Tensor
    distance_before: float  # mean distance of noisy points to the curve
    distance_after: float
    score_error: float  # relative, of (r(x) - x) / level^2 on Gaussian data


def measure() -> Measured:
    generator = torch.Generator().manual_seed(0)
    curve = spiral(torch.rand(4000, generator=generator, dtype=torch.float32, device="cpu"))
    model = initialized(
        lambda: DenoisingAutoencoder(
            layers=[2, 128, 128],
            corruption="gaussian",
            corruption_level=LEVEL,
            activation="tanh",
            output_activation="identity",
        ),
        seed=0,
    )
    train(model, curve, epochs=60, batch_size=200, learning_rate=5e-3)
    model.eval()
    line = torch.linspace(-1.3, 1.3, 27, dtype=torch.float32, device="cpu")
    grid = torch.cartesian_prod(line, line)
    reference = spiral(torch.linspace(0, 1, 2000, dtype=torch.float32, device="cpu"))
    noisy = curve[:1000] + LEVEL * torch.randn(
        1000, 2, generator=generator, dtype=torch.float32, device="cpu"
    )
    with torch.no_grad():
        field = model(grid) - grid
        after = torch.cdist(model(noisy), reference).amin(1).mean().item()
    before = torch.cdist(noisy, reference).amin(1).mean().item()
    near = torch.cdist(grid, reference).amin(1) < 3 * LEVEL
    return Measured(reference, grid[near], field[near], before, after, gaussian_score_error())


def spiral(position: Tensor) -> Tensor:
    """Points of a curve in the plane, [N, 2], by their position in [0, 1]."""
    angle = 1.5 * torch.pi * (0.25 + position)
    return torch.stack((angle.cos(), angle.sin()), 1) * (0.3 + 0.7 * position)[:, None]


def gaussian_score_error() -> float:
    """The error of (r(x) - x) / s^2, which for noised N(0, S) is at the optimum the score
    -(S + s^2 I)^-1 x."""
    generator = torch.Generator().manual_seed(0)
    factor = torch.tensor([[1.0, 0.0], [0.8, 0.4]], dtype=torch.float32, device="cpu")
    data = (
        torch.randn(20000, 2, generator=generator, dtype=torch.float32, device="cpu") @ factor.t()
    )
    model = initialized(
        lambda: DenoisingAutoencoder(
            2,
            2,
            corruption="gaussian",
            corruption_level=GAUSSIAN_LEVEL,
            activation="identity",
            output_activation="identity",
        ),
        seed=0,
    )
    train_to_the_optimum(model, data, steps=100)
    model.eval()
    noised = data[:2000] + GAUSSIAN_LEVEL * torch.randn(
        2000, 2, generator=generator, dtype=torch.float32, device="cpu"
    )
    covariance = factor @ factor.t() + GAUSSIAN_LEVEL**2 * torch.eye(
        2, dtype=torch.float32, device="cpu"
    )
    exact = -torch.linalg.solve(covariance, noised.t()).t()
    with torch.no_grad():
        learned = (model(noised) - noised) / GAUSSIAN_LEVEL**2
    return ((learned - exact).norm() / exact.norm()).item()


def sentence(measured: Measured) -> str:
    return (
        f"The step r(x) - x leads noisy points from {measured.distance_before:.3f} away from the "
        f"curve on average to {measured.distance_after:.3f}; on Gaussian data (r(x) - x) / s^2 is "
        f"the score of the noised density within {measured.score_error:.1%}."
    )


def plot(measured: Measured, figure: "Figure") -> None:
    axes = figure.subplots()
    axes.plot(*measured.curve.t(), color="tab:red", linewidth=2, label="the data's curve")
    axes.quiver(
        *measured.grid.t(),
        *measured.field.t(),
        angles="xy",
        scale_units="xy",
        scale=1,
        width=0.002,
        color="tab:blue",
        label="r(x) - x",
    )
    axes.set(xlabel="first feature", ylabel="second feature", aspect="equal")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
