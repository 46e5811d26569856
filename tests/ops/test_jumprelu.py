"""Codes whose latents each have a threshold: values, and the gradients that are estimated."""

import pytest
import torch

from aefast.functional import jumprelu_encode
from tests.backends import not_interpreted


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
