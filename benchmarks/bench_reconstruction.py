"""An autoencoder's training step, from the input to the gradients, against what a user writes."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from harness import Case, Layer, Limit, as_tuple, relative_error
from samples import samples
from shapes import MORE_OP_SHAPES
from shapes import OP_SHAPES as CPU_SHAPES
from torch import Tensor

from aefast.functional import autoencode, corrupt, mlp, reconstruction_loss

LEVEL = 0.3
# As in bench_linear_act: the spacing of the numbers next to 1 in what a level rounds factors to.
ROUNDING = {"highest": 2**-23, "high": 2**-10, "medium": 2**-7, "bfloat16": 2**-7}

GPU_SHAPES = [("cuda", 16384, 784, 1024), ("cuda", 16384, 4096, 1024)]
DEEP_WIDTHS = (784, 512, 256, 64, 256, 512, 784)
DEEP_ACTIVATIONS = ["relu", "relu", "identity", "relu", "relu", "sigmoid"]


def ours(x: Tensor, *parameters: Tensor) -> Tensor:
    return reconstruction_loss(x, *parameters)


def eager(x: Tensor, *parameters: Tensor) -> Tensor:
    return compared(x, x, *parameters)


def ours_denoising(x: Tensor, *parameters: Tensor, seed: int | None = None) -> Tensor:
    return reconstruction_loss(
        x, *parameters, corruption="masking", corruption_level=LEVEL, seed=seed
    )


def eager_denoising(x: Tensor, *parameters: Tensor) -> Tensor:
    return compared(x * (torch.rand_like(x) > LEVEL), x, *parameters)


def compared(
    corrupted: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    decoder_weight: Tensor,
    decoder_bias: Tensor,
) -> Tensor:
    code = torch.sigmoid(F.linear(corrupted, weight, bias))
    return F.mse_loss(F.linear(code, decoder_weight, decoder_bias), x)


def ours_deep(x: Tensor, *parameters: Tensor) -> Tensor:
    return mlp(x, parameters[0::2], parameters[1::2], DEEP_ACTIVATIONS)


def eager_deep(x: Tensor, *parameters: Tensor) -> Tensor:
    functions = {"relu": torch.relu, "sigmoid": torch.sigmoid, "identity": lambda z: z}
    for weight, bias, activation in zip(
        parameters[0::2], parameters[1::2], DEEP_ACTIVATIONS, strict=True
    ):
        x = functions[activation](F.linear(x, weight, bias))
    return x


def forward(layer: Layer, *inputs: Tensor) -> Tensor:
    """The loss in evaluation, without gradients."""
    with torch.no_grad():
        return layer(*inputs)


def forward_backward(layer: Layer, *inputs: Tensor) -> tuple[Tensor, ...]:
    """A training step up to the optimizer: fresh gradients of every parameter."""
    loss = layer(*inputs).mean()
    return loss, *torch.autograd.grad(loss, inputs[1:])


RUNS = {"fwd": forward, "fwd+bwd": forward_backward}


@pytest.mark.parametrize(
    ("device", "batch", "visible", "hidden", "precision", "run"),
    [
        (*shape, precision, run)
        for shapes, precisions, runs in (
            (CPU_SHAPES, ("highest",), RUNS),
            (CPU_SHAPES, ("high", "medium"), ("fwd+bwd",)),
            (MORE_OP_SHAPES, ("highest",), ("fwd+bwd",)),
            (GPU_SHAPES, ("highest", "high"), ("fwd+bwd",)),
            (GPU_SHAPES, ("high",), ("fwd",)),
        )
        for shape, precision, run in itertools.product(shapes, precisions, runs)
    ],
)
def test_reconstruction_loss(
    compare: Callable[[Case], None],
    matmul_precision: Callable[[str], None],
    device: str,
    batch: int,
    visible: int,
    hidden: int,
    precision: str,
    run: str,
) -> None:
    matmul_precision(precision)
    inputs = Autoencoder(device, torch.float32, batch, (visible, hidden, visible))
    compare(case(inputs, run, precision, ours, eager))


@pytest.mark.parametrize(("device", "batch", "visible", "hidden"), GPU_SHAPES)
@pytest.mark.parametrize("run", RUNS)
def test_reconstruction_loss_in_bfloat16(
    compare: Callable[[Case], None], device: str, batch: int, visible: int, hidden: int, run: str
) -> None:
    inputs = Autoencoder(device, torch.bfloat16, batch, (visible, hidden, visible))
    compare(case(inputs, run, "bfloat16", ours, eager))


@pytest.mark.parametrize(("device", "batch", "visible", "hidden"), CPU_SHAPES + GPU_SHAPES)
def test_denoising(
    compare: Callable[[Case], None], device: str, batch: int, visible: int, hidden: int
) -> None:
    inputs = Autoencoder(device, torch.float32, batch, (visible, hidden, visible))

    def masked(x: Tensor) -> Tensor:
        return corrupt(x.float(), "masking", LEVEL, seed=7)

    seeded = (  # the noise that is timed is drawn anew in each call
        lambda x, *parameters: ours_denoising(x, *parameters, seed=7),
        lambda x, *parameters: compared(masked(x).to(x), x, *parameters),
    )
    compare(
        case(inputs, "fwd+bwd", "highest masking", ours_denoising, eager_denoising, checked=seeded)
    )


@pytest.mark.parametrize(("device", "batch"), [("cpu", 128), ("cpu", 1024), ("cuda", 16384)])
@pytest.mark.parametrize("run", RUNS)
def test_deep_stack(compare: Callable[[Case], None], device: str, batch: int, run: str) -> None:
    inputs = Autoencoder(device, torch.float32, batch, DEEP_WIDTHS)
    compare(case(inputs, run, "highest", ours_deep, eager_deep))


def our_pair(x: Tensor, *parameters: Tensor) -> Tensor:
    reconstruction, code = autoencode(x, *parameters)
    return reconstruction.square().mean() + code.mean()


def plain_pair(
    x: Tensor, weight: Tensor, bias: Tensor, decoder_weight: Tensor, decoder_bias: Tensor
) -> Tensor:
    code = torch.sigmoid(F.linear(x, weight, bias))
    return F.linear(code, decoder_weight, decoder_bias).square().mean() + code.mean()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("run", RUNS)
def test_autoencode(compare: Callable[[Case], None], device: str, run: str) -> None:
    """The reconstruction and the code, which a loss of one's own takes."""
    inputs = Autoencoder(device, torch.float32, 1024, (784, 512, 784))
    compare(replace(case(inputs, run, "highest", our_pair, plain_pair), op="autoencode"))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("run", RUNS)
def test_call_overhead(compare: Callable[[Case], None], device: str, run: str) -> None:
    inputs = Autoencoder(device, torch.float32, 8, (8, 8, 8))
    compare(case(inputs, run, "highest", ours, eager, calls_in_round=500))


def case(
    inputs: "Autoencoder",
    run: str,
    setting: str,
    ours: Layer,
    eager: Layer,
    checked: tuple[Layer, Layer] | None = None,
    calls_in_round: int = 1,
) -> Case:
    """One line of the table; ``setting`` begins with the precision."""
    widths = "-".join(str(width) for width in inputs.widths)
    contenders = checked or (ours, eager)
    return Case(
        op="mlp" if ours is ours_deep else "reconstruction_loss",
        name=f"{run} {inputs.batch}x{widths} {setting}",
        device=inputs.device,
        dtype=inputs.dtype,
        make_inputs=inputs,
        ours=ours,
        eager=eager,
        check=lambda: check(RUNS[run], inputs(), ROUNDING[setting.split()[0]], *contenders),
        run=RUNS[run],
        limit=None if calls_in_round > 1 else inputs.products(run),
        calls_in_round=calls_in_round,
    )


class Autoencoder:
    """The tensors of one stack: x, then the weight and bias of each layer."""

    def __init__(
        self, device: str, dtype: torch.dtype, batch: int, widths: tuple[int, ...]
    ) -> None:
        self.device, self.dtype, self.batch, self.widths = device, dtype, batch, widths

    def __call__(self) -> tuple[Tensor, ...]:
        """Weights are scaled so that the sigmoid does not saturate."""
        options: dict[str, Any] = {"device": self.device, "dtype": self.dtype}
        tensors = [samples(self.batch, self.widths[0], **options)]
        for inputs, outputs in itertools.pairwise(self.widths):
            weight = torch.randn(outputs, inputs, **options) / inputs**0.5
            tensors += [weight.requires_grad_(), torch.randn(outputs, **options).requires_grad_()]
        return tuple(tensors)

    def products(self, run: str) -> Limit:
        """The stack's matrix products alone, into allocated memory."""
        options: dict[str, Any] = {"device": self.device, "dtype": self.dtype}
        values = [torch.empty(self.batch, width, **options) for width in self.widths]
        pairs = list(itertools.pairwise(range(len(self.widths))))
        work = sum(self.widths[a] * self.widths[b] for a, b in pairs)
        if run == "fwd+bwd":
            work = 3 * work - self.widths[0] * self.widths[1]

        def multiply(x: Tensor, *parameters: Tensor) -> None:
            values[0] = x
            for weight, (before, after) in zip(parameters[0::2], pairs, strict=True):
                torch.mm(values[before], weight.t(), out=values[after])
            if run == "fwd":
                return
            for weight, (before, after) in zip(parameters[-2::-2], pairs[::-1], strict=True):
                torch.mm(values[after].t(), values[before])
                if before:
                    torch.mm(values[after], weight, out=values[before])

        return Limit("torch.mm", multiply, work=2 * self.batch * work, unit="TFLOP/s")


def check(
    run: Callable[..., object],
    inputs: tuple[Tensor, ...],
    rounding: float,
    ours: Layer,
    eager: Layer,
) -> None:
    """Every result's error against float64 is at most twice torch's own and the rounding of the
    result itself, or its format's rounding.

    Errors are relative, in the Frobenius norm.
    """
    exact = [tensor.detach().double() for tensor in inputs]
    exact[1:] = [tensor.requires_grad_() for tensor in exact[1:]]
    results = zip(
        as_tuple(run(eager, *exact)),
        as_tuple(run(ours, *inputs)),
        as_tuple(run(eager, *inputs)),
        strict=True,
    )
    for index, (expected, actual, torch_actual) in enumerate(results):
        error = relative_error(actual, expected)
        result_rounding = torch.finfo(actual.dtype).eps / 2
        allowed = max(2 * relative_error(torch_actual, expected) + result_rounding, rounding)
        name = "loss" if index == 0 else f"gradient of parameter {index - 1}"
        assert error <= allowed, f"{name}: error {error:.2e}, allowed {allowed:.2e}"
