"""Codes whose latents each have a threshold: values, and the gradients that are estimated."""

import math

import pytest
import torch

import aefast
from aefast.functional import jumprelu_encode
from aefast.ops.jumprelu import eager
from aefast.ops.jumprelu.op import ESTIMATORS, active_latents, counted, jumprelu
from tests.accuracy import assert_as_accurate_as_torch
from tests.backends import not_interpreted

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(1, 1), (7,), (5, 3), (3, 5, 7), (257, 131), (1, 300), (140, 256), (70, 1100)]
INTERPRETED = [(1, 1), (3, 5, 7), (257, 131), (140, 256)]
each_estimator = pytest.mark.parametrize("estimator", ESTIMATORS)


def tensors(device, dtype=torch.float32):
    x, weight = torch.randn(9, 5, dtype=dtype), torch.randn(12, 5, dtype=dtype)
    bias, threshold = torch.randn(12, dtype=dtype), torch.rand(12, dtype=dtype)
    return [t.to(device).requires_grad_() for t in (x, weight, bias, threshold)]


def estimated(tensors, bandwidth, estimator, grad_values, grad_active):
    """Values, and all gradients, as the paper's equations read."""
    x, weight, bias, threshold = (t.detach() for t in tensors)
    z = torch.nn.functional.linear(x, weight, bias)
    active = (z > threshold).to(z)
    u = (z - threshold) / bandwidth
    density = (u.abs() < 0.5).to(z) if estimator == "rectangle" else 1 / (2 * u).cosh().square()
    kernel = density / bandwidth
    grad_threshold = -(kernel * (threshold * grad_values + grad_active)).sum(0)
    grad_z = active * grad_values
    gradients = grad_z @ weight, grad_z.t() @ x, grad_z.sum(0), grad_threshold
    return z * active, active, gradients


@not_interpreted
@pytest.mark.parametrize("estimator", ["rectangle", "tanh"])
def test_values_and_estimated_gradients(device, estimator):
    inputs = tensors(device)
    values, active = jumprelu_encode(*inputs, 0.7, estimator)
    grads = torch.randn(2, 9, 12, device=device)
    expected_values, expected_active, gradients = estimated(inputs, 0.7, estimator, *grads)
    torch.testing.assert_close(values, expected_values)
    assert torch.equal(active, expected_active)
    assert gradients[-1].count_nonzero() > 3
    actual = torch.autograd.grad((values, active), inputs, tuple(grads))
    for a, b in zip(actual, gradients, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("estimator", ["rectangle", "tanh"])
def test_the_estimate_is_the_slope_of_a_step_that_is_seen_through_it(estimator):
    """Over many pre-activations the mean number of active ones, and of their values, falls with the
    threshold as the estimate says."""
    x = torch.linspace(-1, 3, 400_001, dtype=torch.float64)[:, None]
    threshold = torch.tensor([0.8], dtype=torch.float64, requires_grad=True)
    one = torch.ones(1, 1, dtype=torch.float64)

    def means(threshold):
        values, active = jumprelu_encode(x, one, None, threshold, 0.01, estimator)
        return torch.stack([values.mean(), active.mean()])

    higher, lower = means(threshold.detach() + 0.01), means(threshold.detach() - 0.01)
    for actual, slope in zip(means(threshold), (higher - lower) / 0.02, strict=True):
        (gradient,) = torch.autograd.grad(actual, threshold, retain_graph=True)
        torch.testing.assert_close(gradient, slope[None], rtol=1e-3, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_and_leading_dimensions(dtype):
    x, *rest = tensors("cpu", dtype)
    values, active = jumprelu_encode(x.reshape(3, 3, 5), *rest, 0.5)
    assert (values.dtype, values.shape, active.shape) == (dtype, (3, 3, 12), (3, 3, 12))
    plain = jumprelu_encode(x, *rest, 0.5).values
    assert torch.equal(values.reshape(9, 12), plain)
    values.sum().backward()
    assert all(t.grad.isfinite().all() for t in rest)


def test_autocast_rounds_the_product():
    inputs = tensors("cpu")
    with torch.autocast("cpu", torch.bfloat16):
        values, _ = jumprelu_encode(*inputs, 0.5)
    assert values.dtype == torch.bfloat16
    assert torch.equal(values, jumprelu_encode(*(t.bfloat16() for t in inputs), 0.5).values)


def test_it_compiles_in_one_graph():
    inputs = tensors("cpu")

    def total(*inputs):
        values, active = jumprelu_encode(*inputs, 0.5)
        return values.square().sum() + active.sum()

    compiled = torch.compile(total, fullgraph=True, backend="aot_eager")
    actual, expected = (torch.autograd.grad(f(*inputs), inputs) for f in (compiled, total))
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("estimator", ["rectangle", "tanh"])
def test_nan_is_active_and_infinity_below_is_not(estimator):
    bias = torch.tensor([torch.nan, torch.inf, -torch.inf])
    x, weight, threshold = torch.zeros(1, 2), torch.zeros(3, 2), torch.ones(3)
    values, active = jumprelu_encode(x, weight, bias, threshold.requires_grad_(), 0.1, estimator)
    assert values.nan_to_num(9, 8).tolist() == [[9, 8, 0]]
    assert active.tolist() == [[1, 1, 0]]
    (gradient,) = torch.autograd.grad(active.sum(), threshold)
    assert gradient.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"bandwidth": 0}, ValueError, "bandwidth is 0; it takes a number above 0"),
        ({"estimator": "step"}, ValueError, "estimator is 'step'; it takes one of rectangle, tanh"),
        ({"threshold": torch.ones(4)}, ValueError, r"threshold has shape \[4\]; with weight's"),
        ({"threshold": torch.ones(7).double()}, TypeError, "threshold has dtype float64"),
        ({"threshold": 1.0}, TypeError, "threshold is a float; it takes a torch.Tensor"),
        ({"weight": torch.ones(7, 4)}, ValueError, r"x has shape \[2, 3\]; with weight"),
        ({"x": 3}, TypeError, "x is a int"),
    ],
)
def test_bad_arguments_are_named(change, error, message):
    right = {"x": torch.ones(2, 3), "weight": torch.ones(7, 3), "bias": None}
    with pytest.raises(error, match=f"^{message}"):
        jumprelu_encode(**right | {"threshold": torch.ones(7), "bandwidth": 0.1} | change)


def preactivations(*shape, device, dtype=torch.float32):
    """Pre-activations and thresholds, of which many are near each other."""
    return torch.randn(shape).to(device, dtype), torch.rand(shape[-1:]).to(device, dtype)


def code_and_gradients(function, preactivation, threshold, estimator, grads, bandwidth=0.5):
    """Values and active of a function like jumprelu, and the gradients by what it took."""
    leaves = preactivation.detach().requires_grad_(), threshold.detach().requires_grad_()
    code = function(*leaves, bandwidth, estimator)
    return *(part.detach() for part in code), *torch.autograd.grad(tuple(code), leaves, grads)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@each_estimator
@pytest.mark.interpreted(shape=INTERPRETED)
def test_code_and_gradients_are_as_accurate_as_torchs(kernel_device, shape, dtype, estimator):
    z, threshold = preactivations(*shape, device=kernel_device, dtype=dtype)
    grads = tuple(torch.randn(2, *shape).to(kernel_device, dtype))
    actual = code_and_gradients(jumprelu, z, threshold, estimator, grads)
    plain, exact = (
        code_and_gradients(
            lambda *a: eager.jumprelu(*a),
            z.to(kind),
            threshold.to(kind),
            estimator,
            tuple(grad.to(kind) for grad in grads),
        )
        for kind in (torch.float32, torch.float64)
    )
    for kernel, definition in zip(actual[:3], plain[:3], strict=True):
        assert torch.equal(kernel, definition.to(dtype))
    assert_as_accurate_as_torch(actual[3], plain[3].to(dtype), exact[3])


@each_estimator
def test_the_definition_gives_the_kernels_numbers(kernel_device, estimator):
    z, threshold = preactivations(40, 30, device=kernel_device)
    grads = tuple(torch.randn(2, 40, 30, device=kernel_device))
    operands = *grads, z, threshold, 0.5, estimator
    _, _, *actual = code_and_gradients(jumprelu, z, threshold, estimator, grads)
    for kernel, definition in zip(actual, eager.backward(*operands), strict=True):
        torch.testing.assert_close(kernel, definition)


@each_estimator
def test_any_strides_give_the_same_result(kernel_device, estimator):
    base, all_thresholds = preactivations(23, 37, device=kernel_device)
    for z in (base.t(), base[::2, 3:20], base[:, ::3], base[:1].expand(5, 37), base[:, :1]):
        threshold = all_thresholds[: z.shape[1]]
        rows, columns = z.shape
        wide = torch.randn(2, columns, rows, device=kernel_device).transpose(1, 2)
        alike = torch.randn(2, rows, 1, device=kernel_device).expand(2, rows, columns)
        for grads in (wide, alike, wide[:, :1].expand(2, rows, columns)):
            strided = code_and_gradients(jumprelu, z, threshold, estimator, tuple(grads))
            copies = tuple(grad.contiguous() for grad in grads)
            dense = code_and_gradients(jumprelu, z.contiguous(), threshold, estimator, copies)
            for a, b in zip(strided, dense, strict=True):
                assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", DTYPES)
@each_estimator
def test_aligned_rows_of_a_wider_matrix_give_the_same_result(kernel_device, dtype, estimator):
    """Kernels read their rows 16 bytes at a time."""
    z, threshold = preactivations(20, 64, device=kernel_device, dtype=dtype)
    z, threshold = z[:, 16:48], threshold[16:48]
    grads = torch.randn(2, 20, 96, device=kernel_device).to(dtype)[..., 32:64]
    strided = code_and_gradients(jumprelu, z, threshold, estimator, tuple(grads))
    copies = tuple(grad.contiguous() for grad in grads)
    dense = code_and_gradients(jumprelu, z.contiguous(), threshold, estimator, copies)
    for a, b in zip(strided, dense, strict=True):
        assert torch.equal(a, b)


@each_estimator
def test_thresholds_of_any_stride(kernel_device, estimator):
    z, threshold = preactivations(9, 12, device=kernel_device)
    grads = tuple(torch.randn(2, 9, 12, device=kernel_device))
    expected = code_and_gradients(jumprelu, z, threshold, estimator, grads)
    strided = threshold.repeat_interleave(3)[::3]
    for a, b in zip(
        code_and_gradients(jumprelu, z, strided, estimator, grads), expected, strict=True
    ):
        assert torch.equal(a, b)


@each_estimator
def test_nan_and_infinity_are_the_definitions(kernel_device, estimator):
    special = torch.tensor([math.nan, math.inf, -math.inf, 0.0, -0.0, 0.1], device=kernel_device)
    z = special[:, None].expand(6, 6).contiguous()
    grads = tuple(torch.randn(2, 6, 6, device=kernel_device))
    for threshold in (special, special.flip(0)):
        actual = code_and_gradients(jumprelu, z, threshold, estimator, grads)
        with torch.no_grad():
            code = eager.jumprelu(z, threshold, 0.5, estimator)
        expected = *code, *eager.backward(*grads, z, threshold, 0.5, estimator)
        for a, b in zip(actual, expected, strict=True):
            torch.testing.assert_close(a, b, equal_nan=True)
        assert torch.equal(actual[0].signbit(), code[0].signbit())


@each_estimator
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_of_what_is_not_active_or_near_is_dropped(kernel_device, estimator, bad):
    """The tanh's slope is nowhere 0 but far away."""
    z = torch.tensor([[-9.0], [0.25]], device=kernel_device)
    threshold = torch.tensor([0.2], device=kernel_device)
    grads = tuple(torch.tensor([[[bad], [1.0]]] * 2, device=kernel_device))
    _, _, by_z, by_threshold = code_and_gradients(jumprelu, z, threshold, estimator, grads)
    assert by_z.tolist() == [[0], [1]]
    assert by_threshold.isfinite().item() == (estimator == "rectangle")


@each_estimator
@pytest.mark.parametrize("part", [0, 1])
def test_one_part_of_a_code_alone_has_the_gradients_of_it(kernel_device, estimator, part):
    z, threshold = preactivations(9, 13, device=kernel_device)
    leaves = z.requires_grad_(), threshold.requires_grad_()
    grad = torch.randn(9, 13, device=kernel_device)
    actual = torch.autograd.grad(jumprelu(*leaves, 0.5, estimator)[part], leaves, grad)
    grads = [torch.zeros_like(grad)] * 2
    grads[part] = grad
    expected = code_and_gradients(jumprelu, z, threshold, estimator, tuple(grads))[2:]
    for a, b in zip(actual, expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", DTYPES)
@each_estimator
@pytest.mark.interpreted(dtype=[torch.float32, torch.bfloat16], estimator=["rectangle"])
def test_counted_latents_are_the_sum_of_the_active(device, dtype, estimator):
    z, threshold = (
        t.requires_grad_() for t in preactivations(4, 5, 600, device=device, dtype=dtype)
    )
    values, count = counted(z, threshold, 0.5, estimator)
    code = jumprelu(z, threshold, 0.5, estimator)
    assert torch.equal(values, code.values)
    assert count.dtype == torch.promote_types(dtype, torch.float32)
    assert torch.equal(count, code.active.sum(-1, dtype=count.dtype))
    factors = torch.randn(4, 5, device=device, dtype=count.dtype)
    losses = (
        (values.square().sum() + (number * factors).sum())
        for values, number in ((values, count), (code.values, code.active.to(count.dtype).sum(-1)))
    )
    for a, b in zip(*(torch.autograd.grad(loss, (z, threshold)) for loss in losses), strict=True):
        torch.testing.assert_close(a, b)


@each_estimator
def test_a_threshold_without_a_gradient_leaves_the_others(kernel_device, estimator):
    z, threshold = preactivations(20, 33, device=kernel_device)
    grads = torch.randn(2, 20, 33, device=kernel_device)
    expected = code_and_gradients(jumprelu, z, threshold, estimator, tuple(grads))[2]
    values, _ = jumprelu(z.requires_grad_(), threshold, 0.5, estimator)
    (actual,) = torch.autograd.grad(values, z, grads[0])
    assert torch.equal(actual, expected)


@each_estimator
@not_interpreted
def test_one_and_two_threads_give_the_same_bits(kernel_device, threads, estimator):
    z, threshold = preactivations(700, 65, device=kernel_device)
    grads = tuple(torch.randn(2, 700, 65, device=kernel_device))
    results = []
    for count in (1, 2, 2):
        threads(count)
        results.append(code_and_gradients(jumprelu, z, threshold, estimator, grads))
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set_gives_the_same_numbers(isa, instruction_set):
    z, threshold = preactivations(300, 131, device="cpu")
    grads = tuple(torch.randn(2, 300, 131))
    expected = code_and_gradients(jumprelu, z, threshold, "rectangle", grads)
    instruction_set(isa)
    actual = code_and_gradients(jumprelu, z, threshold, "rectangle", grads)
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


@each_estimator
@not_interpreted
def test_the_second_order_gradient_is_the_definitions(kernel_device, estimator):
    z, threshold = preactivations(9, 5, device=kernel_device)
    seconds = []
    for name in (None, "eager"):
        leaves = z.clone().requires_grad_(), threshold.clone().requires_grad_()
        with aefast.use_backend(name) if name else torch.enable_grad():
            values, active = jumprelu(leaves[0].sin(), leaves[1], 0.5, estimator)
            loss = values.square().sum() + active.sum() ** 2
            first = torch.autograd.grad(loss, leaves, create_graph=True)
            squares = sum(gradient.square().sum() for gradient in first)
            seconds.append(torch.autograd.grad(squares, leaves))
    for a, b in zip(*seconds, strict=True):
        torch.testing.assert_close(a, b)


@not_interpreted
def test_torch_func_grad_and_vmap(device):
    z, threshold = preactivations(3, 4, 6, device=device)

    def loss(z, threshold):
        values, active = jumprelu(z, threshold, 0.5, "rectangle")
        return values.square().sum() + active.sum()

    leaf = threshold.clone().requires_grad_()
    expected = torch.stack([torch.autograd.grad(loss(part, leaf), leaf)[0] for part in z])
    slope = torch.func.grad(loss, argnums=1)
    torch.testing.assert_close(slope(z[0], threshold), expected[0])
    torch.testing.assert_close(torch.func.vmap(slope, (0, None))(z, threshold), expected)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0,)])
@not_interpreted
def test_no_rows_and_no_latents_have_no_gradient(device, shape):
    z, threshold = (t.requires_grad_() for t in preactivations(*shape, device=device))
    values, count = counted(z, threshold, 0.5, "rectangle")
    assert (values.shape, count.shape) == (shape, shape[:-1])
    (gradient,) = torch.autograd.grad(values.sum() + count.sum(), threshold)
    assert torch.equal(gradient, torch.zeros_like(threshold))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 5), (4, 7, 30), (300, 7), (70, 1100), (1,), (0, 4), (4, 0)])
@pytest.mark.interpreted(shape=[(3, 5), (4, 7, 30), (300, 7), (0, 4), (4, 0)])
def test_active_latents_are_those_above_zero_in_some_row(device, shape, dtype):
    code = (torch.randn(shape) - 2).to(device, dtype)
    late = torch.full_like(code, -1)
    late[-1:] = code[-1:].abs()
    for values in (code, code.transpose(0, -1), torch.zeros_like(code), late):
        rows = values[None].flatten(0, -2)
        assert torch.equal(active_latents(values), (rows > 0).any(0))


def test_a_latent_that_is_nan_in_one_row_is_active_in_another(device):
    nan, inf = math.nan, math.inf
    code = torch.tensor([[nan, nan, 1.0, -inf, inf], [1.0, nan, nan, -0.0, 0.0]], device=device)
    assert active_latents(code).tolist() == [True, False, True, False, True]


@pytest.mark.parametrize(("rows", "started"), [(4, 0), (40, 1)])
def test_few_elements_start_no_thread(rows, started, threads_started):
    """Not where latents are several chunks either."""
    values = torch.rand(rows, 2000)
    with aefast.use_backend("cpp"):
        assert threads_started(lambda: active_latents(values)) == started
