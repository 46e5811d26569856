"""Patched libraries against the unpatched ones, at the sizes of their examples."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from harness import Case
from samples import samples
from torch import Tensor

pytest.importorskip("sklearn")

from sklearn.datasets import load_digits
from sklearn.decomposition import PCA, FactorAnalysis, MiniBatchDictionaryLearning
from sklearn.neural_network import BernoulliRBM

import aefast


def digits() -> np.ndarray:
    return load_digits().data


def patches() -> np.ndarray:
    """Centered 7x7 patches of digits twice as large, as many as a small image has."""
    large = np.kron(load_digits().images[:20], np.ones((2, 2)))
    windows = np.lib.stride_tricks.sliding_window_view(large, (7, 7), axis=(1, 2))
    rows = windows.reshape(-1, 49) / 16
    return (rows - rows.mean(1, keepdims=True))[::2]


def images() -> np.ndarray:
    return np.random.default_rng(0).random((1280, 784))


CASES: dict[str, tuple[Callable[[], np.ndarray], Callable[[], Any]]] = {
    "BernoulliRBM 784-256 b128": (
        images,
        lambda: BernoulliRBM(256, batch_size=128, n_iter=2, random_state=0),
    ),
    "BernoulliRBM on digits": (lambda: digits() / 16, lambda: BernoulliRBM(random_state=0)),
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


TABLES: dict[str, dict[str, Any]] = {
    "AutoEncoder": {},
    "AutoEncoder without batch norm, dropout": {"batch_norm": False, "dropout_rate": 0},
    "VAE": {},
}


@pytest.mark.parametrize("device", ["cpu"])
@pytest.mark.parametrize("name", TABLES)
def test_pyod(compare: Callable[[Case], None], name: str, device: str) -> None:
    """Two epochs on a table of 5000 rows of 30 numbers."""
    pytest.importorskip("pyod")
    from pyod.models.auto_encoder import AutoEncoder
    from pyod.models.vae import VAE

    kind = VAE if name == "VAE" else AutoEncoder
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(5000, 30)))

    def unpatched(x: Tensor) -> Any:
        return kind(epoch_num=2, verbose=0, **TABLES[name]).fit(x.numpy())

    def patched(x: Tensor) -> Any:
        with aefast.patch("pyod"):
            return unpatched(x)

    def check() -> None:
        means = [fit(rows).decision_scores_.mean() for fit in (patched, unpatched)]
        assert abs(means[0] - means[1]) < 0.05 * means[1]

    compare(
        Case(
            op="patch",
            name=f"pyod {name}, 5000x30",
            device=device,
            dtype=rows.dtype,
            make_inputs=lambda: (rows,),
            ours=patched,
            eager=unpatched,
            check=check,
            compiles=False,
        )
    )


class Machine:
    """An rbms machine, 784-500, with 512 persistent chains."""

    def __init__(self) -> None:
        from rbms.bernoulli_bernoulli.classes import BBRBM

        weight = torch.randn(784, 500) * 0.01
        self.model = BBRBM(weight, torch.zeros(784), torch.zeros(500))
        self.model.init_grad()
        self.chains = self.model.init_chains(512)

    def step(self, rows: Tensor, gibbs_steps: int) -> Any:
        from rbms.training.pcd import fit_batch_pcd

        batch = rows, torch.ones(len(rows))
        self.chains, _ = fit_batch_pcd(batch, self.chains, self.model, gibbs_steps, 1.0)
        return self.model.weight_matrix.grad


@pytest.mark.parametrize("device", ["cpu"])
@pytest.mark.parametrize("gibbs_steps", [1, 100])
def test_rbms(compare: Callable[[Case], None], gibbs_steps: int, device: str) -> None:
    pytest.importorskip("rbms")
    machine = Machine()

    def patched(rows: Tensor) -> Any:
        with aefast.patch("rbms"):
            return machine.step(rows, gibbs_steps)

    def check() -> None:
        rows = samples(512, 784, binary=True)
        means = [step(rows).mean().item() for step in (patched, machine_step)]
        assert abs(means[0] - means[1]) < 1e-4

    def machine_step(rows: Tensor) -> Any:
        return machine.step(rows, gibbs_steps)

    compare(
        Case(
            op="patch",
            name=f"rbms PCD k={gibbs_steps}, 784-500, 512 chains",
            device=device,
            dtype=torch.float32,
            make_inputs=lambda: (samples(512, 784, binary=True),),
            ours=patched,
            eager=machine_step,
            check=check,
            compiles=False,
        )
    )


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
    """Check that deterministic results are equal, a machine's pseudo-likelihood to 2 nats."""
    if isinstance(ours, BernoulliRBM):
        scores = [model.score_samples(rows.numpy()).mean() for model in (ours, theirs)]
        assert abs(scores[0] - scores[1]) < 0.02 * rows.shape[1] + 1
    else:
        np.testing.assert_allclose(ours.components_, theirs.components_, atol=1e-6)
