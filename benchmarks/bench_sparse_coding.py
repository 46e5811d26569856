"""Sparse codes of patches of photographs, against scikit-learn and the same in eager PyTorch."""

import importlib.util
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from harness import Case, Inputs, Layer, Limit
from torch import Tensor

from aefast import use_backend
from aefast.functional import soft_threshold, sparse_encode

needs_scikit_learn = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("sklearn", "PIL")),
    reason="needs scikit-learn, and Pillow for its photographs",
)

ROWS = 500
# A patch's side, and how many atoms.
SIZES = [(8, 128), (12, 288), (64, 256), (64, 512)]
# The dictionary, the penalty as a share of a patch's largest correlation with an atom (in the
# median), the peer's jobs, and the size. Patches correlate with each other, which is the harder
# problem. The peer takes float64: it is twice as slow in float32.
PROBLEMS = [("patches", 0.1, 1, *size) for size in SIZES]
PROBLEMS += [(*problem, *SIZES[0]) for problem in (("patches", 0.1, 2), ("patches", 0.3, 1))]
PROBLEMS += [("normal", 0.1, 1, *size) for size in (SIZES[0], SIZES[2])]
# FISTA in PyTorch takes seconds for many rows.
FEW_ROWS = 100


@cache
def patches(side: int, count: int, seed: int) -> Tensor:
    """Grey patches of scikit-learn's photographs less their means, [count, side^2]."""
    from sklearn.datasets import load_sample_images
    from sklearn.feature_extraction.image import extract_patches_2d

    images = [image.mean(2) / 255 for image in load_sample_images().images]
    size, each = (side, side), count // len(images)
    parts = [
        extract_patches_2d(image, size, max_patches=each, random_state=seed) for image in images
    ]
    rows = torch.cat([torch.from_numpy(part).reshape(each, -1) for part in parts])
    rows = rows - rows.mean(1, keepdim=True)
    return (rows / rows.std()).float()


class Patches:
    """Patches, and a dictionary of others of them or of atoms of any direction."""

    def __init__(
        self,
        device: str,
        side: int,
        atoms: int,
        dictionary: str = "patches",
        share: float = 0.1,
        rows: int = ROWS,
    ) -> None:
        self.device = device
        self.name = f"{rows}x{side**2}, {atoms} atoms ({dictionary}), penalty {share}"
        x = patches(side, rows, 0)
        drawn = torch.randn(atoms, side**2, generator=torch.Generator().manual_seed(1))
        atoms_drawn = patches(side, atoms, 1) if dictionary == "patches" else drawn
        self.inputs = x.to(device), F.normalize(atoms_drawn).to(device)
        correlations = (self.inputs[0] @ self.inputs[1].t()).abs()
        self.penalty = share * correlations.amax(1).median().item()

    def __call__(self) -> Inputs:
        return tuple(tensor.clone() for tensor in self.inputs)

    def encode(self, x: Tensor, dictionary: Tensor) -> Tensor:
        return sparse_encode(x, dictionary, self.penalty)

    def objectives(self, code: Tensor) -> Tensor:
        x, dictionary, code = (tensor.double() for tensor in (*self.inputs, code))
        residual = x - code @ dictionary
        return residual.square().sum(1) / 2 + self.penalty * code.abs().sum(1)

    def products(self) -> Limit:
        """The matrix products before the steps."""

        def multiply(x: Tensor, dictionary: Tensor) -> None:
            torch.mm(x, dictionary.t())
            torch.mm(dictionary, dictionary.t())

        x, dictionary = self.inputs
        work = 2 * dictionary.numel() * (len(x) + len(dictionary))
        return Limit("torch.mm", multiply, work=work, unit="TFLOP/s")


def check(data: Patches, theirs: Layer) -> None:
    """Check that no row's objective exceeds the baseline's by more than a millionth."""
    ours = data.objectives(data.encode(*data.inputs))
    code = torch.as_tensor(theirs(*data.inputs))
    assert (ours <= data.objectives(code) * (1 + 1e-6)).all()


@pytest.mark.slow
@needs_scikit_learn
@pytest.mark.parametrize("device", ["cpu"])
@pytest.mark.parametrize(("dictionary", "share", "jobs", "side", "atoms"), PROBLEMS)
def test_scikit_learn(
    compare: Callable[[Case], None],
    device: str,
    dictionary: str,
    share: float,
    jobs: int,
    side: int,
    atoms: int,
) -> None:
    """Against scikit-learn's coordinate descent, at its own tolerance."""
    from sklearn.decomposition import sparse_encode as scikit_learn_encode

    data = Patches(device, side, atoms, dictionary, share)
    arrays = [tensor.double().numpy() for tensor in data.inputs]
    options = {"algorithm": "lasso_cd", "alpha": data.penalty, "n_jobs": jobs}

    def theirs(*_: Tensor) -> Any:
        return scikit_learn_encode(*arrays, **options)

    compare(case(data, theirs, f"scikit-learn's lasso_cd, jobs: {jobs}"))


@needs_scikit_learn
@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(("side", "atoms"), SIZES[2:3])
def test_eager(compare: Callable[[Case], None], device: str, side: int, atoms: int) -> None:
    """FISTA over all atoms in PyTorch, to the same gap."""
    data = Patches(device, side, atoms, rows=FEW_ROWS)

    def theirs(x: Tensor, dictionary: Tensor) -> Tensor:
        with use_backend("eager"):
            return data.encode(x, dictionary)

    compare(case(data, theirs, "eager FISTA"))


def case(data: Patches, theirs: Layer, peer: str) -> Case:
    """A case without torch.compile: the number of steps depends on the data."""
    return Case(
        op="sparse_encode",
        name=f"{data.name} against {peer}",
        device=data.device,
        dtype=torch.float32,
        make_inputs=data,
        ours=data.encode,
        eager=theirs,
        check=lambda: check(data, theirs),
        limit=data.products(),
        compiles=False,
    )


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_soft_threshold(compare: Callable[[Case], None], device: str) -> None:
    def make_inputs() -> Inputs:
        return (torch.randn(4096, 1024, device=device),)

    def check() -> None:
        (x,) = make_inputs()
        assert torch.equal(soft_threshold(x, 0.5), F.softshrink(x, 0.5))

    compare(
        Case(
            op="soft_threshold",
            name="4096x1024 float32",
            device=device,
            dtype=torch.float32,
            make_inputs=make_inputs,
            ours=lambda x: soft_threshold(x, 0.5),
            eager=lambda x: F.softshrink(x, 0.5),
            check=check,
            limit=Limit("copy", torch.clone, work=2 * 4096 * 1024 * 4, unit="GB/s"),
        )
    )
