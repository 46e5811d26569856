"""The ranks compare their data and options before the first step.

A rank with other ones would train another model without an error.
"""

import zlib
from typing import Any

import torch
from torch import Tensor

from aefast.data import Dataset
from aefast.data.pairs import PairedRows
from aefast.data.tensor_rows import TensorRows
from aefast.distributed.group import Group
from aefast.messages import cut

# Data may be larger than memory: so many rows, evenly spaced, are compared.
COMPARED_ROWS = 64


class DisagreementError(ValueError):
    """A rank's data or options differ from rank 0's; the message, one line, has both."""


def agree(group: Group, facts: dict[str, object]) -> None:
    """Compare some facts, by their names.

    Raises:
        DisagreementError: on each rank, that one is another one somewhere.
    """
    first, *others = group.gather(facts)
    for rank, other in enumerate(others, start=1):
        for name in dict.fromkeys((*first, *other)):
            if name not in first or name not in other or other[name] != first[name]:
                first_value, other_value = cut(repr(first.get(name))), cut(repr(other.get(name)))
                raise DisagreementError(
                    f"{name} is {other_value} on rank {rank}, and {first_value} on rank 0; it "
                    "takes the same on each rank"
                )


def data_facts(data: Dataset | TensorRows | PairedRows) -> dict[str, object]:
    """Facts of all rows, or pairs: each rank has the whole data, and takes its rows of them."""
    if isinstance(data, PairedRows):
        sides = {"inputs": data.inputs, "targets": data.targets}
        return {
            f"{name} of {side}": value
            for side, rows in sides.items()
            for name, value in data_facts(rows).items()
        }
    rows = torch.linspace(0, len(data) - 1, COMPARED_ROWS, dtype=torch.float64, device="cpu").long()
    compared_rows = data.take(rows).to("cpu", torch.float32)
    checksum = zlib.crc32(compared_rows.numpy().tobytes())
    return {"data's shape": (len(data), compared_rows.shape[1]), "data's checksum": checksum}


def check_batch_size(batch_size: int, group: Group, argument: str) -> None:
    """
    Raises:
        ValueError: there are more ranks than rows in a minibatch.
    """
    if batch_size < group.size:
        raise ValueError(
            f"{argument} is {batch_size} and there are {group.size} ranks; it takes a row for each "
            "rank, or more"
        )


def settings_of(optimizer: torch.optim.Optimizer) -> dict[str, object]:
    """An optimizer's options, group by group."""
    groups = optimizer.param_groups
    names = dict.fromkeys(name for group in groups for name in group if name != "params")
    settings = {
        f"the optimizer's {name}": [_plain(group.get(name)) for group in groups] for name in names
    }
    return {"the optimizer": type(optimizer).__name__, **settings}


def _plain(value: object) -> object:
    """An option as a number or text; a tensor's numbers."""
    value = value.tolist() if isinstance(value, Tensor) else value
    return value if isinstance(value, int | float | str | None) else repr(value)


@torch.no_grad()
def start_alike(group: Group, model: Any, optimizer: torch.optim.Optimizer) -> None:
    """Give each rank the parameters, the buffers and the optimizer's state of rank 0.

    Raises:
        DisagreementError: on each rank, that one has others than rank 0.
    """
    tensors: list[Tensor] = [*model.parameters(), *model.buffers()]
    agree(group, {"the model's parameters and buffers": _shapes(tensors)})
    optimized = [parameter for each in optimizer.param_groups for parameter in each["params"]]
    states = [optimizer.state.get(parameter, {}) for parameter in optimized]
    names = [(number, *state) for number, state in enumerate(states) if state]
    state_tensors = [
        value for state in states for value in state.values() if isinstance(value, Tensor)
    ]
    agree(group, {"the optimizer's state": names, "the state's shapes": _shapes(state_tensors)})
    for tensor in (*tensors, *state_tensors):
        group.broadcast(tensor)


def _shapes(tensors: list[Tensor]) -> list[tuple[tuple[int, ...], str]]:
    return [(tuple(tensor.shape), str(tensor.dtype)) for tensor in tensors]
