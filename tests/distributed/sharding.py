"""What the ranks of a test's process group train with sharded parameters."""

from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from aefast.nn import LinearAct, shared_batch
from aefast.nn.linear import TiedLinearAct
from tests.distributed import training

# What is sharded, and in which dtype it is computed.
WAYS = ("root", "layers", "root in bfloat16", "layers in bfloat16")
# Pairs take a target.
LEFT_OUT = training.OF_PAIRS


def gradients(names: list[str], way: str) -> dict[str, dict[str, Any]]:
    """Of the loss of rows that the ranks share, and the mean of the ranks' losses."""
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    results = {}
    rows = training.rows()[:100]
    rank, size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    share, is_mixed = len(rows) // size, way.endswith("bfloat16")
    for name in names:
        model: nn.Module = training.new(name)
        if size > 1:
            options: Any = {}
            if is_mixed:
                options["mp_policy"] = MixedPrecisionPolicy(torch.bfloat16, torch.float32)
            for layer in list(model.modules()) if way.startswith("layers") else ():
                if isinstance(layer, LinearAct | TiedLinearAct):
                    fully_shard(layer, **options)
            fully_shard(model, **options)
        elif is_mixed:
            model = model.bfloat16()
        x = rows[rank * share : (rank + 1) * share].to(torch.bfloat16 if is_mixed else rows.dtype)
        loss: Any = model.loss
        with shared_batch():
            loss(x, seed=3, row_offset=rank * share).backward()
        results[name] = {key: _whole(parameter.grad) for key, parameter in model.named_parameters()}
    return results


def _whole(gradient: Any) -> Any:
    """A tensor that may be sharded."""
    whole = gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient
    return whole.float().clone()


def _sharded(seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(seed)
    model: nn.Module = training.MODELS["masking"]()
    if dist.is_initialized():
        fully_shard(model)
    return model, torch.optim.Adam(model.parameters(), 0.01)


def _step(model: Any, optimizer: torch.optim.Optimizer, seed: int) -> None:
    optimizer.zero_grad()
    model.loss(training.rows(), seed=seed).backward()
    optimizer.step()


def saved(folder: str) -> dict[str, Any]:
    """A checkpoint after a step, and the parameters after one more."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_state_dict

    model, optimizer = _sharded(0)
    _step(model, optimizer, 1)
    state, optimizer_state = get_state_dict(model, optimizer)
    dcp.save({"model": state, "optimizer": optimizer_state}, checkpoint_id=folder)
    _step(model, optimizer, 2)
    return {name: _whole(parameter.detach()) for name, parameter in model.named_parameters()}


def resumed(folder: str) -> dict[str, Any]:
    """The parameters after one step from the checkpoint, on any number of ranks."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

    model, optimizer = _sharded(1)
    state, optimizer_state = get_state_dict(model, optimizer)
    dcp.load({"model": state, "optimizer": optimizer_state}, checkpoint_id=folder)
    set_state_dict(model, optimizer, model_state_dict=state, optim_state_dict=optimizer_state)
    _step(model, optimizer, 2)
    return {name: _whole(parameter.detach()) for name, parameter in model.named_parameters()}
