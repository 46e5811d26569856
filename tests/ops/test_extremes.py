"""Where the definition is finite, every backend is: weights whose squares leave float32's range."""

import pytest
import torch

from aefast import use_backend
from aefast.functional import contractive_penalty, reconstruction_loss
from tests.backends import is_interpreted

# The widths of the layers on 3 inputs; the last pushes columns, the others pull rows.
KINDS = {
    "one layer": ((4,), {}),
    "one layer estimated": ((4,), {"method": "hutchinson", "probes": 2}),
    "deep": ((4, 2), {}),
    "deep and wide": ((5, 6, 9), {}),
    "second order": ((4,), {"hessian_noise": 1.0}),
    "deep, estimated, second order": (
        (4, 2),
        {"method": "hutchinson", "probes": 2, "hessian_noise": 1.0},
    ),
}
# Of the first weight, and of the others.
SCALES = [(1e20, 1), (1, 1e20), (1e20, 1e-20), (1e-20, 1e20), (1e-25, 1e10)]


def results(device, activation, widths, scales, options):
    """Penalty, code, and the gradients of a small part of the penalty, and of the code alone."""
    torch.manual_seed(0)
    x = torch.randn(3, 3).to(device)
    weights, width = [], 3
    for index, units in enumerate(widths):
        weights.append((torch.randn(units, width) * scales[min(index, 1)]).to(device))
        width = units
    for weight in weights:
        weight.requires_grad_()
    penalty, code = contractive_penalty(
        x, weights, None, activation, return_code=True, seed=1, **options
    )
    gradients = [
        gradient
        for total in (1e-10 * penalty.sum(), code.sum())
        for gradient in torch.autograd.grad(
            total, weights, retain_graph=True, materialize_grads=True
        )
    ]
    return penalty.detach(), code.detach(), *gradients


@pytest.mark.interpreted(activation=["sigmoid"], kind=["one layer estimated", "deep"])
@pytest.mark.interpreted(activation=["relu"], kind=["one layer"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("activation", ["sigmoid", "relu", "gelu", "identity"])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numba's overflows
def test_a_penalty_is_finite_where_the_definition_is(kernel_device, activation, kind):
    widths, options = KINDS[kind]
    for scales in SCALES[:1] if is_interpreted(kernel_device) else SCALES:
        actual = results(kernel_device, activation, widths, scales, options)
        with use_backend("eager"):
            expected = results(kernel_device, activation, widths, scales, options)
        for kernel, defined in zip(actual, expected, strict=True):
            finite = defined.isfinite()
            largest = defined[finite].abs().max().item() if finite.any() else 0.0
            # Their sums have four terms or fewer, in another order.
            torch.testing.assert_close(
                kernel[finite], defined[finite], rtol=1e-4, atol=1e-5 * largest
            )


@pytest.mark.parametrize("activation", ["identity", "relu"])
def test_a_contracted_loss_of_no_curvature_has_the_definitions_gradients(kernel_device, activation):
    x = torch.randn(5, 3, device=kernel_device) * 1e-20
    weight = torch.randn(4, 3, device=kernel_device) * 1e20

    def gradient(contraction):
        leaf = weight.clone().requires_grad_()
        loss = reconstruction_loss(
            x, leaf, None, 1e-20 * weight.t(), activation=activation, contraction=contraction
        )
        return torch.autograd.grad(loss, leaf)[0]

    actual = gradient(1e-20)
    with use_backend("eager"):
        expected = gradient(1e-20)
    assert expected.isfinite().all()
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=0)
