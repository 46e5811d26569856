"""Linear layer with its activation against what a user would write, and against bare GEMMs."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from harness import Case, Layer, Limit, as_tuple, forward, relative_error
from shapes import MORE_OP_SHAPES
from torch import Tensor

from aefast.functional import linear_act

# The spacing of the numbers next to 1 in the format to which a level may round what it multiplies:
# float32 itself, TensorFloat-32 (11 significant bits), bfloat16 (8).
ROUNDING = {"highest": 2**-23, "high": 2**-10, "medium": 2**-7, "bfloat16": 2**-7}


def ours(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return linear_act(x, weight, bias, "sigmoid")


def eager(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.sigmoid(F.linear(x, weight, bias))


def forward_backward(layer: Layer, *inputs: Tensor) -> tuple[Tensor, ...]:
    """A middle layer's training step: gradients of input, weight and bias, all of them fresh."""
    *arguments, grad_output = inputs
    output = layer(*arguments)
    return output, *torch.autograd.grad(output, arguments, grad_output)


SHAPES = [
    ("cpu", 1024, 784, 512),
    ("cpu", 4096, 784, 1024),
    ("cuda", 4096, 784, 1024),
    ("cuda", 8192, 4096, 4096),
]
PRECISIONS = ["highest", "high", "medium", "bfloat16"]


@pytest.mark.parametrize(
    ("device", "batch", "inputs", "outputs", "precision"),
    [
        *((*shape, precision) for precision in PRECISIONS for shape in SHAPES),
        *((*shape, "highest") for shape in MORE_OP_SHAPES),
    ],
)
def test_forward_backward(
    compare: Callable[[Case], None],
    matmul_precision: Callable[[str], None],
    device: str,
    batch: int,
    inputs: int,
    outputs: int,
    precision: str,
) -> None:
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    if dtype == torch.float32:
        matmul_precision(precision)
    compare(training_case(LayerInputs(device, dtype, batch, inputs, outputs), precision))


def training_case(layer: "LayerInputs", precision: str) -> Case:
    return Case(
        op="linear_act",
        name=f"sigmoid fwd+bwd {layer.batch}x{layer.inputs}->{layer.outputs} {precision}",
        device=layer.options["device"],
        dtype=layer.options["dtype"],
        make_inputs=layer.training,
        ours=ours,
        eager=eager,
        check=lambda: check(forward_backward, layer.training(), precision),
        run=forward_backward,
        limit=layer.three_products(),
    )


@pytest.mark.parametrize(("device", "batch", "inputs", "outputs"), [("cuda", 8192, 4096, 4096)])
def test_forward(
    compare: Callable[[Case], None], device: str, batch: int, inputs: int, outputs: int
) -> None:
    layer = LayerInputs(device, torch.bfloat16, batch, inputs, outputs)
    compare(
        Case(
            op="linear_act",
            name=f"sigmoid fwd {batch}x{inputs}->{outputs} bfloat16",
            device=device,
            dtype=torch.bfloat16,
            make_inputs=layer.inference,
            ours=ours,
            eager=eager,
            check=lambda: check(forward, layer.inference(), "bfloat16"),
            limit=Limit(
                "torch.addmm",
                lambda x, weight, bias: torch.addmm(bias, x, weight.t()),
                work=2 * batch * inputs * outputs,
                unit="TFLOP/s",
            ),
        )
    )


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("training", [False, True], ids=["fwd", "fwd+bwd"])
def test_call_overhead(compare: Callable[[Case], None], device: str, training: bool) -> None:
    layer = LayerInputs(device, torch.float32, 8, 8, 8)
    run = forward_backward if training else forward
    make_inputs = layer.training if training else layer.inference
    compare(
        Case(
            op="linear_act",
            name=f"sigmoid {'fwd+bwd' if training else 'fwd'} 8x8->8",
            device=device,
            dtype=torch.float32,
            make_inputs=make_inputs,
            ours=ours,
            eager=eager,
            check=lambda: check(run, make_inputs(), "highest"),
            run=run,
            calls_in_round=500,
        )
    )


class LayerInputs:
    """The tensors of one layer shape."""

    def __init__(
        self, device: str, dtype: torch.dtype, batch: int, inputs: int, outputs: int
    ) -> None:
        self.options: dict[str, Any] = {"device": device, "dtype": dtype}
        self.batch, self.inputs, self.outputs = batch, inputs, outputs

    def inference(self) -> tuple[Tensor, ...]:
        """Input, weight and bias, scaled so that the sigmoid does not saturate."""
        x = torch.randn(self.batch, self.inputs, **self.options)
        weight = torch.randn(self.outputs, self.inputs, **self.options) / self.inputs**0.5
        return x, weight, torch.randn(self.outputs, **self.options)

    def training(self) -> tuple[Tensor, ...]:
        """Inputs that require gradients, and the gradient that comes in from above."""
        leaves = tuple(tensor.requires_grad_() for tensor in self.inference())
        return *leaves, torch.randn(self.batch, self.outputs, **self.options)

    def three_products(self) -> Limit:
        """The layer's three matrix products alone, into allocated memory."""
        output = torch.empty(self.batch, self.outputs, **self.options)
        grad_x = torch.empty(self.batch, self.inputs, **self.options)
        grad_weight = torch.empty(self.outputs, self.inputs, **self.options)

        def multiply(x: Tensor, weight: Tensor, bias: Tensor, grad_output: Tensor) -> None:
            torch.mm(x, weight.t(), out=output)
            torch.mm(grad_output, weight, out=grad_x)
            torch.mm(grad_output.t(), x, out=grad_weight)

        work = 3 * 2 * self.batch * self.inputs * self.outputs
        return Limit("torch.mm", multiply, work=work, unit="TFLOP/s")


def check(run: Callable[..., object], inputs: tuple[Tensor, ...], precision: str) -> None:
    """Every result's error against float64 is at most twice torch's own, or its format's rounding.

    Errors are relative, in the Frobenius norm.
    """
    exact = tuple(tensor.detach().double() for tensor in inputs)
    if run is forward_backward:
        exact = (*(tensor.requires_grad_() for tensor in exact[:3]), exact[3])
    expected_tensors = as_tuple(run(eager, *exact))
    names = ("output", "gradient of x", "gradient of weight", "gradient of bias")
    results = zip(
        names,
        expected_tensors,
        as_tuple(run(ours, *inputs)),
        as_tuple(run(eager, *inputs)),
        strict=False,
    )
    for name, expected, actual, torch_actual in results:
        error = relative_error(actual, expected)
        allowed = max(2 * relative_error(torch_actual, expected), ROUNDING[precision])
        assert error <= allowed, f"{name}: error {error:.2e}, allowed {allowed:.2e}"
