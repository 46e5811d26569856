"""A step of SAELens' trainer: its top-k class, and the one that :mod:`aefast.saelens` registers.

It takes ``pip install 'aefast[sae]'``.
"""

from collections.abc import Callable
from itertools import repeat
from typing import Any

import pytest
import torch
from bench_topk import LEARNING_RATE, STEPS, Size, compare_steps
from harness import Case

Trainer = Any


def trainers(size: Size, device: str) -> tuple[Trainer, Trainer]:
    """A trainer of our class and one of SAELens' own, with the same initial parameters."""
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig

    from aefast.saelens import FastTopKTrainingSAE, FastTopKTrainingSAEConfig

    sizes = {"d_in": size.width, "d_sae": size.latents, "k": size.k, "device": device}
    ours = FastTopKTrainingSAE(FastTopKTrainingSAEConfig(**sizes))
    theirs = TopKTrainingSAE(TopKTrainingSAEConfig(**sizes))
    theirs.load_state_dict(ours.state_dict())
    return trainer(ours, size, device), trainer(theirs, size, device)


def trainer(sae: Any, size: Size, device: str) -> Trainer:
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    config = SAETrainerConfig(
        total_training_samples=10**9,
        train_batch_size_samples=size.rows,
        device=device,
        lr=LEARNING_RATE,
        lr_end=LEARNING_RATE,
    )
    return SAETrainer(config, sae, repeat(size.rows_of_data(device)))


@pytest.mark.parametrize("size", STEPS[:2], ids=str)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_step(compare: Callable[[Case], None], device: str, size: Size) -> None:
    pytest.importorskip("sae_lens", reason="sae-lens is not here: aefast[sae]")
    ours, theirs = trainers(size, device)
    compare(
        Case(
            op="saelens",
            name=f"its trainer's step {size} float32, eager is its own class",
            device=device,
            dtype=torch.float32,
            make_inputs=lambda: (size.rows_of_data(device),),
            ours=ours.step,
            eager=theirs.step,
            check=lambda: compare_steps(
                (lambda x: ours.step(x).loss, ours.sae),
                (lambda x: theirs.step(x).loss, theirs.sae),
                size.rows_of_data(device),
            ),
            compiles=False,
            training=True,
        )
    )
