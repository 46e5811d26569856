"""A quantized code compresses: bits per pixel against error, beside PCA with the same quantizer."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from aefast.figures.digits import load_digits, pca, plot_images, squared_error, train
from aefast.nn import Autoencoder
from aefast.nn.initialization import initialized

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "A quantized code compresses better than PCA's"
SIZE = (10, 4.2)
SIZES = (2, 6, 12, 20, 30)
BITS = range(1, 9)
TICKS = (0.05, 0.1, 0.2, 0.5, 1, 2, 4)
RATES = (0.5, 1.0, 2.0)  # bits per pixel, that the sentence and the images are of


@dataclass(frozen=True)
class Point:
    """One size and precision of a code: what held-out digits take, and what they look like."""

    rate: float  # bits per pixel, with all that decoding needs
    error: float  # squared, of a digit
    label: str
    images: Tensor  # ten reconstructions


@dataclass(frozen=True)
class Measured:
    """All points, of each kind of code."""

    autoencoder: list[Point]
    pca: list[Point]
    mean_image: float  # the squared error of the mean of the training digits
    images: Tensor  # the ten digits


def measure() -> Measured:
    data, _, held_out, _ = load_digits()
    return Measured(
        [point for hidden in SIZES for point in points(fit(data, hidden), hidden, held_out)],
        [point for hidden in SIZES for point in points(pca(data, hidden), hidden, held_out)],
        squared_error(lambda images: data.mean(0).expand_as(images), held_out),
        held_out[:10],
    )


def fit(data: Tensor, hidden: int) -> Autoencoder:
    """The code is bounded, so that no far point stretches the quantizer's range."""
    model = initialized(
        lambda: Autoencoder(
            layers=[data.shape[1], 256, hidden], activation="gelu", code_activation="tanh"
        ),
        seed=0,
    )
    train(model, data, epochs=60, batch_size=64)
    return model.eval()


def points(model: Autoencoder, hidden: int, images: Tensor) -> list[Point]:
    points = []
    for bits in BITS:
        compressed = model.compress(images, bits)
        restored = model.decompress(compressed)
        error = (restored - images).square().sum(1).mean().item()
        label = f"{hidden} x {bits} bits"
        points.append(Point(compressed.bits_per_element, error, label, restored[:10]))
    return points


def best(candidates: list[Point], rate: float) -> Point:
    """The one with the least error among those that take at most so many bits per pixel."""
    return min((point for point in candidates if point.rate <= rate), key=lambda p: p.error)


def frontier(candidates: list[Point]) -> list[Point]:
    """The points that no other one beats at its rate, by their rates."""
    ordered = sorted(candidates, key=lambda point: point.rate)
    return [point for point in ordered if best(candidates, point.rate) is point]


def sentence(measured: Measured) -> str:
    pairs = [(best(measured.autoencoder, rate), best(measured.pca, rate)) for rate in RATES]
    errors = ", ".join(f"{ours.error:.2f} against {linear.error:.2f}" for ours, linear in pairs)
    return (
        f"At {', '.join(f'{rate:g}' for rate in RATES)} bits per pixel the squared error of a "
        f"held-out digit is {errors} of PCA with the same quantizer; the digits themselves, 17 "
        f"levels of gray, take {math.log2(17):.1f} as they are."
    )


def plot(measured: Measured, figure: "Figure") -> None:
    left, right = figure.subplots(1, 2, width_ratios=(1, 1))
    for candidates, color, marker, label in (
        (measured.pca, "gray", "s", "PCA"),
        (measured.autoencoder, "tab:red", "o", "autoencoder"),
    ):
        for point in candidates:
            left.plot(point.rate, point.error, marker, color=color, markersize=4, alpha=0.6)
        least = frontier(candidates)
        curve = [point.rate for point in least], [point.error for point in least]
        left.plot(*curve, color=color, marker=marker, drawstyle="steps-post", label=label)
    left.set(xlabel="bits per pixel", ylabel="squared error of a held-out digit", xscale="log")
    left.set(yscale="log", xticks=TICKS, xticklabels=map(str, TICKS))
    left.set_xticks([], minor=True)
    left.axhline(measured.mean_image, color="gray", linestyle=":", label="the mean digit")
    left.set(title=f"Codes of {', '.join(map(str, SIZES))} units, 1 to 8 bits each")
    left.legend()
    rows, names = [measured.images], ["digits"]
    for rate in RATES[:2]:
        for name, candidates in (("autoencoder", measured.autoencoder), ("PCA", measured.pca)):
            point = best(candidates, rate)
            rows.append(point.images)
            names.append(f"{name}\n{point.label}")
    rates = " and ".join(f"{rate:g}" for rate in RATES[:2])
    title = f"Held-out digits, at most {rates} bits per pixel"
    plot_images(right, torch.cat(rows).clamp(0, 1), title, names=names)
