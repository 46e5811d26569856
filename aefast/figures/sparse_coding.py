"""Sparse coding learns oriented edges from photographs."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from aefast.estimators import SparseCoding
from aefast.figures.digits import plot_images, subfigures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Sparse coding finds the edges that photographs are made of"
SIZE = (9, 5.2)
SIDE, PATCHES, ATOMS = 10, 6000, 64
PENALTY = 1.0
COMPARED, SHOWN = 500, 5  # patches


@dataclass(frozen=True)
class Measured:
    """The dictionary, and how few of its atoms make up patches that it was not learned from."""

    dictionary: Tensor
    active: list[int]  # atoms of each held-out patch
    explained: float  # share of the held-out patches' variance
    excess: float  # of the objective over scikit-learn's, relative, at the same dictionary
    patches: Tensor
    reconstructions: Tensor
    penalties: list[float]
    actives: list[float]
    errors: list[float]  # share of the variance that is left


def measure() -> Measured:
    from sklearn.decomposition import sparse_encode

    patches = whitened_patches()
    train, held_out = patches[:-COMPARED], patches[-COMPARED:]
    model = SparseCoding(ATOMS, PENALTY, n_iter=15, random_state=0).fit(train)
    codes = model.transform(held_out)
    theirs = sparse_encode(  # in float32 it would warn that it has not converged
        held_out.astype(np.float64),
        model.components_.astype(np.float64),
        algorithm="lasso_cd",
        alpha=PENALTY,
    )
    least = objective(held_out, theirs, model.components_)
    shown = (held_out**2).sum(1).argsort()[-COMPARED // 10 :][-SHOWN * 5 :: 5]  # with contrast
    actives, errors = [], []
    penalties = [0.3, 0.5, 1.0, 2.0, 4.0]
    for penalty in penalties:
        z = model.set_params(penalty=penalty).transform(held_out)
        actives.append(float((z != 0).sum(1).mean()))
        left = held_out - z @ model.components_
        errors.append(float((left**2).sum() / (held_out**2).sum()))
    return Measured(
        torch.from_numpy(model.components_),
        (codes != 0).sum(1).tolist(),
        1 - errors[penalties.index(PENALTY)],
        objective(held_out, codes, model.components_) / least - 1,
        torch.from_numpy(held_out[shown]),
        torch.from_numpy(codes[shown] @ model.components_),
        penalties,
        actives,
        errors,
    )


def whitened_patches() -> np.ndarray:
    """Patches [PATCHES, SIDE^2] of scikit-learn's two photographs, in gray and at half their size,
    without their means, whitened but for the directions of least variance."""
    from sklearn.datasets import load_sample_images
    from sklearn.feature_extraction.image import extract_patches_2d

    patch_lists = []
    for number, image in enumerate(load_sample_images().images):
        gray = image[:-1].astype(np.float32).mean(2) / 255  # an odd height
        half = gray.reshape(gray.shape[0] // 2, 2, gray.shape[1] // 2, 2).mean((1, 3))
        drawn = extract_patches_2d(half, (SIDE, SIDE), max_patches=2 * PATCHES, random_state=number)
        patch_lists.append(drawn.reshape(len(drawn), -1))
    patches = np.concatenate(patch_lists)
    patches -= patches.mean(1, keepdims=True)
    patches = patches[patches.std(1) > 0.02]  # the rest is sky
    variances, directions = np.linalg.eigh(np.cov(patches.T))
    scale = (variances + 0.02 * variances.max()) ** -0.5
    patches = patches @ ((directions * scale) @ directions.T).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(patches))[:PATCHES]
    return patches[order] / patches.std()


def objective(x: np.ndarray, codes: np.ndarray, dictionary: np.ndarray) -> float:
    left = x - codes @ dictionary
    return float(0.5 * (left.astype(np.float64) ** 2).sum() + PENALTY * np.abs(codes).sum())


def sentence(measured: Measured) -> str:
    active = np.mean(measured.active)
    return (
        f"A dictionary of {ATOMS} atoms learned from photographs explains "
        f"{measured.explained:.0%} of the variance of patches that it has not seen with "
        f"{active:.1f} atoms a patch; its codes' objective is scikit-learn's within "
        f"{abs(measured.excess):.0e}."
    )


def plot(measured: Measured, figure: "Figure") -> None:
    left, right = subfigures(figure, 1, 2, width_ratios=(1.25, 1))
    plot_images(
        left.subplots(),
        measured.dictionary,
        f"The {ATOMS} atoms, {SIDE}x{SIDE} pixels (gray: 0)",
        columns=8,
    )
    top, bottom = right.subplots(2, 1)
    pairs = torch.cat((measured.patches, measured.reconstructions))
    plot_images(top, pairs, "Patches; below, their codes decoded", columns=SHOWN)
    bottom.plot(measured.actives, measured.errors, "o-", color="tab:blue")
    for penalty, active, error in zip(
        measured.penalties, measured.actives, measured.errors, strict=True
    ):
        bottom.annotate(
            f"penalty {penalty:g}", (active, error), (6, 4), textcoords="offset points", fontsize=8
        )
    bottom.set(
        xlabel="active atoms of a held-out patch",
        ylabel="share of the variance left",
        xlim=(0, max(measured.actives) * 1.3),
        ylim=(0, 1.05),
    )
