"""Dropout on the code: unbiased at evaluation, and a code that outlives the loss of its units."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from aefast.figures.digits import load_digits, plot_images, squared_error, train
from aefast.nn import Autoencoder
from aefast.nn.initialization import initialized

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Dropout on the code: unbiased, and redundant"
SIZE = (12, 3.8)
HIDDEN = 128
PROBABILITIES = (0.0, 0.2, 0.5)
DRAWS = (1, 10, 100, 1000)
REMOVED = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
SHOWN = 0.3  # the share of units removed in the reconstructions that are drawn


@dataclass(frozen=True)
class Measured:
    """How means over draws of dropout approach evaluation; errors with units removed."""

    distance: list[float]  # root mean square, of the mean of n draws to the evaluation output
    standard_error: list[float]
    errors: list[list[float]]  # of a held-out digit, for each probability, for each share removed
    images: Tensor  # digits, and reconstructions with units removed for each probability


def measure() -> Measured:
    data, _, held_out, _ = load_digits()
    models = [fit(data, probability) for probability in PROBABILITIES]
    with torch.no_grad():
        distance, standard_error = compare_draws(models[-1], held_out[:100])
        errors = [
            [squared_error(partial(without, share, model), held_out) for share in REMOVED]
            for model in models
        ]
        broken = [without(SHOWN, model, held_out[:10]) for model in models]
    return Measured(distance, standard_error, errors, torch.cat((held_out[:10], *broken)))


def fit(data: Tensor, probability: float) -> Autoencoder:
    model = initialized(
        lambda: Autoencoder(data.shape[1], HIDDEN, activation="relu", code_dropout=probability),
        seed=0,
    )
    train(model, data, epochs=80)
    return model.eval()


def compare_draws(model: Autoencoder, images: Tensor) -> tuple[list[float], list[float]]:
    """For each number of draws: how far their mean is from the evaluation output, and how far it
    is expected to be; root mean squares over the pixels."""
    expected, code = model(images), model.encode(images)
    shape, generator = (DRAWS[-1], *code.shape), torch.Generator().manual_seed(0)
    uniform = torch.rand(shape, generator=generator, dtype=torch.float32, device="cpu")
    draws = model.decode(code * (uniform >= model.code_dropout) / (1 - model.code_dropout))
    spread = draws.var(0).mean().item()
    distances = [(draws[:n].mean(0) - expected).square().mean().sqrt().item() for n in DRAWS]
    return distances, [(spread / n) ** 0.5 for n in DRAWS]


def without(share: float, model: Autoencoder, images: Tensor) -> Tensor:
    """Reconstructions with this share of the units removed at random, the others divided by what
    remains, as in training, or left alone: what is better for the model."""
    code = model.encode(images)
    uniform = torch.rand(
        code.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32, device="cpu"
    )
    surviving = code * (uniform >= share)
    ways = [model.decode(surviving), model.decode(surviving / (1 - share))]
    return min(ways, key=lambda way: (way - images).square().mean().item())


def sentence(measured: Measured) -> str:
    column = REMOVED.index(SHOWN)
    without, *_, dropped = (errors[column] for errors in measured.errors)
    return (
        f"The mean of {DRAWS[-1]:,} draws of dropout {PROBABILITIES[-1]} is "
        f"{measured.distance[-1] / measured.standard_error[-1]:.2f} standard errors from the "
        f"evaluation output. Without {SHOWN:.0%} of its units, a code trained with it has a "
        f"squared error of {dropped:.2f} on held-out digits, one trained without {without:.2f}; "
        f"with all of them, {measured.errors[-1][0]:.2f} and {measured.errors[0][0]:.2f}."
    )


def plot(measured: Measured, figure: "Figure") -> None:
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1, 1.1))
    left.loglog(DRAWS, measured.standard_error, color="gray", label="standard error")
    left.loglog(DRAWS, measured.distance, "o", color="tab:red", label="their mean to evaluation")
    left.set(xlabel="draws of dropout", ylabel="root mean square over the pixels", title="Unbiased")
    left.legend(loc="lower left", fontsize=9)
    styles = (("gray", "s-"), ("tab:blue", "^-"), ("tab:red", "o-"))
    percent = [100 * share for share in REMOVED]
    for probability, errors, (color, style) in zip(
        PROBABILITIES, measured.errors, styles, strict=True
    ):
        label = f"dropout {probability}" if probability else "no dropout"
        middle.plot(percent, errors, style, color=color, label=label)
    middle.set(xlabel="units removed (%)", ylabel="squared error of a held-out digit")
    middle.set(ylim=(0, None), title="Redundant")
    middle.legend()
    names = ("digits", *(f"dropout {p}" if p else "no dropout" for p in PROBABILITIES))
    title = f"Held-out digits, {SHOWN:.0%} of the units removed"
    plot_images(right, measured.images.clamp(0, 1), title, names=names)
