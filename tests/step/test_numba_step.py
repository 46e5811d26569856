"""The training step by numba's kernels and torch's products, against its definition."""

import pytest
import torch

from aefast import backend, nn
from aefast.nn.step_plan import plan_of
from aefast.step import eager
from tests.accuracy import assert_as_accurate_as_torch_on_average
from tests.step.test_step import ACTIVATIONS, MODELS

numba = pytest.importorskip("aefast.step.numba")

LEFT_TO_OPS = [
    *("kl", "kl dropout", "l1", "stochastic gaussian", "variational linear", "variational units"),
    *(name for name in MODELS if name.startswith("contractive")),
]
SERVED = {name: make for name, make in MODELS.items() if name not in LEFT_TO_OPS} | {
    f"{kind} {name}": lambda d, h, name=name, is_tied=kind == "tied": nn.Autoencoder(
        d, h, activation=name, output_activation=name, tied=is_tied
    )
    for kind in ("of", "tied")
    for name in ACTIVATIONS
}


@pytest.fixture(autouse=True)
def on_numba():
    with backend.use_backend("numba"):
        yield


@pytest.fixture(params=["numba's products", "torch's products"])
def products(request, monkeypatch):
    if request.param == "torch's products":
        monkeypatch.setattr(numba, "MOST_PRODUCTS", 0)


def is_in_one_call(loss):
    return type(loss.grad_fn).__name__ == "StepLossBackward"


def without_biases(model):
    for layer in (*model.encoder, *model.decoder):
        layer.bias = None
    return model


@pytest.mark.parametrize("name", [*SERVED, "no biases"])
@pytest.mark.parametrize(("rows", "visible", "hidden"), [(37, 20, 7), (1, 1, 1), (3, 1, 2)])
def test_the_loss_and_its_gradients_are_as_accurate_as_the_definition(
    name, rows, visible, hidden, products
):
    make = SERVED.get(name, lambda d, h: without_biases(nn.Autoencoder(d, h)))
    model, x = make(visible, hidden), torch.rand(rows, visible)
    plan, parameters, _ = plan_of(model)
    loss = model.loss(x, seed=5, row_offset=3)
    assert is_in_one_call(loss)
    actual = [loss, *torch.autograd.grad(loss, parameters)]
    expected, exact = [], []
    for dtype, results in ((torch.float32, expected), (torch.float64, exact)):
        leaves = [p.detach().to(dtype).requires_grad_() for p in parameters]
        loss = eager.loss(plan, leaves, x.to(dtype), 5, 3)
        results.extend([loss, *torch.autograd.grad(loss, leaves)])
    for ours, theirs, exact_number in zip(actual, expected, exact, strict=True):
        assert_as_accurate_as_torch_on_average(ours, theirs, exact_number)


@pytest.mark.parametrize("name", ["plain", "deep tied", "masking", "dropout", "variational"])
def test_the_gradient_is_differentiable(name, products):
    model, x = MODELS[name](6, 3), torch.rand(5, 6)

    def penalty(model, x):
        loss = model.loss(x, seed=1)
        gradients = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
        return sum(gradient.square().sum() for gradient in gradients)

    second = torch.autograd.grad(penalty(model, x), list(model.parameters()))
    with backend.use_backend("eager"):
        model, x = model.double(), x.double()
        exact = torch.autograd.grad(penalty(model, x), list(model.parameters()))
    for a, b in zip(second, exact, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-3, atol=1e-5)


def test_a_second_backward_pass_takes_the_kernels_of_the_first():
    model, x = MODELS["masking"](20, 7), torch.rand(8, 20)
    parameters = list(model.parameters())
    loss = 3 * model.loss(x, seed=1)
    once = torch.autograd.grad(loss, parameters, retain_graph=True)
    with backend.use_backend("eager"):
        again = torch.autograd.grad(loss, parameters)
    assert all(map(torch.equal, once, again))


@pytest.mark.parametrize("name", LEFT_TO_OPS)
def test_what_the_kernels_do_not_know_is_left_to_the_ops(name):
    assert not is_in_one_call(MODELS[name](20, 7).loss(torch.rand(37, 20)))


def test_large_batches_and_losses_without_gradients_are_left_to_the_ops(monkeypatch):
    model, x = MODELS["plain"](20, 7), torch.rand(37, 20)
    with torch.no_grad():
        assert not model.loss(x).requires_grad
        assert "without gradients" in numba.refusal(plan_of(model).plan, 37)
    monkeypatch.setattr(numba, "MOST_ELEMENTS", 37 * 20 - 1)
    assert not is_in_one_call(model.loss(x))
    assert is_in_one_call(model.loss(x[1:]))
