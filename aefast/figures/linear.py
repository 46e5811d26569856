"""A linear autoencoder finds the subspace of principal component analysis."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from aefast.figures.digits import load_digits, train_to_the_optimum
from aefast.nn import Autoencoder
from aefast.nn.initialization import initialized

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "A linear autoencoder is PCA"
SIZE = (9, 3.6)
SIZES = (2, 6, 12)


@dataclass(frozen=True)
class Measured:
    """For each code size: losses as sums over the features, the largest principal angle."""

    losses: list[float]
    discarded: list[float]
    angles: list[float]  # degrees
    eigenvalues: Tensor


def measure() -> Measured:
    data = load_digits()[0]
    centered = data - data.mean(0)
    eigenvalues, vectors = torch.linalg.eigh(centered.double().t() @ centered.double() / len(data))
    eigenvalues, vectors = eigenvalues.flip(0), vectors.flip(1)
    losses, angles = [], []
    for hidden in SIZES:
        model = initialized(
            partial(Autoencoder, data.shape[1], hidden, activation="identity"), seed=0
        )
        train_to_the_optimum(model, data, steps=1500)
        with torch.no_grad():
            losses.append(data.shape[1] * model.loss(data).item())
        subspace = torch.linalg.qr(model.decoder[0].weight.detach().double()).Q
        cosines = torch.linalg.svdvals(subspace.t() @ vectors[:, :hidden])
        angles.append(torch.rad2deg(torch.arccos(cosines.clamp(max=1)).max()).item())
    discarded = [eigenvalues[hidden:].sum().item() for hidden in SIZES]
    return Measured(losses, discarded, angles, eigenvalues)


def sentence(measured: Measured) -> str:
    pairs = zip(measured.losses, measured.discarded, strict=True)
    excess = max(loss / least - 1 for loss, least in pairs)
    return (
        f"Trained on digits, a linear autoencoder with {', '.join(map(str, SIZES))} code units "
        f"reaches the sum of the discarded eigenvalues within {excess:.2%}, and its decoder spans "
        f"PCA's subspace within {max(measured.angles):.2f} degrees."
    )


def plot(measured: Measured, figure: "Figure") -> None:
    left, right = figure.subplots(1, 2)
    discarded = measured.eigenvalues.flip(0).cumsum(0).flip(0)
    left.plot(range(len(discarded)), discarded, color="gray", label="discarded eigenvalues")
    left.plot(SIZES, measured.losses, "o", color="tab:red", label="trained autoencoder")
    left.set(xlabel="code units", ylabel="squared error of a digit", title="Reconstruction")
    left.legend()
    right.bar([str(size) for size in SIZES], measured.angles, color="tab:red", width=0.5)
    right.axhline(1, color="gray", linestyle="--")
    right.set(xlabel="code units", ylabel="largest principal angle (degrees)", title="Subspace")
