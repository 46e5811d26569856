"""Small training runs for the tests."""

from typing import Any
from unittest import mock

import numpy as np

from aefast.data import Dataset
from aefast.training import loop, models, run
from aefast.training.checkpoint import Checkpoint
from aefast.training.config import RunProgress
from aefast.training.loop import Trainer, train

ROWS, VISIBLE = 50, 12

SMALL = {
    "ae": {"hidden": [8]},
    "dae": {"hidden": [8]},
    "cae": {"hidden": [8]},
    "sae": {"hidden": [8], "code_dropout": 0.2},
    "stochastic": {"hidden": [8]},
    "vae": {"hidden": [8, 3]},
    "rbm": {"hidden": [8], "chains": 5},
    "dbn": {"hidden": [8, 6], "chains": 5},
    "topk": {"hidden": [24], "k": 3, "aux_k": 4, "dead_after": 20},
    "batchtopk": {"hidden": [24], "k": 3},
    "jumprelu": {"hidden": [24], "sparsity_weight": 1e-2, "bandwidth": 1.0},
    "gated": {"hidden": [24], "aux_k": 4, "dead_after": 20},
    "matryoshka": {"hidden": [24], "k": 3, "prefixes": [8, 24]},
}


def rows() -> np.ndarray:
    return (np.random.default_rng(0).random((ROWS, VISIBLE)) < 0.4).astype(np.float32)


def dataset() -> Dataset:
    return Dataset(rows(), (VISIBLE,), 1.0, "rows.npy", 0.0, 1.0, 0)


def new(model: str, **options: Any) -> Trainer:
    """A run of 7 batches an epoch, the last of them smaller."""
    options = {"batch_size": 8, "epochs": 3, **SMALL[model], **options, "model": model}
    config = run.configure(options, dataset())
    return Trainer(Checkpoint(config, RunProgress(), models.build(config), {}), dataset())


def proceed(trainer: Trainer, *, until: int | None = None) -> list[dict[str, Any]]:
    """Train step by step up to a step, or to the end; return the lines of metrics."""
    lines: list[dict[str, Any]] = []
    with mock.patch.object(loop, "CHUNK_SECONDS", 0.0):
        train(
            trainer,
            save=lambda checkpoint: None,
            write=lines.append,
            show=lambda progress: None,
            is_stopped=lambda: trainer.progress.step == until,
        )
    return lines
