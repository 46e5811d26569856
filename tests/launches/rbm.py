"""Launches of the kernels of aefast/ops/rbm."""

import torch

from aefast.ops.rbm import triton
from aefast.ops.rbm.chain import divergence, run_chain
from aefast.ops.rbm.settings import ChainSettings, Machine


def launch(batch: int) -> None:
    x = torch.zeros(batch, 96)
    chain = ChainSettings(1, None, None, True, batch, batch)
    machine = Machine(torch.zeros(100, 96), None, torch.zeros(100), None)
    run_chain(triton.primitives(machine, chain), x, machine, chain)
    mask = torch.zeros(batch, 96, dtype=torch.bool)
    clamped = chain._replace(beta=torch.ones(batch, 1), clamp_mask=mask)
    run_chain(triton.primitives(machine, clamped), x, machine, clamped)
    normal = machine._replace(log_var=torch.zeros(96))
    run_chain(triton.primitives(normal, clamped), x, normal, clamped)
    divergence(triton.primitives(machine, chain), x, None, machine, chain, True)
