"""What a machine is judged by: its contrastive loss is a difference of energies, near 0 for a good
machine and for one that learned nothing."""

import torch
from torch import Tensor

from aefast.data import Dataset
from aefast.nn import RBM

# Enough rows and flipped units for three digits, in a few steps' time.
JUDGED_ROWS = 500
FLIPPED_UNITS = 8


@torch.no_grad()
def machine_figures(machine: RBM, dataset: Dataset, indices: Tensor) -> dict[str, float]:
    """The mean squared error of the rows' reconstructions and, of binary units, the mean
    pseudo-log-likelihood in nats; of some rows of ``indices``, the same ones and the same flips at
    every call."""
    step = -(-len(indices) // JUDGED_ROWS)
    x = dataset.take(indices[::step]).to(machine.weight)
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
