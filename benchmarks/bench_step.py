"""The training step: `aefast.fit` and `model.loss(x).backward()` against the loop that one writes.

The baseline is the quickest plain way: batches by index from a tensor, closed forms, F.dropout, and
torch's fused Adam on both sides; the second one compiles the loss.
"""

import copy
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from harness import Case
from torch import Tensor, nn

import aefast
from aefast import backend
from aefast.nn import (
    Autoencoder,
    ContractiveAutoencoder,
    DenoisingAutoencoder,
    SparseAutoencoder,
    VariationalAutoencoder,
)

LEARNING_RATE = 1e-3
# About so many multiplications in the steps of one call: long enough to time, a second at most.
PRODUCTS_IN_CALL = 3e9
MOST_STEPS = 512

Loss = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Shape:
    """A model's sizes, from the data to the code, and the rows of a batch."""

    sizes: tuple[int, ...]
    batch: int

    def __str__(self) -> str:
        return f"{'-'.join(map(str, self.sizes))} b{self.batch}"

    @property
    def steps(self) -> int:
        widths = zip(self.sizes, self.sizes[1:], strict=False)
        products = 5 * self.batch * sum(a * b for a, b in widths)
        return max(4, min(MOST_STEPS, int(PRODUCTS_IN_CALL / products)))


def plain(sizes: tuple[int, ...]) -> tuple[Any, nn.Module, Loss]:
    """Our model, its twin in plain PyTorch, and the twin's loss."""
    visible, hidden = sizes
    twin = sequential(visible, hidden)
    return Autoencoder(visible, hidden), twin, lambda x: F.mse_loss(twin(x), x)


def denoising(sizes: tuple[int, ...]) -> tuple[Any, nn.Module, Loss]:
    visible, hidden = sizes
    twin = sequential(visible, hidden, nn.Sigmoid())
    kept = 0.7  # F.dropout divides by it
    return (
        DenoisingAutoencoder(visible, hidden),
        twin,
        lambda x: F.mse_loss(twin(F.dropout(x, 1 - kept) * kept), x),
    )


def contractive(sizes: tuple[int, ...]) -> tuple[Any, nn.Module, Loss]:
    visible, hidden = sizes
    twin = sequential(visible, hidden)

    def loss(x: Tensor) -> Tensor:
        code = torch.sigmoid(twin[0](x))
        lengths = twin[0].weight.square().sum(1)
        penalty = (code * (1 - code)).square() @ lengths
        return F.mse_loss(twin[2](code), x) + 0.003 * penalty.mean()

    return ContractiveAutoencoder(visible, hidden), twin, loss


def sparse(sizes: tuple[int, ...]) -> tuple[Any, nn.Module, Loss]:
    visible, hidden = sizes
    twin = sequential(visible, hidden)
    target = 0.05

    def loss(x: Tensor) -> Tensor:
        code = torch.sigmoid(twin[0](x))
        mean = code.mean(0)
        divergence = target * torch.log(target / mean)
        divergence = divergence + (1 - target) * torch.log((1 - target) / (1 - mean))
        return F.mse_loss(twin[2](code), x) + 1e-3 * divergence.sum()

    return SparseAutoencoder(visible, hidden), twin, loss


def variational(sizes: tuple[int, ...]) -> tuple[Any, nn.Module, Loss]:
    visible, hidden, latent = sizes
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


def deep(sizes: tuple[int, ...]) -> tuple[Any, nn.Module, Loss]:
    widths = [*sizes, *reversed(sizes[:-1])]
    layers: list[nn.Module] = []
    for below, above in itertools.pairwise(widths):
        layers += [nn.Linear(below, above), nn.Tanh()]
    twin = nn.Sequential(*layers[:-1])
    model = Autoencoder(layers=list(sizes), activation="tanh")
    return model, twin, lambda x: F.mse_loss(twin(x), x)


def sequential(visible: int, hidden: int, *output: nn.Module) -> nn.Sequential:
    layers = nn.Linear(visible, hidden), nn.Sigmoid(), nn.Linear(hidden, visible)
    return nn.Sequential(*layers, *output)


SMALL, MIDDLE = Shape((64, 32), 128), Shape((784, 128), 128)
FIT: list[tuple[Callable[..., Any], Shape]] = [
    *(
        (plain, shape)
        for shape in (
            Shape((30, 16), 32),
            Shape((64, 32), 32),
            SMALL,
            Shape((200, 50), 128),
            Shape((784, 64), 128),
            Shape((784, 256), 128),
            Shape((784, 512), 1024),
            Shape((784, 1024), 4096),
        )
    ),
    *((kind, SMALL) for kind in (denoising, contractive, sparse)),
    (variational, Shape((64, 32, 2), 128)),
    (variational, Shape((784, 200, 20), 128)),
    (deep, Shape((64, 128, 64, 2), 128)),
]
LOSS = [
    (kind, Shape((*sizes, *last), batch))
    for sizes, batch in (((64, 32), 32), ((64, 32), 128), ((784, 128), 128), ((784, 512), 1024))
    for kind, last in (
        (plain, ()),
        (denoising, ()),
        (contractive, ()),
        (sparse, ()),
        (variational, (20,)),
        (deep, (sizes[1] // 2,)),
    )
]


class Run:
    """One contender: a model, its fused Adam, and its ordinary loop."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        self.model = model
        self.loss = loss
        self.optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE, fused=True)

    def step(self, x: Tensor) -> None:
        self.optimizer.zero_grad()
        self.loss(x).backward()
        self.optimizer.step()

    def epoch(self, data: Tensor, batch: int) -> None:
        for indices in torch.randperm(len(data)).split(batch):
            self.step(data[indices])


@pytest.fixture
def restored_generator() -> Iterator[None]:
    state = torch.get_rng_state()
    yield
    torch.set_rng_state(state)


@pytest.mark.parametrize("device", ["cpu"])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize(
    ("kind", "shape"), FIT, ids=lambda value: getattr(value, "__name__", str(value))
)
def test_fit(
    compare: Callable[[Case], None],
    restored_generator: None,
    kind: Callable[..., Any],
    shape: Shape,
    compiled: bool,
    device: str,
) -> None:
    model, twin, loss = kind(shape.sizes)
    theirs = Run(twin, torch.compile(loss) if compiled else loss)
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE, fused=True)
    against = "the loop with a compiled loss" if compiled else "the loop"
    compare(
        Case(
            op="step",
            name=f"fit {kind.__name__} {shape}, {shape.steps} steps, against {against}",
            device=device,
            dtype=torch.float32,
            make_inputs=lambda: (torch.rand(shape.steps * shape.batch, shape.sizes[0]),),
            ours=lambda data: aefast.fit(model, data, optimizer, batch_size=shape.batch),
            eager=lambda data: theirs.epoch(data, shape.batch),
            run=lambda epoch, data: epoch(data),
            check=lambda: check_fit(model, shape),
            compiles=False,
        )
    )


@pytest.mark.parametrize("device", ["cpu"])
@pytest.mark.parametrize(
    ("kind", "shape"), LOSS, ids=lambda value: getattr(value, "__name__", str(value))
)
def test_loss(
    compare: Callable[[Case], None],
    restored_generator: None,
    kind: Callable[..., Any],
    shape: Shape,
    device: str,
) -> None:
    model, twin, loss = kind(shape.sizes)
    ours, theirs = Run(model, model.loss), Run(twin, loss)
    compare(
        Case(
            op="step",
            name=f"loss, backward, Adam {kind.__name__} {shape}",
            device=device,
            dtype=torch.float32,
            make_inputs=lambda: (torch.rand(shape.batch, shape.sizes[0]),),
            ours=ours.step,
            eager=theirs.step,
            run=lambda step, x: step(x),
            check=lambda: check_fit(model, shape),
            calls_in_round=min(20, shape.steps),
            compiles=False,
        )
    )


def check_fit(model: nn.Module, shape: Shape) -> None:
    """Two steps of fit are two of the ordinary loop's, by the definitions."""
    data = torch.rand(2 * shape.batch, shape.sizes[0])
    results = []
    for name in (None, "eager"):
        twin = copy.deepcopy(model)
        optimizer = torch.optim.Adam(twin.parameters(), LEARNING_RATE)
        if name is None:
            history = aefast.fit(twin, data, optimizer, batch_size=shape.batch, seed=1)
            assert history.engine == "step", history.reason
        else:
            with backend.use_backend(name):
                aefast.fit(twin, data, optimizer, batch_size=shape.batch, seed=1)
        results.append(list(twin.parameters()))
    # Adam's first steps are the learning rate in the direction of the gradient's sign.
    for ours, theirs in zip(*results, strict=True):
        agree = (ours - theirs).abs() < LEARNING_RATE / 10
        assert agree.double().mean() > 0.999
