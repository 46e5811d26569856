"""Codes learned without labels are better features than pixels where labels are few."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import aefast
from aefast.figures.digits import load_digits, train
from aefast.nn import RBM, ContractiveAutoencoder, DenoisingAutoencoder, SparseAutoencoder
from aefast.nn.initialization import initialized

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Codes make better features than pixels where labels are few"
SIZE = (10, 4.2)
LABELED = (20, 50, 200)
DRAWS = 12
INVERSE_PENALTIES = (10.0, 100.0, 1000.0)  # of logistic regression, scikit-learn's C
HIDDEN = 128
COLORS = {
    "pixels": "black",
    "sparse": "tab:red",
    "denoising": "tab:blue",
    "contractive": "tab:orange",
    "RBM": "gray",
}


@dataclass(frozen=True)
class Measured:
    """Accuracies on held-out digits, [draws of labeled digits, LABELED]."""

    accuracies: dict[str, Tensor]

    def gain(self, name: str) -> tuple[Tensor, Tensor]:
        """Over pixels, from the same labeled digits: the mean and its standard error, [LABELED]."""
        gains = self.accuracies[name] - self.accuracies["pixels"]
        return gains.mean(0), gains.std(0) / math.sqrt(DRAWS)


def measure() -> Measured:
    data, labels, held_out, held_out_labels = load_digits()
    accuracies = {}
    for name, encode in encoders(data).items():
        with torch.no_grad():
            features, held_out_features = encode(data), encode(held_out)
        mean, deviation = features.mean(0), features.var(0).sum().sqrt()
        accuracies[name] = accuracy(
            (features - mean) / deviation,
            labels,
            (held_out_features - mean) / deviation,
            held_out_labels,
        )
    return Measured(accuracies)


def encoders(data: Tensor) -> dict[str, Callable[[Tensor], Tensor]]:
    """Trained on all training digits, without labels."""
    size = data.shape[1], HIDDEN
    options: dict[str, Any] = {"output_activation": "sigmoid", "reconstruction": "bce"}
    encoders: dict[str, Callable[[Tensor], Tensor]] = {"pixels": lambda x: x}
    for name, make in {
        "sparse": lambda: SparseAutoencoder(*size, sparsity_weight=1e-3, **options),
        "denoising": lambda: DenoisingAutoencoder(
            *size, corruption="gaussian", corruption_level=0.5, **options
        ),
        "contractive": lambda: ContractiveAutoencoder(*size, contraction=0.003, **options),
    }.items():
        model = initialized(make, seed=0)
        train(model, data, epochs=60, learning_rate=5e-3)
        encoders[name] = model.encode
    machine = initialized(lambda: RBM(*size), seed=0)
    optimizer = torch.optim.SGD(machine.parameters(), lr=0.1, momentum=0.5)
    aefast.fit(machine, data, optimizer, epochs=60, batch_size=50, seed=0)
    return encoders | {"RBM": machine}


def accuracy(features: Tensor, labels: Tensor, held_out: Tensor, held_out_labels: Tensor) -> Tensor:
    """The accuracy of logistic regression on held-out digits, ``[DRAWS, LABELED]``.

    Its penalty is the one that does best on the training digits whose labels it was not given, on
    average over the draws: none of what is held out.
    """
    from sklearn.linear_model import LogisticRegression

    scores = torch.zeros(
        2, DRAWS, len(LABELED), len(INVERSE_PENALTIES), dtype=torch.float32, device="cpu"
    )
    for repetition in range(DRAWS):
        order = torch.randperm(
            len(labels),
            generator=torch.Generator().manual_seed(repetition),
            dtype=torch.int64,
            device="cpu",
        )
        for column, count in enumerate(LABELED):
            labeled, rest = order[:count], order[count:]
            for index, penalty in enumerate(INVERSE_PENALTIES):
                classifier = LogisticRegression(C=penalty, max_iter=300)
                classifier.fit(features[labeled].numpy(), labels[labeled].numpy())
                for row, (rows, truth) in enumerate(
                    ((features[rest], labels[rest]), (held_out, held_out_labels))
                ):
                    scores[row, repetition, column, index] = classifier.score(
                        rows.numpy(), truth.numpy()
                    )
    best = scores[0].mean(0).argmax(1)
    return scores[1].gather(2, best.expand(DRAWS, -1)[:, :, None]).squeeze(2)


def sentence(measured: Measured) -> str:
    pixels = measured.accuracies["pixels"].mean(0)
    sparse = measured.accuracies["sparse"].mean(0)
    gain, error = measured.gain("sparse")
    machine = measured.gain("RBM")[0]
    positions = range(len(LABELED))
    rows = (
        f"{LABELED[index]} labels {sparse[index]:.1%} against {pixels[index]:.1%} "
        f"(+{100 * gain[index]:.1f} points, standard error {100 * error[index]:.1f})"
        for index in positions
    )
    return (
        "Logistic regression on a sparse code, learned without labels, classifies held-out digits "
        f"better than on pixels: with {'; '.join(rows)}, means over {DRAWS} draws of the labeled "
        f"digits. An RBM's code gains {100 * machine[0]:.1f} points with {LABELED[0]} labels and "
        f"loses {-100 * machine[-1]:.1f} with {LABELED[-1]}."
    )


def plot(measured: Measured, figure: "Figure") -> None:
    left, right = figure.subplots(1, 2)
    for name, color in COLORS.items():
        mean = 100 * measured.accuracies[name].mean(0)
        left.plot(LABELED, mean, "o-", color=color, label=name)
        if name != "pixels":
            gain, error = (100 * part for part in measured.gain(name))
            right.errorbar(LABELED, gain, error, fmt="o-", color=color, capsize=3, label=name)
    right.axhline(0, color="black", linewidth=1)
    for axes in (left, right):
        axes.set(xlabel="labeled digits", xscale="log")
        axes.set_xticks(LABELED, [str(count) for count in LABELED])
        axes.minorticks_off()
        axes.legend()
    left.set(ylabel="accuracy, held out (%)", title="Logistic regression")
    right.set(ylabel="points, with standard error", title="Better than on pixels by")
