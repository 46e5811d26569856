"""float32 products on the GPU whose operands are split into bfloat16 terms in memory."""

import pytest
import torch

from aefast import backend
from aefast.functional import linear_act, reconstruction_loss
from tests.accuracy import assert_as_accurate_as_torch
from tests.launched import note_launches

pytestmark = pytest.mark.skipif(
    backend.unavailable("triton", "cpu") is not None and not torch.cuda.is_available(),
    reason="needs Triton",
)
if not pytestmark.args[0]:
    from aefast.ops.rbm import triton as rbm
    from aefast.ops.shared import triton_gemm, triton_terms

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# (rows, columns, depth): ragged, whole blocks, both by depth with a last split that is short.
SHAPES = [(37, 29, 77), (130, 140, 64), (20, 24, 1100)]
INFINITY = float("inf")


@pytest.fixture
def launched(monkeypatch):
    """Products of any size are of terms; the value is the names of what is launched."""
    names = note_launches(monkeypatch)
    monkeypatch.setattr(triton_gemm, "LEAST_USES", 0)
    return names


def assert_of_terms(launched):
    products = [name for name in launched if "_TERMS=" in name]
    assert products
    assert all("LEFT_TERMS=3" in name for name in products)


@pytest.mark.parametrize("layout", ["rows", "right by depth", "both by depth"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_product_is_as_accurate_as_torchs(layout, shape, launched):
    rows, columns, depth = shape
    left, right = torch.randn(rows, depth), torch.randn(columns, depth)
    if layout != "rows":
        right = right.T.contiguous().T
    if layout == "both by depth":
        left = left.T.contiguous().T
    left, right = left.to(DEVICE), right.to(DEVICE)
    product, _ = triton_gemm.multiply(left, right)
    exact = left.double() @ right.double().T
    assert_as_accurate_as_torch(product, left @ right.T, exact)
    total = torch.randn(rows, columns, device=DEVICE)
    added = triton_gemm.add_product(left, right, total.clone())
    assert_as_accurate_as_torch(added, total + left @ right.T, total.double() + exact)
    assert_of_terms(launched)


def test_a_deep_products_splits_end_where_the_depth_does(launched, monkeypatch):
    """Past it are the next term's rows, which in the last split must not be multiplied."""
    monkeypatch.setattr(triton_gemm, "chip", lambda device: (90, 8))
    monkeypatch.setattr(triton_gemm, "STEPS_PER_SPLIT", 2)
    left, right = torch.randn(1100, 20, device=DEVICE), torch.randn(1100, 24, device=DEVICE)
    read = triton_gemm.factors(left.T, right.T, plain=True)
    chosen = triton_gemm.plan(90, 8, read.left.dtype, read.kind, read.shape, read.layout)
    assert (chosen.splits, -(-1100 // chosen.tile.depth)) == (8, 18)
    product, _ = triton_gemm.multiply(left.T, right.T)
    assert_as_accurate_as_torch(product, left.T @ right, left.double().T @ right.double())
    assert_of_terms(launched)


def test_infinities_nan_and_the_largest_numbers_come_out_as_torchs(launched):
    largest = torch.finfo(torch.float32).max
    x = torch.rand(9, 40, device=DEVICE) + 0.5
    weight = torch.randn(11, 40, device=DEVICE)
    x[0, 3], x[1, 5], x[2, 7], x[3] = INFINITY, -INFINITY, float("nan"), 1e-30
    x[4, :], x[4, 0] = 0.0, largest
    weight[2, 3], weight[4, 6], weight[5, 7] = 0.0, INFINITY, float("nan")
    weight[:, 0] = 1.0
    product, _ = triton_gemm.multiply(x, weight)
    expected = (x.double() @ weight.double().T).float()
    assert torch.equal(product.isnan(), expected.isnan())
    assert torch.equal(product.isinf(), expected.isinf())
    infinite = expected.isinf()
    assert torch.equal(product[infinite], expected[infinite])
    finite = expected.isfinite()
    torch.testing.assert_close(product[finite], expected[finite], rtol=1e-5, atol=0)
    assert_of_terms(launched)


@pytest.mark.parametrize("columns", [40, 37])
def test_terms_sum_up_to_what_was_split(columns):
    values = torch.randn(70, columns, device=DEVICE)
    values[3, 4] = torch.finfo(torch.float32).max
    for source in (values, values.T, values[:, 1:]):
        terms = triton_terms.split(source, 3, counts=True)
        parts = terms.matrix.view(3, terms.term_rows, -1).double()
        whole = torch.zeros(terms.term_rows, parts.shape[2], dtype=torch.double, device=DEVICE)
        whole[: source.shape[0], : source.shape[1]] = source
        assert torch.equal(parts.sum(0), whole)
        assert terms.count.item() == 3
    assert triton_terms.split(values.sign(), 3, counts=True).count.item() == 1


def run(function, tensors, **settings):
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    result = function(*leaves, **settings)
    return result, *torch.autograd.grad(result.square().sum(), leaves)


CASES = {
    "linear": (linear_act, [(33, 20), (13, 20), (13,)], {"activation": "gelu"}),
    "loss": (
        reconstruction_loss,
        [(33, 20), (13, 20), (13,), (20, 13), (20,)],
        {"activation": "sigmoid", "output_activation": "identity"},
    ),
    "tied cross-entropy": (
        lambda x, *rest, **settings: reconstruction_loss(x.sigmoid(), *rest, **settings),
        [(33, 21), (13, 21), (13,)],
        {"activation": "tanh", "output_activation": "sigmoid", "reconstruction": "bce"},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_losses_and_layers_of_terms_are_as_accurate_as_torchs(case, launched):
    function, shapes, settings = CASES[case]
    tensors = [torch.randn(shape, device=DEVICE) for shape in shapes]
    with backend.use_backend("triton"):
        actual = run(function, tensors, **settings)
    with backend.use_backend("eager"):
        same_dtype = run(function, tensors, **settings)
        exact = run(function, [tensor.double() for tensor in tensors], **settings)
    for results in zip(actual, same_dtype, exact, strict=True):
        assert_as_accurate_as_torch(*results)
    assert_of_terms(launched)


def test_operands_are_split_in_memory_where_that_pays(monkeypatch):
    device = torch.device(DEVICE)
    monkeypatch.setattr(triton_gemm, "chip", lambda device: (90, 132))
    assert triton_gemm.splits_in_memory(device, (8192, 4096, 4096))
    assert triton_gemm.splits_in_memory(device, (16384, 784, 1024))
    assert not triton_gemm.splits_in_memory(device, (65536, 64, 4096))
    assert not triton_gemm.splits_in_memory(device, (512, 500, 784))
    monkeypatch.setattr(triton_gemm, "chip", lambda device: (80, 108))
    assert not triton_gemm.splits_in_memory(device, (8192, 4096, 4096))


@pytest.mark.parametrize("kind", ["states", "terms"])
def test_statistics_of_a_phase_are_as_accurate_as_torchs(kind, launched):
    """Of sampled states, one term each; and of data, which may be any numbers."""
    rows, visible, hidden = 141, 27, 37
    data = torch.rand(rows, visible, device=DEVICE)
    weight, bias = torch.randn(hidden, visible, device=DEVICE), torch.randn(hidden, device=DEVICE)
    primitives = rbm._BernoulliPrimitives(DEVICE)
    operand, states = primitives.operand(weight), primitives.states(data)
    if kind == "states":
        data = (data > 0.5).float()
        matrix = torch.zeros(rows, 32, dtype=torch.bfloat16, device=DEVICE)
        matrix[:, :visible] = data
        states = triton_terms.Terms(matrix, rows, (rows, visible), primitives.one)
    energy, probabilities, sums = primitives.statistics(states, operand, bias, -0.5)
    total = torch.randn(hidden, visible, device=DEVICE)
    product = primitives.add_product(probabilities, states, total.clone())

    def expected(dtype):
        inputs = torch.nn.functional.linear(data.to(dtype), weight.to(dtype), bias.to(dtype))
        means = -0.5 * inputs.sigmoid()
        energy = torch.nn.functional.softplus(inputs).sum()
        return energy, means.sum(0), total.to(dtype) + means.T @ data.to(dtype), data.sum(0)

    actual = energy, sums, product, primitives.row_sum(states)
    same_dtype, exact = expected(torch.float32), expected(torch.double)
    for results in zip(actual, same_dtype, exact, strict=True):
        assert_as_accurate_as_torch(*results)
    right_terms = 1 if kind == "states" else 3
    assert f"LEFT_TERMS=3 RIGHT_TERMS={right_terms} " in launched[-1]
