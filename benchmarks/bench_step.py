"""A model's whole training step: `aefast.fit`, and `model.loss(x).backward()` with the optimizer,
against the loop that one writes.

The baseline is the quickest plain way: batches by index from a tensor, closed forms, F.dropout, and
torch's fused Adam on both sides; the second one compiles the loss.
"""

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from harness import Case, relative_error
from samples import samples
from shapes import COMPILED, CROSS, LARGE, SHAPES, SMALL, Shape
from torch import Tensor, nn

import aefast
from aefast import backend
from aefast.nn import (
    RBM,
    Autoencoder,
    ContractiveAutoencoder,
    DenoisingAutoencoder,
    SparseAutoencoder,
    StochasticAutoencoder,
    VariationalAutoencoder,
)

LEARNING_RATE = 1e-3
# The multiplications in one timed call: long enough to be timed, and half a second at most.
# A step has five products a row with each weight, and the optimizer's step counts as some more.
PRODUCTS_IN_CALL = 6e8
PRODUCTS_A_ROW, PRODUCTS_OF_OPTIMIZER = 5, 50
MOST_STEPS = 64

Loss = Callable[[Tensor], Tensor]
Kind = Callable[..., tuple[Any, nn.Module, Loss]]


def steps(shape: Shape) -> int:
    """The number of steps in one timed call."""
    weights = sum(a * b for a, b in itertools.pairwise(shape.widths))
    products = (PRODUCTS_A_ROW * shape.batch + PRODUCTS_OF_OPTIMIZER) * weights
    return max(1, min(MOST_STEPS, int(PRODUCTS_IN_CALL / products)))


def plain(visible: int, hidden: int) -> tuple[Any, nn.Module, Loss]:
    """Our model, its twin in plain PyTorch, and the twin's loss."""
    twin = sequential(visible, hidden)
    return Autoencoder(visible, hidden), twin, lambda x: F.mse_loss(twin(x), x)


def denoising(visible: int, hidden: int) -> tuple[Any, nn.Module, Loss]:
    twin = sequential(visible, hidden, nn.Sigmoid())
    keep_probability = 0.7  # F.dropout divides by it
    return (
        DenoisingAutoencoder(visible, hidden),
        twin,
        lambda x: F.mse_loss(twin(F.dropout(x, 1 - keep_probability) * keep_probability), x),
    )


def contractive(visible: int, hidden: int) -> tuple[Any, nn.Module, Loss]:
    twin = sequential(visible, hidden)

    def loss(x: Tensor) -> Tensor:
        code = torch.sigmoid(twin[0](x))
        lengths = twin[0].weight.square().sum(1)
        penalty = (code * (1 - code)).square() @ lengths
        return F.mse_loss(twin[2](code), x) + 0.003 * penalty.mean()

    return ContractiveAutoencoder(visible, hidden), twin, loss


def sparse(visible: int, hidden: int) -> tuple[Any, nn.Module, Loss]:
    twin = sequential(visible, hidden)
    target = 0.05

    def loss(x: Tensor) -> Tensor:
        code = torch.sigmoid(twin[0](x))
        mean = code.mean(0)
        divergence = target * torch.log(target / mean)
        divergence = divergence + (1 - target) * torch.log((1 - target) / (1 - mean))
        return F.mse_loss(twin[2](code), x) + 1e-3 * divergence.sum()

    return SparseAutoencoder(visible, hidden), twin, loss


def stochastic(visible: int, hidden: int) -> tuple[Any, nn.Module, Loss]:
    encoder, decoder = nn.Linear(visible, hidden), nn.Linear(hidden, visible)
    noise = 0.3

    def loss(x: Tensor) -> Tensor:
        mean = torch.tanh(encoder(x))
        logits = decoder(mean + noise * torch.randn_like(mean))
        return F.binary_cross_entropy_with_logits(logits, x, reduction="sum") / len(x)

    model = StochasticAutoencoder(visible, hidden, code_noise=noise)
    return model, nn.ModuleList([encoder, decoder]), loss


def variational(visible: int, hidden: int, latent: int = 0) -> tuple[Any, nn.Module, Loss]:
    """A variational autoencoder whose code has an eighth of the hidden layer's units, unless it
    is said."""
    latent = latent or max(2, hidden // 8)
    encoder = nn.Sequential(nn.Linear(visible, hidden), nn.Tanh(), nn.Linear(hidden, 2 * latent))
    decoder = nn.Sequential(nn.Linear(latent, hidden), nn.Tanh(), nn.Linear(hidden, visible))

    def loss(x: Tensor) -> Tensor:
        mean, log_var = encoder(x).chunk(2, -1)
        z = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)
        error = F.binary_cross_entropy_with_logits(decoder(z), x, reduction="sum")
        divergence = -0.5 * (1 + log_var - mean.square() - log_var.exp()).sum()
        return (error + divergence) / len(x)

    model = VariationalAutoencoder(visible, latent, layers=[hidden])
    return model, nn.ModuleList([encoder, decoder]), loss


def deep(visible: int, hidden: int, *narrower: int) -> tuple[Any, nn.Module, Loss]:
    """A deep autoencoder whose second layer has half the first one's units, unless the layers are
    said."""
    sizes = [visible, hidden, *(narrower or [hidden // 2])]
    layers: list[nn.Module] = []
    for below, above in itertools.pairwise([*sizes, *reversed(sizes[:-1])]):
        layers += [nn.Linear(below, above), nn.Tanh()]
    twin = nn.Sequential(*layers[:-1])
    model = Autoencoder(layers=sizes, activation="tanh")
    return model, twin, lambda x: F.mse_loss(twin(x), x)


class Machine(nn.Module):
    """A restricted Boltzmann machine whose gradients are written by hand, as its users do."""

    def __init__(self, visible: int, hidden: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.01 * torch.randn(hidden, visible))
        self.visible_bias = nn.Parameter(torch.zeros(visible))
        self.hidden_bias = nn.Parameter(torch.zeros(hidden))

    @torch.no_grad()
    def contrast(self, x: Tensor) -> None:
        """One step of contrastive divergence, whose statistics become the gradients."""
        data = torch.sigmoid(F.linear(x, self.weight, self.hidden_bias))
        states = (torch.rand_like(data) < data).to(x.dtype)
        probability = torch.sigmoid(F.linear(states, self.weight.t(), self.visible_bias))
        chain = (torch.rand_like(x) < probability).to(x.dtype)
        model = torch.sigmoid(F.linear(chain, self.weight, self.hidden_bias))
        self.weight.grad = (model.t() @ chain).addmm_(data.t(), x, alpha=-1).div_(len(x))
        self.visible_bias.grad = (chain - x).mean(0)
        self.hidden_bias.grad = (model - data).mean(0)


def rbm(visible: int, hidden: int) -> tuple[Any, Machine, None]:
    return RBM(visible, hidden), Machine(visible, hidden), None


def sequential(visible: int, hidden: int, *output: nn.Module) -> nn.Sequential:
    layers = nn.Linear(visible, hidden), nn.Sigmoid(), nn.Linear(hidden, visible)
    return nn.Sequential(*layers, *output)


KINDS = [plain, denoising, contractive, sparse, stochastic, variational, deep, rbm]
# The kinds whose fit is measured at every shape of the grid; the others' at those of CROSS. A large
# model's cases take seconds each.
KINDS_OF_GRID = [plain, denoising, variational, deep, rbm]
KINDS_OF_LARGE = [plain, denoising, rbm]


# Besides the grid: batches of 32, and models of widths of their own.
TABLES, DIGITS, MORE_DIGITS = Shape(32, (30, 16)), Shape(32, SMALL), Shape(128, SMALL)
LARGE_LAYER = Shape(1024, (784, 512))
TWO_LAYERS = [(variational, Shape(128, (64, 32, 2))), (deep, Shape(128, (64, 128, 64, 2)))]
MORE_FITS = [(plain, Shape(4096, (784, 1024))), (variational, Shape(128, (784, 200, 20)))]
MORE_FITS += TWO_LAYERS
MORE_STEPS = [(kind, shape) for shape in (DIGITS, LARGE_LAYER) for kind in KINDS]
# A call has a cost of its own, about a millisecond, in which a small model takes a hundred steps:
# these models are measured in long calls, which show the step, beside the short ones.
LONG_CALL, LONGEST_CALL = 1000, 4000
CALLS = [
    (plain, shape, count)
    for shape in (TABLES, DIGITS)
    for count in (MOST_STEPS, LONG_CALL, LONGEST_CALL)
]
CALLS += [(kind, MORE_DIGITS, LONG_CALL) for kind in (plain, denoising, contractive, sparse)]
CALLS += [(*model, LONG_CALL) for model in TWO_LAYERS]


class Run:
    """One contender: a model, its fused Adam, and its ordinary loop."""

    def __init__(self, model: nn.Module, gradients: Callable[[Tensor], None]) -> None:
        self.gradients = gradients
        self.optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE, fused=True)

    def step(self, x: Tensor) -> None:
        self.optimizer.zero_grad()
        self.gradients(x)
        self.optimizer.step()

    def epoch(self, data: Tensor, batch: int) -> None:
        for indices in torch.randperm(len(data)).split(batch):
            self.step(data[indices])


def contenders(kind: Kind, shape: Shape) -> tuple[Any, Run, Run | None]:
    """Our model; plain PyTorch's loop; the same with a compiled loss, where that is measured."""
    model, twin, loss = kind(*shape.widths)
    if loss is None:
        return model, Run(twin, twin.contrast), None
    compiled = torch.compile(loss)
    return (
        model,
        Run(twin, lambda x: loss(x).backward()),
        Run(twin, lambda x: compiled(x).backward()) if shape in COMPILED else None,
    )


def rows_of(count: int, shape: Shape, kind: Kind) -> Tensor:
    """Rows for a model; an RBM's are 0 or 1."""
    return samples(count, shape.widths[0], binary=kind is rbm)


def operations(model: nn.Module, shape: Shape) -> float | None:
    """In the products of a step: each weight's with the rows, and its gradients' two; nobody asks
    for the rows' own. Of an RBM they are not counted: they go through the chain."""
    if isinstance(model, RBM):
        return None
    weights = [parameter.numel() for parameter in model.parameters() if parameter.dim() > 1]
    return 2.0 * shape.batch * (3 * sum(weights) - weights[0])


@pytest.fixture
def restored_generator() -> Iterator[None]:
    state = torch.get_rng_state()
    yield
    torch.set_rng_state(state)


def kinds_at(shape: Shape) -> list[Kind]:
    """The models that are measured at a shape."""
    if shape in LARGE:
        return KINDS_OF_LARGE
    return KINDS if shape in CROSS else KINDS_OF_GRID


def each_model(
    shapes: Iterable[Shape], more: Iterable[tuple[Kind, Shape]] = ()
) -> pytest.MarkDecorator:
    """Every model at each of its shapes, and some more."""
    pairs = [(kind, shape) for shape in shapes for kind in kinds_at(shape)]
    cases = [
        pytest.param(kind, shape, id=f"{shape}-{kind.__name__}") for kind, shape in [*pairs, *more]
    ]
    return pytest.mark.parametrize(("kind", "shape"), cases)


@pytest.mark.parametrize("device", ["cpu"])
@each_model([*SHAPES, *LARGE], MORE_FITS)
def test_fit(
    compare: Callable[[Case], None],
    restored_generator: None,
    kind: Kind,
    shape: Shape,
    device: str,
) -> None:
    compare(fit_case(kind, shape))


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu"])
@pytest.mark.parametrize(
    ("kind", "shape", "count"),
    [pytest.param(*call, id=f"{call[1]}-{call[0].__name__}-{call[2]}") for call in CALLS],
)
def test_call(
    compare: Callable[[Case], None],
    restored_generator: None,
    kind: Kind,
    shape: Shape,
    count: int,
    device: str,
) -> None:
    compare(fit_case(kind, shape, count))


@pytest.mark.parametrize("device", ["cpu"])
@each_model(CROSS, MORE_STEPS)
def test_step(
    compare: Callable[[Case], None],
    restored_generator: None,
    kind: Kind,
    shape: Shape,
    device: str,
) -> None:
    compare(step_case(kind, shape))


def fit_case(kind: Kind, shape: Shape, count: int | None = None) -> Case:
    """An epoch by ``aefast.fit``, and by the ordinary loop: of ``count`` steps, which the case's
    name then says."""
    in_call = steps(shape) if count is None else count
    model, theirs, compiled = contenders(kind, shape)
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE, fused=True)

    counted = operations(model, shape)

    def loop(run: Run) -> Callable[[Tensor], None]:
        return lambda data: run.epoch(data, shape.batch)

    return Case(
        op="fit",
        name=f"{kind.__name__} {shape}" + ("" if count is None else f", {count} steps"),
        device="cpu",
        dtype=torch.float32,
        make_inputs=lambda: (rows_of(in_call * shape.batch, shape, kind),),
        ours=lambda data: aefast.fit(model, data, optimizer, batch_size=shape.batch),
        eager=loop(theirs),
        compiles=compiled is not None and count is None,
        compiled=compiled and loop(compiled),
        check=lambda: check_fit(model, shape, kind),
        training=True,
        steps=in_call,
        operations=counted and in_call * counted,
    )


def step_case(kind: Kind, shape: Shape) -> Case:
    """The loss, its gradients and the optimizer's step, and the same in plain PyTorch."""
    model, theirs, compiled = contenders(kind, shape)
    ours = Run(model, lambda x: model.loss(x).backward())
    return Case(
        op="step",
        name=f"{kind.__name__} {shape}",
        device="cpu",
        dtype=torch.float32,
        make_inputs=lambda: (rows_of(shape.batch, shape, kind),),
        ours=ours.step,
        eager=theirs.step,
        compiles=compiled is not None,
        compiled=compiled and compiled.step,
        check=lambda: check_step(model, shape, kind),
        calls_in_round=min(20, steps(shape)),
        training=True,
        operations=operations(model, shape),
    )


CASES = {"fit": fit_case, "step": step_case}


def check_fit(model: nn.Module, shape: Shape, kind: Kind) -> None:
    """Check two steps of fit against two of the ordinary loop with the definitions."""
    data = rows_of(2 * shape.batch, shape, kind)
    results = []
    for name in (None, "eager"):
        twin = copy.deepcopy(model)
        optimizer = torch.optim.Adam(twin.parameters(), LEARNING_RATE)
        if name is None:
            aefast.fit(twin, data, optimizer, batch_size=shape.batch, seed=1)
        else:
            with backend.use_backend(name):
                aefast.fit(twin, data, optimizer, batch_size=shape.batch, seed=1)
        results.append(list(twin.parameters()))
    # Adam's first steps are the learning rate in the direction of the gradient's sign.
    for ours, theirs in zip(*results, strict=True):
        agree = (ours - theirs).abs() < LEARNING_RATE / 10
        assert agree.double().mean() > 0.999


def check_step(model: nn.Module, shape: Shape, kind: Kind) -> None:
    """Check the gradients of a loss against the definition's. An RBM's states may differ where a
    uniform number is next to its probability."""
    x = rows_of(shape.batch, shape, kind)
    ours = gradients(model, x)
    with backend.use_backend("eager"):
        expected = gradients(model, x)
    for actual, exact in zip(ours, expected, strict=True):
        assert relative_error(actual, exact.double()) < (0.05 if kind is rbm else 1e-3)


def gradients(model: nn.Module, x: Tensor) -> list[Tensor]:
    twin: Any = copy.deepcopy(model)
    trained = [p for p in twin.parameters() if p.requires_grad]
    return list(torch.autograd.grad(twin.loss(x, seed=1), trained))
