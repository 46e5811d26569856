"""A deep autoencoder beats PCA, and its code of two numbers tells digits apart."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from aefast.figures.digits import load_digits, pca, squared_error, train
from aefast.nn import Autoencoder
from aefast.nn.initialization import initialized

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "A deep autoencoder beats PCA"
SIZE = (12, 4.2)
# The depth with the lower error on the digits to train on, of 256 and 256, 128 units below the
# code. Adam's steps are equal; with 30 numbers in the code the deeper one is behind.
LAYERS = ([64, 256, 128, 2], [64, 256, 128, 6], [64, 256, 30])
SIZES = [layers[-1] for layers in LAYERS]


@dataclass(frozen=True)
class Measured:
    """Squared errors of a digit for each code size; held-out digits' codes of two numbers."""

    trained: list[float]
    trained_pca: list[float]
    held_out: list[float]
    held_out_pca: list[float]
    code: Tensor
    code_pca: Tensor
    labels: Tensor
    accuracy: float  # of the label of the nearest digit to train on, in the code of two
    accuracy_pca: float


def measure() -> Measured:
    data, known, held_out, labels = load_digits()
    models, linear = [fit(data, layers) for layers in LAYERS], [pca(data, n) for n in SIZES]
    with torch.no_grad():
        codes = [(model.encode(data), model.encode(held_out)) for model in (models[0], linear[0])]
    nearest = [known[torch.cdist(other, code).argmin(1)] for code, other in codes]
    accuracies = [(predicted == labels).float().mean().item() for predicted in nearest]
    return Measured(
        [squared_error(model, data) for model in models],
        [squared_error(model, data) for model in linear],
        [squared_error(model, held_out) for model in models],
        [squared_error(model, held_out) for model in linear],
        codes[0][1],
        codes[1][1],
        labels,
        *accuracies,
    )


def fit(data: Tensor, layers: list[int]) -> Autoencoder:
    model = initialized(
        lambda: Autoencoder(layers=layers, activation="gelu", code_activation="identity"), seed=0
    )
    train(model, data, epochs=60, batch_size=64)
    return model


def sentence(measured: Measured) -> str:
    pairs = zip(measured.held_out, measured.held_out_pca, strict=True)
    errors = ", ".join(f"{error:.2f} against {linear:.2f}" for error, linear in pairs)
    return (
        f"With {', '.join(map(str, SIZES))} numbers in the code the squared error of held-out "
        f"digits is {errors} of PCA. In the code of two, the nearest digit has the same label for "
        f"{measured.accuracy:.0%} of them, in PCA's for {measured.accuracy_pca:.0%}."
    )


def plot(measured: Measured, figure: "Figure") -> None:
    first, second, errors = figure.subplots(1, 3, width_ratios=(1, 1, 0.8))
    title = "{}'s code: the nearest digit has\nthe same label for {:.0%}"
    ours = title.format("Autoencoder", measured.accuracy)
    plot_code(first, measured.code, measured.labels, ours)
    # Its outliers would press the others together.
    far = 1.3 * measured.code.abs().max().item()
    first.set(xlim=(-far, far), ylim=(-far, far))
    ticks = [-8, -4, -2, -1, 0, 1, 2, 4, 8]
    for axis, set_scale in ((first.xaxis, first.set_xscale), (first.yaxis, first.set_yscale)):
        set_scale("asinh", linear_width=0.5)
        axis.set_ticks(ticks, [str(tick) for tick in ticks])
        axis.set_ticks([], minor=True)
    plot_code(
        second, measured.code_pca, measured.labels, title.format("PCA", measured.accuracy_pca)
    )
    positions = torch.arange(len(SIZES), dtype=torch.int64, device="cpu")
    for offset, values, color, label in (
        (-0.3, measured.trained_pca, "lightgray", "PCA, training digits"),
        (-0.1, measured.held_out_pca, "gray", "PCA, held out"),
        (0.1, measured.trained, "lightsalmon", "autoencoder, training digits"),
        (0.3, measured.held_out, "tab:red", "autoencoder, held out"),
    ):
        errors.bar(positions + offset, values, 0.2, color=color, label=label)
    errors.set_xticks(positions.tolist(), [str(size) for size in SIZES])
    errors.set(xlabel="numbers in the code", ylabel="squared error of a digit", yscale="log")
    errors.set(title="Reconstruction", ylim=(0.05, 20))
    errors.legend(fontsize=8, loc="upper right")


def plot_code(axes: "Axes", code: Tensor, labels: Tensor, title: str) -> None:
    """Each digit as its numeral, where its code is."""
    for label in range(10):
        first, second = code[labels == label].t()
        axes.scatter(first, second, s=30, marker=f"${label}$", color=f"C{label}", linewidths=0.2)
    axes.set(xlabel="first number", ylabel="second number")
    axes.set_title(title, fontsize=10)
