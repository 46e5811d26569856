"""What generative models draw, and what becomes of random codes of a plain autoencoder."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from aefast.estimators import ProbabilisticPCA
from aefast.figures.digits import load_digits, plot_images, shuffled, subfigures, train
from aefast.figures.rbm import learning
from aefast.nn import RBM, Autoencoder, StochasticAutoencoder, VariationalAutoencoder
from aefast.nn.initialization import initialized

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Generative models draw digits; random codes of a plain autoencoder fall off them"
SIZE = (11, 6)
LATENT = 16
HIDDEN = 256
SHOWN = 12

GENERATORS = ("variational", "RBM", "stochastic", "probabilistic PCA")
PLAIN = ("uniform codes", "Gaussian codes")


@dataclass(frozen=True)
class Measured:
    """Euclidean distances, means over as many samples as there are held-out digits."""

    samples: dict[str, Tensor]  # [360, 64]
    to_digits: dict[str, float]  # of a sample to the nearest held-out digit: is it one?
    from_digits: dict[str, float]  # of a held-out digit to the nearest sample: are all there?


def measure() -> Measured:
    data, _, held_out, _ = load_digits()
    count = len(held_out)
    samples = {
        "training digits": data[:count],
        "variational": sample_variational(data, count),
        "RBM": sample_rbm(data, count),
        "stochastic": sample_stochastic(data, count),
        "probabilistic PCA": sample_probabilistic_pca(data, count),
        **sample_plain(data, count),
    }
    distances = {name: torch.cdist(rows, held_out) for name, rows in samples.items()}
    return Measured(
        samples,
        {name: between.amin(1).mean().item() for name, between in distances.items()},
        {name: between.amin(0).mean().item() for name, between in distances.items()},
    )


def sample_variational(data: Tensor, count: int) -> Tensor:
    model = initialized(
        lambda: VariationalAutoencoder(data.shape[1], LATENT, layers=[HIDDEN]), seed=0
    )
    train(model, data, epochs=120, learning_rate=5e-3)
    return model.sample(count, seed=0)


def sample_plain(data: Tensor, count: int) -> dict[str, Tensor]:
    """The variational autoencoder's network and training. Nothing says which codes are a digit's:
    they are drawn from the box that the training codes are in, or from a Gaussian fitted to them,
    which helps the more the fewer code units there are."""
    model = initialized(
        lambda: Autoencoder(
            layers=[data.shape[1], HIDDEN, LATENT],
            activation="tanh",
            code_activation="identity",
            output_activation="sigmoid",
            reconstruction="bce",
        ),
        seed=0,
    )
    train(model, data, epochs=120, learning_rate=5e-3)
    pair: Any = {"dtype": torch.float32, "device": "cpu"}
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        codes = model.encode(data)
        low, high = codes.amin(0), codes.amax(0)
        uniform = low + (high - low) * torch.rand(count, LATENT, generator=generator, **pair)
        factor = torch.linalg.cholesky(codes.t().cov())
        normal = torch.randn(count, LATENT, generator=generator, **pair)
        gaussian = codes.mean(0) + normal @ factor.t()
        decoded = map(model.decode, (uniform, gaussian))
        return dict(zip(PLAIN, decoded, strict=True))


def sample_rbm(data: Tensor, count: int) -> Tensor:
    """The means of the visible units, as the others' samples are means."""
    machine = initialized(lambda: RBM(data.shape[1], 100, chains=100), seed=0)
    batches = [data[rows] for rows in shuffled(len(data), 100, epochs=150)]
    with torch.no_grad():
        machine.visible_bias.copy_(data.mean(0).clamp(0.01, 0.99).logit())
    for _ in learning(machine, batches, weight_decay=0):
        pass
    with torch.no_grad():
        return machine.reconstruct(machine.sample(count, k=1000, seed=0))


def sample_stochastic(data: Tensor, count: int) -> Tensor:
    model = initialized(lambda: StochasticAutoencoder(data.shape[1], 64, code_noise=1.2), seed=0)
    train(model, data, epochs=60, learning_rate=5e-3)
    return model.sample(count, seed=0)


def sample_probabilistic_pca(data: Tensor, count: int) -> Tensor:
    """Samples of probabilistic PCA without its noise, clamped to [0, 1]."""
    model = ProbabilisticPCA(LATENT).fit(data.numpy())
    codes = model.transform(model.sample(count, random_state=0))
    return torch.from_numpy(model.inverse_transform(codes)).float().clamp(0, 1)


def sentence(measured: Measured) -> str:
    distances = measured.to_digits
    generators = ", ".join(f"{name} {distances[name]:.2f}" for name in GENERATORS)
    return (
        f"Mean distance of a sample to the nearest held-out digit: {generators} (training digits "
        f"{distances['training digits']:.2f}); of a plain autoencoder's decoded random codes "
        f"{distances[PLAIN[0]]:.2f}, and {distances[PLAIN[1]]:.2f} with codes from a Gaussian "
        "fitted to those of the training digits."
    )


def plot(measured: Measured, figure: "Figure") -> None:
    left, right = subfigures(figure, 1, 2, width_ratios=(1, 1.1))
    axes = left.subplots()
    for names, color, marker, label in (
        (("training digits",), "black", "*", "training digits"),
        (GENERATORS, "tab:blue", "o", "generative models"),
        (PLAIN, "tab:red", "s", "plain autoencoder"),
    ):
        to_digits = [measured.to_digits[name] for name in names]
        from_digits = [measured.from_digits[name] for name in names]
        axes.scatter(to_digits, from_digits, color=color, marker=marker, s=60, label=label)
        for name, x, y in zip(names, to_digits, from_digits, strict=True):
            axes.annotate(name, (x, y), (6, -4), textcoords="offset points")
    axes.set(
        xlabel="of a sample to the nearest held-out digit",
        ylabel="of a held-out digit to the nearest sample",
        title="Euclidean distances, means",
    )
    axes.set_xlim(right=1.25 * max(measured.to_digits.values()))  # for its name
    axes.legend(loc="upper left")
    for panel, (name, rows) in zip(
        right.subplots(len(measured.samples), 1), measured.samples.items(), strict=True
    ):
        title = f"plain autoencoder, {name}" if name in PLAIN else name
        plot_images(panel, rows[:SHOWN], title, columns=SHOWN)
