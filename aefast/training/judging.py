"""What a model is judged by whose loss says little: that of a machine is a difference of energies,
near 0 for a good machine and for one that learned nothing; that of a sparse dictionary depends on
the data's scale, and is nothing without how many latents it took."""

import torch
from torch import Tensor, nn

from aefast.data import Dataset
from aefast.data.pairs import Pair, PairedRows
from aefast.nn import RBM
from aefast.nn.dictionary import SparseDictionary

# Enough rows and flipped units for three digits, in a few steps' time.
JUDGED_ROWS = 500
FLIPPED_UNITS = 8


def figures_of(
    module: nn.Module, dataset: Dataset | PairedRows, indices: Tensor
) -> dict[str, float]:
    """What some of the rows of ``indices``, the same at every call, say of a model beside its loss;
    nothing of one whose loss says it all."""
    if isinstance(module, RBM) and isinstance(dataset, Dataset):
        return machine_figures(module, dataset, indices)
    if isinstance(module, SparseDictionary):
        return dictionary_figures(module, dataset, indices)
    return {}


@torch.no_grad()
def dictionary_figures(
    model: SparseDictionary, dataset: Dataset | PairedRows, indices: Tensor
) -> dict[str, float]:
    """The fraction of the rows' variance, or of their targets', that is left unexplained, the
    mean number of active latents a row (L0), and the share of latents that are dead."""
    was_training = model.training
    model.eval()
    rows = dataset.take(_judged(indices)).to(model.decoder_bias)
    x, target = rows if isinstance(rows, Pair) else (rows, rows)
    code = model.encode(x)
    residual = (target - model.decode(code)).square().sum()
    values = code if isinstance(code, Tensor) else code.values
    spread = (target - target.mean(0)).square().sum()
    model.train(was_training)
    return {
        "fraction_of_variance_unexplained": (residual / spread).item(),
        "l0": (values > 0).sum().item() / len(x),
        "dead_share": model.dead.double().mean().item(),
    }


def _judged(indices: Tensor) -> Tensor:
    return indices[:: -(-len(indices) // JUDGED_ROWS)]


@torch.no_grad()
def machine_figures(machine: RBM, dataset: Dataset, indices: Tensor) -> dict[str, float]:
    """The mean squared error of the rows' reconstructions and, of binary units, the mean
    pseudo-log-likelihood in nats; of some rows of ``indices``, the same ones and the same flips at
    every call."""
    x = dataset.take(_judged(indices)).to(machine.weight)
    error = (machine.visible_mean(machine(x)) - x).square().mean()
    figures = {"reconstruction_error": error.item()}
    if machine.visible_kind == "bernoulli":
        generator = torch.Generator(x.device).manual_seed(0)
        units = min(FLIPPED_UNITS, x.shape[1])
        likelihoods = machine.pseudo_log_likelihood(x, units=units, generator=generator)
        figures["pseudo_log_likelihood"] = likelihoods.mean().item()
    return figures


def watched(figures: dict[str, float]) -> float:
    """The figure of held-out rows that falls while a model improves."""
    if "pseudo_log_likelihood" in figures:
        return -figures["pseudo_log_likelihood"]
    return figures.get("reconstruction_error", figures["held_out_loss"])
