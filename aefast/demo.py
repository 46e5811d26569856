"""Two autoencoders on scikit-learn's handwritten digits, beside PCA and eager PyTorch.

Both are 64-32-64 with sigmoids and are trained by :func:`aefast.fit`: one on the digits, one on
digits with masking noise. The yardsticks are PCA with as many components, and the same steps in
plain PyTorch, for the speed.
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

import aefast
from aefast import backend, processors
from aefast.figures.digits import load_digits
from aefast.figures.page import save_picture
from aefast.functional import corrupt
from aefast.messages import printable
from aefast.nn import Autoencoder, DenoisingAutoencoder
from aefast.nn.initialization import initialized

VISIBLE, HIDDEN, LEVEL = 64, 32, 0.3
BATCH, LEARNING_RATE, SEED = 128, 3e-3, 0
TIMED_TURNS, EPOCHS_IN_TURN = 20, 5
SHOWN = 10

# The learning rate falls to 0 along a cosine in so many steps.
RATES = 40

Loss = Callable[[Tensor], Tensor]


@dataclass
class Errors:
    """Mean squared errors of held-out reconstructions, each against the clean digits."""

    clean: float
    corrupted: float


def run(out: Path, epochs: int) -> None:
    """Train, compare, print and write the picture ``out``."""
    console = Console(highlight=False, soft_wrap=True, markup=False)
    train, _, held_out, _ = load_digits()
    corrupted = corrupt(held_out, "masking", LEVEL, seed=SEED)
    plain, denoising = initialized(new_plain, SEED), initialized(new_denoising, SEED)
    console.print(describe(train, held_out))

    fit("Autoencoder", plain, train, epochs, console)
    fit("Denoising  ", denoising, train, epochs, console)
    with torch.no_grad():
        reconstruction = denoising(corrupted)
        ours = {
            "autoencoder": errors(plain, held_out, corrupted),
            "denoising": errors(denoising, held_out, corrupted),
        }
    pca = errors(fit_pca(train), held_out, corrupted)
    console.print(error_table({**ours, f"PCA, {HIDDEN} components": pca}))

    rates, ratio = compare_speed(train)
    console.print(
        f"\nTraining at batch {BATCH}: {rates['aefast']:,.0f} samples/s by aefast.fit, by the loop "
        f"in eager PyTorch {rates['eager']:,.0f}: {ratio:.1f}x "
        f"(median of {TIMED_TURNS} turns of {EPOCHS_IN_TURN} epochs)"
    )
    plot(out, held_out, corrupted, reconstruction, ours["denoising"].corrupted)
    console.print(printable(f"Wrote {out}"))


def new_plain() -> Autoencoder:
    return Autoencoder(VISIBLE, HIDDEN, output_activation="sigmoid")


def new_denoising() -> DenoisingAutoencoder:
    return DenoisingAutoencoder(VISIBLE, HIDDEN, corruption_level=LEVEL)


def describe(train: Tensor, held_out: Tensor) -> str:
    """The model, the data, and what runs them."""
    name = backend.select(train.device, train.dtype)
    kernels = f"{name}, instruction set {backend.cpu_isa()}" if name == "cpp" else name
    return (
        f"Autoencoders {VISIBLE}-{HIDDEN}-{VISIBLE}, one with masking noise {LEVEL}: "
        f"{len(train)} digits to train on, {len(held_out)} held out\n"
        f"Kernels: {kernels}; {torch.get_num_threads()} threads; {processors.name()}"
    )


def error_table(columns: dict[str, Errors]) -> str:
    head = "".join(f"{name:>20}" for name in columns)
    clean = "".join(f"{error.clean:20.4f}" for error in columns.values())
    corrupted = "".join(f"{error.corrupted:20.4f}" for error in columns.values())
    return "\n".join(
        [
            f"\nMean squared error, held out {head}",
            f"{'clean digits':28}{clean}",
            f"{'corrupted digits, denoised':28}{corrupted}",
        ]
    )


def fit(label: str, model: nn.Module, train: Tensor, epochs: int, console: Console) -> None:
    """Train with a progress bar that shows the loss and the samples trained per second."""
    columns = (
        TextColumn(label),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("loss {task.fields[loss]:.5f}, {task.fields[rate]:,.0f} samples/s"),
    )
    optimizer = make_optimizer(model)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, RATES)
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=epochs, loss=float("nan"), rate=0.0)
        for number in range(RATES):
            epochs_now = epochs * (number + 1) // RATES - epochs * number // RATES
            history = aefast.fit(
                model, train, optimizer, epochs=epochs_now, batch_size=BATCH, seed=SEED
            )
            if epochs_now:
                schedule.step()
                rate = epochs_now * len(train) / history.seconds
                loss = history.losses[-1].item()
                progress.update(task, advance=epochs_now, loss=loss, rate=rate)
    model.eval()


def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)


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
    """Samples per second of :func:`aefast.fit` and of the loop that one writes for the same model,
    and the median ratio of the two.

    The two take turns, so that a drift of the machine touches both alike.
    """
    model = initialized(new_denoising, SEED)
    twin = nn.Sequential(
        nn.Linear(VISIBLE, HIDDEN), nn.Sigmoid(), nn.Linear(HIDDEN, VISIBLE), nn.Sigmoid()
    )
    optimizer, twin_optimizer = make_optimizer(model), make_optimizer(twin)

    def loop() -> None:
        for _ in range(EPOCHS_IN_TURN):
            for rows in torch.randperm(len(train), dtype=torch.int64, device="cpu").split(BATCH):
                x = train[rows]
                twin_optimizer.zero_grad()
                F.mse_loss(twin(F.dropout(x, LEVEL) * (1 - LEVEL)), x).backward()
                twin_optimizer.step()

    def ours() -> None:
        aefast.fit(model, train, optimizer, epochs=EPOCHS_IN_TURN, batch_size=BATCH, seed=SEED)

    contenders: dict[str, Callable[[], None]] = {"aefast": ours, "eager": loop}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(TIMED_TURNS + 1):
        for name, take_turn in contenders.items():
            start = time.perf_counter()
            take_turn()
            seconds[name].append(time.perf_counter() - start)

    after_warm_up = {name: series[1:] for name, series in seconds.items()}
    samples = EPOCHS_IN_TURN * len(train)
    rates = {name: samples / statistics.median(s) for name, s in after_warm_up.items()}
    pairs = zip(after_warm_up["eager"], after_warm_up["aefast"], strict=True)
    return rates, statistics.median(theirs / ours for theirs, ours in pairs)


def plot(out: Path, clean: Tensor, corrupted: Tensor, reconstruction: Tensor, error: float) -> None:
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
    save_picture(figure, out)
