"""Sparse dictionaries of known features, beside SAELens': which of them they find, in what time.

4096 directions in superposition, some of which fire together, by SAELens' generator; each batch is
given to both models in turn, from one start and with SAELens' default weight of the penalty. What
is found is measured by SAELens, too: the F1 of a latent as a detector of the feature that it is
most alike, and the cosine of features and latents that are matched one to one. Seconds are of the
processor, of one thread, without the generator.

    python benchmarks/features.py topk --steps 2000

takes ``pip install 'aefast[sae]'``.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.gated_sae import GatedTrainingSAE, GatedTrainingSAEConfig
from sae_lens.saes.jumprelu_sae import JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig
from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.synthetic import (
    ConstantFiringProbabilityConfig,
    LowRankCorrelationConfig,
    SyntheticModel,
    SyntheticModelConfig,
)
from sae_lens.synthetic.evals import ClassificationMetricsCalculator, mean_correlation_coefficient
from sae_lens.training.sae_trainer import SAETrainer
from torch import Tensor

from aefast.nn import (
    GatedSparseAutoencoder,
    JumpReLUSparseAutoencoder,
    TopKSparseAutoencoder,
)
from aefast.nn.dictionary import SparseDictionary

FEATURES, DIMENSIONS, ACTIVE = 4096, 128, 8
BATCH, LEARNING_RATE, HELD_OUT = 512, 3e-3, 16
# No seed of the generator's, whose directions the start would be.
START = 10**6

SIZES = {"d_in": DIMENSIONS, "d_sae": FEATURES}
MODELS: dict[str, tuple[Callable[[], SparseDictionary], Callable[[], Any]]] = {
    "topk": (
        lambda: TopKSparseAutoencoder(DIMENSIONS, FEATURES, ACTIVE),
        lambda: TopKTrainingSAE(TopKTrainingSAEConfig(**SIZES, k=ACTIVE)),
    ),
    "gated": (
        lambda: GatedSparseAutoencoder(DIMENSIONS, FEATURES),
        lambda: GatedTrainingSAE(GatedTrainingSAEConfig(**SIZES)),
    ),
    "jumprelu": (
        lambda: JumpReLUSparseAutoencoder(DIMENSIONS, FEATURES),
        lambda: JumpReLUTrainingSAE(JumpReLUTrainingSAEConfig(**SIZES)),
    ),
}


def generator(seed: int = 0) -> SyntheticModel:
    torch.manual_seed(seed)
    return SyntheticModel(
        SyntheticModelConfig(
            FEATURES,
            DIMENSIONS,
            firing_probability=ConstantFiringProbabilityConfig(ACTIVE / FEATURES),
            correlation=LowRankCorrelationConfig(rank=32, correlation_scale=0.1, seed=seed),
            std_firing_magnitudes=0.2,
            bias=False,
            seed=seed,
        )
    )


class Ours:
    """A model of this package. Gradients are clipped as in SAELens' trainer, whose loss is D times
    as large: without that Adam's second moments remember the first steps' for a thousand steps."""

    def __init__(self, model: SparseDictionary) -> None:
        self.model = model
        self.optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
        model.keep_unit_norm(self.optimizer)
        self.seconds = 0.0

    def step(self, x: Tensor) -> None:
        self.optimizer.zero_grad()
        self.model.loss(x).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1 / DIMENSIONS)
        self.optimizer.step()

    @property
    def directions(self) -> Tensor:
        return self.model.decoder_weight

    def encode(self, x: Tensor) -> Tensor:
        return self.model.encode_dense(x)


class Theirs:
    """SAELens' model in SAELens' trainer, from our model's start."""

    def __init__(self, sae: Any, start: SparseDictionary, steps: int) -> None:
        with torch.no_grad():
            sae.W_enc.copy_(start.encoder_weight.t())
            sae.W_dec.copy_(start.decoder_weight)
        settings = SAETrainerConfig(steps * BATCH, BATCH, lr=LEARNING_RATE, lr_end=LEARNING_RATE)
        self.sae, self.trainer = sae, SAETrainer(settings, sae, iter(()))
        self.seconds = 0.0

    def step(self, x: Tensor) -> None:
        self.trainer.step(x)

    @property
    def directions(self) -> Tensor:
        return self.sae.W_dec

    def encode(self, x: Tensor) -> Tensor:
        return self.sae.encode(x)


@torch.no_grad()
def found(contender: Ours | Theirs, data: SyntheticModel) -> dict[str, float]:
    """F1, the mean cosine of matched features, and active latents a row, on held-out rows."""
    truth = data.feature_dict.feature_vectors
    torch.manual_seed(1)
    counts = ClassificationMetricsCalculator(contender.directions, truth)
    active = 0.0
    for _ in range(HELD_OUT):
        features = data.activation_generator.sample(BATCH)
        code = contender.encode(data.feature_dict(features))
        counts.add_batch(code, features)
        active += (code != 0).sum().item() / (HELD_OUT * BATCH)
    cosine = mean_correlation_coefficient(contender.directions, truth)
    return {"F1": counts.compute().f1_score, "cosine": cosine, "L0": active}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--looks", type=int, default=1, help="how often what was found is printed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = generator()
    make, make_theirs = MODELS[options.model]
    torch.manual_seed(START)
    start = make()
    theirs = Theirs(make_theirs(), start, options.steps)
    contenders: dict[str, Ours | Theirs] = {"aefast": Ours(start), "SAELens": theirs}
    for step in range(1, options.steps + 1):
        torch.manual_seed(step + 1)
        x = data.sample(BATCH)
        for contender in contenders.values():
            begin = time.process_time()
            contender.step(x)
            contender.seconds += time.process_time() - begin
        if step * options.looks % options.steps < options.looks:
            for name, contender in contenders.items():
                figures = ", ".join(f"{k} {v:.4f}" for k, v in found(contender, data).items())
                print(
                    f"{options.model}, {step} steps, {name}: {figures}, {contender.seconds:.1f} s",
                    flush=True,
                )


if __name__ == "__main__":
    main()
