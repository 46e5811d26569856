"""Self-test cases of Gibbs sampling, contrastive divergence and the free energy."""

from functools import partial

import torch

from aefast.ops.rbm import contrastive_divergence, free_energy, gibbs
from aefast.ops.shared.selftest_case import SEED, Case, generators

# A state drawn from a half precision's rounding is another state.
STATES = (torch.float32,)


def cases() -> list[Case]:
    normal, uniform = generators()
    states = (uniform(40, 47) < 0.5).float()
    machine = states, normal(31, 47) / 4, normal(47) / 2, normal(31) / 2
    chain = partial(gibbs, k=2, **SEED)
    probabilities = partial(chain, return_probs=True)
    gaussian_units = partial(gibbs, visible_kind="gaussian", **SEED)
    divergence = partial(contrastive_divergence, k=2, **SEED)
    return [
        Case("rbm", "chain", chain, machine, same_bits=True, dtypes=STATES),
        Case("rbm", "probabilities", probabilities, machine, dtypes=STATES),
        Case("rbm", "Gaussian units", gaussian_units, machine, dtypes=STATES),
        Case("rbm", "contrastive divergence", divergence, machine, dtypes=STATES),
        Case("rbm", "free energy", free_energy, machine, dtypes=STATES),
    ]
