"""What the replaced methods give on small data: a trial of a version that was not tested."""

import numpy as np
import torch
from rbms.bernoulli_bernoulli.classes import BBRBM

from aefast.patching.versions import Results


def trial() -> Results:
    rows = (torch.arange(60, dtype=torch.int64, device="cpu").reshape(10, 6) % 7 < 3).float()
    weight = rows.new_tensor(range(-12, 12)).reshape(6, 4) / 12
    model = BBRBM(weight, rows.new_zeros(6), rows.new_zeros(4))
    model.init_grad()
    chains = model.init_chains(len(rows), start_v=1 - rows)
    drawn = model.sample_state(chains, 2)
    chains["hidden_mag"] = torch.sigmoid(chains["visible"] @ model.weight_matrix)
    data = model.init_chains(len(rows), start_v=rows)
    data["hidden_mag"] = torch.sigmoid(rows @ model.weight_matrix)
    model.compute_gradient(data, chains)
    shapes = [f"{name} {list(state.shape)} {state.dtype}" for name, state in drawn.items()]
    return {
        "BBRBM.compute_gradient": model.weight_matrix.grad.numpy(),
        "BBRBM.sample_state": np.array(sorted(shapes)),
        "BBRBM.init_chains": data["visible"].numpy(),
    }
