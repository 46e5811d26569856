"""Patched peer libraries against themselves, at their examples' sizes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from harness import Case
from torch import Tensor

pytest.importorskip("sklearn")

from sklearn.datasets import load_digits
from sklearn.decomposition import PCA, FactorAnalysis, MiniBatchDictionaryLearning
from sklearn.neural_network import BernoulliRBM

import aefast


def digits() -> np.ndarray:
    return load_digits().data


def patches() -> np.ndarray:
    """As many centered 7x7 patches as a small image has, of digits twice as large."""
    large = np.kron(load_digits().images[:20], np.ones((2, 2)))
    windows = np.lib.stride_tricks.sliding_window_view(large, (7, 7), axis=(1, 2))
    rows = windows.reshape(-1, 49) / 16
    return (rows - rows.mean(1, keepdims=True))[::2]


def images() -> np.ndarray:
    return np.random.default_rng(0).random((1280, 784))


CASES: dict[str, tuple[Callable[[], np.ndarray], Callable[[], Any]]] = {
    "BernoulliRBM on digits": (lambda: digits() / 16, lambda: BernoulliRBM(random_state=0)),
    "BernoulliRBM 784-256 b128": (
        images,
        lambda: BernoulliRBM(256, batch_size=128, n_iter=2, random_state=0),
    ),
    "PCA(2) on digits": (digits, lambda: PCA(2)),
    "PCA(50), 2560x256": (
        lambda: np.random.default_rng(0).random((2560, 256)),
        lambda: PCA(50),
    ),
    "PCA(0.95) on digits": (digits, lambda: PCA(0.95)),
    "PCA(svd_solver='full') on digits": (digits, lambda: PCA(svd_solver="full")),
    "PCA(6, svd_solver='randomized')": (
        images,
        lambda: PCA(6, svd_solver="randomized", whiten=True, random_state=0),
    ),
    "FactorAnalysis(7) on digits": (digits, lambda: FactorAnalysis(7)),
    "FactorAnalysis(2, 'varimax'), 150x4": (
        lambda: np.random.default_rng(0).normal(size=(150, 4)),
        lambda: FactorAnalysis(2, rotation="varimax"),
    ),
    "MiniBatchDictionaryLearning(50) on patches": (
        patches,
        lambda: MiniBatchDictionaryLearning(
            50, alpha=1, batch_size=200, max_iter=1, random_state=0
        ),
    ),
    "MiniBatchDictionaryLearning(6), b3": (
        lambda: np.random.default_rng(0).normal(size=(60, 1024)),
        lambda: MiniBatchDictionaryLearning(6, alpha=0.1, batch_size=3, max_iter=2, random_state=0),
    ),
}


@pytest.mark.parametrize("device", ["cpu"])
@pytest.mark.parametrize("name", CASES)
def test_patch(compare: Callable[[Case], None], name: str, device: str) -> None:
    data, model = CASES[name]
    rows = torch.from_numpy(data())

    def patched(x: Tensor) -> Any:
        with aefast.patch("sklearn"):
            return model().fit(x.numpy())

    def unpatched(x: Tensor) -> Any:
        with aefast.patch("sklearn"):  # what patching itself takes is in both
            pass
        return model().fit(x.numpy())

    compare(
        Case(
            op="patch",
            name=name,
            device=device,
            dtype=rows.dtype,
            make_inputs=lambda: (rows,),
            ours=patched,
            eager=unpatched,
            check=lambda: check(patched(rows), model().fit(rows.numpy()), rows),
            compiles=False,
        )
    )


def check(ours: Any, theirs: Any, rows: Tensor) -> None:
    """Equal where it is deterministic; a machine's pseudo-likelihood to 2 nats."""
    if isinstance(ours, BernoulliRBM):
        scores = [model.score_samples(rows.numpy()).mean() for model in (ours, theirs)]
        assert abs(scores[0] - scores[1]) < 0.02 * rows.shape[1] + 1
    else:
        np.testing.assert_allclose(ours.components_, theirs.components_, atol=1e-6)
