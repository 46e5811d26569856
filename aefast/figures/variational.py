"""A variational autoencoder: its sheet of digits, its bounds, and its linear case."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from aefast.estimators import ProbabilisticPCA
from aefast.figures.digits import load_digits, plot_images, subfigures, train
from aefast.nn import LinearAct, VariationalAutoencoder
from aefast.nn.initialization import initialized

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "A variational autoencoder bounds its likelihood"
SIZE = (10, 6.6)
SIDE = 12  # of the latent sheet, in digits
SAMPLES = (2, 5, 10, 20, 50)
DRAWS = 100  # of a digit's code, for each bound
MOST_SAMPLES = 2000
LINEAR_SIZES = (1, 2, 4, 8)


@dataclass(frozen=True)
class Measured:
    """Log-likelihoods and their bounds, in nats of a digit; the linear models' of gray ones."""

    elbo: float
    importance: dict[int, float]  # the importance-weighted bound, by its samples
    log_likelihood: float
    pixels: float  # the log-likelihood of a model with independent pixels
    sheet: Tensor
    samples: Tensor
    linear: dict[int, float]
    linear_elbo: dict[int, float]
    principal: dict[int, float]  # probabilistic PCA's

    @property
    def gap(self) -> float:
        """The largest gap from probabilistic PCA's log-likelihood down to the linear model's."""
        return max(self.principal[size] - self.linear[size] for size in LINEAR_SIZES)


def measure() -> Measured:
    gray, _, held_out_gray, _ = load_digits()
    data, held_out = gray.round(), held_out_gray.round()
    model = initialized(lambda: VariationalAutoencoder(64, 2, layers=[128, 64]), seed=0)
    train(model, data, epochs=100, learning_rate=1e-2)
    linear = {size: fit_linear(gray, size) for size in LINEAR_SIZES}
    rows = gray.double().numpy()
    with torch.no_grad():
        return Measured(
            model.elbo(held_out, DRAWS, seed=0).mean().item(),
            {samples: importance_bound(model, held_out, samples) for samples in SAMPLES},
            model.log_likelihood(held_out, MOST_SAMPLES, seed=0).mean().item(),
            pixels_log_likelihood(data, held_out),
            model.decode(latent_sheet()),
            model.sample(20, seed=0),
            {size: exact_log_likelihood(model, gray) for size, model in linear.items()},
            {size: model.elbo(gray, 20, seed=0).mean().item() for size, model in linear.items()},
            {size: ProbabilisticPCA(size).fit(rows).score(rows) for size in LINEAR_SIZES},
        )


def latent_sheet() -> Tensor:
    """Places ``[SIDE * SIDE, 2]`` that share N(0, I) evenly, from the top left, row by row."""
    quantiles = torch.special.ndtri(
        (torch.arange(SIDE, dtype=torch.int64, device="cpu") + 0.5) / SIDE
    )
    down, across = torch.meshgrid(quantiles.flip(0), quantiles, indexing="ij")
    return torch.stack((across.flatten(), down.flatten()), 1)


def importance_bound(model: VariationalAutoencoder, data: Tensor, samples: int) -> float:
    """The mean over the data and over as many draws of ``samples`` codes as make DRAWS."""
    repeated = data.expand(DRAWS // samples, *data.shape)
    return model.importance_bound(repeated, samples, seed=0).mean().item()


def pixels_log_likelihood(data: Tensor, held_out: Tensor) -> float:
    """The log-likelihood of a model in which each pixel is black by a probability of its own."""
    probability = (data.sum(0) + 1) / (len(data) + 2)
    pixels = torch.distributions.Bernoulli(probability)
    return pixels.log_prob(held_out).sum(1).mean().item()


def fit_linear(data: Tensor, latent: int) -> VariationalAutoencoder:
    model = initialized(
        lambda: VariationalAutoencoder(data.shape[1], latent, decoder_kind="gaussian"), seed=0
    )
    train(model, data, epochs=100, batch_size=256, learning_rate=4e-2)
    return model


def exact_log_likelihood(linear: VariationalAutoencoder, data: Tensor) -> float:
    """The mean log-likelihood of x = W z + b + noise, which is Gaussian."""
    assert linear.log_var is not None
    last = linear.decoder[-1]
    assert isinstance(last, LinearAct)
    weight, noise = last.weight.double(), linear.log_var.double().exp()
    covariance = weight @ weight.t() + noise * torch.eye(
        len(weight), dtype=torch.float32, device="cpu"
    )
    density = MultivariateNormal(last.bias.double(), covariance)
    return density.log_prob(data.double()).mean().item()


def sentence(measured: Measured) -> str:
    return (
        f"With two latent units, held-out binary digits cost {-measured.log_likelihood:.2f} nats "
        f"({-measured.pixels:.2f} with independent pixels), by the importance-weighted bound "
        f"with 50 samples at most {-measured.importance[50]:.2f}, by the ELBO at most "
        f"{-measured.elbo:.2f}. A linear one with a Gaussian decoder reaches probabilistic PCA's "
        f"likelihood of the training digits within {measured.gap:.3f} nats."
    )


def plot(measured: Measured, figure: "Figure") -> None:
    left, right = subfigures(figure, 1, 2, width_ratios=(1.15, 1))
    sheet, samples = left.subplots(2, 1, height_ratios=(5, 1))
    title = "Latent sheet: digits decoded along the quantiles of N(0, I)"
    plot_images(sheet, measured.sheet, title, columns=SIDE)
    plot_images(samples, measured.samples, "Samples: z drawn from N(0, I)")
    above, below = right.subplots(2, 1)
    plot_bounds(above, measured)
    plot_linear(below, measured)


def plot_bounds(axes: "Axes", measured: Measured) -> None:
    samples, bounds = [1, *SAMPLES], [measured.elbo, *measured.importance.values()]
    axes.axhline(measured.log_likelihood, color="gray", linestyle="--",
                 label=f"log-likelihood ({MOST_SAMPLES} samples)")  # fmt: skip
    axes.plot(samples, bounds, "o-", color="tab:blue", label="importance-weighted bound")
    axes.plot(1, measured.elbo, "o", color="tab:red", label="ELBO", zorder=3)
    axes.set(xscale="log", xlabel="samples", ylabel="nats of a held-out digit")
    axes.set_xticks(samples, list(map(str, samples)))
    axes.minorticks_off()
    axes.set_title("Bounds", fontsize=10, loc="left")
    axes.legend(loc="lower right")


def plot_linear(axes: "Axes", measured: Measured) -> None:
    axes.plot(LINEAR_SIZES, [*measured.principal.values()], color="gray", label="probabilistic PCA")
    axes.plot(LINEAR_SIZES, [*measured.linear.values()], "o", color="tab:blue",
              markersize=10, fillstyle="none", label="trained model")  # fmt: skip
    elbos = [*measured.linear_elbo.values()]
    axes.plot(LINEAR_SIZES, elbos, "x", color="tab:red", label="its ELBO")
    axes.set(xlabel="latent units", ylabel="nats of a training digit")
    axes.set_title("A linear one with a Gaussian decoder: log-likelihood", fontsize=10, loc="left")
    axes.legend(loc="lower right")
