"""A denoising autoencoder on scikit-learn's handwritten digits, beside PCA and eager PyTorch.

The model is 64-32-64 with sigmoids, trained with masking noise. The yardsticks are PCA with as
many components, which no linear code can beat at reconstructing clean digits of its training set,
and the same model in plain PyTorch, for the speed.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from torch import Tensor, nn

from aefast import backend, environment
from aefast.figures.digits import load_digits
from aefast.functional import corrupt
from aefast.nn import DenoisingAutoencoder

VISIBLE, HIDDEN, LEVEL = 64, 32, 0.3
BATCH, LEARNING_RATE, SEED = 512, 1e-2, 0
TIMED_EPOCHS = 40
SHOWN = 10

Loss = Callable[[Tensor], Tensor]


@dataclass
class Errors:
    """Mean squared errors of held-out reconstructions, each against the clean digits."""

    clean: float
    corrupted: float


def run(out: Path, epochs: int) -> None:
    """Train, compare, print and write the picture ``out``."""
    console = Console(highlight=False, soft_wrap=True)
    torch.manual_seed(SEED)
    train, _, held_out, _ = load_digits()
    corrupted = corrupt(held_out, "masking", LEVEL, seed=SEED)
    model = DenoisingAutoencoder(VISIBLE, HIDDEN, corruption_level=LEVEL)
    console.print(describe(train, held_out))

    fit(model.loss, make_optimizer(model), train, epochs, console)
    model.eval()
    with torch.no_grad():
        reconstruction = model(corrupted)
        ours = errors(model, held_out, corrupted)
    pca = errors(fit_pca(train), held_out, corrupted)
    console.print(error_table(ours, pca))

    rates, ratio = compare_speed(train)
    console.print(
        f"\nTraining at batch {BATCH}: {rates['aefast']:,.0f} samples/s, in eager PyTorch "
        f"{rates['eager']:,.0f}: {ratio:.2f}x (median of {TIMED_EPOCHS} paired epochs)"
    )
    draw(out, held_out, corrupted, reconstruction, ours.corrupted)
    console.print(f"Wrote {out}")


def describe(train: Tensor, held_out: Tensor) -> str:
    """The model, the data, and what runs them."""
    name = backend.select(train.device, train.dtype)
    kernels = f"{name}, instruction set {backend.cpu_isa()}" if name == "cpp" else name
    return (
        f"Denoising autoencoder {VISIBLE}-{HIDDEN}-{VISIBLE}, masking noise {LEVEL}: "
        f"{len(train)} digits to train on, {len(held_out)} held out\n"
        f"Kernels: {kernels}; {torch.get_num_threads()} threads; {environment.cpu_model()}"
    )


def error_table(ours: Errors, pca: Errors) -> str:
    return "\n".join(
        [
            f"\nMean squared error, held out {'autoencoder':>14}{f'PCA, {HIDDEN} components':>20}",
            f"{'clean digits':28}{ours.clean:14.4f}{pca.clean:20.4f}",
            f"{'corrupted digits, denoised':28}{ours.corrupted:14.4f}{pca.corrupted:20.4f}",
        ]
    )


def fit(
    loss: Loss, optimizer: torch.optim.Optimizer, train: Tensor, epochs: int, console: Console
) -> None:
    """Train with a progress bar that shows the loss and the samples trained per second."""
    columns = (
        TextColumn("Training"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("loss {task.fields[loss]:.5f}, {task.fields[rate]:,.0f} samples/s"),
    )
    start = time.perf_counter()
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=epochs, loss=float("nan"), rate=0.0)
        for epoch in range(1, epochs + 1):
            mean_loss = train_epoch(loss, optimizer, train)
            rate = epoch * len(train) / (time.perf_counter() - start)
            progress.update(task, advance=1, loss=mean_loss, rate=rate)


def train_epoch(loss: Loss, optimizer: torch.optim.Optimizer, train: Tensor) -> float:
    """One pass over the shuffled training set; the mean of its batches' losses."""
    total = torch.zeros((), dtype=torch.float32, device="cpu")
    batches = train[torch.randperm(len(train), dtype=torch.int64, device="cpu")].split(BATCH)
    for batch in batches:
        optimizer.zero_grad()
        batch_loss = loss(batch)
        batch_loss.backward()
        optimizer.step()
        total += batch_loss.detach()
    return total.item() / len(batches)


def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)


def errors(reconstruct: Loss, clean: Tensor, corrupted: Tensor) -> Errors:
    return Errors(
        clean=F.mse_loss(reconstruct(clean), clean).item(),
        corrupted=F.mse_loss(reconstruct(corrupted), clean).item(),
    )


def fit_pca(train: Tensor) -> Callable[[Tensor], Tensor]:
    """PCA with the autoencoder's code size: the function that encodes and decodes rows."""
    from sklearn.decomposition import PCA

    pca = PCA(n_components=HIDDEN).fit(train.numpy())
    return lambda x: torch.from_numpy(pca.inverse_transform(pca.transform(x.numpy())))


def compare_speed(train: Tensor) -> tuple[dict[str, float], float]:
    """Samples per second of this model and its eager twin, and the median ratio of the two.

    The two take turns, epoch by epoch, so that a drift of the machine touches both alike.
    """
    model = DenoisingAutoencoder(VISIBLE, HIDDEN, corruption_level=LEVEL)
    twin = nn.Sequential(
        nn.Linear(VISIBLE, HIDDEN), nn.Sigmoid(), nn.Linear(HIDDEN, VISIBLE), nn.Sigmoid()
    )
    twin.load_state_dict(model.state_dict())

    def eager_loss(x: Tensor) -> Tensor:
        return F.mse_loss(twin(x * (torch.rand_like(x) > LEVEL)), x)

    sides = {
        "aefast": (model.loss, make_optimizer(model)),
        "eager": (eager_loss, make_optimizer(twin)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(TIMED_EPOCHS + 1):
        for name, (loss, optimizer) in sides.items():
            start = time.perf_counter()
            train_epoch(loss, optimizer, train)
            seconds[name].append(time.perf_counter() - start)

    after_warm_up = {name: series[1:] for name, series in seconds.items()}
    rates = {name: len(train) / statistics.median(s) for name, s in after_warm_up.items()}
    pairs = zip(after_warm_up["eager"], after_warm_up["aefast"], strict=True)
    return rates, statistics.median(eager / ours for eager, ours in pairs)


def draw(out: Path, clean: Tensor, corrupted: Tensor, reconstruction: Tensor, error: float) -> None:
    """Write the picture: one column a held-out digit, from clean to corrupted to denoised."""
    from matplotlib.figure import Figure

    rows = {
        "held-out digit": clean,
        f"{LEVEL:.0%} of pixels masked": corrupted,
        f"denoised, mean squared error {error:.4f}": reconstruction,
    }
    figure = Figure(figsize=(SHOWN, 4.1), layout="constrained")
    figure.suptitle(f"Denoising autoencoder {VISIBLE}-{HIDDEN}-{VISIBLE} on handwritten digits")
    strips = figure.subfigures(len(rows), squeeze=False)[:, 0]
    for strip, (title, digits) in zip(strips, rows.items(), strict=True):
        strip.suptitle(title, fontsize=10, x=0.01, ha="left")
        for axes, digit in zip(strip.subplots(1, SHOWN), digits, strict=False):
            axes.imshow(digit.reshape(8, 8).numpy(), cmap="gray_r", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_color("lightgray")
    figure.savefig(out, dpi=150)
