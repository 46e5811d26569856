"""`aefast.accelerate`: the training loop that one has, with one line more; `aefast.fit` instead.

Ours is the accelerated model, the baseline its twin in plain PyTorch; both are trained by the same
loop with torch's Adam as it comes, on the same rows.
"""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from harness import Case
from samples import samples
from torch import Tensor, nn

import aefast

ROWS_IN_FIT = 8192


def plain(visible: int, hidden: int) -> nn.Module:
    return nn.Sequential(nn.Linear(visible, hidden), nn.Sigmoid(), nn.Linear(hidden, visible))


class Denoising(nn.Module):
    """A denoising autoencoder: dropout on the input, sigmoids for the code and the output."""

    def __init__(self, visible: int, hidden: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(visible, hidden)
        self.output = nn.Linear(hidden, visible)

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(x, 0.3, self.training)
        return torch.sigmoid(self.output(torch.sigmoid(self.hidden(x))))


class Variational(nn.Module):
    """The variational autoencoder of PyTorch's examples."""

    def __init__(self, visible: int, hidden: int, latent: int = 20) -> None:
        super().__init__()
        self.fc1 = nn.Linear(visible, hidden)
        self.fc21 = nn.Linear(hidden, latent)
        self.fc22 = nn.Linear(hidden, latent)
        self.fc3 = nn.Linear(latent, hidden)
        self.fc4 = nn.Linear(hidden, visible)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = F.relu(self.fc1(x))
        mean, log_var = self.fc21(h), self.fc22(h)
        std = torch.exp(0.5 * log_var)
        z = mean + torch.randn_like(std) * std
        return torch.sigmoid(self.fc4(F.relu(self.fc3(z)))), mean, log_var


class TopK(nn.Module):
    """A sparse autoencoder that keeps the 32 largest of its latents, as it is often written."""

    def __init__(self, visible: int, latents: int) -> None:
        super().__init__()
        self.encoder = nn.Linear(visible, latents)
        self.decoder = nn.Linear(latents, visible)

    def forward(self, x: Tensor) -> Tensor:
        latents = self.encoder(x)
        values, indices = torch.topk(latents, 32, dim=-1)
        code = torch.zeros_like(latents).scatter_(-1, indices, F.relu(values))
        return self.decoder(code)


def nothing(visible: int, hidden: int) -> nn.Module:
    """Layers that no kernel computes."""
    return nn.Sequential(
        nn.Linear(visible, hidden), nn.LayerNorm(hidden), nn.Linear(hidden, visible)
    )


def loss_of(output: Any, x: Tensor) -> Tensor:
    if not isinstance(output, tuple):
        return F.mse_loss(output, x)
    reconstruction, mean, log_var = output
    divergence = -0.5 * torch.sum(1 + log_var - mean.pow(2) - log_var.exp())
    return F.binary_cross_entropy(reconstruction, x, reduction="sum") + divergence


class Run:
    """One contender: a model and its loop."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.optimizer = torch.optim.Adam(model.parameters())

    def step(self, x: Tensor) -> Tensor:
        self.optimizer.zero_grad()
        loss = loss_of(self.model(x), x)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def epoch(self, data: Tensor, batch: int) -> None:
        for rows in torch.randperm(len(data)).split(batch):
            self.step(data[rows])


@pytest.fixture
def restored_generator() -> Iterator[None]:
    state = torch.get_rng_state()
    yield
    torch.set_rng_state(state)


LOOP: list[tuple[Callable[..., nn.Module], tuple[int, int], int]] = [
    (Denoising, (784, 512), 1024),
    (Denoising, (64, 32), 32),
    (plain, (64, 32), 32),
    (plain, (784, 256), 128),
    (Variational, (784, 200), 128),
    (TopK, (512, 4096), 512),
    (nothing, (64, 32), 32),
    (nothing, (784, 256), 128),
]


@pytest.mark.parametrize("device", ["cpu"])
@pytest.mark.parametrize(
    ("kind", "sizes", "batch"), LOOP, ids=lambda value: getattr(value, "__name__", str(value))
)
def test_loop(
    compare: Callable[[Case], None],
    restored_generator: None,
    kind: Callable[..., nn.Module],
    sizes: tuple[int, int],
    batch: int,
    device: str,
) -> None:
    model = kind(*sizes)
    ours, theirs = Run(model), Run(copy.deepcopy(model))
    steps = 50 if sizes[0] < 100 else 1
    aefast.accelerate(model)
    compare(
        Case(
            op="accelerate",
            name=f"{steps} x the loop's step, {kind.__name__} {sizes[0]}-{sizes[1]} b{batch}",
            device=device,
            dtype=torch.float32,
            make_inputs=lambda: (samples(batch, sizes[0]),),
            ours=lambda x: [ours.step(x) for _ in range(steps)],
            eager=lambda x: [theirs.step(x) for _ in range(steps)],
            run=lambda loop, x: loop(x),
            check=lambda: check_curve(model, sizes[0]),
            compiles=False,
        )
    )


@pytest.mark.parametrize("device", ["cpu"])
@pytest.mark.parametrize(("sizes", "batch"), [((64, 32), 32), ((784, 256), 128)], ids=str)
def test_fit(
    compare: Callable[[Case], None],
    restored_generator: None,
    sizes: tuple[int, int],
    batch: int,
    device: str,
) -> None:
    model = plain(*sizes)
    theirs = Run(copy.deepcopy(model))
    aefast.accelerate(model, loss=nn.MSELoss())
    optimizer = torch.optim.Adam(model.parameters())
    rows = ROWS_IN_FIT if sizes[0] < 100 else 16 * batch

    def fit(data: Tensor) -> None:
        assert aefast.fit(model, data, optimizer, batch_size=batch).engine == "step"

    compare(
        Case(
            op="accelerate",
            name=f"aefast.fit, an epoch of {rows} rows, plain {sizes[0]}-{sizes[1]} b{batch}",
            device=device,
            dtype=torch.float32,
            make_inputs=lambda: (samples(rows, sizes[0]),),
            ours=fit,
            eager=lambda data: theirs.epoch(data, batch),
            run=lambda epoch, data: epoch(data),
            check=lambda: check_curve(model, sizes[0]),
            compiles=False,
        )
    )


@pytest.mark.parametrize("device", ["cpu"])
def test_compile(compare: Callable[[Case], None], restored_generator: None, device: str) -> None:
    """A step of a model that torch.compile compiles, by either backend."""
    model = Denoising(784, 512)
    ours, theirs = Run(model), Run(copy.deepcopy(model))
    for run, name in ((ours, "aefast"), (theirs, "inductor")):
        run.model = torch.compile(run.model, backend=name)
    compare(
        Case(
            op="accelerate",
            name="torch.compile(backend='aefast'), Denoising 784-512 b1024, eager is inductor's",
            device=device,
            dtype=torch.float32,
            make_inputs=lambda: (samples(1024, 784),),
            ours=ours.step,
            eager=theirs.step,
            check=lambda: check_compiled(model),
            compiles=False,
        )
    )


@pytest.mark.parametrize("device", ["cpu"])
def test_itself(compare: Callable[[Case], None], restored_generator: None, device: str) -> None:
    """What the line costs, once for a model: it traces the model, and looks at what it found."""
    model = Variational(784, 200)

    def accelerated(_: Tensor) -> None:
        aefast.accelerate(model)
        aefast.restore(model)

    compare(
        Case(
            op="accelerate",
            name="itself, Variational 784-200, eager is torch.fx's trace",
            device=device,
            dtype=torch.float32,
            make_inputs=lambda: (samples(1, 784),),
            ours=accelerated,
            eager=lambda _: torch.fx.symbolic_trace(model),
            check=lambda: check_report(model),
            compiles=False,
        )
    )


def check_report(model: nn.Module) -> None:
    """Check that something was replaced, and that nothing of it stays."""
    before = set(model.__dict__)
    assert len(aefast.accelerate(model).replaced) > 0
    aefast.restore(model)
    assert set(model.__dict__) == before


def check_compiled(model: nn.Module) -> None:
    """Check the backend's outputs against the model's own, without noise, which inductor draws."""
    x, plain_model = samples(64, 784), copy.deepcopy(model).eval()
    compiled = torch.compile(plain_model, backend="aefast")
    torch.testing.assert_close(compiled(x), plain_model(x), rtol=1e-4, atol=1e-6)


def check_curve(model: nn.Module, visible: int) -> None:
    """Check that an accelerated copy and a plain one have the same losses over some steps."""
    x = samples(64, visible)
    curves = []
    for is_ours in (True, False):
        net = copy.deepcopy(model)
        if not is_ours:
            aefast.restore(net)
        run = Run(net)
        torch.manual_seed(0)
        curves.append(torch.stack([run.step(x) for _ in range(5)]))
    torch.testing.assert_close(*curves, rtol=1e-4, atol=1e-6)
