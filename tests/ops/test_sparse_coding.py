"""Soft thresholding and sparse coding: every backend against what the equations imply."""

import math

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import aefast
from aefast import capture
from aefast.functional import soft_threshold, sparse_encode
from aefast.ops.sparse_coding import TOLERANCE, eager
from tests.backends import is_interpreted, not_interpreted, same_on_numba

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
EPSILON = torch.finfo(torch.float32).eps
ISAS = ["baseline", "avx2", "avx512"]
SHAPES = [(1, 1, 1), (5, 3, 2), (3, 7, 17), (6, 30, 13), (4, 16, 64), (2, 40, 131)]


def problem(rows, width, atoms, device="cpu", dtype=torch.float32):
    x = torch.randn(rows, width, device=device, dtype=dtype)
    dictionary = torch.randn(atoms, width, device=device, dtype=dtype)
    return x, dictionary / dictionary.norm(dim=1, keepdim=True)


def objective(x, dictionary, code, penalty):
    residual = x.double() - code.double() @ dictionary.double()
    return residual.square().sum(-1) / 2 + penalty * code.double().abs().sum(-1)


def tolerance_at(device):
    """A step takes the interpreter 20 ms."""
    return 1e-2 if is_interpreted(device) else TOLERANCE


def penalty_at(device):
    """The smaller, the more steps."""
    return 0.7 if is_interpreted(device) else 0.05


def steps_at(device):
    return 3 if is_interpreted(device) else 20


LEAST = {}


def least_objective(x, dictionary, penalty):
    """Solved once for all backends, which are given the same problem."""
    key = x.numpy().tobytes(), dictionary.numpy().tobytes(), penalty
    if key not in LEAST:
        with aefast.use_backend("eager"):
            code = sparse_encode(x.double(), dictionary.double(), penalty, tolerance=1e-9)
        LEAST[key] = objective(x, dictionary, code, penalty)
    return LEAST[key]


def assert_minimal(x, dictionary, code, penalty, tolerance=TOLERANCE):
    """Against the definition in float64, which its own duality gap proves: the objective is within
    what the tolerance and the roundings of float32 leave. A residual r in float32 is wrong by some
    roundings of x, which the gap, and so a stop, is wrong by in proportion: 16 of them."""
    best = least_objective(x.cpu(), dictionary.cpu(), penalty).to(x.device)
    excess = objective(x, dictionary, code, penalty) - best
    energy = x.double().square().sum(-1) / 2
    assert (excess <= (tolerance + 16 * EPSILON) * energy).all()


# ------------------------------------------------------------------------------- soft thresholding


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (7,), (0, 4), (3, 5, 7), (13, 129), (1, 70001)])
@pytest.mark.interpreted(shape=[(), (0, 4), (3, 5, 7)], dtype=[torch.float32])
@pytest.mark.interpreted(shape=[(13, 129)])
def test_soft_threshold_is_the_definition_to_the_last_bit(kernel_device, shape, dtype):
    x = torch.randn(shape, device=kernel_device, dtype=dtype).requires_grad_()
    output = soft_threshold(x, 0.3)
    expected = (x.detach().float().abs() - 0.3).clamp(min=0).copysign(x.detach()).to(dtype)
    assert torch.equal(output, expected)
    gradient = torch.randn_like(output)
    (actual,) = torch.autograd.grad(output, x, gradient)
    assert torch.equal(actual, torch.where(x.abs().float() > 0.3, gradient, 0))


def test_soft_threshold_of_any_strides(kernel_device):
    base = torch.randn(24, 37, device=kernel_device)
    for x in (base.t(), base[::2, 3:20], base[:, ::3], base[:1].expand(5, 37)):
        leaf = x.clone().requires_grad_()
        assert torch.equal(soft_threshold(x, 0.5), soft_threshold(x.contiguous(), 0.5))
        soft_threshold(leaf, 0.5).sum().backward()  # an expanded gradient
        assert torch.equal(leaf.grad, (x.abs() > 0.5).float())


def test_soft_threshold_passes_nan_and_infinity(device):
    x = torch.tensor([math.nan, math.inf, -math.inf, -0.1], device=device, requires_grad=True)
    output = soft_threshold(x, 0.5)
    expected = torch.tensor([math.nan, math.inf, -math.inf, 0.0], device=device)
    assert torch.equal(output.nan_to_num(9), expected.nan_to_num(9))
    output.sum().backward()
    assert x.grad.tolist() == [1, 1, 1, 0]


def test_threshold_zero_changes_nothing(device):
    x = torch.randn(9, 11, device=device)
    assert torch.equal(soft_threshold(x, 0), x)


def test_soft_threshold_gradients_in_float64():
    x = torch.tensor([[-2.0, -0.3, 0.2], [0.6, 1.0, 3.0]], dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x: soft_threshold(x, 0.4), x)
    assert gradgradcheck(lambda x: soft_threshold(x, 0.4), x)


@not_interpreted
def test_second_order_gradient_passes_where_the_first_does(device):
    x = torch.randn(4, 9, device=device, requires_grad=True)
    shrunk = soft_threshold(x, 0.5)
    (first,) = torch.autograd.grad((shrunk**3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    torch.testing.assert_close(second, 6 * shrunk)


@pytest.mark.parametrize("isa", ISAS)
def test_soft_threshold_on_every_instruction_set(isa, instruction_set):
    x = torch.randn(40, 131)
    instruction_set(isa)
    assert torch.equal(soft_threshold(x, 0.3), eager.soft_threshold(x, 0.3))


# ----------------------------------------------------------------------------------- sparse coding


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.interpreted(shape=SHAPES[1:3])
def test_the_objective_is_the_least(device, shape):
    if is_interpreted(device) and shape[2] > 64:
        shape = (2, 9, 65)
    x, dictionary = problem(*shape, device=device)
    tolerance = tolerance_at(device)
    for penalty in {penalty_at(device), 0.7}:
        code = sparse_encode(x, dictionary, penalty, tolerance=tolerance)
        assert_minimal(x, dictionary, code, penalty, tolerance)


@pytest.mark.parametrize("isa", ISAS)
def test_the_objective_is_the_least_on_every_instruction_set(isa, instruction_set):
    x, dictionary = problem(9, 40, 131)
    instruction_set(isa)
    assert_minimal(x, dictionary, sparse_encode(x, dictionary, 0.1), 0.1)


def test_the_conditions_of_a_minimum_hold_in_float64():
    """|D r| <= penalty, and penalty times the sign where a code is not 0."""
    x, dictionary = problem(8, 20, 45, dtype=torch.float64)
    code = sparse_encode(x, dictionary, 0.2, tolerance=1e-15)
    slopes = (x - code @ dictionary) @ dictionary.t()
    assert (slopes.abs() <= 0.2 + 1e-6).all()
    support = code != 0
    torch.testing.assert_close(slopes[support], 0.2 * code.sign()[support], rtol=0, atol=1e-6)
    assert 0.05 < support.double().mean() < 0.6


def test_an_orthonormal_dictionary_is_soft_thresholding(device):
    x = torch.randn(6, 24, device=device)
    dictionary = torch.linalg.qr(torch.randn(24, 24, device=device)).Q
    expected = soft_threshold(x @ dictionary.t(), 0.7)
    torch.testing.assert_close(sparse_encode(x, dictionary, 0.7), expected, rtol=1e-4, atol=1e-5)


@not_interpreted
def test_a_correlated_dictionary_of_atoms_of_any_length(device):
    """Twins, an atom of zeros, and lengths from 0.1 to 10; in the interpreter from 1/2 to 2."""
    offset, longest = (0.3, 0.3) if is_interpreted(device) else (0.8, 1)
    x, dictionary = problem(5, 12, 9, device=device)
    dictionary = dictionary + offset
    dictionary[3], dictionary[7] = dictionary[2], 0
    dictionary = dictionary * torch.logspace(-longest, longest, 9, device=device)[:, None]
    tolerance = tolerance_at(device)
    code = sparse_encode(x, dictionary, 0.1, tolerance=tolerance)
    assert_minimal(x, dictionary, code, 0.1, tolerance)
    assert (code[:, 7] == 0).all()


def test_a_penalty_above_every_correlation_gives_zeros_at_once(device):
    x, dictionary = problem(5, 12, 20, device=device)
    penalty = (x @ dictionary.t()).abs().max().item() * 1.001
    assert (sparse_encode(x, dictionary, penalty) == 0).all()


def test_the_duality_gap_bounds_the_excess():
    from aefast.ops.sparse_coding.problem import pose

    x, dictionary = problem(8, 20, 45, dtype=torch.float64)
    posed, _ = pose(x, dictionary, 0.2, 0.0, 1, eager.multiply)
    best = sparse_encode(x, dictionary, 0.2, tolerance=1e-15)
    for steps in (1, 3, 30):
        code = sparse_encode(x, dictionary, 0.2, steps=steps)
        excess = objective(x, dictionary, code, 0.2) - objective(x, dictionary, best, 0.2)
        gap = eager.duality_gap(posed, code)
        assert (excess <= gap).all()
        assert (gap < 1e4 * excess + 1e-9).all()


def test_no_row_depends_on_another(kernel_device):
    x, dictionary = problem(7, 12, 40, device=kernel_device)
    steps = steps_at(kernel_device)
    whole = sparse_encode(x, dictionary, 0.1, steps=steps)
    for rows in (x[:1], x[2:5], x[[6, 3]]):
        actual = sparse_encode(rows, dictionary, 0.1, steps=steps)
        index = [(x == row).all(1).nonzero().item() for row in rows]
        if aefast.backend.select(x.device, x.dtype) == "cpp":  # its products are our own
            assert torch.equal(actual, whole[index])
        torch.testing.assert_close(actual, whole[index], rtol=1e-4, atol=1e-4)


@not_interpreted
def test_one_and_two_threads_give_the_same_bits(kernel_device, threads):
    rows, steps = (5, 3) if is_interpreted(kernel_device) else (60, 5000)
    x, dictionary = problem(rows, 30, 70, device=kernel_device)
    threads(1)
    serial = sparse_encode(x, dictionary, 0.1, steps=steps)
    threads(2)
    assert torch.equal(sparse_encode(x, dictionary, 0.1, steps=steps), serial)
    assert torch.equal(sparse_encode(x, dictionary, 0.1, steps=steps), serial)


def test_any_strides_and_leading_dimensions(kernel_device):
    base = torch.randn(24, 37, device=kernel_device)
    dictionary = torch.randn(37, 15, device=kernel_device).t()
    steps = steps_at(kernel_device)
    for x in (base[::6], base[:1].expand(3, 37), base[:4].reshape(2, 2, 37), base[0]):
        code = sparse_encode(x, dictionary, 0.3, steps=steps)
        assert code.shape == (*x.shape[:-1], 15)
        rows = x.reshape(-1, 37).contiguous()
        expected = sparse_encode(rows, dictionary.contiguous(), 0.3, steps=steps)
        torch.testing.assert_close(code.reshape(-1, 15), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(0, 4, 3), (4, 0, 3), (4, 3, 0)])
def test_nothing_to_encode(device, shape):
    rows, width, atoms = shape
    x, dictionary = (
        torch.randn(rows, width, device=device),
        torch.randn(atoms, width, device=device),
    )
    assert torch.equal(sparse_encode(x, dictionary, 0.1), x.new_zeros(rows, atoms))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.interpreted(dtype=[torch.bfloat16])
def test_half_precisions_are_computed_in_float32(kernel_device, dtype):
    x, dictionary = problem(4, 12, 20, device=kernel_device, dtype=dtype)
    steps = steps_at(kernel_device)
    expected = sparse_encode(x.float(), dictionary.float(), 0.2, steps=steps)
    assert torch.equal(sparse_encode(x, dictionary, 0.2, steps=steps), expected.to(dtype))


def test_what_is_not_finite_makes_nan_of_its_row_alone(device):
    x, dictionary = problem(6, 12, 20, device=device)
    steps = steps_at(device)
    expected = sparse_encode(x, dictionary, 0.2, steps=steps)
    x[1, 3], x[2, 0], x[4, 0] = math.nan, math.inf, 1e30
    code = sparse_encode(x, dictionary, 0.2, steps=steps)
    assert code.isnan().all(1).tolist() == [False, True, True, False, True, False]
    torch.testing.assert_close(code[[0, 3, 5]], expected[[0, 3, 5]], rtol=1e-4, atol=1e-4)
    start = torch.zeros_like(code)
    start[0, 0], start[3, 0] = math.nan, 1e30
    code = sparse_encode(x, dictionary, 0.2, steps=steps, start=start)
    assert code.isnan().all(1).tolist() == [True, True, True, True, True, False]
    dictionary[2, 2] = math.nan
    assert sparse_encode(x, dictionary, 0.2).isnan().all()


def test_a_dictionary_whose_products_underflow_gives_finite_codes(device):
    """Its Gram matrix is zeros, its products with x are not."""
    x, dictionary = torch.full((2, 4), 1e10), 1e-30 * torch.eye(4)
    code = sparse_encode(x.to(device), dictionary.to(device), 1e-21, steps=2)
    assert code.isfinite().all()
    assert (code > 0).all()


@not_interpreted
def test_more_steps_lower_the_objective_and_a_start_is_taken_up(device):
    x, dictionary = problem(5, 12, 30, device=device)
    tolerance, penalty = tolerance_at(device), penalty_at(device)
    zeros = x.double().square().sum(1) / 2
    few = objective(x, dictionary, sparse_encode(x, dictionary, penalty, steps=3), penalty)
    code = sparse_encode(x, dictionary, penalty, tolerance=tolerance)
    assert (few < zeros).all()
    assert (objective(x, dictionary, code, penalty) < few).all()
    again = sparse_encode(x, dictionary, penalty, tolerance=tolerance, steps=1, start=code)
    assert_minimal(x, dictionary, again, penalty, tolerance)
    start = torch.randn_like(code)
    elsewhere = sparse_encode(x, dictionary, penalty, tolerance=tolerance, start=start)
    assert_minimal(x, dictionary, elsewhere, penalty, tolerance)


def test_a_start_is_not_written_to(device):
    x, dictionary = problem(5, 12, 30, device=device)
    start = torch.randn(5, 30, device=device)
    before = start.clone()
    sparse_encode(x, dictionary, 0.05, steps=5, start=start)
    assert torch.equal(start, before)


@pytest.mark.parametrize("name", ["cpp", "numba"])
def test_rounding_ends_a_row_that_no_tolerance_does(name):
    if aefast.backend.unavailable(name, "cpu"):
        pytest.skip(f"{name} cannot run here")
    x, dictionary = problem(8, 60, 128)
    with aefast.use_backend(name):
        ended = sparse_encode(x, dictionary, 0.2, tolerance=0, steps=3000)
        assert torch.equal(sparse_encode(x, dictionary, 0.2, tolerance=0, steps=2**30), ended)


@pytest.mark.parametrize("name", ["cpp", "numba", "eager"])
def test_the_objective_is_no_higher_than_scikit_learns(name):
    """Whose own duality gap is 1e-8 |x|^2, in float64."""
    decomposition = pytest.importorskip("sklearn.decomposition")
    if aefast.backend.unavailable(name, "cpu"):
        pytest.skip(f"{name} cannot run here")
    x, dictionary = problem(20, 48, 96)
    expected = decomposition.sparse_encode(
        x.double().numpy(), dictionary.double().numpy(), algorithm="lasso_cd", alpha=0.2
    )
    with aefast.use_backend(name):
        actual = objective(x, dictionary, sparse_encode(x, dictionary, 0.2), 0.2)
    best = objective(x, dictionary, torch.from_numpy(expected), 0.2)
    assert (actual <= best * (1 + 4 * EPSILON)).all()


def test_the_code_carries_no_gradient_and_the_dictionarys_is_the_envelopes():
    """Against differences of the least objective."""
    x, dictionary = problem(3, 6, 8, dtype=torch.float64)
    leaf = dictionary.clone().requires_grad_()
    code = sparse_encode(x, leaf, 0.2, tolerance=1e-15)
    assert not code.requires_grad
    ((x - code @ leaf).square().sum() / 2).backward()

    def least(dictionary):
        code = sparse_encode(x, dictionary, 0.2, tolerance=1e-15)
        return objective(x, dictionary, code, 0.2).sum()

    nudge = torch.randn_like(dictionary)
    slope = (least(dictionary + 1e-5 * nudge) - least(dictionary - 1e-5 * nudge)) / 2e-5
    torch.testing.assert_close(slope, (leaf.grad * nudge).sum(), rtol=1e-5, atol=1e-8)


@not_interpreted
def test_autocast_and_lower_precisions_leave_the_steps_alone(kernel_device, matmul_precision):
    x, dictionary = problem(4, 12, 20, device=kernel_device)
    steps = 5 if is_interpreted(kernel_device) else 40
    expected = sparse_encode(x, dictionary, 0.5, steps=steps)
    with torch.autocast(x.device.type, torch.bfloat16):
        assert torch.equal(sparse_encode(x, dictionary, 0.5, steps=steps), expected)
    matmul_precision("high")
    actual = sparse_encode(x, dictionary, 0.5, steps=steps)
    torch.testing.assert_close(actual, expected, rtol=1e-2, atol=1e-2)


@same_on_numba
@not_interpreted
def test_opcheck(device):
    x, dictionary = problem(4, 6, 9, device=device)
    start = torch.zeros(4, 9, device=device)
    leaf = x.clone().requires_grad_()
    torch.library.opcheck(torch.ops.aefast.soft_threshold, (leaf, 0.4))
    for initial in (None, start):
        arguments = (leaf, dictionary, initial, 0.2, 1e-8, 5)
        torch.library.opcheck(torch.ops.aefast.sparse_encode, arguments)


@same_on_numba
@not_interpreted
def test_torch_compile_in_one_graph_gives_the_same(kernel_device):
    torch.compiler.reset()
    x, dictionary = problem(4, 6, 9, device=kernel_device)

    def encode(x):
        return soft_threshold(sparse_encode(x, dictionary, 0.2, steps=5) * 2, 0.1)

    compiled = torch.compile(encode, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), encode(x))
    leaf = x.clone().requires_grad_()
    shrink = torch.compile(lambda x: soft_threshold(x, 0.3), fullgraph=True, backend="aot_eager")
    (gradient,) = torch.autograd.grad(shrink(leaf).sum(), leaf)
    assert torch.equal(gradient, (x.abs() > 0.3).float())


def test_torch_export():
    class Encode(torch.nn.Module):
        def __init__(self, dictionary):
            super().__init__()
            self.register_buffer("dictionary", dictionary)

        def forward(self, x):
            return sparse_encode(x, self.dictionary, 0.2)

    x, dictionary = problem(4, 6, 9)
    model = Encode(dictionary)
    assert torch.equal(torch.export.export(model, (x,)).module()(x), model(x))


@not_interpreted
def test_function_transforms(device):
    x, dictionary = problem(4, 6, 9, device=device)
    stacked = torch.stack([x, x + 1])

    def encode(x, dictionary):
        return sparse_encode(x, dictionary, 0.2, steps=steps_at(device))

    expected = torch.stack([encode(part, dictionary) for part in stacked])
    actual = torch.vmap(encode, (0, None))(stacked, dictionary)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    shrunk = torch.vmap(lambda x: soft_threshold(x, 0.3))(stacked)
    assert torch.equal(shrunk, soft_threshold(stacked, 0.3))
    gradient = torch.func.grad(lambda x: soft_threshold(x, 0.3).square().sum())(x)
    torch.testing.assert_close(gradient, 2 * soft_threshold(x, 0.3))
    code = encode(x, dictionary)

    def loss(dictionary):
        return (x - encode(x, dictionary) @ dictionary).square().sum() / 2

    expected = -code.t() @ (x - code @ dictionary)
    torch.testing.assert_close(torch.func.grad(loss)(dictionary), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": [1.0]}, TypeError, "x is a list; it takes a torch.Tensor"),
        ({"x": torch.ones(2, 3).double()}, TypeError, "dictionary has dtype float32; it takes x's"),
        (
            {"x": torch.ones(2, 4)},
            ValueError,
            r"x has shape \[2, 4\]; with dictionary's shape \[5, 3\] it takes \[..., 3\]",
        ),
        ({"dictionary": torch.ones(3)}, ValueError, r"dictionary has shape \[3\]; it takes \[K, D"),
        ({"penalty": 0}, ValueError, "penalty is 0; it takes a finite number above 0"),
        ({"penalty": -1.0}, ValueError, "penalty is -1.0; it takes a finite number, at least 0"),
        ({"penalty": math.nan}, ValueError, "penalty is nan; it takes a finite number"),
        ({"penalty": "a"}, TypeError, "penalty is a str; it takes a real number"),
        ({"steps": 0}, ValueError, r"steps is 0; it takes an int in \[1, 2\*\*31\)"),
        ({"tolerance": -1e-3}, ValueError, "tolerance is -0.001; it takes a finite number, at"),
        (
            {"start": torch.ones(2, 4)},
            ValueError,
            r"start has shape \[2, 4\]; with x's shape \[2, 3\] and dictionary's \[5, 3\] it takes",
        ),
        ({"start": torch.ones(2, 5).double()}, TypeError, "start has dtype float64; it takes x's"),
    ],
)
def test_bad_input_is_named_at_the_door(change, error, message):
    arguments = {"x": torch.ones(2, 3), "dictionary": torch.ones(5, 3), "penalty": 0.1} | change
    with pytest.raises(error, match=message):
        sparse_encode(**arguments)


@pytest.mark.parametrize(
    ("threshold", "error", "message"),
    [
        (-0.1, ValueError, r"threshold is -0.1; it takes a number in \[0, 3.40282e\+38\]"),
        (math.nan, ValueError, "threshold is nan; it takes a number"),
        (None, TypeError, "threshold is a NoneType; it takes a real number"),
    ],
)
def test_a_wrong_threshold_is_named_at_the_door(threshold, error, message):
    with pytest.raises(error, match=message):
        soft_threshold(torch.ones(2), threshold)


def test_it_cannot_be_captured(monkeypatch):
    monkeypatch.setattr(capture, "is_captured", lambda device: True)
    with pytest.raises(RuntimeError, match=r"^sparse_encode waits for the GPU .* outside the cap"):
        sparse_encode(torch.ones(2, 3), torch.eye(3), 0.1)
