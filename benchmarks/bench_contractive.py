"""The contractive penalty against vmap(jacrev), vmap(jvp), the closed form and batched products."""

from collections.abc import Callable
from dataclasses import replace
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
from aefast.functional import contractive_penalty, jacobian, reconstruction_loss, tangents

PROBES = 8
CONTRACTION = 0.1
DEEP_WIDTHS = (784, 512, 256)
DIRECTIONS = 4


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
@pytest.mark.parametrize(("device", "batch"), [("cpu", 128), ("cuda", 4096)])
@pytest.mark.parametrize("run", RUNS)
def test_deep(compare: Callable[[Case], None], device: str, batch: int, run: str) -> None:
    inputs = Autoencoder(device, torch.float32, batch, DEEP_WIDTHS)
    name = "highest, eager is batched products"
    products = case(inputs, run, name, ours, with_batched_products)
    compare(replace(products, compiles=device == "cuda"))  # the compiler takes long on a CPU


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
    ("device", "batch", "visible", "hidden", "eager"),
    [
        *((*shape, eager_contracted) for shape in (*CPU_SHAPES, ("cuda", 16384, 784, 1024))),
        (*CPU_SHAPES[1], ours_alone),
    ],
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


def our_jacobian(x: Tensor, *parameters: Tensor) -> Tensor:
    return jacobian(x, parameters[0::2], parameters[1::2])


def plain_jacobian(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    code = torch.sigmoid(F.linear(x, weight, bias))
    return (code * (1 - code)).unsqueeze(2) * weight


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_jacobian(compare: Callable[[Case], None], device: str) -> None:
    inputs = Autoencoder(device, torch.float32, 128, (784, 64))
    closed_form = case(inputs, "fwd", "highest", our_jacobian, plain_jacobian)
    compare(replace(closed_form, op="jacobian", limit=None))


def our_tangents(x: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
    return tangents(x, parameters[0::2], parameters[1::2], n=DIRECTIONS)


def plain_tangents(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """By the eigenvectors of J J^T, which has fewer rows than J has columns."""
    rows = plain_jacobian(x, weight, bias)
    squares, vectors = torch.linalg.eigh(rows @ rows.mT)
    values = squares[:, -DIRECTIONS:].flip(1).sqrt()
    leading = vectors[..., -DIRECTIONS:].flip(2)
    return (leading.mT @ rows) / values.unsqueeze(2), values


def check_tangents(inputs: Autoencoder) -> None:
    """Check the values, and that J is as long along each of the directions."""
    x, *parameters = (tensor.detach() for tensor in inputs())
    directions, values = our_tangents(x, *parameters)
    torch.testing.assert_close(values, plain_tangents(x, *parameters)[1], rtol=1e-3, atol=0.0)
    lengths = (plain_jacobian(x, *parameters) @ directions.mT).norm(dim=1)
    torch.testing.assert_close(lengths, values, rtol=1e-3, atol=0.0)


@pytest.mark.parametrize("device", ["cpu"])
def test_tangents(compare: Callable[[Case], None], device: str) -> None:
    inputs = Autoencoder(device, torch.float32, 16, (784, 64))
    compare(
        Case(
            op="tangents",
            name=f"{DIRECTIONS} of 16x784-64 float32, eager is eigh of J J^T",
            device=device,
            dtype=torch.float32,
            make_inputs=inputs,
            ours=our_tangents,
            eager=plain_tangents,
            check=lambda: check_tangents(inputs),
            run=RUNS["fwd"],
            compiles=False,
        )
    )


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
