"""What the figures share: handwritten digits, a training loop, and how digits are drawn."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import aefast
from aefast.nn import Autoencoder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

HELD_OUT = 360


@cache
def load_digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """scikit-learn's 8x8 digits, in [0, 1], shuffled, and their labels: 1437 to train on and 360
    held out. (train, train_labels, held_out, held_out_labels)"""
    from sklearn import datasets

    digits = datasets.load_digits()
    order = torch.randperm(
        len(digits.data),
        generator=torch.Generator().manual_seed(0),
        dtype=torch.int64,
        device="cpu",
    )
    pixels = (torch.from_numpy(digits.data).float() / 16)[order]
    labels = torch.from_numpy(digits.target)[order]
    return pixels[HELD_OUT:], labels[HELD_OUT:], pixels[:HELD_OUT], labels[:HELD_OUT]


def shuffled(count: int, batch_size: int, *, epochs: int) -> list[Tensor]:
    """The row numbers of each batch of some epochs."""
    generator = torch.Generator().manual_seed(0)
    orders = [
        torch.randperm(count, generator=generator, dtype=torch.int64, device="cpu")
        for _ in range(epochs)
    ]
    return [rows for order in orders for rows in order.split(batch_size)]


def train(
    model: Any,
    data: Tensor,
    *,
    epochs: int,
    batch_size: int = 128,
    learning_rate: float = 3e-3,
    each_epoch: Callable[[], None] = lambda: None,
) -> list[float]:
    """Adam, with a learning rate that falls to 0 along a cosine, epoch by epoch; the losses of the
    steps. ``each_epoch`` is called after each."""
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    was_training = model.training
    losses: list[float] = []
    for _ in range(epochs):
        history = aefast.fit(model, data, optimizer, batch_size=batch_size, seed=0)
        losses += history.losses.tolist()
        schedule.step()
        each_epoch()
    model.train(was_training)
    return losses


def train_to_the_optimum(model: Autoencoder, data: Tensor, *, steps: int) -> None:
    """L-BFGS on all data at once, and one draw of the noise: for what is compared with an optimum
    that is known."""
    optimizer = torch.optim.LBFGS(
        model.parameters(),
        max_iter=steps,
        history_size=30,
        tolerance_grad=1e-9,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def gradients() -> float:
        optimizer.zero_grad()
        loss = data.shape[1] * model.loss(data, seed=0)
        loss.backward()
        return loss.item()

    optimizer.step(gradients)


@torch.no_grad()
def pca(data: Tensor, hidden: int) -> Autoencoder:
    """Principal component analysis, as the linear autoencoder with its weights."""
    from aefast.estimators import PCA

    fitted = PCA(hidden).fit(data.numpy())
    axes, mean = torch.from_numpy(fitted.components_), torch.from_numpy(fitted.mean_)
    model = Autoencoder(data.shape[1], hidden, activation="identity")
    encoder, decoder = model.encoder[0], model.decoder[0]
    encoder.weight.copy_(axes)
    encoder.bias.copy_(-axes @ mean)
    decoder.weight.copy_(axes.t())
    decoder.bias.copy_(mean)
    return model.eval()


@torch.no_grad()
def squared_error(model: Callable[[Tensor], Tensor], images: Tensor) -> float:
    """The squared error of the reconstructions: summed over an image's pixels, the mean over
    images."""
    return (model(images) - images).square().sum(1).mean().item()


def subfigures(
    figure: "Figure",
    rows: int,
    columns: int,
    *,
    width_ratios: Sequence[float] | None = None,
    height_ratios: Sequence[float] | None = None,
) -> "list[SubFigure]":
    """The parts of a figure, row by row."""
    parts = figure.subfigures(
        rows, columns, squeeze=False, width_ratios=width_ratios, height_ratios=height_ratios
    )
    return list(parts.flat)


def plot_images(
    axes: "Axes", images: Tensor, title: str = "", *, columns: int = 10, names: Sequence[str] = ()
) -> None:
    """Square images ``[N, side * side]`` as a grid on one pair of axes, with thin gaps, and the
    names of its rows on their left."""
    side = round(images.shape[1] ** 0.5)
    rows = -(-len(images) // columns)
    low, high = images.min(), images.max()
    grid = torch.full(
        (rows * (side + 1) - 1, columns * (side + 1) - 1),
        float("nan"),
        dtype=torch.float32,
        device="cpu",
    )
    for number, image in enumerate((images - low) / (high - low)):
        row, column = (index * (side + 1) for index in divmod(number, columns))
        grid[row : row + side, column : column + side] = image.reshape(side, side)
    axes.imshow(grid.numpy(), cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
    for row, name in enumerate(names):
        middle = row * (side + 1) + (side - 1) / 2
        axes.text(-2, middle, name, fontsize=9, ha="right", va="center")
    axes.set_title(title, fontsize=10, loc="left")
    axes.axis("off")
