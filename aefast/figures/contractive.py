"""A contractive autoencoder's code changes only with directions in which the data vary."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from aefast.figures.digits import load_digits, plot_images, subfigures, train
from aefast.nn import ContractiveAutoencoder
from aefast.nn.initialization import initialized

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "A contractive autoencoder finds the data's tangents"
SIZE = (11, 5.4)
POINTS = 100
NEIGHBORS = 40
DIMENSIONS = 5  # that digits are compared in
SIDE = 12  # of the image that a digit is shifted in
SHIFT = 2  # pixels, the most along either axis

AUTOENCODERS = {"autoencoder": 0.0, "contractive": 0.01}
COLORS = {
    "random": "lightgray",
    "global PCA": "darkgray",
    "autoencoder": "tab:blue",
    "contractive": "tab:red",
    "local PCA": "dimgray",
}


@dataclass(frozen=True)
class Measured:
    """Overlaps are mean squared cosines of principal angles: 1 of equal subspaces."""

    digits: dict[str, float]  # with local PCA's directions, at held-out digits
    shifts: dict[str, float]  # with the exact tangents, at held-out shifts of one digit
    spectra: dict[str, Tensor]  # singular values over the largest, means over held-out digits
    image: Tensor  # the digit, shifted
    tangents: dict[str, Tensor]  # of its shifts, [2, SIDE * SIDE]


def measure() -> Measured:
    digits, spectra = measure_digits()
    shifts, image, tangents = measure_shifts()
    return Measured(digits, shifts, spectra, image, tangents)


def measure_digits() -> tuple[dict[str, float], dict[str, Tensor]]:
    data, _, held_out, _ = load_digits()
    points = held_out[:POINTS]
    neighbors = nearest(points, data)
    local = leading(neighbors)
    overlaps = {
        "random": overlap(random_directions(*local.shape), local),
        "global PCA": overlap(leading(data), local),
        # What two halves of the neighbors agree on: the most that can be hoped for.
        "local PCA": overlap(leading(neighbors[:, ::2]), leading(neighbors[:, 1::2])),
    }
    spectra = {}
    for name, contraction in AUTOENCODERS.items():
        directions, values = trained(data, contraction).tangents(points, n=30)
        overlaps[name] = overlap(directions[:, :DIMENSIONS], local)
        spectra[name] = (values / values[:, :1]).mean(0)
    return overlaps, spectra


def measure_shifts() -> tuple[dict[str, float], Tensor, dict[str, Tensor]]:
    digit = F.pad(load_digits()[0][0].reshape(8, 8), (2, 2, 2, 2))
    generator = torch.Generator().manual_seed(0)
    data = shifted(
        digit, 2 * torch.rand(2000, 2, generator=generator, dtype=torch.float32, device="cpu") - 1
    )
    offsets = 2 * torch.rand(POINTS, 2, generator=generator, dtype=torch.float32, device="cpu") - 1
    points = shifted(digit, offsets)
    step = 0.01 * torch.eye(2, dtype=torch.float32, device="cpu")
    exact = torch.stack(
        [shifted(digit, offsets + along) - shifted(digit, offsets - along) for along in step], 1
    )
    exact = torch.linalg.qr(exact.mT).Q.mT
    tangents_by_name = {
        "random": random_directions(*exact.shape),
        "global PCA": leading(data, 2).expand_as(exact),
        "local PCA": leading(nearest(points, data), 2),
    }
    for name, contraction in AUTOENCODERS.items():
        tangents_by_name[name] = trained(data, contraction / 3).tangents(points, n=2).vectors
    overlaps = {name: overlap(directions, exact) for name, directions in tangents_by_name.items()}
    shown = {"exact": exact, **tangents_by_name}
    return overlaps, points[0], {name: directions[0] for name, directions in shown.items()}


def trained(data: Tensor, contraction: float) -> ContractiveAutoencoder:
    """An autoencoder, trained with the learning rate that gives either kind its lowest loss. A
    plain one that is trained less overlaps more, by 0.21 at most, which is less than global PCA."""
    model = initialized(
        lambda: ContractiveAutoencoder(data.shape[1], 128, contraction=contraction), seed=0
    )
    train(model, data, epochs=50, learning_rate=1e-2)
    return model


def shifted(digit: Tensor, offsets: Tensor) -> Tensor:
    """The image moved by ``SHIFT`` times each place ``[N, 2]``; ``[N, SIDE * SIDE]``."""
    count = len(offsets)
    moves = torch.eye(2, dtype=torch.float32, device="cpu").expand(count, 2, 2)
    moves = torch.cat((moves, (2 * SHIFT / SIDE * offsets)[:, :, None]), 2)
    grid = F.affine_grid(moves, [count, 1, SIDE, SIDE], align_corners=False)
    images = F.grid_sample(
        smooth(digit).expand(count, 1, -1, -1), grid, mode="bicubic", align_corners=False
    )
    return images.flatten(1)


def smooth(image: Tensor) -> Tensor:
    """The image, blurred so that it has a derivative along a shift."""
    binomial = torch.tensor([0.25, 0.5, 0.25], dtype=torch.float32, device="cpu")
    return F.conv2d(image[None, None], torch.outer(binomial, binomial)[None, None], padding=1)


def nearest(points: Tensor, data: Tensor) -> Tensor:
    """The rows of the data next to each point: ``[points, NEIGHBORS, D]``."""
    return data[torch.cdist(points, data).topk(NEIGHBORS, largest=False).indices]


def leading(rows: Tensor, count: int = DIMENSIONS) -> Tensor:
    """The principal axes ``[..., count, D]`` of rows ``[..., N, D]``."""
    centered = rows - rows.mean(-2, keepdim=True)
    return torch.linalg.svd(centered, full_matrices=False).Vh[..., :count, :]


def random_directions(points: int, count: int, size: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.linalg.qr(
        torch.randn(points, size, count, generator=generator, dtype=torch.float32, device="cpu")
    ).Q.mT


def overlap(one: Tensor, other: Tensor) -> float:
    return torch.linalg.svdvals(one @ other.mT).square().mean().item()


def sentence(measured: Measured) -> str:
    digits, shifts = measured.digits, measured.shifts
    twentieth = {name: values[19].item() for name, values in measured.spectra.items()}
    return (
        f"At held-out digits the {DIMENSIONS} directions that a contractive code changes most with "
        f"overlap with local PCA's by {digits['contractive']:.2f} (plain autoencoder "
        f"{digits['autoencoder']:.2f}, random {digits['random']:.2f}, two local PCAs with each "
        f"other {digits['local PCA']:.2f}), and for one digit's shifts, with the exact tangents, "
        f"by {shifts['contractive']:.2f} (plain {shifts['autoencoder']:.2f}, random "
        f"{shifts['random']:.2f}); the Jacobian's 20th singular value is "
        f"{twentieth['contractive']:.0%} of the first (plain {twentieth['autoencoder']:.0%})."
    )


def plot(measured: Measured, figure: "Figure") -> None:
    top, bottom = subfigures(figure, 2, 1, height_ratios=(2, 1))
    left, middle, right = top.subplots(1, 3)
    for axes, overlaps, title in (
        (left, measured.digits, "Digits: with local PCA's 5"),
        (middle, measured.shifts, "Shifts of a digit: with the exact 2"),
    ):
        heights = [overlaps[name] for name in COLORS]
        bars = axes.barh(list(COLORS), heights, color=COLORS.values())
        axes.bar_label(bars, fmt="%.2f", padding=3)
        axes.set(xlim=(0, 1.2), xlabel="overlap (mean squared cosine)", title=title)
        axes.invert_yaxis()
    for name, values in measured.spectra.items():
        right.plot(range(1, len(values) + 1), values, color=COLORS[name], label=name)
    right.set(
        xlabel="rank", ylabel="singular value / largest", title="The encoder's Jacobian at digits"
    )
    right.legend()
    names = ["exact", "local PCA", "contractive", "autoencoder"]
    panels = bottom.subplots(1, len(names) + 1, width_ratios=(1, 2, 2, 2, 2))
    plot_images(panels[0], measured.image[None], "shifted digit", columns=1)
    for axes, name in zip(panels[1:], names, strict=True):
        plot_images(axes, measured.tangents[name], f"tangents: {name}", columns=2)
