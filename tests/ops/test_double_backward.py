"""A second backward pass whose result is zero gives zeros, as torch's own operators do."""

import pytest
import torch

from aefast import functional as F
from aefast import use_backend

LAYER = (4, 3), (2, 3), (2,)

# The shapes of the inputs, and the op.
OPS = {
    "relu": (LAYER, lambda *tensors: F.linear_act(*tensors, "relu")),
    "leaky_relu": (LAYER, lambda *tensors: F.linear_act(*tensors, "leaky_relu")),
    "mlp": (
        (*LAYER[:2], (2, 2)),
        lambda x, *weights: F.mlp(x, weights, [None] * 2, ["relu", "leaky_relu"]),
    ),
    "autoencode": (LAYER, lambda *tensors: F.autoencode(*tensors, activation="relu")[0]),
    "reconstruction_loss": (
        LAYER,
        lambda *tensors: F.reconstruction_loss(*tensors, activation="relu"),
    ),
    "contractive_penalty": (LAYER, lambda *t: F.contractive_penalty(*t, "relu")),
    "deep penalty": (
        (*LAYER[:2], (2, 2)),
        lambda x, *weights: F.contractive_penalty(x, weights, None, "relu"),
    ),
    "penalty and code": (
        LAYER,
        lambda *t: torch.cat(F.contractive_penalty(*t, "relu", return_code=True)[1:]),
    ),
    "soft_threshold": ([(4, 3)], lambda x: F.soft_threshold(x, 0.1)),
    "soft_threshold of a number": ([()], lambda x: F.soft_threshold(x, 0.1)),
    "l1_sparsity": ([(4, 3)], F.l1_sparsity),
}


def twice(device, op):
    """By every input, the squared gradient by every input; None where torch raises."""
    torch.manual_seed(0)
    shapes, call = OPS[op]
    tensors = [torch.randn(shape).to(device).requires_grad_() for shape in shapes]
    results = []
    for first in tensors:
        (gradient,) = torch.autograd.grad(
            call(*tensors).sum(), first, create_graph=True, allow_unused=True
        )
        if gradient is None or not gradient.requires_grad:
            results += [None] * len(tensors)
            continue
        total = gradient.square().sum()
        results += torch.autograd.grad(total, tensors, allow_unused=True)
    return results


@pytest.mark.interpreted(op=["relu", "deep penalty", "soft_threshold"])
@pytest.mark.parametrize("op", OPS)
def test_what_torch_gives_zeros_for_every_backend_does(kernel_device, op):
    actual = twice(kernel_device, op)
    with use_backend("eager"):
        expected = twice(kernel_device, op)
    assert any(gradient is not None for gradient in expected)
    for kernel, defined in zip(actual, expected, strict=True):
        if defined is not None:
            torch.testing.assert_close(kernel, defined, rtol=1e-4, atol=1e-5)


def test_an_input_of_infinity_has_a_gradient_of_zero(kernel_device):
    x = torch.tensor([[torch.inf, 1.0]], device=kernel_device, requires_grad=True)
    (gradient,) = torch.autograd.grad(F.soft_threshold(x, 0.1).sum(), x, create_graph=True)
    gradient.square().sum().backward()
    assert torch.equal(gradient, torch.ones_like(x))
    assert torch.equal(x.grad, torch.zeros_like(x))
