"""The programs of a page, as torchrun's ranks run them."""

import os
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tests.distributed import worlds


def states(blocks: list[str], folder: Path) -> dict[str, Tensor]:
    """The parameters of what a page's blocks train, one after the other: of each a vector."""
    ports = [worlds.free_port()]
    rank, size = 0, 1
    if dist.is_initialized():  # the page makes a group of its own
        rank, size = dist.get_rank(), dist.get_world_size()
        dist.broadcast_object_list(ports)
        dist.destroy_process_group()
    os.environ.update(worlds.environment(rank, size, ports[0]))
    os.chdir(folder)
    names: dict[str, Any] = {}
    results = {}
    for number, block in enumerate(blocks):
        exec(block, names)
        for name in ("model", "step"):
            if hasattr(names.get(name), "parameters") and dist.is_initialized():
                results[f"{name} {number}"] = _vector(names[name])
    time.sleep(0.2)  # gloo's thread frees its last work, for which it needs the interpreter
    return results


def _vector(module: torch.nn.Module) -> Tensor:
    whole = [getattr(p, "full_tensor", p.clone)() for p in module.parameters()]
    return torch.cat([tensor.detach().flatten() for tensor in whole])
