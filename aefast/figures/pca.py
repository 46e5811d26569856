"""Principal component analysis: the images that digits are sums of."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from aefast.estimators import PCA
from aefast.figures.digits import load_digits, plot_images, subfigures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "The principal images of digits"
SIZE = (10, 6)
SIZES = (2, 8, 32)


@dataclass(frozen=True)
class Measured:
    """The principal images, the variance that they keep, and digits made of some of them."""

    mean: Tensor
    components: Tensor  # [64, 64], a principal image a row
    explained: Tensor  # [65], the share of the training digits' variance in the first K
    explained_held_out: dict[int, float]
    digits: Tensor
    reconstructions: dict[int, Tensor]
    difference: float  # of a share to scikit-learn's, at most


def measure() -> Measured:
    from sklearn import decomposition

    data, _, held_out, labels = load_digits()
    whole = PCA().fit(data)
    shares = torch.from_numpy(whole.explained_variance_ratio_)
    theirs = decomposition.PCA(svd_solver="full").fit(data.double().numpy())
    one_of_each = torch.stack([(labels == label).nonzero()[0, 0] for label in range(10)])
    scatter = (held_out - torch.from_numpy(whole.mean_)).square().sum()
    reconstructions, explained_held_out = {}, {}
    for size in SIZES:
        model = PCA(size).fit(data)
        again = torch.from_numpy(model.inverse_transform(model.transform(held_out)))
        explained_held_out[size] = 1 - ((held_out - again).square().sum() / scatter).item()
        reconstructions[size] = again[one_of_each]
    return Measured(
        torch.from_numpy(whole.mean_),
        torch.from_numpy(whole.components_),
        torch.cat((torch.zeros(1, dtype=torch.float32, device="cpu"), shares.cumsum(0))),
        explained_held_out,
        held_out[one_of_each],
        reconstructions,
        float(np.abs(shares.numpy() - theirs.explained_variance_ratio_).max()),
    )


def sentence(measured: Measured) -> str:
    explained = ", ".join(f"{measured.explained_held_out[size]:.0%}" for size in SIZES)
    return (
        f"With {', '.join(map(str, SIZES))} principal images {explained} of the variance of digits "
        f"that they were not learned from is kept; each image's share of the training digits' "
        f"variance is scikit-learn's within {measured.difference:.0e}."
    )


def plot(measured: Measured, figure: "Figure") -> None:
    top, bottom = subfigures(figure, 2, 1, height_ratios=(2, 1))
    spacing = {"wspace": 0.05}
    left, right = top.subplots(1, 2, gridspec_kw=spacing)
    images = torch.cat((measured.mean[None], measured.components[:14]))
    images = images / images.abs().amax(1, keepdim=True)
    title = "The mean, and the first 14 principal images (gray: 0, black: above)"
    plot_images(left, images, title, columns=5)
    right.plot(measured.explained, color="tab:blue", label="training digits")
    held_out = [measured.explained_held_out[size] for size in SIZES]
    right.plot(SIZES, held_out, "o", color="tab:red", label="held-out digits")
    right.set(xlabel="components", ylabel="share of the variance kept", ylim=(0, 1.03))
    right.set_title("Explained variance", fontsize=10, loc="left")
    right.legend(loc="lower right")
    rows = {"Held-out digits": measured.digits}
    rows |= {f"From {size} components": measured.reconstructions[size] for size in SIZES}
    strips = bottom.subplots(2, 2, gridspec_kw=spacing)
    for axes, (title, row) in zip(strips.flat, rows.items(), strict=True):
        plot_images(axes, row.clamp(0, 1), title)
