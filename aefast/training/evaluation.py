"""The loss of held-out rows, and metrics of models whose loss alone says little.

An RBM's loss is a difference of free energies: near 0 for a good machine, and for one that learned
nothing. A sparse dictionary's loss depends on the data's scale and on how many latents are active.
"""

import torch
from torch import Tensor

from aefast import random
from aefast.data import Dataset
from aefast.data.pairs import Pair, PairedRows
from aefast.data.tensor_rows import TensorRows
from aefast.nn import RBM
from aefast.nn.dictionary import SparseDictionary
from aefast.nn.trainable import Trainable

# With so many the metrics have three digits, and take as long as a few steps.
EVALUATED_ROWS = 500
FLIPPED_UNITS = 8


def metrics_of(
    module: Trainable, dataset: Dataset | PairedRows, indices: Tensor
) -> dict[str, float]:
    """The metrics of some of the rows of ``indices``, the same ones at every call. Empty for a
    model whose loss is enough."""
    if isinstance(module, RBM) and isinstance(dataset, Dataset):
        return machine_metrics(module, dataset, indices)
    if isinstance(module, SparseDictionary):
        return dictionary_metrics(module, dataset, indices)
    return {}


@torch.no_grad()
def dictionary_metrics(
    model: SparseDictionary, dataset: Dataset | PairedRows, indices: Tensor
) -> dict[str, float]:
    """The fraction of the rows' variance, or of their targets', that is left unexplained, the
    mean number of active latents a row (L0), and the share of latents that are dead."""
    rows = dataset.take(_evaluated(indices)).to(model.decoder_bias)
    x, target = rows if isinstance(rows, Pair) else (rows, rows)
    was_training = model.training
    model.eval()
    try:
        code = model.encode(x)
        residual = (target - model.restore(model.decode(code), x)).square().sum()
    finally:
        model.train(was_training)
    values = code if isinstance(code, Tensor) else code.values
    spread = (target - target.mean(0)).square().sum()
    return {
        "fraction_of_variance_unexplained": (residual / spread).item(),
        "l0": (values > 0).sum().item() / len(x),
        "dead_share": model.dead.double().mean().item(),
    }


def _evaluated(indices: Tensor) -> Tensor:
    return indices[:: -(-len(indices) // EVALUATED_ROWS)]


@torch.no_grad()
def machine_metrics(machine: RBM, dataset: Dataset, indices: Tensor) -> dict[str, float]:
    """The mean squared error of the reconstructions and, of Bernoulli units, the mean
    pseudo-log-likelihood in nats. Every call takes the same rows of ``indices`` and flips the same
    units."""
    x = dataset.take(_evaluated(indices)).to(machine.weight)
    error = (machine.visible_mean(machine(x)) - x).square().mean()
    metrics = {"reconstruction_error": error.item()}
    if machine.visible_kind == "bernoulli":
        generator = torch.Generator(x.device).manual_seed(0)
        units = min(FLIPPED_UNITS, x.shape[1])
        likelihoods = machine.pseudo_log_likelihood(x, units=units, generator=generator)
        metrics["pseudo_log_likelihood"] = likelihoods.mean().item()
    return metrics


def early_stopping_metric(metrics: dict[str, float]) -> float:
    """The metric that falls while a model improves."""
    if "pseudo_log_likelihood" in metrics:
        return -metrics["pseudo_log_likelihood"]
    return metrics.get("reconstruction_error", metrics["held_out_loss"])


def loss_of(model: Trainable, x: Tensor | Pair, seed: int | Tensor) -> Tensor:
    """The loss of a minibatch, of rows alone or with their targets.

    Raises:
        TypeError, ValueError: it is no tensor, or no scalar.
    """
    if isinstance(x, Pair):
        loss: object = model.loss(x.inputs, target=x.targets, seed=seed)
    else:
        loss = model.loss(x, seed=seed)
    if not isinstance(loss, Tensor):
        raise TypeError(f"loss gave a {type(loss).__name__}; it takes one that gives a tensor")
    if loss.numel() != 1:
        raise ValueError(
            f"loss gave shape {list(loss.shape)}; it takes one that gives a scalar, such as a mean "
            "over all elements"
        )
    return loss


def held_out_loss(
    model: Trainable,
    dataset: Dataset | TensorRows | PairedRows,
    batch_size: int,
    indices: Tensor | None = None,
) -> float:
    """The mean loss of a dataset's rows, or of those of ``indices``, in evaluation mode, with seeds
    that are always the same."""
    if indices is None:
        indices = torch.arange(len(dataset), dtype=torch.int64, device="cpu")
    was_training = model.training
    model.eval()
    total = 0.0
    try:
        with torch.no_grad():
            example = next(model.parameters(), torch.empty(0, dtype=torch.float32, device="cpu"))
            for number, chosen in enumerate(indices.split(batch_size)):
                x = dataset.take(chosen)
                seed = random.child_seed(0, number * batch_size)
                total += loss_of(model, x.to(example), seed).item() * len(chosen)
    finally:
        model.train(was_training)
    return total / len(indices)
