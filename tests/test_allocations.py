"""Every allocation in the package names its dtype and device: torch's defaults belong to the user.

If a buffer had another dtype than a kernel's signature, the kernel could write past its end.
"""

import ast
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._device import _device_constructors

import aefast
from aefast import functional as F
from aefast import random
from aefast.data import batches, load

PACKAGE = Path(aefast.__file__).parent

# Constructors that torch.device's context changes: empty, zeros, arange, rand, tensor and the like.
CONSTRUCTORS = {function.__name__ for function in _device_constructors()}


def offenders(source: str, name: str) -> Iterator[str]:
    """The calls of constructors that leave the dtype or the device to torch's defaults.

    ``**options`` counts as both. Modules' parameters pass on ``dtype`` and ``device``, which may be
    None for torch's defaults, as in nn.Linear.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "torch":
            constructors = CONSTRUCTORS & {alias.name for alias in node.names}
            yield from (
                f"{name}:{node.lineno} imports torch.{one} by its name" for one in constructors
            )
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if called == "torch.Tensor":
            yield f"{name}:{node.lineno} torch.Tensor takes torch's default dtype"
        if called.removeprefix("torch.") not in CONSTRUCTORS or not called.startswith("torch."):
            continue
        keywords = {keyword.arg for keyword in node.keywords}
        missing = [] if None in keywords else sorted({"dtype", "device"} - keywords)
        if missing:
            yield f"{name}:{node.lineno} {called} has no {' and no '.join(missing)}"


def test_every_allocation_names_its_dtype_and_its_device():
    all_offenders = [
        offender
        for path in sorted(PACKAGE.rglob("*.py"))
        for offender in offenders(path.read_text(), str(path.relative_to(PACKAGE.parent)))
    ]
    assert not all_offenders, "\n".join(all_offenders)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("torch.empty(3, dtype=d, device=e)", []),
        ("torch.zeros(3, **options)", []),
        ("x.new_empty(3); torch.empty_like(x)", []),
        ("torch.ones(3, dtype=d)", ["a.py:1 torch.ones has no device"]),
        ("\ntorch.rand(3)", ["a.py:2 torch.rand has no device and no dtype"]),
        ("torch.Tensor([1])", ["a.py:1 torch.Tensor takes torch's default dtype"]),
        ("from torch import Tensor, full", ["a.py:1 imports torch.full by its name"]),
    ],
)
def test_what_is_found(source, expected):
    assert list(offenders(source, "a.py")) == expected


@contextmanager
def foreign_defaults():
    """Sets another default dtype, and the meta device, which holds no numbers, as the default."""
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)


X, WEIGHT, BIAS = (
    torch.linspace(-1.5, 2, 24).reshape(6, 4),
    torch.linspace(1, -2, 12).reshape(3, 4),
    torch.linspace(-1, 1, 3),
)
STATES = (X > 0).float()
CALLS = {
    "linear_act": lambda x, w, b: F.linear_act(x, w, b, "silu"),
    "corrupt": lambda x, w, b: F.corrupt(x, "gaussian", 0.5, seed=1),
    "salt and pepper": lambda x, w, b: F.corrupt(x, "salt_and_pepper", 0.5, seed=1),
    "autoencode": lambda x, w, b: torch.cat(F.autoencode(x, w, b), 1),
    "reconstruction_loss": lambda x, w, b: F.reconstruction_loss(
        x, w, b, corruption="masking", corruption_level=0.3, contraction=0.1, seed=1
    ),
    "contractive_penalty": lambda x, w, b: F.contractive_penalty(
        x, [w, w[:2, :3]], [b, None], hessian_noise=0.1, seed=1
    ),
    "estimated penalty": lambda x, w, b: F.contractive_penalty(
        x, w, b, method="hutchinson", seed=1
    ),
    "tangents": lambda x, w, b: F.tangents(x, w, b).values,
    "gibbs": lambda x, w, b: torch.cat(F.gibbs(STATES.to(x), w, None, b, 2, seed=1)[:2], 1),
    "gaussian gibbs": lambda x, w, b: (
        F.gibbs(x, w, None, b, visible_kind="gaussian", beta=0.5, seed=1).visible
    ),
    "contrastive_divergence": lambda x, w, b: F.contrastive_divergence(
        STATES.to(x), w, None, b, seed=1
    )[0],
    "free_energy": lambda x, w, b: F.free_energy(STATES.to(x), w, None, b),
    "reparameterize": lambda x, w, b: F.reparameterize(x, x, seed=1),
    "gaussian_kl": lambda x, w, b: F.gaussian_kl(x, x),
    "kl_sparsity": lambda x, w, b: F.kl_sparsity(torch.sigmoid(x), 0.1),
    "l1_sparsity": lambda x, w, b: F.l1_sparsity(x),
    "soft_threshold": lambda x, w, b: F.soft_threshold(x, 0.5),
    "sparse_encode": lambda x, w, b: F.sparse_encode(x, w, 0.5, tolerance=1e-3),
    "topk_encode": lambda x, w, b: F.topk_encode(x, w, b, 3).values,
    "gated_encode": lambda x, w, b: F.gated_encode(x, w, b, b, b).values,
    "jumprelu_encode": lambda x, w, b: F.jumprelu_encode(x, w, b, b.abs(), 0.5).values,
    "sparse_decode": lambda x, w, b: F.sparse_decode(*F.topk_encode(x, w, b, 3), w),
    "sparse_reconstruction_loss": lambda x, w, b: F.sparse_reconstruction_loss(
        *F.topk_encode(x, w, b, 3), w, None, x
    ),
}


def results(device, call):
    tensors = [tensor.to(device).requires_grad_() for tensor in (X, WEIGHT, BIAS)]
    output = call(*tensors)
    if not output.requires_grad:
        return [output]
    gradients = torch.autograd.grad(output.sum(), tensors, allow_unused=True)
    return [output.detach(), *(gradient for gradient in gradients if gradient is not None)]


@pytest.mark.interpreted(op=["salt and pepper", "kl_sparsity", "soft_threshold"])
@pytest.mark.parametrize("op", CALLS)
def test_torchs_defaults_change_no_result(device, op):
    expected = results(device, CALLS[op])
    with foreign_defaults():
        actual = results(device, CALLS[op])
    for other, usual in zip(actual, expected, strict=True):
        assert other.dtype == usual.dtype
        assert other.device == usual.device
        assert torch.equal(other, usual)


def test_datas_and_random_numbers_defaults_are_their_own(tmp_path):
    """Rows in memory, and in a mapped file."""
    np.save(tmp_path / "rows.npy", np.arange(40, dtype=np.float32).reshape(20, 2))
    for source in ("digits", str(tmp_path / "rows.npy")):
        data = load(source)

        def draws(data=data):
            minibatches = list(batches(data, 8, seed=0, epoch=1))
            return [*minibatches, random.uniform(3, 2, 5), random.normal(3, 2, 5)]

        expected = draws()
        with foreign_defaults():
            actual = draws()
        assert all(map(torch.equal, actual, expected))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("PCA", {"n_components": 2}),
        ("FactorAnalysis", {"n_components": 1}),
        ("BernoulliRBM", {"n_components": 3, "n_iter": 1}),
        ("SparseCoding", {"n_components": 3, "n_iter": 1}),
        ("VariationalAutoencoder", {"hidden_layer_sizes": 2, "n_iter": 1}),
    ],
)
def test_torchs_defaults_change_no_estimator(name, settings):
    pytest.importorskip("sklearn")
    from aefast import estimators

    rows = np.random.default_rng(0).random((20, 5)).round().astype(np.float32)

    def transformed():
        estimator = getattr(estimators, name)(**settings, random_state=0)
        return estimator.fit(rows).transform(rows)

    expected = transformed()
    with foreign_defaults():
        actual = transformed()
    assert np.array_equal(actual, expected)
