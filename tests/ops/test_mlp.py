"""Stacks of layers: every backend against the definition, layer by layer."""

import itertools

import pytest
import torch

from aefast.functional import mlp
from aefast.ops.linear_act import eager
from tests.accuracy import assert_as_accurate_as_torch
from tests.backends import not_interpreted

ACTIVATIONS = ["relu", "gelu", "identity"]


def stack(device, batch=9, widths=(7, 12, 5, 3), dtype=torch.float32):
    """x, weights and biases, leaves; the second layer has no bias."""
    x = torch.rand(batch, widths[0], device=device, dtype=dtype, requires_grad=True)
    weights = [
        (torch.randn(after, before, device=device, dtype=dtype) / before**0.5).requires_grad_()
        for before, after in itertools.pairwise(widths)
    ]
    biases = [torch.randn(w, device=device, dtype=dtype, requires_grad=True) for w in widths[1:]]
    biases[1] = None
    return x, weights, biases


def definition(x, weights, biases, activations):
    for layer in zip(weights, biases, activations, strict=True):
        x = eager.linear_act(x, *layer)
    return x


def results(function, x, weights, biases):
    output = function(x, weights, biases, ACTIVATIONS)
    leaves = [x, *weights, *(bias for bias in biases if bias is not None)]
    return output, *torch.autograd.grad(output.square().sum(), leaves)


def test_output_and_gradients_are_as_accurate_as_torchs(kernel_device):
    x, weights, biases = stack(kernel_device)
    doubles = [
        [None if t is None else t.detach().double().requires_grad_() for t in tensors]
        for tensors in ([x], weights, biases)
    ]
    reference = results(definition, doubles[0][0], *doubles[1:])
    actual, same_dtype = results(mlp, x, weights, biases), results(definition, x, weights, biases)
    for kernel, torch_result, exact in zip(actual, same_dtype, reference, strict=True):
        assert_as_accurate_as_torch(kernel, torch_result, exact)


@pytest.mark.parametrize("leading", [(), (2, 3), (0,)])
@not_interpreted
def test_any_leading_dimensions(device, leading):
    _, weights, biases = stack(device)
    x = torch.randn(*leading, 7, device=device)
    expected = definition(x, weights, biases, ACTIVATIONS)
    torch.testing.assert_close(mlp(x, weights, biases, ACTIVATIONS), expected)


def test_every_step_sees_the_updated_weights(kernel_device):
    """However the update is made, in place or behind autograd's back."""
    x, weights, biases = stack(kernel_device)
    with torch.no_grad():
        for update in (
            lambda w: w.mul_(1.5),
            lambda w: w.data.add_(0.25),
            lambda w: setattr(w, "data", w.data * 2),
            lambda w: w.detach().cpu().numpy().__imul__(0.5) if not w.is_cuda else w.mul_(0.5),
        ):
            for _ in range(3):
                mlp(x, weights, biases, ACTIVATIONS)
            update(weights[1])
            expected = definition(x, weights, biases, ACTIVATIONS)
            torch.testing.assert_close(mlp(x, weights, biases, ACTIVATIONS), expected)


def test_parameter_lists_and_compiled_stacks():
    x, weights, _ = stack("cpu")
    weights = torch.nn.ParameterList(weights)
    biases = torch.nn.ParameterList(torch.randn(w.shape[0]) for w in weights)
    expected = definition(x, weights, biases, ACTIVATIONS)
    torch.testing.assert_close(mlp(x, weights, biases, ACTIVATIONS), expected)
    torch.compiler.reset()
    compiled = torch.compile(mlp, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, weights, biases, ACTIVATIONS), expected)


@not_interpreted
def test_autocast_casts_each_layer(device):
    x, weights, biases = stack(device)
    with torch.autocast(device.type, torch.bfloat16):
        actual = mlp(x, weights, biases, ACTIVATIONS)
        expected = definition(x, weights, biases, ACTIVATIONS)
    assert actual.dtype == torch.bfloat16
    torch.testing.assert_close(actual, expected, atol=2e-2, rtol=2e-2)  # three roundings


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": 1.0}, TypeError, "x is a float; it takes a torch.Tensor"),
        (
            {"weights": torch.ones(3, 7)},
            TypeError,
            "weights is a Tensor; it takes one entry a layer",
        ),
        ({"biases": None}, TypeError, "biases is a NoneType; it takes one entry a layer"),
        ({"activations": "relu"}, TypeError, "activations is a str; it takes one entry a layer"),
        (
            {"activations": ["relu"]},
            ValueError,
            "weights, biases and activations have 2, 2 and 1 entries; they take one for each layer",
        ),
        ({"weights": [], "biases": [], "activations": []}, ValueError, "at least one layer"),
        (
            {"weights": [torch.ones(5, 7), torch.ones(3, 4)]},
            ValueError,
            r"weights\[1\] has shape \[3, 4\]; "
            r"with weights\[0\]'s shape \[5, 7\] it takes \[H, 5\]",
        ),
        (
            {"weights": [torch.ones(5, 6), torch.ones(3, 5)]},
            ValueError,
            r"weights\[0\] has shape \[5, 6\]; with x's shape \[2, 7\] it takes \[H, 7\]",
        ),
        ({"x": torch.tensor(1.0)}, ValueError, r"with x's shape \[\] it takes \[H, D\]"),
        ({"weights": [torch.ones(5, 7), None]}, TypeError, r"weights\[1\] is a NoneType"),
        (
            {"weights": [torch.ones(5, 7), torch.ones(3, 5).double()]},
            TypeError,
            r"weights\[1\] has dtype float64; it takes x's, float32",
        ),
        (
            {"biases": [None, torch.ones(5)]},
            ValueError,
            r"biases\[1\] has shape \[5\]; with weights\[1\]'s shape \[3, 5\] it takes \[3\]",
        ),
        (
            {"activations": ["relu", "swish"]},
            ValueError,
            r"activations\[1\] is 'swish'; it takes one of identity",
        ),
    ],
)
def test_bad_input_names_the_layer(change, error, message):
    arguments = {
        "x": torch.ones(2, 7),
        "weights": [torch.ones(5, 7), torch.ones(3, 5)],
        "biases": [torch.ones(5), None],
        "activations": ["relu", "identity"],
    }
    with pytest.raises(error, match=message):
        mlp(**arguments | change)
