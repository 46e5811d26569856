"""A stochastic autoencoder: its two distributions, and the Markov chain that they make."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from aefast.figures.digits import load_digits, plot_images, subfigures, train
from aefast.nn import StochasticAutoencoder
from aefast.nn.initialization import initialized

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "A stochastic autoencoder is a Markov chain that ends at the data"
SIZE = (11, 6)
HIDDEN = 64
NOISE = 1.2  # standard deviation of the code given x
CHAINS = 200
STEPS = (1, 2, 3, 5, 10, 30, 100)
DRAWS = 9  # of x from each of the decoder's distributions that are drawn
SHOWN = 6


@dataclass(frozen=True)
class Measured:
    """Losses in nats a digit; distances of rows to the nearest training digit, means."""

    losses: list[float]  # of each training step
    held_out_before: float
    held_out_after: float
    inputs: Tensor  # [SHOWN, 64], held out
    means: Tensor  # of p(x | h), h from p(h | input)
    draws: Tensor  # from p(x | h), [SHOWN, DRAWS, 64]
    chains: Tensor  # at the start and after each of STEPS, [8, SHOWN, 64]
    distances: list[float]  # likewise
    held_out_distance: float
    classes: int  # of the digits nearest to the chains' ends


def measure() -> Measured:
    data, labels, held_out, _ = load_digits()
    model = initialized(
        lambda: StochasticAutoencoder(data.shape[1], HIDDEN, code_noise=NOISE), seed=0
    )
    with torch.no_grad():
        before = model.loss(held_out, seed=1).item()
    losses = train(model, data, epochs=60, learning_rate=5e-3)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        after = model.loss(held_out, seed=1).item()
        encoder = model.encode_distribution(held_out[:SHOWN])
        code = torch.normal(encoder.mean, encoder.stddev, generator=generator)
        decoder = model.decode_distribution(code)
        probabilities = decoder.mean[:, None].expand(-1, DRAWS, -1)
        draws = torch.bernoulli(probabilities, generator=generator)
    # One seed: a longer chain goes on where a shorter one ended.
    shape = CHAINS, data.shape[1]
    start = torch.rand(shape, dtype=torch.float32, device="cpu", generator=generator)
    chains = [start] + [model.sample(CHAINS, steps, start=start, seed=0) for steps in STEPS]
    nearest = torch.cdist(chains[-1], data).argmin(1)
    return Measured(
        losses=losses,
        held_out_before=before,
        held_out_after=after,
        inputs=held_out[:SHOWN],
        means=decoder.mean,
        draws=draws,
        chains=torch.stack(chains)[:, :SHOWN],
        distances=[distance(rows, data) for rows in chains],
        held_out_distance=distance(held_out, data),
        classes=len(labels[nearest].unique()),
    )


def distance(rows: Tensor, data: Tensor) -> float:
    return torch.cdist(rows, data).amin(1).mean().item()


def sentence(measured: Measured) -> str:
    return (
        f"Training lowers the held-out -log p(x | h) from {measured.held_out_before:.1f} to "
        f"{measured.held_out_after:.1f} nats a digit; {CHAINS} chains that start at noise, "
        f"{measured.distances[0]:.2f} from the nearest training digit, are "
        f"{measured.distances[-1]:.2f} from it after {STEPS[-1]} steps (held-out digits: "
        f"{measured.held_out_distance:.2f}), at {measured.classes} of the 10 kinds."
    )


def plot(measured: Measured, figure: "Figure") -> None:
    left, right = subfigures(figure, 1, 2, width_ratios=(1, 1.7))
    top, bottom = left.subplots(2, 1)
    top.plot(measured.losses, color="tab:blue", label="training batches")
    top.axhline(
        measured.held_out_after, color="tab:red", linestyle="--", label="held out, at the end"
    )
    top.set(xlabel="training step", ylabel="-log p(x | h) (nats)", title="Training")
    top.legend()
    positions = range(len(measured.distances))
    bottom.plot(positions, measured.distances, "o-", color="tab:blue", label="chains")
    bottom.axhline(
        measured.held_out_distance, color="tab:red", linestyle="--", label="held-out digits"
    )
    bottom.set_xticks(positions, [0, *STEPS])
    bottom.set(
        xlabel="steps of the chains",
        ylabel="Euclidean distance",
        title="To the nearest training digit",
        ylim=(0, None),
    )
    bottom.legend()
    above, below = right.subplots(2, 1)
    rows = torch.cat((measured.inputs[:, None], measured.means[:, None], measured.draws), 1)
    title = f"A digit; the mean of p(x | h) at a code of it; {DRAWS} draws"
    plot_images(above, rows.flatten(0, 1), title, columns=rows.shape[1])
    chains = measured.chains.transpose(0, 1)
    title = f"Chains from noise: after 0, {', '.join(map(str, STEPS))} steps"
    plot_images(below, chains.flatten(0, 1), title, columns=chains.shape[1])
