"""Noise injection: every backend against the definition, and the definition by its distribution."""

import math

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import aefast
from aefast import random
from aefast.functional import corrupt
from aefast.ops.corrupt import eager
from aefast.ops.corrupt.noise import KINDS, STEPS, Noise
from tests.accuracy import assert_as_accurate_as_torch
from tests.backends import is_interpreted, not_interpreted, same_on_numba

BIT_KINDS = ["masking", "salt_and_pepper"]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# Rows that are no multiple of anything, one longer than a task, a vector and a scalar.
SHAPES = [(), (7,), (1, 1), (5, 3), (0, 4), (4, 0), (3, 5, 7), (13, 129), (1, 5000), (2, 20011)]
SMALL_SHAPES = [shape for shape in SHAPES if math.prod(shape) < 6000]


FEW_INTERPRETED = pytest.mark.interpreted(
    shape=[(), (0, 4), (4, 0), (3, 5, 7)], dtype=[torch.float32]
)


def definition(x, kind, level, seed, **keywords):
    with aefast.use_backend("eager"):
        return corrupt(x, kind, level, seed=seed, **keywords)


def equal(a, b):
    return a.dtype == b.dtype and torch.equal(a.nan_to_num(123), b.nan_to_num(123))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", BIT_KINDS)
@FEW_INTERPRETED
@pytest.mark.interpreted(shape=[(13, 129)])
def test_masking_and_salt_and_pepper_give_the_definitions_bits(kernel_device, kind, shape, dtype):
    x = torch.randn(shape, device=kernel_device, dtype=dtype)
    keywords = {"low": -0.3, "high": 0.7, "row_offset": 11}
    expected = definition(x, kind, 0.3, seed=2**40 + 5, **keywords)
    assert equal(corrupt(x, kind, 0.3, seed=2**40 + 5, **keywords), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@FEW_INTERPRETED
@pytest.mark.interpreted(shape=[(13, 129)])
def test_gaussian_is_as_accurate_as_torchs_float32(kernel_device, shape, dtype):
    x = torch.randn(shape, device=kernel_device, dtype=dtype)
    columns = shape[-1] if shape else 1
    rows = math.prod(shape) // max(columns, 1)
    device = {"step": random.DrawStep.GAUSSIAN, "device": kernel_device}
    words = random.words(9, rows, columns + columns % 2, **device)
    u, v = (words[:, 0::2].float() + 0.5) * 2.0**-32, (words[:, 1::2] >> 8).float() * 2.0**-24
    radius, angle = torch.sqrt(-2 * torch.log(u)), 2 * math.pi * v
    z = torch.stack((radius * torch.cos(angle), radius * torch.sin(angle)), -1)
    z = z.reshape(rows, 2 * u.shape[1])[:, :columns].reshape(shape)
    in_float32 = (x.float() + 0.7 * z).to(dtype)
    in_float64 = eager.corrupt(
        x.double(), Noise("gaussian", 0.7, 0.0, 1.0, 9, 0, random.DrawStep.GAUSSIAN)
    )
    assert_as_accurate_as_torch(corrupt(x, "gaussian", 0.7, seed=9), in_float32, in_float64)


@pytest.mark.parametrize("kind", KINDS)
def test_any_strides_give_the_same_result(kernel_device, kind):
    base = torch.randn(24, 37, device=kernel_device)
    for x in (base.t(), base[::2, 3:20], base[:, ::3], base[:1].expand(5, 37), base.t()[None]):
        expected = corrupt(x.contiguous(), kind, 0.4, seed=3)
        assert torch.equal(corrupt(x, kind, 0.4, seed=3), expected)


@pytest.mark.parametrize("kind", BIT_KINDS)
def test_nan_and_infinity_pass_where_kept(device, kind):
    x = torch.tensor([math.nan, math.inf, -math.inf, 1.0], device=device).repeat(8, 8)
    corrupted = corrupt(x, kind, 0.5, seed=1, low=-1.0, high=2.0)
    touched = corrupt(torch.full_like(x, 9.0), kind, 0.5, seed=1, low=-1.0, high=2.0) != 9
    assert equal(corrupted[~touched], x[~touched])
    assert torch.isfinite(corrupted[touched]).all()


def test_nan_and_infinity_pass_through_gaussian_noise(device):
    x = torch.tensor([[math.nan, math.inf, -math.inf, 1.0]], device=device)
    corrupted = corrupt(x, "gaussian", 0.5, seed=1)
    assert equal(corrupted[:, :3], x[:, :3])
    assert torch.isfinite(corrupted[:, 3]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_view_that_negates_lazily_is_read_negated(device, kind):
    x = torch.randn(6, 9, dtype=torch.complex64, device=device).conj().imag
    assert x.is_neg()
    assert torch.equal(corrupt(x, kind, 0.3, seed=2), corrupt(x.clone(), kind, 0.3, seed=2))


@pytest.mark.parametrize("kind", KINDS)
def test_level_zero_touches_nothing(device, kind):
    x = torch.randn(9, 11, device=device)
    assert torch.equal(corrupt(x, kind, 0, seed=0), x)


def test_level_one_touches_everything(device):
    x = torch.randn(9, 11, device=device) + 10
    assert torch.equal(corrupt(x, "masking", 1, seed=0), torch.zeros_like(x))
    salted = corrupt(x, "salt_and_pepper", 1.0, seed=0, low=-1, high=1)
    assert salted.abs().eq(1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_split_by_row_offset_draws_what_one_process_would(device, kind):
    x = torch.randn(12, 33, device=device)
    whole = corrupt(x, kind, 0.3, seed=4, row_offset=100)
    parts = [
        corrupt(part, kind, 0.3, seed=4, row_offset=100 + 5 * i)
        for i, part in enumerate(x.split(5))
    ]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("shape", [(700, 65), (2, 50000)])
@pytest.mark.parametrize("kind", KINDS)
@not_interpreted
def test_one_and_two_threads_give_the_same_bits(kernel_device, kind, shape, threads):
    if is_interpreted(kernel_device):
        shape = (20, 65)
    x = torch.randn(shape, device=kernel_device)
    threads(1)
    serial = corrupt(x, kind, 0.3, seed=6)
    threads(2)
    assert torch.equal(corrupt(x, kind, 0.3, seed=6), serial)
    assert torch.equal(corrupt(x, kind, 0.3, seed=6), serial)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set_gives_the_same_numbers(kind, isa, instruction_set):
    x = torch.randn(40, 131)
    instruction_set(isa)
    corrupted = corrupt(x, kind, 0.3, seed=6)
    expected = definition(x, kind, 0.3, seed=6)
    if kind == "gaussian":
        assert_as_accurate_as_torch(corrupted, expected, expected.double())
    else:
        assert torch.equal(corrupted, expected)


@not_interpreted
def test_the_generator_governs_where_no_seed_is_given(device):
    x = torch.ones(20, 30, device=device)
    torch.manual_seed(3)
    first, second = corrupt(x, "masking", 0.5), corrupt(x, "masking", 0.5)
    torch.manual_seed(3)
    assert torch.equal(corrupt(x, "masking", 0.5), first)
    assert not torch.equal(first, second)
    a, b = (
        corrupt(x, "masking", 0.5, generator=torch.Generator().manual_seed(8)) for _ in range(2)
    )
    assert torch.equal(a, b)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_passes_where_the_input_passed(device, kind):
    x = torch.randn(9, 37, device=device, requires_grad=True)
    corrupted = corrupt(x, kind, 0.4, seed=12, low=-9.0, high=9.0)
    gradient = torch.randn_like(corrupted)
    (grad,) = torch.autograd.grad(corrupted, x, gradient)
    passed = torch.ones_like(x) if kind == "gaussian" else (corrupted == x).float()
    assert torch.equal(grad, gradient * passed)
    assert passed.mean() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_expanded_gradient(kernel_device, kind):
    x = torch.randn(9, 37, device=kernel_device, requires_grad=True)
    corrupt(x, kind, 0.4, seed=12).sum().backward()
    expected = torch.autograd.grad(definition(x, kind, 0.4, seed=12).sum(), x)[0]
    assert torch.equal(x.grad, expected)


@not_interpreted
def test_second_order_gradient_passes_through_the_mask(device):
    x = torch.randn(4, 9, device=device, requires_grad=True)
    corrupted = corrupt(x, "masking", 0.5, seed=2)
    (first,) = torch.autograd.grad((corrupted**3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    torch.testing.assert_close(second, 6 * corrupted)


@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck_and_gradgradcheck_in_float64(kind):
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    function = lambda x: corrupt(x, kind, 0.4, seed=1)  # noqa: E731
    assert gradcheck(function, x)
    assert gradgradcheck(function, x)


@pytest.mark.parametrize("kind", KINDS)
@same_on_numba
@not_interpreted
def test_opcheck(device, kind):
    x = torch.randn(4, 9, device=device, requires_grad=True)
    arguments = x, kind, 0.4, 0.0, 1.0, torch.tensor(5), 0, STEPS[kind]
    torch.library.opcheck(torch.ops.aefast.corrupt, arguments)


@pytest.mark.parametrize("kind", KINDS)
@same_on_numba
@not_interpreted
def test_torch_compile_in_one_graph_gives_the_same(kernel_device, kind):
    x = torch.randn(6, 9, device=kernel_device, requires_grad=True)
    compiled = torch.compile(
        lambda x: corrupt(x, kind, 0.4, seed=5) * 2, fullgraph=True, backend="aot_eager"
    )
    gradient = torch.randn(6, 9, device=kernel_device)
    expected = corrupt(x, kind, 0.4, seed=5) * 2
    output = compiled(x)
    assert torch.equal(output, expected)
    assert torch.equal(
        torch.autograd.grad(output, x, gradient)[0], torch.autograd.grad(expected, x, gradient)[0]
    )


def test_a_compiled_call_draws_anew_each_time():
    compiled = torch.compile(lambda x: corrupt(x, "masking", 0.5), fullgraph=True)
    x = torch.ones(30, 30)
    torch.manual_seed(1)
    first, second = compiled(x), compiled(x)
    torch.manual_seed(1)
    assert not torch.equal(first, second)
    assert torch.equal(compiled(x), first)


@not_interpreted
def test_one_compiled_graph_serves_every_batch_size(kernel_device):
    compiled = torch.compile(
        lambda x: corrupt(x, "masking", 0.5, seed=3), fullgraph=True, backend="aot_eager"
    )
    torch.compiler.reset()
    for rows in (3, 5, 8):
        x = torch.randn(rows, 7, device=kernel_device)
        assert torch.equal(compiled(x), corrupt(x, "masking", 0.5, seed=3))


def test_torch_export():
    class Corrupt(torch.nn.Module):
        def forward(self, x):
            return corrupt(x, "masking", 0.5, seed=3)

    x = torch.randn(4, 6)
    exported = torch.export.export(Corrupt(), (x,))
    assert torch.equal(exported.module()(x), corrupt(x, "masking", 0.5, seed=3))


@pytest.mark.parametrize("kind", KINDS)
@not_interpreted
def test_torch_func_grad(device, kind):
    x = torch.randn(4, 6, device=device)
    gradient = torch.func.grad(lambda x: corrupt(x, kind, 0.5, seed=3, low=2.0).square().sum())(x)
    corrupted = corrupt(x, kind, 0.5, seed=3, low=2.0)
    passed = 1 if kind == "gaussian" else (corrupted == x)
    torch.testing.assert_close(gradient, 2 * corrupted * passed)


@not_interpreted
def test_torch_func_vmap_runs_the_definition_on_each_sample(device):
    x = torch.randn(3, 4, 6, device=device)
    batched = torch.func.vmap(lambda x: corrupt(x, "masking", 0.5, seed=3))(x)
    assert torch.equal(batched, torch.stack([corrupt(s, "masking", 0.5, seed=3) for s in x]))


@not_interpreted
def test_batched_gradients(kernel_device):
    x = torch.randn(4, 6, device=kernel_device, requires_grad=True)
    corrupted = corrupt(x, "masking", 0.5, seed=3)
    gradients = torch.randn(5, 4, 6, device=kernel_device)
    (batched,) = torch.autograd.grad(
        corrupted, x, gradients, is_grads_batched=True, retain_graph=True
    )
    expected = [torch.autograd.grad(corrupted, x, g, retain_graph=True)[0] for g in gradients]
    assert torch.equal(batched, torch.stack(expected))


@pytest.mark.slow
def test_more_than_two_to_the_31_elements():
    """The last rows, whose offsets need 64 bits. The input's rows are one row, 0 apart."""
    rows, columns = 36_000, 60_000
    x = torch.randn(1, columns, dtype=torch.bfloat16).expand(rows, columns)
    torch.use_deterministic_algorithms(False)
    corrupted = corrupt(x, "masking", 0.5, seed=3)
    expected = definition(x[-2:], "masking", 0.5, seed=3, row_offset=rows - 2)
    assert torch.equal(corrupted[-2:], expected)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": [1.0]}, TypeError, "x is a list; it takes a torch.Tensor"),
        ({"x": torch.ones(2, dtype=torch.int64)}, TypeError, "x has dtype int64; it takes float32"),
        ({"x": torch.ones(2, 2).to_sparse()}, TypeError, "x has layout torch.sparse_coo"),
        ({"kind": "pepper"}, ValueError, "kind is 'pepper'; it takes one of masking"),
        ({"kind": None}, ValueError, "kind is None; it takes one of masking"),
        ({"level": 1.5}, ValueError, r"level is 1.5; it takes a number in \[0, 1\]"),
        ({"level": -0.1}, ValueError, r"level is -0.1; it takes a number in \[0, 1\]"),
        ({"level": math.nan}, ValueError, r"level is nan; it takes a number in \[0, 1\]"),
        ({"level": "0.3"}, TypeError, "level is a str; it takes a real number"),
        ({"level": True}, TypeError, "level is a bool; it takes a real number"),
        (
            {"kind": "gaussian", "level": math.inf},
            ValueError,
            r"level is inf; it takes a number in \[0, 3.40282e\+38\]",
        ),
        (
            {"low": math.nan},
            ValueError,
            r"low is nan; it takes a number in \[-3.40282e\+38, 3.40282e\+38\]",
        ),
        ({"high": None}, TypeError, "high is a NoneType; it takes a real number"),
        ({"seed": -1}, ValueError, r"seed is -1; it takes an int in \[0, 2\*\*63\)"),
        ({"seed": 2**63}, ValueError, "seed is 9223372036854775808; it takes an int"),
        ({"seed": 1.0}, TypeError, "seed is a float; it takes an int"),
        ({"generator": 3}, TypeError, "generator is a int; it takes a torch.Generator or None"),
        (
            {"seed": 1, "generator": torch.Generator()},
            ValueError,
            "seed and generator are both given",
        ),
        ({"row_offset": -1}, ValueError, r"row_offset is -1; it takes an int in \[0, 2\*\*62\)"),
        ({"row_offset": 0.5}, TypeError, "row_offset is a float; it takes an int"),
    ],
)
def test_bad_input_is_named_at_the_door(change, error, message):
    arguments = {"x": torch.ones(2, 2), "kind": "masking", "level": 0.5} | change
    with pytest.raises(error, match=message):
        corrupt(**arguments)
