"""The contractive penalty against vmap(jacrev), vmap(jvp), the closed form and batched products."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from bench_reconstruction import ROUNDING, RUNS, Autoencoder, check
from harness import Case, Layer, Limit
from shapes import MORE_OP_SHAPES
from shapes import OP_SHAPES as CPU_SHAPES
from torch import Tensor
from torch.func import jacrev, jvp, vmap

from aefast import use_backend
from aefast.functional import contractive_penalty, reconstruction_loss

PROBES = 8
CONTRACTION = 0.1
DEEP_WIDTHS = (784, 512, 256)


def ours(x: Tensor, *parameters: Tensor) -> Tensor:
    return contractive_penalty(x, parameters[0::2], parameters[1::2])


def ours_estimated(x: Tensor, *parameters: Tensor, seed: int | None = None) -> Tensor:
    return contractive_penalty(
        x, parameters[0::2], parameters[1::2], method="hutchinson", probes=PROBES, seed=seed
    )


def encode(x: Tensor, *parameters: Tensor) -> Tensor:
    for weight, bias in zip(parameters[0::2], parameters[1::2], strict=True):
        x = torch.sigmoid(F.linear(x, weight, bias))
    return x


def closed_form(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    code = torch.sigmoid(F.linear(x, weight, bias))
    return (code * (1 - code)).square() @ weight.square().sum(1)


def with_jacrev(x: Tensor, *parameters: Tensor) -> Tensor:
    """The simplest way: every sample's Jacobian by reverse-mode differentiation."""
    jacobian = vmap(jacrev(lambda row: encode(row, *parameters)), chunk_size=64)(x)
    return jacobian.square().sum((1, 2))


def with_batched_products(x: Tensor, *parameters: Tensor) -> Tensor:
    """The penalty from the code's end: J = (D_2 W_2 D_1) W_1, whose last product is one for the
    batch."""
    weight, bias, second_weight, second_bias = parameters
    hidden = torch.sigmoid(F.linear(x, weight, bias))
    code = torch.sigmoid(F.linear(hidden, second_weight, second_bias))
    rows = (code * (1 - code)).unsqueeze(2) * second_weight * (hidden * (1 - hidden)).unsqueeze(1)
    return (rows @ weight).square().sum((1, 2))


def with_jvp(x: Tensor, *parameters: Tensor) -> Tensor:
    """The estimate by forward-mode differentiation along random signs."""
    signs = torch.randint(0, 2, (PROBES, *x.shape), device=x.device).to(x.dtype) * 2 - 1

    def push(direction: Tensor) -> Tensor:
        return jvp(lambda x: encode(x, *parameters), (x,), (direction,))[1]

    return vmap(push)(signs).square().sum(2).mean(0)


def ours_contracted(x: Tensor, *parameters: Tensor) -> Tensor:
    return reconstruction_loss(x, *parameters, contraction=CONTRACTION)


def ours_alone(x: Tensor, *parameters: Tensor) -> Tensor:
    return reconstruction_loss(x, *parameters)


def eager_contracted(x: Tensor, *parameters: Tensor) -> Tensor:
    weight, bias, decoder_weight, decoder_bias = parameters
    code = torch.sigmoid(F.linear(x, weight, bias))
    penalty = (code * (1 - code)).square() @ weight.square().sum(1)
    loss = F.mse_loss(F.linear(code, decoder_weight, decoder_bias), x)
    return loss + CONTRACTION * penalty.mean()


@pytest.mark.parametrize(
    ("device", "batch", "visible", "hidden", "run"),
    [
        *((*shape, run) for run in RUNS for shape in (*CPU_SHAPES, ("cuda", 16384, 784, 1024))),
        *((*shape, "fwd+bwd") for shape in MORE_OP_SHAPES),
    ],
)
def test_one_layer(
    compare: Callable[[Case], None], device: str, batch: int, visible: int, hidden: int, run: str
) -> None:
    inputs = Autoencoder(device, torch.float32, batch, (visible, hidden))
    compare(case(inputs, run, "highest, eager is the closed form", ours, closed_form))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("device", "batch", "widths"), [("cpu", 128, DEEP_WIDTHS), ("cpu", 128, (784, 512))]
)
def test_against_jacrev(
    compare: Callable[[Case], None], device: str, batch: int, widths: tuple[int, ...]
) -> None:
    inputs = Autoencoder(device, torch.float32, batch, widths)
    compare(case(inputs, "fwd", "highest, eager is vmap(jacrev)", ours, with_jacrev))


@pytest.mark.slow
@pytest.mark.parametrize(("device", "batch"), [("cpu", 256), ("cuda", 4096)])
@pytest.mark.parametrize("run", RUNS)
def test_deep(compare: Callable[[Case], None], device: str, batch: int, run: str) -> None:
    inputs = Autoencoder(device, torch.float32, batch, DEEP_WIDTHS)
    name = "highest, eager is batched products"
    compare(case(inputs, run, name, ours, with_batched_products))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("run", RUNS)
def test_estimated(compare: Callable[[Case], None], device: str, run: str) -> None:
    inputs = Autoencoder(device, torch.float32, 1024, DEEP_WIDTHS)

    def seeded(x: Tensor, *parameters: Tensor) -> Tensor:
        return ours_estimated(x, *parameters, seed=7)

    def defined(x: Tensor, *parameters: Tensor) -> Tensor:
        with use_backend("eager"):
            return seeded(x, *parameters)

    name = f"highest {PROBES} probes, eager is vmap(jvp)"
    compare(case(inputs, run, name, ours_estimated, with_jvp, checked=(seeded, defined)))


@pytest.mark.parametrize(
    ("device", "batch", "visible", "hidden"), [*CPU_SHAPES, ("cuda", 16384, 784, 1024)]
)
@pytest.mark.parametrize(
    "eager", [eager_contracted, ours_alone], ids=["against eager", "against no penalty"]
)
def test_in_the_reconstruction_loss(
    compare: Callable[[Case], None],
    device: str,
    batch: int,
    visible: int,
    hidden: int,
    eager: Layer,
) -> None:
    inputs = Autoencoder(device, torch.float32, batch, (visible, hidden, visible))
    name = "highest contraction"
    if eager is ours_alone:
        name += ", eager is ours without it"
    checked = (ours_contracted, eager_contracted)
    compare(case(inputs, "fwd+bwd", name, ours_contracted, eager, checked))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("run", RUNS)
def test_call_overhead(compare: Callable[[Case], None], device: str, run: str) -> None:
    inputs = Autoencoder(device, torch.float32, 8, (8, 8))
    compare(case(inputs, run, "highest", ours, closed_form, calls_in_round=500))


def case(
    inputs: Autoencoder,
    run: str,
    setting: str,
    layer: Layer,
    eager: Layer,
    checked: tuple[Layer, Layer] | None = None,
    calls_in_round: int = 1,
) -> Case:
    """One line of the table; ``setting`` begins with the precision."""
    widths = "-".join(str(width) for width in inputs.widths)
    precision = setting.replace(",", "").split()[0]
    contenders = checked or (layer, eager)
    return Case(
        op="reconstruction_loss" if layer is ours_contracted else "contractive_penalty",
        name=f"{run} {inputs.batch}x{widths} {setting}",
        device=inputs.device,
        dtype=inputs.dtype,
        make_inputs=inputs,
        ours=layer,
        eager=eager,
        check=lambda: check(RUNS[run], inputs(), ROUNDING[precision], *contenders),
        run=RUNS[run],
        limit=None if calls_in_round > 1 else limit(inputs, run, layer),
        calls_in_round=calls_in_round,
    )


def limit(inputs: Autoencoder, run: str, layer: Layer) -> Limit:
    """The encoder's products; of a deep exact penalty the one that would write the Jacobians."""
    if len(inputs.widths) == 2 or layer is not ours:
        return inputs.products(run)
    visible, hidden, code = inputs.widths
    options: dict[str, Any] = {"device": inputs.device, "dtype": inputs.dtype}
    rows = torch.rand(inputs.batch * code, hidden, **options)
    jacobians = torch.empty(inputs.batch * code, visible, **options)

    def multiply(x: Tensor, weight: Tensor, *_: Tensor) -> None:
        torch.mm(rows, weight, out=jacobians)

    work = 2 * rows.numel() * visible
    return Limit("torch.mm of all Jacobians", multiply, work=work, unit="TFLOP/s")
