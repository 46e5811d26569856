"""Our float32 product against that of torch's vendor library (MKL, OpenBLAS).

``benchmarks/routes.py`` makes the table from its results by which a layer takes one of them."""

from collections.abc import Callable

import pytest
import torch
from harness import Case, relative_error
from shapes import CROSS_SHAPES, OP_SHAPES
from torch import Tensor

from aefast import backend
from aefast.ops.shared.precision import product_level

SHAPES = [*OP_SHAPES, *(shape for shape in CROSS_SHAPES if shape not in OP_SHAPES)]
BF16_PRODUCTS = torch.backends.cpu.get_cpu_capability().startswith("AVX512")

pytestmark = pytest.mark.skipif(
    backend.select(torch.device("cpu"), torch.float32) != "cpp",
    reason="the C++ kernels do not serve here",
)


def ours(*pairs: Tensor) -> tuple[Tensor, ...]:
    from aefast.ops.shared import cpp

    precision = getattr(backend.extension().Precision, product_level("cpu"))
    lefts, rights = pairs[:3], pairs[3:]
    return tuple(
        cpp.multiply(left, cpp.RightOperand(right, precision))
        for left, right in zip(lefts, rights, strict=True)
    )


def vendors(*pairs: Tensor) -> tuple[Tensor, ...]:
    return tuple(
        torch.mm(left, right.t()) for left, right in zip(pairs[:3], pairs[3:], strict=True)
    )


def operands(batch: int, inputs: int, outputs: int) -> tuple[Tensor, ...]:
    """Left and right operands of a layer's output and of its two gradients' products."""
    x, grad_output = torch.randn(batch, inputs), torch.randn(batch, outputs)
    weight = torch.randn(outputs, inputs) / inputs**0.5
    return x, grad_output, grad_output.t(), weight, weight.t(), x.t()


@pytest.mark.parametrize("device", ["cpu"])
@pytest.mark.parametrize(
    ("batch", "inputs", "outputs", "precision"),
    [
        (*shape[1:], precision)
        for precision in ("highest", "medium")
        for shape in (SHAPES if precision == "highest" else OP_SHAPES)
        if shape[1] > 1 and (precision == "highest" or BF16_PRODUCTS)
    ],
)
def test_three_products(
    compare: Callable[[Case], None],
    matmul_precision: Callable[[str], None],
    batch: int,
    inputs: int,
    outputs: int,
    precision: str,
    device: str,
) -> None:
    matmul_precision(precision)
    compare(
        Case(
            op="product",
            name=f"{batch}x{inputs}->{outputs} {precision}",
            device=device,
            dtype=torch.float32,
            make_inputs=lambda: operands(batch, inputs, outputs),
            ours=ours,
            eager=vendors,
            check=lambda: check(operands(batch, inputs, outputs)),
            compiles=False,
            training=True,
            calls_in_round=max(1, 2**22 // (batch * inputs * outputs)),
        )
    )


def check(inputs: tuple[Tensor, ...]) -> None:
    """Check that each result's error against float64 is at most twice the vendor's."""
    exact = vendors(*(tensor.double() for tensor in inputs))
    for expected, actual, vendor in zip(exact, ours(*inputs), vendors(*inputs), strict=True):
        assert relative_error(actual, expected) <= 2 * relative_error(vendor, expected) + 2**-23
