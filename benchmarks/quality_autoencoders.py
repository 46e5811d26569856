"""Autoencoders: scikit-learn's network, pyod's detector of outliers, pythae's variational one."""

import tempfile
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from quality import MOST_PASSES, Quality, binary_digits, digits
from torch import Tensor

import aefast
from aefast import estimators

NETWORK: dict[str, Any] = {"hidden_layer_sizes": 32, "batch_size": 32}


def train_estimator(rows: np.ndarray, passes: int, seed: int) -> Any:
    model = estimators.Autoencoder(
        n_iter=passes, learning_rate=0.003, random_state=seed, **NETWORK
    ).fit(rows)
    return lambda x: model.inverse_transform(model.transform(x))


def train_scikit_learn(rows: np.ndarray, passes: int, seed: int) -> Any:
    from sklearn.neural_network import MLPRegressor

    model = MLPRegressor(
        max_iter=passes,
        activation="logistic",
        learning_rate_init=0.003,
        alpha=0,
        tol=0,
        n_iter_no_change=MOST_PASSES,
        random_state=seed,
        **NETWORK,
    )
    return model.fit(rows, rows).predict


def reconstruction(reconstruct: Callable[[np.ndarray], np.ndarray], rows: np.ndarray) -> float:
    """Minus the mean squared error."""
    return -float(np.square(reconstruct(rows) - rows).mean())


# The detector's layers to its code, which has as many units as the table's surface has dimensions.
DETECTOR = [32, 6]
FEATURES, FACTORS, OUTLIERS, FOREIGN = 40, 6, 0.05, 8


@cache
def table() -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Rows of a curved surface with a little noise, 2000 to train on and 2000 that are held out
    with their labels. One in twenty is an outlier: eight of its features are each another row's,
    so that every number is an ordinary one, and only together they are none."""
    random = np.random.default_rng(0)
    factors = random.normal(size=(4000, FACTORS))
    rows = np.tanh(factors @ random.normal(size=(FACTORS, FEATURES)) / 2)
    rows += 0.3 * random.normal(size=rows.shape)
    labels = random.random(len(rows)) < OUTLIERS
    count = int(labels.sum())
    columns = np.argsort(random.random((count, FEATURES)), axis=1)[:, :FOREIGN]
    rows[np.flatnonzero(labels)[:, None], columns] = rows[
        random.integers(len(rows), size=(count, FOREIGN)), columns
    ]
    rows = rows.astype(np.float32)
    return rows[:2000], (rows[2000:], labels[2000:])


def train_our_detector(rows: np.ndarray, passes: int, seed: int) -> Any:
    network = estimators.Autoencoder(
        DETECTOR, activation="relu", learning_rate=1e-3, batch_size=32, n_iter=passes
    )
    detector = estimators.AutoencoderOutlierDetector(network, random_state=seed).fit(rows)
    return lambda x: -detector.score_samples(x)


def train_pyod(rows: np.ndarray, passes: int, seed: int) -> Any:
    """pyod's AutoEncoder, less its batch normalization, dropout and weight decay."""
    from pyod.models.auto_encoder import AutoEncoder

    detector = AutoEncoder(
        hidden_neuron_list=DETECTOR,
        batch_norm=False,
        dropout_rate=0,
        optimizer_params={},
        epoch_num=passes,
        random_state=seed,
        verbose=0,
    )
    return detector.fit(rows).decision_function


def found_outliers(
    outlyingness: Callable[[np.ndarray], np.ndarray], held_out: tuple[np.ndarray, np.ndarray]
) -> float:
    """The area under the curve: how often an outlier's number is above an ordinary row's."""
    from sklearn.metrics import roc_auc_score

    rows, labels = held_out
    return float(roc_auc_score(labels, outlyingness(rows)))


# pythae's own multilayer perceptrons have 512 hidden units.
LATENT, HIDDEN, VARIATIONAL_BATCH, VARIATIONAL_RATE = 8, 512, 64, 1e-3
DRAWS = 64

Posterior = Callable[[Tensor], tuple[Tensor, Tensor]]
Decoder = Callable[[Tensor], Tensor]


def train_our_variational(array: np.ndarray, passes: int, seed: int) -> tuple[Posterior, Decoder]:
    torch.manual_seed(seed)
    rows = torch.from_numpy(array)
    model = aefast.nn.VariationalAutoencoder(
        rows.shape[1], LATENT, layers=[HIDDEN], activation="relu"
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=VARIATIONAL_RATE)
    aefast.fit(model, rows, optimizer, epochs=passes, batch_size=VARIATIONAL_BATCH, seed=seed)
    return model.posterior, model.decode


def train_pythae(array: np.ndarray, passes: int, seed: int) -> tuple[Posterior, Decoder]:
    """pythae's VAE by its trainer, which keeps the best epoch's model in a folder."""
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    rows = torch.from_numpy(array)
    torch.manual_seed(seed)
    model = VAE(VAEConfig((rows.shape[1],), LATENT, reconstruction_loss="bce"))
    with tempfile.TemporaryDirectory() as folder:
        config = BaseTrainerConfig(
            folder,
            per_device_train_batch_size=VARIATIONAL_BATCH,
            num_epochs=passes,
            learning_rate=VARIATIONAL_RATE,
            seed=seed,
            no_cuda=True,
        )
        data = BaseDataset(rows, torch.zeros(len(rows)))
        BaseTrainer(model, data, training_config=config).train()

    def posterior(x: Tensor) -> tuple[Tensor, Tensor]:
        output = model.encoder(x)
        return output.embedding, output.log_covariance

    return posterior, lambda code: model.decoder(code).reconstruction


@torch.no_grad()
def evidence_lower_bound(model: tuple[Posterior, Decoder], array: np.ndarray) -> float:
    """The mean over rows, in nats: an exact divergence, and draws that are the same for all."""
    posterior, decode = model
    rows = torch.from_numpy(array)
    mean, log_var = posterior(rows)
    noise = torch.randn(DRAWS, *mean.shape, generator=torch.Generator().manual_seed(0))
    pixels = decode((mean + (log_var / 2).exp() * noise).flatten(0, 1))
    target = rows.expand(DRAWS, *rows.shape).flatten(0, 1)
    error = F.binary_cross_entropy(pixels, target, reduction="sum") / DRAWS
    divergence = (mean.square() + log_var.exp() - log_var - 1).sum() / 2
    return -((error + divergence) / len(rows)).item()


QUALITIES = {
    "autoencoder 64-32": Quality(
        "sklearn",
        digits,
        train_estimator,
        train_scikit_learn,
        reconstruction,
        "a held-out squared error of {:g}",
        -0.01,
    ),
    "outliers of 2000x40, autoencoder 40-32-6": Quality(
        "pyod",
        table,
        train_our_detector,
        train_pyod,
        found_outliers,
        "a held-out area under the curve of {:g}",
        0.9,
    ),
    "variational autoencoder 64-512-8": Quality(
        "pythae",
        binary_digits,
        train_our_variational,
        train_pythae,
        evidence_lower_bound,
        "a held-out negative lower bound of {:g} nats",
        -22.0,
    ),
}
