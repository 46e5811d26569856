"""Losses that are compiled, inside and around what shares them over the ranks of a test's group."""

from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from aefast.distributed.group import current
from aefast.nn import LossModule, shared_batch
from tests.distributed import training

NAMES = ("ae", "masking", "topk", "jumprelu", "gated")
# Of so many rows in a step, some latents are dead after two: dead_after is 60.
ROWS, STEPS = 50, 3


def wrapped(step: LossModule, way: str) -> Any:
    from torch.distributed.fsdp import fully_shard

    if way == "DistributedDataParallel":
        return torch.compile(DistributedDataParallel(step), backend="aot_eager")
    if way == "inside DistributedDataParallel":
        return DistributedDataParallel(torch.compile(step, backend="aot_eager"))
    fully_shard(step)
    return torch.compile(step, backend="aot_eager")


def gradients(way: str) -> dict[str, torch.Tensor]:
    """Of each model one vector, of the mean of the ranks' losses in some steps, and the counts of
    its idle latents; of one process's, not compiled."""
    group, rows, results = current(), training.rows()[:ROWS], {}
    own = group.rows_of(len(rows))
    for name in NAMES:
        torch.compiler.reset()
        model = training.new(name)
        step = LossModule(model) if group.size == 1 else wrapped(LossModule(model), way)
        with shared_batch():
            for number in range(STEPS):
                step(rows[own], seed=number, row_offset=own.start).backward()
        whole = [getattr(p.grad, "full_tensor", p.grad.clone)() for p in model.parameters()]
        results[name] = torch.cat([gradient.flatten() for gradient in whole])
        results[f"{name}'s idle"] = getattr(model, "idle", torch.zeros(1))
    return results
