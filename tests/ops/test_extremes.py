"""Where the definition is finite, every backend is: weights whose squares leave float32's range."""

import math

import pytest
import torch

from aefast import use_backend
from aefast.functional import contractive_penalty, reconstruction_loss
from aefast.nn import ContractiveAutoencoder
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


def contractions(x, weight, bias, activation, scale):
    """A penalty, one of second order, and a model's loss, each with its gradients."""
    inputs = [tensor.clone().requires_grad_() for tensor in (x, weight, bias)]
    for options in ({}, {"hessian_noise": 0.01 / scale, "seed": 1}):
        penalty = contractive_penalty(*inputs, activation, **options)
        yield penalty.detach()
        yield from torch.autograd.grad(penalty.sum(), inputs, materialize_grads=True)
    model = ContractiveAutoencoder(3, 4, contraction=0.1, activation=activation).to(x)
    parameters = list(model.parameters())
    with torch.no_grad():
        for parameter, value in zip(parameters, (weight, bias, weight.t() / scale), strict=False):
            parameter.copy_(value)
        parameters[-1].zero_()
    loss = model.loss(x)
    yield loss.detach()
    yield from torch.autograd.grad(loss, parameters)


@pytest.mark.interpreted(activation=["softplus"])
@pytest.mark.parametrize(
    ("activation", "scale", "shift"),
    [
        ("sigmoid", 1e20, 200.0),  # slopes of exactly 0
        ("relu", 1e25, -9.0),
        ("sigmoid", 1e22, -45.0),  # slopes so small that their products with the rows are finite
        ("softplus", 1e30, -69.0),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter's overflows
def test_rows_whose_squares_overflow_count_by_their_slopes(device, activation, scale, shift):
    weight = torch.rand(4, 3) * scale
    weight[1] = torch.randn(3)
    bias = torch.tensor([shift, 0.3, shift, shift])
    arguments = [tensor.to(device) for tensor in (torch.rand(5, 3) / scale, weight, bias)]
    results = list(contractions(*arguments, activation, scale))
    with use_backend("eager"):
        exact = list(contractions(*map(torch.Tensor.double, arguments), activation, scale))
    for actual, expected in zip(results, exact, strict=True):
        error = (actual.double() - expected).abs().max()
        assert error <= 2e-5 * expected.abs().max() + torch.finfo(torch.float32).tiny


def test_in_float64_too():
    weight = torch.full((2, 2), 1e160, dtype=torch.float64)
    bias = torch.tensor([900.0, -368.0], dtype=torch.float64)
    penalty = contractive_penalty(torch.zeros(1, 2, dtype=torch.float64), weight, bias)
    expected = 2 * (1e160 * math.exp(-368)) ** 2
    torch.testing.assert_close(penalty.item(), expected, rtol=1e-12, atol=0)


@pytest.mark.interpreted
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numba's and the interpreter's overflows
def test_a_small_incoming_gradient_keeps_gradients_finite(kernel_device, reduction):
    """Where the loss's own are not, which a kernel makes along with it."""
    x = torch.randn(5, 3, device=kernel_device)
    weights = [torch.randn(4, 3), 1e25 * torch.randn(3, 4)]
    weights = [weight.to(kernel_device).requires_grad_() for weight in weights]

    def gradients(factor):
        loss = reconstruction_loss(x, weights[0], None, weights[1], reduction=reduction)
        return torch.autograd.grad(factor * loss, weights)

    if kernel_device.type == "cpu":  # a GPU is not asked whether they are
        assert not all(gradient.isfinite().all() for gradient in gradients(1))
        actual = gradients(1e-20)
        with use_backend("eager"):
            expected = gradients(1e-20)
        for kernel, defined in zip(actual, expected, strict=True):
            assert defined.isfinite().all()
            largest = defined.abs().max().item()
            torch.testing.assert_close(kernel, defined, rtol=1e-4, atol=1e-5 * largest)


@pytest.mark.interpreted
@pytest.mark.parametrize("contraction", [0.0, 1e-3])
@pytest.mark.parametrize("is_differentiated_again", [False, True])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_no_gradient_passes_a_relu_that_is_off(device, contraction, is_differentiated_again):
    """As torch has it: not even one that is NaN, where a slope of 0 times it would be."""
    x = torch.rand(5, 3, device=device)
    weight = torch.ones(4, 3, device=device)
    weight[:2] = -1.0
    decoder = torch.full((3, 4), 1e30, device=device)
    weight.requires_grad_()
    target = torch.full_like(x, float("nan"))
    loss = reconstruction_loss(
        x, weight, None, decoder, activation="relu", target=target, contraction=contraction
    )
    gradient = torch.autograd.grad(loss, weight, create_graph=is_differentiated_again)[0]
    assert gradient.isnan().all(1).tolist() == [False, False, True, True]
    assert (gradient[:2] == 0).all()
