"""An autoencoder with nonlinear units loses to no linear code of its size."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from aefast.figures.digits import load_digits, pca, plot_images, squared_error, train
from aefast.nn import Autoencoder
from aefast.nn.initialization import initialized

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "An undercomplete autoencoder loses to no linear code of its size"
SIZE = (9, 3.6)
SIZES = (2, 6, 12, 20)
SHOWN = 12  # code units of the reconstructions that are drawn


@dataclass(frozen=True)
class Measured:
    """Squared errors of a digit for each code size, and some held-out digits' reconstructions."""

    trained: list[float]
    trained_pca: list[float]  # no linear code has less on these digits
    held_out: list[float]
    held_out_pca: list[float]
    images: Tensor  # digits, the autoencoder's reconstructions, PCA's; ten of each


def measure() -> Measured:
    data, _, held_out, _ = load_digits()
    models, linear = [fit(data, hidden) for hidden in SIZES], [pca(data, n) for n in SIZES]
    digits, shown = held_out[:10], SIZES.index(SHOWN)
    with torch.no_grad():
        images = torch.cat((digits, models[shown](digits), linear[shown](digits)))
    return Measured(
        [squared_error(model, data) for model in models],
        [squared_error(model, data) for model in linear],
        [squared_error(model, held_out) for model in models],
        [squared_error(model, held_out) for model in linear],
        images,
    )


def fit(data: Tensor, hidden: int) -> Autoencoder:
    """One layer up and one down. The output must bend: with a linear one the reconstructions lie
    in a plane, and PCA's is the best of these (Bourlard and Kamp, 1988)."""
    model = initialized(
        lambda: Autoencoder(
            data.shape[1], hidden, activation="softplus", output_activation="sigmoid"
        ),
        seed=0,
    )
    train(model, data, epochs=120, learning_rate=3e-2)
    return model


def sentence(measured: Measured) -> str:
    trained = gains(measured.trained, measured.trained_pca)
    held_out = gains(measured.held_out, measured.held_out_pca)
    return (
        f"With {', '.join(map(str, SIZES))} code units the autoencoder's squared error is "
        f"{', '.join(f'{gain:.1%}' for gain in trained)} below PCA's, the least that a linear code "
        f"can have, on the digits that both learned from, and "
        f"{', '.join(f'{gain:.1%}' for gain in held_out)} below it on others."
    )


def gains(errors: list[float], linear: list[float]) -> list[float]:
    """The share by which each error is below the linear one."""
    return [1 - error / other for error, other in zip(errors, linear, strict=True)]


def plot(measured: Measured, figure: "Figure") -> None:
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.4))
    left.plot(SIZES, measured.held_out_pca, "s-", color="gray", label="PCA")
    left.plot(SIZES, measured.held_out, "o-", color="tab:red", label="autoencoder")
    left.set(xlabel="code units", ylabel="squared error of a digit", title="Held-out digits")
    left.set(xticks=SIZES, ylim=(0, None))
    left.legend()
    names = ("digits", "autoencoder", "PCA")
    title = f"Held-out digits, from {SHOWN} code units"
    plot_images(right, measured.images.clamp(0, 1), title, names=names)
