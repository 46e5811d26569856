"""Under autocast, as people train: the fused kernels serve, as exact as PyTorch's own run."""

import pytest
import torch
import torch.nn.functional as F

from aefast import backend, use_backend
from aefast.functional import (
    contractive_penalty,
    contrastive_divergence,
    linear_act,
    reconstruction_loss,
    tangents,
)
from aefast.ops.reconstruction import op as reconstruction_op
from aefast.ops.shared import precision
from tests.backends import not_interpreted

DTYPES = [torch.bfloat16, torch.float16]


def parameters(device, *shapes):
    """Normal, of the size that keeps a layer's output near 1; the same for every device."""
    tensors = [torch.randn(shape, dtype=torch.float64) / shape[-1] ** 0.5 for shape in shapes]
    return [tensor.float().to(device).requires_grad_() for tensor in tensors]


def with_gradients(call, tensors):
    loss = call(*tensors)
    return [loss, *torch.autograd.grad(loss, tensors)]


def error(actual, exact):
    return max(
        float((a.double() - b).norm() / b.norm()) for a, b in zip(actual, exact, strict=True)
    )


def check_as_exact_as_torch(op, definition, tensors, dtype):
    """Float32 loss and gradients, each at most 1.5 times as far off as the farthest of torch's."""
    device = tensors[0].device.type
    doubled = [tensor.detach().double().requires_grad_() for tensor in tensors]
    exact = with_gradients(definition, doubled)
    with torch.autocast(device, dtype):
        actual, torchs = with_gradients(op, tensors), with_gradients(definition, tensors)
    assert {tensor.dtype for tensor in actual} == {torch.float32}
    assert error(actual, exact) <= 1.5 * error(torchs, exact)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reconstruction", ["mse", "bce"])
def test_a_reconstruction_loss(kernel_device, dtype, reconstruction, monkeypatch):
    ran = []
    run = reconstruction_op._run
    monkeypatch.setattr(reconstruction_op, "_run", lambda *a: (ran.append(1), run(*a))[1])
    output_activation, compare = "identity", F.mse_loss
    if reconstruction == "bce":
        output_activation, compare = "sigmoid", F.binary_cross_entropy_with_logits

    def op(x, *layers):
        return reconstruction_loss(
            x, *layers, reconstruction=reconstruction, output_activation=output_activation
        )

    def definition(x, encoder, bias, decoder, decoder_bias):
        code = torch.sigmoid(F.linear(x, encoder, bias))
        return compare(F.linear(code, decoder, decoder_bias), x)

    x = torch.rand(20, 24).to(kernel_device).requires_grad_()
    layers = parameters(kernel_device, (10, 24), (10,), (24, 10), (24,))
    check_as_exact_as_torch(op, definition, [x, *layers], dtype)
    assert ran


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("widths", [(24, 10), (24, 10, 6)])
def test_a_contractive_penalty(kernel_device, dtype, widths):
    def definition(*weights):
        with use_backend("eager"):
            return contractive_penalty(x.to(weights[0].dtype), weights, None).mean()

    x = torch.rand(20, 24).to(kernel_device)
    weights = parameters(kernel_device, *zip(widths[1:], widths[:-1], strict=True))
    check_as_exact_as_torch(
        lambda *weights: contractive_penalty(x, weights, None).mean(), definition, weights, dtype
    )


def test_parameters_of_several_dtypes_get_gradients_of_their_own(kernel_device):
    x = torch.rand(20, 24, dtype=torch.bfloat16).to(kernel_device).requires_grad_()
    encoder, decoder = parameters(kernel_device, (10, 24), (24, 10))
    with torch.autocast(kernel_device.type, torch.bfloat16):
        loss = reconstruction_loss(x, encoder, None, decoder)
    loss.backward()
    assert loss.dtype == encoder.grad.dtype == decoder.grad.dtype == torch.float32
    assert x.grad.dtype == torch.bfloat16


def test_contrastive_divergence_keeps_float32(kernel_device):
    """States are drawn, and energies differ by less than a half precision tells."""
    x = (torch.rand(6, 24) < 0.5).float().to(kernel_device)
    (weight,) = parameters(kernel_device, (10, 24))
    plain = contrastive_divergence(x, weight, None, None, seed=1)
    with torch.autocast(kernel_device.type, torch.bfloat16):
        actual = contrastive_divergence(x, weight, None, None, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(actual, plain, strict=True))


@pytest.mark.parametrize(("dtype", "level"), [(torch.bfloat16, "medium"), (torch.float16, "high")])
def test_float32_products_are_as_exact_as_autocasts(dtype, level):
    with torch.autocast("cpu", dtype), precision.instead_of_autocast("cpu", dtype):
        assert precision.product_level("cpu") == level
        assert torch.ones(2, 2).mm(torch.ones(2, 2)).dtype == torch.float32
    assert precision.product_level("cpu") == "highest"


@pytest.mark.parametrize(
    ("units", "isa", "serves"),
    [(False, "avx2", True), (True, "avx512", False), (True, "amx", True)],
)
def test_where_vector_units_multiply_bfloat16_pytorch_serves(units, isa, serves, monkeypatch):
    monkeypatch.setattr(precision, "has_avx512_bf16", lambda: units)
    monkeypatch.setattr(backend, "cpu_isa", lambda: isa)
    assert precision.outpaces_autocast("cpu") == serves


def test_a_backward_pass_under_autocast_keeps_forwards_dtypes(kernel_device):
    x, weight, decoder = parameters(kernel_device, (20, 24), (10, 24), (24, 10))
    for op in (
        lambda: linear_act(x, weight, None, "gelu").square().sum(),
        lambda: contractive_penalty(x, weight, None).sum(),
        lambda: reconstruction_loss(x, weight, None, decoder),
    ):
        expected = torch.autograd.grad(op(), weight)[0]
        loss = op()
        with torch.autocast(kernel_device.type, torch.bfloat16):
            (actual,) = torch.autograd.grad(loss, weight)
        torch.testing.assert_close(actual, expected)


@not_interpreted
def test_tangents_are_float32s(kernel_device):
    x, weight = parameters(kernel_device, (3, 8), (5, 8))
    plain = tangents(x, weight, None, n=2)
    with torch.autocast(kernel_device.type, torch.bfloat16):
        actual = tangents(x, weight, None, n=2)
    torch.testing.assert_close(actual.values, plain.values)


def test_an_exported_graph_keeps_its_dtypes(kernel_device):
    class Ops(torch.nn.Module):
        def forward(self, x, weight):
            return (
                linear_act(x, weight, None, "gelu"),
                reconstruction_loss(x, weight, None),
                contractive_penalty(x, weight, None),
                contrastive_divergence(x, weight, None, None, seed=1)[0],
            )

    x, weight = (
        (torch.rand(6, 4) < 0.5).float().to(kernel_device),
        torch.rand(5, 4).to(kernel_device),
    )
    graph = torch.export.export(Ops(), (x, weight)).module()
    plain = graph(x, weight)
    with torch.autocast(kernel_device.type, torch.bfloat16):
        actual = graph(x, weight)
    assert all(torch.equal(a, b) for a, b in zip(actual, plain, strict=True))
