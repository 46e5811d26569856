"""Gated codes: the kernels against PyTorch's operators."""

import math

import pytest
import torch

import aefast
from aefast.ops.jumprelu.gated import definition, gated
from tests.accuracy import assert_as_accurate_as_torch
from tests.backends import not_interpreted

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(1, 1), (7,), (5, 3), (3, 5, 7), (257, 131), (1, 300), (140, 256), (70, 1100)]
INTERPRETED = [(1, 1), (3, 5, 7), (257, 131), (140, 256)]


def operands(*shape, device="cpu"):
    sizes = shape, *3 * [shape[-1:]]
    return [torch.randn(size, device=device) for size in sizes]


def gradients_of_each(shape, device="cpu"):
    return [torch.randn(size, device=device) for size in (shape, shape, shape[:-1])]


def code_and_gradients(function, tensors, grads, dtype=None):
    """In this dtype, or in those of the tensors."""
    leaves = [t.detach().to(dtype or t.dtype).requires_grad_() for t in tensors]
    code = function(*leaves)
    grads = [grad.to(part.dtype) for grad, part in zip(grads, code, strict=True)]
    return [part.detach() for part in code], torch.autograd.grad(code, leaves, grads)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.interpreted(shape=INTERPRETED)
def test_codes_and_gradients_are_as_accurate_as_torchs(kernel_device, shape, dtype):
    tensors, grads = (
        [t.to(dtype) for t in each]
        for each in (
            operands(*shape, device=kernel_device),
            gradients_of_each(shape, kernel_device),
        )
    )
    code, gradients = code_and_gradients(gated, tensors, grads)
    plain, plain_gradients = code_and_gradients(definition, tensors, grads)
    exact, exact_gradients = code_and_gradients(definition, tensors, grads, torch.float64)
    if kernel_device.type == "cpu" and dtype == torch.float32:  # a GPU rounds a magnitude once
        assert torch.equal(code[0], plain[0])
    assert torch.equal(code[1], plain[1])
    for ours, theirs, reference in zip(
        (*code, *gradients), (*plain, *plain_gradients), (*exact, *exact_gradients), strict=True
    ):
        assert_as_accurate_as_torch(ours, theirs, reference)


def test_any_strides_give_the_same_result(kernel_device):
    base = torch.randn(23, 37, device=kernel_device)
    for product in (base.t(), base[::2, 3:20], base[:, ::3], base[:1].expand(5, 37), base[:, :1]):
        rows, columns = product.shape
        parameters = operands(3 * columns, device=kernel_device)[1:]
        parameters = [parameter[::3] for parameter in parameters]
        wide, one = (torch.randn(n, device=kernel_device) for n in (rows * columns, 1))
        alike = wide[:rows, None].expand(rows, columns)
        grads = wide.view(columns, rows).t(), alike, one.expand(rows)
        actual = code_and_gradients(gated, [product, *parameters], grads)
        dense = [t.contiguous() for t in (product, *parameters)]
        expected = code_and_gradients(gated, dense, [grad.contiguous() for grad in grads])
        for a, b in zip([*actual[0], *actual[1]], [*expected[0], *expected[1]], strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", DTYPES)
def test_aligned_rows_of_a_wider_matrix_give_the_same_result(kernel_device, dtype):
    """Kernels read their rows 16 bytes at a time."""
    product, *parameters = (t.to(dtype) for t in operands(20, 64, device=kernel_device))
    product, parameters = product[:, 16:48], [parameter[16:48] for parameter in parameters]
    by_values, by_opened = torch.randn(2, 20, 96, device=kernel_device).to(dtype)[..., 32:64]
    grads = by_values, by_opened, torch.randn(20, device=kernel_device)
    strided = code_and_gradients(gated, [product, *parameters], grads)
    copies = [t.contiguous() for t in (product, *parameters)]
    dense = code_and_gradients(gated, copies, [grad.contiguous() for grad in grads])
    for a, b in zip([*strided[0], *strided[1]], [*dense[0], *dense[1]], strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("changed", range(4))
def test_nan_and_infinity_are_the_definitions(kernel_device, changed):
    tensors = operands(6, 6, device=kernel_device)
    special = torch.tensor([math.nan, math.inf, -math.inf, 0.0, -0.0, 0.1], device=kernel_device)
    tensors[changed] = special[:, None].expand(6, 6) if changed == 0 else special
    grads = gradients_of_each((6, 6), kernel_device)
    actual, expected = (code_and_gradients(f, tensors, grads) for f in (gated, definition))
    for a, b in zip([*actual[0], *actual[1]], [*expected[0], *expected[1]], strict=True):
        torch.testing.assert_close(a, b, equal_nan=True)


@pytest.mark.parametrize("part", range(3))
def test_one_part_of_a_code_alone_has_the_gradients_of_it(kernel_device, part):
    leaves = [t.requires_grad_() for t in operands(9, 12, device=kernel_device)]
    grads = [torch.zeros_like(grad) for grad in gradients_of_each((9, 12), kernel_device)]
    grads[part] = torch.randn_like(grads[part])
    actual = torch.autograd.grad(gated(*leaves)[part], leaves, grads[part])
    expected = code_and_gradients(definition, leaves, grads)[1]
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b)


@not_interpreted
def test_the_second_order_gradient_is_the_definitions(kernel_device):
    seconds = []
    start = operands(9, 5, device=kernel_device)
    for function in (gated, definition):
        leaves = [t.clone().requires_grad_() for t in start]
        values, opened, totals = function(leaves[0].sin(), *leaves[1:])
        loss = values.square().sum() + opened.square().mean() + totals.square().mean()
        first = torch.autograd.grad(loss, leaves, create_graph=True)
        squares = sum(gradient.square().mean() for gradient in first)
        seconds.append(torch.autograd.grad(squares, leaves))
    for a, b in zip(*seconds, strict=True):
        torch.testing.assert_close(a, b)


@not_interpreted
def test_one_and_two_threads_give_the_same_bits(kernel_device, threads):
    tensors = operands(700, 650, device=kernel_device)
    grads = gradients_of_each((700, 650), kernel_device)
    results = []
    for count in (1, 2, 2):
        threads(count)
        code, gradients = code_and_gradients(gated, tensors, grads)
        results.append([*code, *gradients])
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set_gives_the_same_code(isa, instruction_set):
    tensors, grads = operands(300, 131), gradients_of_each((300, 131))
    expected = code_and_gradients(gated, tensors, grads)
    instruction_set(isa)
    actual = code_and_gradients(gated, tensors, grads)
    assert all(torch.equal(a, b) for a, b in zip(actual[0], expected[0], strict=True))
    for a, b in zip(actual[1], expected[1], strict=True):
        torch.testing.assert_close(a, b)


def test_products_of_autocast_are_promoted_as_pytorchs_operators_do(kernel_device):
    """The products are of a half precision then, and the parameters in float32."""
    product, *parameters = operands(9, 12, device=kernel_device)
    mixed, grads = [product.bfloat16(), *parameters], gradients_of_each((9, 12), kernel_device)
    exact, exact_gradients = code_and_gradients(definition, mixed, grads, torch.float64)
    ours, theirs = (code_and_gradients(f, mixed, grads) for f in (gated, definition))
    assert [part.dtype for part in ours[0]] == 3 * [torch.float32]
    for a, b, reference in zip(
        (*ours[0], *ours[1]), (*theirs[0], *theirs[1]), (*exact, *exact_gradients), strict=True
    ):
        assert_as_accurate_as_torch(a, b, reference)


def test_other_dtypes_backends_and_transforms_take_the_definition():
    tensors = operands(9, 12)
    for cast in (torch.bfloat16, torch.float64):
        low = [t.to(cast) for t in tensors]
        for a, b in zip(gated(*low), definition(*low), strict=True):
            assert torch.equal(a, b)
    with aefast.use_backend("eager"):
        assert torch.equal(gated(*tensors)[2], definition(*tensors)[2])
    batched = torch.func.vmap(gated, (0, None, None, None))(tensors[0], *tensors[1:])
    assert torch.equal(batched[0], definition(*tensors)[0])


@pytest.mark.parametrize("shape", [(0, 4), (4, 0)])
def test_no_rows_and_no_latents(shape):
    values, opened, totals = gated(*operands(*shape))
    assert (values.shape, opened.shape, totals.shape) == (shape, shape, shape[:1])


def encoder(rows=7):
    x, weight = torch.randn(rows, 5), torch.randn(11, 5)
    return [x, weight, torch.randn(11), torch.rand(11) + 0.5, torch.randn(11)]


def encoded(x, weight, bias, scale, magnitude_bias):
    """As the equations read."""
    z = x @ weight.t()
    magnitude = (scale * z + magnitude_bias).relu()
    return torch.where(z + bias > 0, magnitude, 0), (z + bias).relu()


def test_the_public_function_has_the_equations_numbers_and_gradients(device):
    inputs = [tensor.to(device).requires_grad_() for tensor in encoder()]
    code = aefast.functional.gated_encode(*inputs)
    assert type(code).__name__ == "GatedCode"
    for part, expected in zip(code, encoded(*inputs), strict=True):
        torch.testing.assert_close(part, expected)
        actual, gradients = (
            torch.autograd.grad(p.square().sum(), inputs, retain_graph=True, materialize_grads=True)
            for p in (part, expected)
        )
        torch.testing.assert_close(actual, gradients, rtol=1e-4, atol=1e-4)


def test_it_is_differentiated_twice():
    inputs = [tensor.double().requires_grad_() for tensor in encoder(3)]
    assert torch.autograd.gradgradcheck(aefast.functional.gated_encode, inputs)


def test_it_is_exported_and_compiled_as_its_definition():
    """It has no registered op, which opcheck would look at: a trace records its operators."""

    class Encoder(torch.nn.Module):
        def forward(self, *inputs):
            return tuple(aefast.functional.gated_encode(*inputs))

    inputs = encoder()
    expected = encoded(*inputs)
    rows = {0: torch.export.Dim("rows", min=2)}
    shapes = {"inputs": (rows, *[None] * 4)}
    exported = torch.export.export(Encoder(), tuple(inputs), dynamic_shapes=shapes)
    for call in (exported.module(), torch.compile(Encoder(), fullgraph=True, backend="aot_eager")):
        torch.testing.assert_close(call(*inputs), expected)
        longer = encoder(9)
        torch.testing.assert_close(call(*longer), encoded(*longer))


@pytest.mark.parametrize("name", ["bias", "magnitude_scale", "magnitude_bias"])
def test_a_wrong_parameter_is_named(name):
    number = ["bias", "magnitude_scale", "magnitude_bias"].index(name) + 2
    inputs = encoder()
    inputs[number] = torch.zeros(4)
    with pytest.raises(ValueError, match=rf"^{name} has shape \[4\]; with weight's shape"):
        aefast.functional.gated_encode(*inputs)
    inputs[number] = None
    with pytest.raises(TypeError, match=f"^{name} is a NoneType"):
        aefast.functional.gated_encode(*inputs)


@pytest.mark.parametrize(("rows", "started"), [(60, 0), (600, 1)])
def test_few_elements_start_no_thread(rows, started, threads_started):
    """Not where their rows are several blocks of sums either."""
    tensors, grads = operands(rows, 256), gradients_of_each((rows, 256))
    with aefast.use_backend("cpp"):
        assert threads_started(lambda: code_and_gradients(gated, tensors, grads)) == started
