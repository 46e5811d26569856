"""Gated codes: the kernels against PyTorch's operators."""

import math

import pytest
import torch

import aefast
from aefast.ops.jumprelu.gated import definition, gated
from tests.accuracy import assert_as_accurate_as_torch

SHAPES = [(1, 1), (7,), (5, 3), (3, 5, 7), (257, 131), (1, 300), (70, 1100)]


def operands(*shape):
    return [torch.randn(shape), *(torch.randn(shape[-1:]) for _ in range(3))]


def gradients_of_each(shape):
    return torch.randn(shape), torch.randn(shape), torch.randn(shape[:-1])


def code_and_gradients(function, tensors, grads, dtype=torch.float32):
    leaves = [t.detach().to(dtype).requires_grad_() for t in tensors]
    code = function(*leaves)
    grads = [grad.to(dtype) for grad in grads]
    return [part.detach() for part in code], torch.autograd.grad(code, leaves, grads)


@pytest.mark.parametrize("shape", SHAPES)
def test_codes_are_the_definitions_and_gradients_as_accurate_as_torchs(shape):
    tensors, grads = operands(*shape), gradients_of_each(shape)
    code, gradients = code_and_gradients(gated, tensors, grads)
    plain, plain_gradients = code_and_gradients(definition, tensors, grads)
    exact, exact_gradients = code_and_gradients(definition, tensors, grads, torch.float64)
    assert torch.equal(code[0], plain[0])
    assert torch.equal(code[1], plain[1])
    assert_as_accurate_as_torch(code[2], plain[2], exact[2])
    for ours, theirs, reference in zip(gradients, plain_gradients, exact_gradients, strict=True):
        assert_as_accurate_as_torch(ours, theirs, reference)


def test_any_strides_give_the_same_result():
    base = torch.randn(24, 37)
    for product in (base.t(), base[::2, 3:20], base[:, ::3], base[:1].expand(5, 37)):
        parameters = [torch.randn(3 * product.shape[1])[::3] for _ in range(3)]
        rows, columns = product.shape
        alike = torch.randn(rows, 1).expand(rows, columns)
        grads = torch.randn(columns, rows).t(), alike, torch.randn(1).expand(rows)
        actual = code_and_gradients(gated, [product, *parameters], grads)
        dense = [t.contiguous() for t in (product, *parameters)]
        expected = code_and_gradients(gated, dense, [grad.contiguous() for grad in grads])
        for a, b in zip([*actual[0], *actual[1]], [*expected[0], *expected[1]], strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("changed", range(4))
def test_nan_and_infinity_are_the_definitions(changed):
    tensors = operands(6, 6)
    special = torch.tensor([math.nan, math.inf, -math.inf, 0.0, -0.0, 0.1])
    tensors[changed] = special[:, None].expand(6, 6) if changed == 0 else special
    grads = gradients_of_each((6, 6))
    actual, expected = (code_and_gradients(f, tensors, grads) for f in (gated, definition))
    for a, b in zip([*actual[0], *actual[1]], [*expected[0], *expected[1]], strict=True):
        torch.testing.assert_close(a, b, equal_nan=True)


@pytest.mark.parametrize("part", range(3))
def test_one_part_of_a_code_alone_has_the_gradients_of_it(part):
    leaves = [t.requires_grad_() for t in operands(9, 12)]
    grads = [torch.zeros_like(grad) for grad in gradients_of_each((9, 12))]
    grads[part] = torch.randn_like(grads[part])
    actual = torch.autograd.grad(gated(*leaves)[part], leaves, grads[part])
    expected = code_and_gradients(definition, leaves, grads)[1]
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_the_second_order_gradient_is_the_definitions():
    seconds = []
    start = operands(9, 5)
    for function in (gated, definition):
        leaves = [t.clone().requires_grad_() for t in start]
        values, opened, totals = function(leaves[0].sin(), *leaves[1:])
        loss = values.square().sum() + opened.square().mean() + totals.square().mean()
        first = torch.autograd.grad(loss, leaves, create_graph=True)
        squares = sum(gradient.square().mean() for gradient in first)
        seconds.append(torch.autograd.grad(squares, leaves))
    for a, b in zip(*seconds, strict=True):
        torch.testing.assert_close(a, b)


def test_one_and_two_threads_give_the_same_bits(threads):
    tensors, grads = operands(700, 650), gradients_of_each((700, 650))
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
