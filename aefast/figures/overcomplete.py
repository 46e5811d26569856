"""A code larger than the data copies whatever it is given, unless something keeps it from it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from aefast.figures.digits import load_digits, plot_images, squared_error, train
from aefast.nn import (
    Autoencoder,
    ContractiveAutoencoder,
    DenoisingAutoencoder,
    SparseAutoencoder,
)
from aefast.nn.initialization import initialized

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "An overcomplete autoencoder copies, unless it is regularized"
SIZE = (10, 4.6)
HIDDEN = 256  # of 64 pixels


@dataclass(frozen=True)
class Measured:
    """Errors as shares of the variance, which is the same for digits and noise."""

    digits: dict[str, float]
    noise: dict[str, float]
    images: Tensor  # of each: five held-out digits, five of noise; then what each model makes


def measure() -> Measured:
    data, _, held_out, _ = load_digits()
    noise = independent_pixels(held_out)
    variance = squared_error(lambda images: held_out.mean(0).expand_as(images), held_out)
    models = {name: fit(model, data) for name, model in make_models(data.shape[1]).items()}
    shown = torch.cat((held_out[:5], noise[:5]))
    with torch.no_grad():
        images = torch.cat((shown, *(model(shown) for model in models.values())))
    return Measured(
        {name: squared_error(model, held_out) / variance for name, model in models.items()},
        {name: squared_error(model, noise) / variance for name, model in models.items()},
        images,
    )


def independent_pixels(images: Tensor) -> Tensor:
    """Each pixel's values dealt out anew over the images: every pixel keeps its distribution, and
    no two of an image belong together."""
    generator = torch.Generator().manual_seed(0)
    orders = torch.rand(
        images.shape, generator=generator, dtype=torch.float32, device="cpu"
    ).argsort(0)
    return images.gather(0, orders)


def make_models(visible: int) -> dict[str, Autoencoder]:
    """Models of the same layers, one without and four with a regularizer."""
    layers: Any = {"visible": visible, "hidden": HIDDEN, "activation": "relu"}
    noise: Any = {"output_activation": "identity", "corruption_level": 0.4}
    makers: dict[str, Callable[[], Autoencoder]] = {
        "none": partial(Autoencoder, **layers),
        "sparse (L1)": partial(SparseAutoencoder, **layers, penalty="l1", sparsity_weight=4e-3),
        "denoising": partial(DenoisingAutoencoder, **layers, **noise),
        "contractive": partial(ContractiveAutoencoder, **layers, contraction=0.01),
        "dropout": partial(Autoencoder, **layers, code_dropout=0.7),
    }
    return {name: initialized(make, seed=0) for name, make in makers.items()}


def fit(model: Autoencoder, data: Tensor) -> Autoencoder:
    train(model, data, epochs=60)
    return model.eval()


def sentence(measured: Measured) -> str:
    digits, noise = dict(measured.digits), dict(measured.noise)
    copied, copied_noise = digits.pop("none"), noise.pop("none")
    return (
        f"With {HIDDEN} code units for 64 pixels and no regularizer the error is {copied:.1%} of "
        f"the variance on held-out digits and {copied_noise:.1%} on noise with the same pixel "
        f"distributions, which it never saw: a copy. With one it is at most "
        f"{max(digits.values()):.0%} on digits and at least {min(noise.values()):.0%} on noise."
    )


def plot(measured: Measured, figure: "Figure") -> None:
    left, right = figure.subplots(1, 2, width_ratios=(1, 1))
    names = list(measured.digits)
    for offset, errors, color, label in (
        (-0.2, measured.digits, "tab:blue", "held-out digits"),
        (0.2, measured.noise, "tab:red", "noise"),
    ):
        positions = [number + offset for number in range(len(names))]
        bars = left.barh(positions, [100 * errors[name] for name in names], 0.4, color=color)
        bars.set_label(label)
        left.bar_label(bars, fmt="%.1f", padding=3, fontsize=8)
    left.set_yticks(range(len(names)), names)
    left.invert_yaxis()
    left.set(xlabel="squared error (% of the variance)", title="Reconstruction", xlim=(0, 100))
    left.legend(loc="upper right")
    plot_images(
        right, measured.images.clamp(0, 1), "Digits and noise, never seen", names=["input", *names]
    )
