"""A Gaussian code: every backend against the definition, the definition by its distribution."""

import math

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.distributions import Normal, kl_divergence

import aefast
from aefast import random
from aefast.functional import gaussian_kl, reparameterize
from aefast.ops.variational import eager
from tests.accuracy import (
    assert_as_accurate_as_torch,
    assert_as_accurate_as_torch_on_average,
)
from tests.backends import is_interpreted, not_interpreted, same_on_numba

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# Rows that are no multiple of anything, one longer than a task, a vector and a scalar.
SHAPES = [(), (7,), (1, 1), (5, 3), (0, 4), (4, 0), (3, 5, 7), (2, 3, 4, 8), (13, 129), (2, 5000)]
ROW_SHAPES = [shape for shape in SHAPES if shape]
FEW_INTERPRETED = pytest.mark.interpreted(
    shape=[(), (1, 1), (0, 4), (4, 0), (2, 3, 4, 8)], dtype=[torch.float32]
)
VIEWS = {
    "transposed": lambda x: x.t(),
    "sliced": lambda x: x[::2, 3:20],
    "every third column": lambda x: x[:, ::3],
    "one row": lambda x: x[:1].expand(5, 37),
    "one column": lambda x: x[:, :1].expand(24, 8),
    "one more dimension": lambda x: x.t()[None],
    "expanded": lambda x: x.expand(3, 24, 37),
    "permuted": lambda x: x.unflatten(0, (2, 3, 4)).transpose(0, 2),
}


def code(shape, dtype=torch.float32, device="cpu", **keywords):
    """Means and logarithms of variances."""
    return (
        torch.randn(shape, device=device).to(dtype).requires_grad_(**keywords),
        (2 * torch.randn(shape, device=device)).to(dtype).requires_grad_(**keywords),
    )


def box_muller(shape, seed, device):
    """The generator's normals as torch's float32 makes them."""
    columns = shape[-1] if shape else 1
    rows = math.prod(shape) // max(columns, 1)
    draws = {"step": random.DrawStep.REPARAMETERIZE, "device": device}
    words = random.words(seed, rows, columns + columns % 2, **draws)
    u, v = (words[:, 0::2].float() + 0.5) * 2.0**-32, (words[:, 1::2] >> 8).float() * 2.0**-24
    radius, angle = torch.sqrt(-2 * torch.log(u)), 2 * math.pi * v
    noise = torch.stack((radius * torch.cos(angle), radius * torch.sin(angle)), -1)
    return noise.reshape(rows, columns + columns % 2)[:, :columns].reshape(shape)


def gradients(function, *inputs, gradient=None):
    """The outcome and its gradients by all inputs."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    output = function(*leaves)
    if gradient is None:
        gradient = torch.ones_like(output)
    return output.detach(), *torch.autograd.grad(output, leaves, gradient.to(output.dtype))


def textbook_kl(mean, log_var):
    return -0.5 * (1 + log_var - mean**2 - log_var.exp()).sum(-1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@FEW_INTERPRETED
@pytest.mark.interpreted(shape=[(13, 129)])
def test_samples_and_gradients_are_as_accurate_as_torchs(kernel_device, shape, dtype):
    mean, log_var = code(shape, dtype, kernel_device)
    gradient = torch.randn(shape, device=kernel_device).to(dtype)
    noise = box_muller(shape, 9, kernel_device)

    def kernel(mean, log_var):
        return reparameterize(mean, log_var, seed=9)

    def torchs(mean, log_var):
        return (mean.float() + torch.exp(0.5 * log_var.float()) * noise).to(dtype)

    def exact(mean, log_var):
        return eager.reparameterize(mean, log_var, 9, 0)

    actual = gradients(kernel, mean, log_var, gradient=gradient)
    same_dtype = gradients(torchs, mean, log_var, gradient=gradient)
    reference = gradients(exact, mean.double(), log_var.double(), gradient=gradient)
    for results in zip(actual, same_dtype, reference, strict=True):
        assert_as_accurate_as_torch(*results)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", ROW_SHAPES)
@FEW_INTERPRETED
@pytest.mark.interpreted(shape=[(13, 129)])
def test_divergences_and_gradients_are_as_accurate_as_torchs(kernel_device, shape, dtype):
    mean, log_var = code(shape, dtype, kernel_device)
    gradient = torch.randn(shape[:-1], device=kernel_device).to(dtype)

    def torchs(mean, log_var):
        return textbook_kl(mean.float(), log_var.float()).to(dtype)

    actual = gradients(gaussian_kl, mean, log_var, gradient=gradient)
    same_dtype = gradients(torchs, mean, log_var, gradient=gradient)
    reference = gradients(textbook_kl, mean.double(), log_var.double(), gradient=gradient)
    for results in zip(actual, same_dtype, reference, strict=True):
        assert_as_accurate_as_torch(*results)


def test_a_code_near_its_prior_keeps_its_divergence(kernel_device):
    """Down to log variances of 1e-6, of whose terms only 5e-13 are left in e^v - 1 - v."""
    magnitudes = torch.logspace(-6, math.log10(0.34), 200, device=kernel_device)
    log_var = torch.cat((magnitudes, -magnitudes))[:, None].requires_grad_()
    divergence = gaussian_kl(torch.zeros_like(log_var), log_var)
    v = log_var.detach().double()
    expected = 0.5 * sum(v**n / math.factorial(n) for n in range(2, 20)).squeeze(1)
    # The polynomial's 2.6e-7 and four roundings: its last step's, two products', the result's.
    torch.testing.assert_close(divergence.double(), expected, rtol=2.6e-7 + 4 * 2**-24, atol=0.0)
    (gradient,) = torch.autograd.grad(divergence.sum(), log_var)
    torch.testing.assert_close(
        gradient.double(), 0.5 * torch.expm1(log_var.double()), rtol=2**-22, atol=0.0
    )


def test_the_divergence_is_torchs(device):
    mean, log_var = code((6, 9), device=device)
    divergence = kl_divergence(
        Normal(mean, torch.exp(log_var / 2)), Normal(torch.zeros_like(mean), 1.0)
    ).sum(-1)
    torch.testing.assert_close(gaussian_kl(mean, log_var), divergence)
    assert gaussian_kl(torch.zeros_like(mean), torch.zeros_like(mean)).eq(0).all()


def test_samples_have_the_mean_and_the_variance():
    mean, log_var = torch.tensor([0.5, -2.0, 0.0]), torch.tensor([0.0, 1.5, -3.0])
    count = 100_000
    sample = reparameterize(mean.expand(count, 3), log_var.expand(count, 3), seed=1).double()
    variance = log_var.double().exp()
    # The mean's standard error is sqrt(variance / n), the variance's variance sqrt(2 / n).
    assert ((sample.mean(0) - mean) / (variance / count).sqrt()).abs().max() < 5
    assert ((sample.var(0) - variance) / (variance * math.sqrt(2 / count))).abs().max() < 5


def test_the_noise_is_the_random_modules(device):
    zeros = torch.zeros(6, 10, device=device)
    step = random.DrawStep.REPARAMETERIZE
    expected = random.normal(4, 6, 10, step=step, row_offset=2**40, device=device)
    actual = reparameterize(zeros, zeros, seed=4, row_offset=2**40)
    torch.testing.assert_close(actual, expected, rtol=0, atol=2**-20)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.interpreted(view=["sliced", "one column"])
def test_any_strides_give_the_same_result(kernel_device, view):
    base, other = (
        torch.randn(24, 37, device=kernel_device),
        torch.randn(24, 37, device=kernel_device),
    )
    mean, log_var = VIEWS[view](base), VIEWS[view](other)
    dense = mean.contiguous(), log_var.contiguous()
    for function in (lambda m, v: reparameterize(m, v, seed=3), gaussian_kl):
        actual = gradients(function, mean, log_var)
        expected = gradients(function, *dense)
        for a, b in zip(actual, expected, strict=True):
            assert torch.equal(a, b)


def test_inputs_that_differ_in_strides(kernel_device):
    mean, log_var = code((4, 8), device=kernel_device)
    mean, log_var = mean.expand(3, 4, 8), log_var[0].expand(3, 4, 8)
    dense = mean.contiguous(), log_var.contiguous()
    assert torch.equal(
        reparameterize(mean, log_var, seed=3), reparameterize(mean, dense[1], seed=3)
    )
    assert torch.equal(reparameterize(mean, log_var, seed=3), reparameterize(*dense, seed=3))
    assert torch.equal(gaussian_kl(mean, log_var), gaussian_kl(*dense))


def test_nan_and_infinity_come_out_as_the_definitions(kernel_device):
    special = [math.nan, math.inf, -math.inf, 200.0, -300.0, 88.6, 1.0, 0.0]
    values = torch.tensor(special, device=kernel_device)
    mean, log_var = (grid.contiguous() for grid in torch.meshgrid(values, values, indexing="ij"))
    functions = (
        lambda m, v: reparameterize(m, v, seed=3),
        lambda m, v: gaussian_kl(m[..., None], v[..., None]),
    )
    for function in functions:
        actual = gradients(function, mean, log_var)
        with aefast.use_backend("eager"):
            expected = gradients(function, mean, log_var)
        for a, b in zip(actual, expected, strict=True):
            torch.testing.assert_close(a, b, equal_nan=True)


def test_a_view_that_negates_lazily_is_read_negated(device):
    mean, log_var = (
        torch.randn(6, 9, dtype=torch.complex64, device=device).conj().imag for _ in range(2)
    )
    assert mean.is_neg()
    plain = mean.clone(), log_var.clone()
    assert torch.equal(reparameterize(mean, log_var, seed=2), reparameterize(*plain, seed=2))
    assert torch.equal(gaussian_kl(mean, log_var), gaussian_kl(*plain))


def test_a_batch_split_by_row_offset_draws_what_one_process_would(device):
    mean, log_var = code((12, 33), device=device)
    whole = reparameterize(mean, log_var, seed=4, row_offset=100)
    parts = [
        reparameterize(m, v, seed=4, row_offset=100 + 5 * i)
        for i, (m, v) in enumerate(zip(mean.split(5), log_var.split(5), strict=True))
    ]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("shape", [(700, 65), (2, 50000), (9000, 3)])
@not_interpreted
def test_one_and_two_threads_give_the_same_bits(kernel_device, shape, threads):
    if is_interpreted(kernel_device):
        shape = (20, 65)
    mean, log_var = code(shape, device=kernel_device)
    functions = (lambda m, v: reparameterize(m, v, seed=6), gaussian_kl)
    for function in functions:
        threads(1)
        serial = gradients(function, mean, log_var)
        threads(2)
        for _ in range(2):
            for a, b in zip(gradients(function, mean, log_var), serial, strict=True):
                assert torch.equal(a, b)


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
@pytest.mark.parametrize("shape", [(60000, 3), (20011, 33)])
def test_any_number_of_threads_gives_the_same_bits(shape, isa, instruction_set, threads):
    """Blocks that end within a vector, at other rows for every number of threads."""
    instruction_set(isa)
    inputs = code(shape)
    threads(1)
    serial = gradients(gaussian_kl, *inputs)
    for count in (2, 3, 4, 7):
        threads(count)
        for a, b in zip(gradients(gaussian_kl, *inputs), serial, strict=True):
            assert torch.equal(a, b)


def assert_rows_alone_give_the_batchs_bits(mean, log_var):
    batch = gradients(gaussian_kl, mean, log_var)
    for row in range(len(mean)):
        alone = gradients(gaussian_kl, mean[row : row + 1], log_var[row : row + 1])
        for a, b in zip(alone, batch, strict=True):
            assert torch.equal(a[0], b[row])


@pytest.mark.parametrize("columns", [1, 3, 10, 65])
@pytest.mark.interpreted(columns=[3])
def test_a_divergence_does_not_depend_on_the_rows_beside_it(kernel_device, columns):
    rows = 12 if is_interpreted(kernel_device) else 64
    assert_rows_alone_give_the_batchs_bits(*code((rows, columns), device=kernel_device))


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
@pytest.mark.parametrize("columns", [1, 3, 10, 65])
def test_nor_does_it_on_any_instruction_set(columns, isa, instruction_set):
    instruction_set(isa)
    assert_rows_alone_give_the_batchs_bits(*code((64, columns)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set_is_as_accurate_as_torch(isa, dtype, instruction_set):
    mean, log_var = code((40, 131), dtype)
    instruction_set(isa)
    sample = reparameterize(mean, log_var, seed=6)
    reference = eager.reparameterize(mean.double(), log_var.double(), 6, 0)
    noise = box_muller((40, 131), 6, "cpu")
    same_dtype = (mean.float() + torch.exp(0.5 * log_var.float()) * noise).to(dtype)
    assert_as_accurate_as_torch(sample, same_dtype, reference)
    divergence = gaussian_kl(mean, log_var)
    reference = textbook_kl(mean.double(), log_var.double())
    same_dtype = textbook_kl(mean.float(), log_var.float()).to(dtype)
    assert_as_accurate_as_torch(divergence, same_dtype, reference)


@not_interpreted
def test_the_generator_governs_where_no_seed_is_given(device):
    mean, log_var = code((20, 30), device=device)
    torch.manual_seed(3)
    first, second = reparameterize(mean, log_var), reparameterize(mean, log_var)
    torch.manual_seed(3)
    assert torch.equal(reparameterize(mean, log_var), first)
    assert not torch.equal(first, second)
    a, b = (
        reparameterize(mean, log_var, generator=torch.Generator().manual_seed(8)) for _ in range(2)
    )
    assert torch.equal(a, b)


@pytest.mark.parametrize("needed", [(True, False), (False, True)])
@not_interpreted
def test_one_input_alone_may_need_its_gradient(kernel_device, needed):
    inputs = code((5, 6), device=kernel_device)
    for function in (lambda m, v: reparameterize(m, v, seed=6), gaussian_kl):
        expected = gradients(function, *inputs)[1:]
        leaves = [x.detach().requires_grad_(need) for x, need in zip(inputs, needed, strict=True)]
        function(*leaves).sum().backward()
        for leaf, need, gradient in zip(leaves, needed, expected, strict=True):
            assert torch.equal(leaf.grad, gradient) if need else leaf.grad is None


@not_interpreted
def test_sparse_and_expanded_gradients(kernel_device):
    mean, log_var = code((9, 37), device=kernel_device)
    for function in (lambda m, v: reparameterize(m, v, seed=6), gaussian_kl):
        gradient = torch.ones_like(function(mean, log_var))
        expected = gradients(function, mean, log_var, gradient=gradient)
        for other in (gradient[:1].expand(gradient.shape), gradient.to_sparse()):
            for a, b in zip(
                gradients(function, mean, log_var, gradient=other), expected, strict=True
            ):
                assert torch.equal(a.to_dense(), b)


def test_derivatives_of_every_order_are_as_accurate_as_torchs(kernel_device):
    mean, log_var = code((12, 9), device=kernel_device)
    noise = box_muller((12, 9), 2, kernel_device)

    def derivatives(sample, kl, mean, log_var):
        leaves = [x.detach().requires_grad_() for x in (mean, log_var / 4)]
        total = (sample(*leaves) ** 3).sum() + (kl(*leaves) ** 2).sum()
        results = []
        for _ in range(3):
            gradients = torch.autograd.grad(total, leaves, create_graph=True)
            results += [gradient.detach() for gradient in gradients]
            total = sum(gradient.sum() for gradient in gradients)
        return results

    def kernel(mean, log_var):
        return reparameterize(mean, log_var, seed=2)

    actual = derivatives(kernel, gaussian_kl, mean, log_var)
    same_dtype = derivatives(
        lambda m, v: m + torch.exp(0.5 * v) * noise, textbook_kl, mean, log_var
    )
    with aefast.use_backend("eager"):
        reference = derivatives(kernel, gaussian_kl, mean.double(), log_var.double())
    for results in zip(actual, same_dtype, reference, strict=True):
        assert_as_accurate_as_torch_on_average(*results)


def test_gradcheck_and_gradgradcheck_in_float64():
    inputs = code((3, 5), torch.float64, requires_grad=True)
    for function in (lambda m, v: reparameterize(m, v, seed=1), gaussian_kl):
        assert gradcheck(function, inputs)
        assert gradgradcheck(function, inputs)


@same_on_numba
@not_interpreted
def test_opcheck(device):
    mean, log_var = code((4, 9), device=device, requires_grad=True)
    ops = torch.ops.aefast
    torch.library.opcheck(ops.reparameterize, (mean, log_var, torch.tensor(5), 0))
    torch.library.opcheck(ops.scaled_noise, (mean, log_var, 0.5, torch.tensor(5), 0))
    torch.library.opcheck(ops.gaussian_kl, (mean, log_var))


def loss(mean, log_var, seed=5):
    return (reparameterize(mean, log_var, seed=seed) ** 2).sum(-1) + gaussian_kl(mean, log_var)


@same_on_numba
@not_interpreted
def test_torch_compile_in_one_graph_gives_the_same(kernel_device):
    inputs = code((6, 9), device=kernel_device)
    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for a, b in zip(gradients(compiled, *inputs), gradients(loss, *inputs), strict=True):
        torch.testing.assert_close(a, b)


def test_a_compiled_call_draws_anew_each_time():
    torch.compiler.reset()
    compiled = torch.compile(reparameterize, fullgraph=True, backend="aot_eager")
    mean, log_var = code((30, 30))
    torch.manual_seed(1)
    first, second = compiled(mean, log_var), compiled(mean, log_var)
    torch.manual_seed(1)
    assert not torch.equal(first, second)
    assert torch.equal(compiled(mean, log_var), first)


@not_interpreted
def test_one_compiled_graph_serves_every_batch_size(kernel_device):
    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=True)
    for rows in (3, 5, 8):
        inputs = code((rows, 7), device=kernel_device)
        torch.testing.assert_close(compiled(*inputs), loss(*inputs))


def test_torch_export():
    class Loss(torch.nn.Module):
        def forward(self, mean, log_var):
            return loss(mean, log_var)

    inputs = code((4, 6))
    exported = torch.export.export(Loss(), inputs)
    torch.testing.assert_close(exported.module()(*inputs), loss(*inputs))


@not_interpreted
def test_torch_func_grad(device):
    inputs = code((4, 6), device=device)
    actual = torch.func.grad(lambda m, v: loss(m, v).sum(), argnums=(0, 1))(*inputs)
    for a, b in zip(actual, gradients(loss, *inputs)[1:], strict=True):
        torch.testing.assert_close(a, b)


@not_interpreted
def test_torch_func_vmap_runs_the_definition_on_each_sample(device):
    mean, log_var = code((3, 4, 6), device=device)
    batched = torch.func.vmap(loss)(mean, log_var)
    alone = torch.stack([loss(*sample) for sample in zip(mean, log_var, strict=True)])
    torch.testing.assert_close(batched, alone)
    shared = torch.func.vmap(loss, in_dims=(0, None))(mean, log_var[0])
    torch.testing.assert_close(shared, torch.stack([loss(m, log_var[0]) for m in mean]))


@not_interpreted
def test_batched_gradients(kernel_device):
    inputs = code((4, 6), device=kernel_device, requires_grad=True)
    batch = torch.randn(5, 4, device=kernel_device)
    output = loss(*inputs)
    actual = torch.autograd.grad(output, inputs, batch, is_grads_batched=True, retain_graph=True)
    alone = [torch.autograd.grad(output, inputs, g, retain_graph=True) for g in batch]
    for a, b in zip(actual, map(torch.stack, zip(*alone, strict=True)), strict=True):
        torch.testing.assert_close(a, b)


@not_interpreted
def test_forward_mode_differentiation_runs_the_definition(kernel_device):
    inputs = code((4, 6), device=kernel_device)
    tangents = code((4, 6), device=kernel_device)
    _, slope = torch.func.jvp(loss, inputs, tangents)
    slopes = gradients(loss, *inputs)[1:]
    expected = sum((g * t).sum(-1) for g, t in zip(slopes, tangents, strict=True))
    torch.testing.assert_close(slope, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@not_interpreted
def test_autocast_leaves_samples_alone(kernel_device, dtype):
    inputs = code((4, 6), dtype, kernel_device)
    expected = gradients(lambda m, v: reparameterize(m, v, seed=5), *inputs)
    with torch.autocast(kernel_device.type, torch.bfloat16):
        actual = gradients(lambda m, v: reparameterize(m, v, seed=5), *inputs)
    for a, b in zip(actual, expected, strict=True):
        assert a.dtype == dtype
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", DTYPES)
@not_interpreted
def test_under_autocast_a_divergence_is_a_float32_as_torchs_losses_are(device, dtype):
    inputs = code((4, 6), dtype, device)
    expected = gradients(gaussian_kl, *(x.float() for x in inputs))
    with torch.autocast(device.type, torch.bfloat16):
        actual = gradients(gaussian_kl, *inputs)
        compiled = torch.compile(gaussian_kl, fullgraph=True, backend="eager")(*inputs)
    assert actual[0].dtype == compiled.dtype == torch.float32
    torch.testing.assert_close(compiled, actual[0])
    assert torch.equal(actual[0], expected[0])
    for a, b in zip(actual[1:], expected[1:], strict=True):
        assert torch.equal(a, b.to(dtype))


@not_interpreted
def test_autocast_promotes_a_pair_of_two_dtypes(device):
    mean, log_var = code((4, 6), device=device)
    mean = mean.to(torch.bfloat16)
    for function in (lambda m, v: reparameterize(m, v, seed=5), gaussian_kl):
        expected = gradients(function, mean.float(), log_var)
        with torch.autocast(device.type, torch.bfloat16):
            actual = gradients(function, mean, log_var)
        assert [x.dtype for x in actual] == [torch.float32, torch.bfloat16, torch.float32]
        for a, b in zip(actual, expected, strict=True):
            assert torch.equal(a, b.to(a.dtype))
        with pytest.raises(TypeError, match="log_var has dtype float32; it takes mean's, bfloat16"):
            function(mean, log_var)


@pytest.mark.slow
def test_more_than_two_to_the_31_elements():
    """The last rows, whose offsets need 64 bits. The inputs' rows are one row, 0 apart."""
    rows, columns = 36_000, 60_000
    mean, log_var = (x.expand(rows, columns) for x in code((1, columns), torch.bfloat16))
    torch.use_deterministic_algorithms(False)
    sample = reparameterize(mean, log_var, seed=3)[-2:]
    expected = eager.reparameterize(mean[-2:], log_var[-2:], 3, rows - 2)
    torch.testing.assert_close(sample, expected, rtol=2**-7, atol=0.0)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"mean": [1.0]}, TypeError, "mean is a list; it takes a torch.Tensor"),
        ({"log_var": None}, TypeError, "log_var is a NoneType; it takes a torch.Tensor"),
        ({"mean": torch.ones(2, 2, dtype=torch.int64)}, TypeError, "mean has dtype int64; it take"),
        (
            {"log_var": torch.ones(2, 2).double()},
            TypeError,
            "log_var has dtype float64; it takes mean's, float32",
        ),
        (
            {"log_var": torch.ones(2)},
            ValueError,
            r"log_var has shape \[2\]; it takes mean's, \[2, 2\]",
        ),
        (
            {"log_var": torch.ones(2, 2, device="meta")},
            ValueError,
            "log_var is on meta; it takes mean's device, cpu",
        ),
        ({"mean": torch.ones(2, 2).to_sparse()}, TypeError, "mean has layout torch.sparse_coo"),
        ({"seed": -1}, ValueError, r"seed is -1; it takes an int in \[0, 2\*\*63\)"),
        ({"seed": 1.0}, TypeError, "seed is a float; it takes an int"),
        ({"generator": 3}, TypeError, "generator is a int; it takes a torch.Generator or None"),
        (
            {"seed": 1, "generator": torch.Generator()},
            ValueError,
            "seed and generator are both given",
        ),
        ({"row_offset": -1}, ValueError, r"row_offset is -1; it takes an int in \[0, 2\*\*62\)"),
    ],
)
def test_bad_input_is_named_at_the_door(change, error, message):
    arguments = {"mean": torch.ones(2, 2), "log_var": torch.ones(2, 2)} | change
    with pytest.raises(error, match=message):
        reparameterize(**arguments)
    if change.keys() <= {"mean", "log_var"}:
        with pytest.raises(error, match=message):
            gaussian_kl(**arguments)


def test_a_divergence_takes_at_least_one_dimension():
    with pytest.raises(ValueError, match=r"mean has shape \[\]; it takes \[..., H\]"):
        gaussian_kl(torch.tensor(1.0), torch.tensor(1.0))


def test_the_registered_ops_check_what_they_get():
    with pytest.raises(ValueError, match="it takes one int64 number"):
        torch.ops.aefast.reparameterize(torch.ones(2), torch.ones(2), torch.ones(1), 0)
    with pytest.raises(ValueError, match="log_var has shape"):
        torch.ops.aefast.gaussian_kl(torch.ones(2), torch.ones(3))
