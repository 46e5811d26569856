"""A top-k dictionary of features in superposition, against SAELens."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import torch
from quality import Quality
from torch import Tensor
from torch.nn.functional import normalize

import aefast

DIMENSIONS, FEATURES, ACTIVE = 128, 512, 8
LATENTS, K, BATCH, LEARNING_RATE = 1024, 16, 256, 3e-3
ROWS, HELD_OUT = 4096, 1024


@cache
def activations() -> tuple[np.ndarray, np.ndarray]:
    """Sums of a few directions each, of many more than there are dimensions, and a little noise."""
    draws = torch.Generator().manual_seed(0)
    directions = normalize(torch.randn(FEATURES, DIMENSIONS, generator=draws))
    total = ROWS + HELD_OUT
    chosen = torch.rand(total, FEATURES, generator=draws).topk(ACTIVE).indices
    strengths = 1 + torch.rand(total, ACTIVE, generator=draws)
    rows = (strengths.unsqueeze(2) * directions[chosen]).sum(1)
    rows += 0.05 * torch.randn(rows.shape, generator=draws)
    return rows[:ROWS].numpy(), rows[ROWS:].numpy()


def first_model(seed: int) -> aefast.nn.TopKSparseAutoencoder:
    torch.manual_seed(seed)
    return aefast.nn.TopKSparseAutoencoder(DIMENSIONS, LATENTS, K)


def train(array: np.ndarray, passes: int, seed: int) -> Callable[[Tensor], Tensor]:
    model, rows = first_model(seed), torch.from_numpy(array)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    aefast.fit(model, rows, optimizer, epochs=passes, batch_size=BATCH, seed=seed)
    return model


def train_saelens(array: np.ndarray, passes: int, seed: int) -> Callable[[Tensor], Tensor]:
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig

    return train_by_its_trainer(TopKTrainingSAE, TopKTrainingSAEConfig, array, passes, seed)


def train_registered(array: np.ndarray, passes: int, seed: int) -> Callable[[Tensor], Tensor]:
    """Train by SAELens' trainer and the training class of :mod:`aefast.saelens`."""
    from aefast.saelens import FastTopKTrainingSAE, FastTopKTrainingSAEConfig

    return train_by_its_trainer(FastTopKTrainingSAE, FastTopKTrainingSAEConfig, array, passes, seed)


def train_by_its_trainer(
    kind: Any, config: Any, array: np.ndarray, passes: int, seed: int
) -> Callable[[Tensor], Tensor]:
    """Train from our model's parameters, with SAELens' default settings: its directions do not keep
    a norm of 1, but the code is scaled as if they did."""
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    sae = kind(config(d_in=DIMENSIONS, d_sae=LATENTS, k=K))
    first, rows = first_model(seed), torch.from_numpy(array)
    with torch.no_grad():
        sae.W_enc.copy_(first.encoder_weight.t())
        sae.W_dec.copy_(first.decoder_weight)
    settings = SAETrainerConfig(passes * len(rows), BATCH, lr=LEARNING_RATE, lr_end=LEARNING_RATE)
    SAETrainer(settings, sae, minibatches(rows)).fit()
    return sae


def minibatches(rows: Tensor) -> Iterator[Tensor]:
    while True:
        yield from rows[torch.randperm(len(rows))].split(BATCH)


@torch.no_grad()
def explained_variance(reconstruct: Callable[[Tensor], Tensor], array: np.ndarray) -> float:
    """The share of the variance of rows that their reconstructions have."""
    rows = torch.from_numpy(array)
    error = (reconstruct(rows) - rows).square().sum()
    return 1 - (error / (rows - rows.mean(0)).square().sum()).item()


EXPLAINED: dict[str, Any] = {
    "score": explained_variance,
    "measure": "a held-out share of the variance of {:g}",
    "target": 0.8,
}
QUALITIES = {
    f"top-{K} of {DIMENSIONS}-{LATENTS}": Quality(
        "sae_lens", activations, train, train_saelens, **EXPLAINED
    ),
    f"top-{K} of {DIMENSIONS}-{LATENTS} in its trainer": Quality(
        "sae_lens", activations, train_registered, train_saelens, **EXPLAINED
    ),
}
