"""A linear layer of rows less a center: its gradients are those of the subtraction and a layer."""

import pytest
import torch

from aefast.ops.linear_act import op
from aefast.ops.linear_act.centered import centered_linear
from tests.accuracy import assert_as_accurate_as_torch
from tests.backends import not_interpreted


def tensors(device, dtype=torch.float32, rows=(70,), bias=True):
    x, center = torch.randn(*rows, 12), torch.randn(12)
    weight, added = torch.randn(33, 12), torch.randn(33)
    parameters = [center, weight, added] if bias else [center, weight]
    leaves = [t.to(device, dtype).requires_grad_() for t in parameters]
    return x.to(device, dtype), *leaves, *([] if bias else [None])


def composed(x, center, weight, bias):
    return torch.nn.functional.linear(x - center, weight, bias)


def gradients(function, inputs, grad):
    leaves = [t for t in inputs if t is not None and t.requires_grad]
    return torch.autograd.grad(function(*inputs), leaves, grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows", [(70,), (1,), (4, 9)])
@pytest.mark.parametrize("bias", [True, False])
@not_interpreted
def test_output_and_gradients_are_as_accurate_as_torchs(kernel_device, dtype, rows, bias):
    inputs = tensors(kernel_device, dtype, rows, bias)
    grad = torch.randn(*rows, 33).to(kernel_device, dtype)
    exact = [
        t if t is None else t.detach().double().requires_grad_(t.requires_grad) for t in inputs
    ]
    output = centered_linear(*inputs)
    assert_as_accurate_as_torch(output, composed(*inputs), composed(*exact))
    for ours, plain, reference in zip(
        gradients(centered_linear, inputs, grad),
        gradients(composed, inputs, grad),
        gradients(composed, exact, grad.double()),
        strict=True,
    ):
        assert_as_accurate_as_torch(ours, plain, reference)


@not_interpreted
def test_the_center_s_gradient_takes_no_product_of_all_rows(kernel_device, monkeypatch):
    weights = []
    backward = op.backward

    def watched(grad, x, weight, *rest):
        weights.append(weight)
        return backward(grad, x, weight, *rest)

    monkeypatch.setattr(op, "backward", watched)
    gradients(centered_linear, tensors(kernel_device), torch.randn(70, 33, device=kernel_device))
    assert weights == [None]


@pytest.mark.parametrize("frozen", [1, 2, 3])
@not_interpreted
def test_what_is_frozen_has_no_gradient(device, frozen):
    inputs = tensors(device)
    inputs[frozen].requires_grad_(False)
    grad = torch.randn(70, 33, device=device)
    for a, b in zip(
        gradients(centered_linear, inputs, grad), gradients(composed, inputs, grad), strict=True
    ):
        torch.testing.assert_close(a, b)


@not_interpreted
def test_rows_that_need_a_gradient_have_one(device):
    inputs = tensors(device)
    inputs[0].requires_grad_()
    grad = torch.randn(70, 33, device=device)
    for a, b in zip(
        gradients(centered_linear, inputs, grad), gradients(composed, inputs, grad), strict=True
    ):
        torch.testing.assert_close(a, b)


def second_order(function, inputs):
    leaves = inputs[1:]
    first = torch.autograd.grad(function(*inputs).square().sum(), leaves, create_graph=True)
    return torch.autograd.grad(sum(gradient.square().sum() for gradient in first), leaves)


@not_interpreted
def test_the_second_order_gradient_is_as_accurate_as_torchs(device):
    inputs = tensors(device, rows=(9,))
    exact = [t.detach().double().requires_grad_(t.requires_grad) for t in inputs]
    for ours, plain, reference in zip(
        second_order(centered_linear, inputs),
        second_order(composed, inputs),
        second_order(composed, exact),
        strict=True,
    ):
        assert_as_accurate_as_torch(ours, plain, reference)


@not_interpreted
def test_it_compiles_in_one_graph_and_under_autocast(device):
    inputs = tensors(device)
    compiled = torch.compile(centered_linear, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), centered_linear(*inputs))
    with torch.autocast(device.type, torch.bfloat16):
        assert centered_linear(*inputs).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("position", "wrong", "message"),
    [
        (2, torch.ones(33, 11), r"x has shape \[70, 12\]; with weight's shape \[33, 11\]"),
        (3, torch.ones(32), r"bias has shape \[32\]; with weight's"),
    ],
)
def test_wrong_shapes_are_named(position, wrong, message):
    inputs = list(tensors("cpu"))
    inputs[position] = wrong
    with pytest.raises(ValueError, match=f"^{message}"):
        centered_linear(*inputs)
