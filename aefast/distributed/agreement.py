"""The ranks compare their data and options before the first step.

A rank with other ones would train another model without an error.
"""

import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from aefast.data import Dataset
from aefast.data.dataset import CHUNK_BYTES, chunks
from aefast.data.pairs import PairedRows
from aefast.data.tensor_rows import TensorRows
from aefast.distributed.group import Group
from aefast.messages import cut


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
    rows = data.rows
    facts: dict[str, object] = {"data's shape": tuple(rows.shape), "data's dtype": str(rows.dtype)}
    if isinstance(data, TensorRows):
        return {**facts, "data's checksum": _checksum(_tensor_chunks(data.rows))}
    # Of data from files it was taken when they were loaded, also of all bytes.
    checksum = data.checksum or _checksum(chunk for _, chunk in chunks(data.rows))
    return {**facts, "data's scale": data.scale, "data's checksum": checksum}


def _checksum(row_chunks: Iterable[np.ndarray]) -> int:
    """The CRC-32 of all bytes."""
    checksum = 0
    for chunk in row_chunks:
        checksum = zlib.crc32(np.ascontiguousarray(chunk).data, checksum)
    return checksum


def _tensor_chunks(rows: Tensor) -> Iterator[np.ndarray]:
    """The bytes of rows ``[N, D]``, which may lie on a GPU, some rows at a time."""
    for chunk in rows.split(max(1, CHUNK_BYTES // rows[0].nbytes)):
        yield chunk.cpu().contiguous().view(torch.uint8).numpy()


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


def module_facts(model: nn.Module) -> dict[str, object]:
    """The settings of a model and of each module in it, as their ``repr`` says them."""
    return {
        f"the model's {name + ' ' if name else ''}options": (
            f"{type(module).__name__}({module.extra_repr()})"
        )
        for name, module in model.named_modules()
    }


def state_facts(model: Any, optimizer: torch.optim.Optimizer) -> dict[str, object]:
    """Which tensors :func:`start_alike` makes the same on all ranks."""
    named_states = [(number, *state) for number, state in enumerate(_states(optimizer)) if state]
    return {
        "the model's parameters and buffers": _shapes([*model.parameters(), *model.buffers()]),
        "the optimizer's state": named_states,
        "the state's shapes": _shapes(_state_tensors(optimizer)),
    }


@torch.no_grad()
def start_alike(group: Group, model: Any, optimizer: torch.optim.Optimizer) -> None:
    """Give each rank the parameters, the buffers and the optimizer's state of rank 0, whose
    :func:`state_facts` are the same."""
    tensors: list[Tensor] = [*model.parameters(), *model.buffers(), *_state_tensors(optimizer)]
    if all(tensor.is_cpu for tensor in tensors) and _are_equal(group, tensors):
        return
    for tensor in tensors:
        group.broadcast(tensor)


def _states(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """An optimizer's state of each of its parameters."""
    optimized = [parameter for each in optimizer.param_groups for parameter in each["params"]]
    return [optimizer.state.get(parameter, {}) for parameter in optimized]


def _state_tensors(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    values = [value for state in _states(optimizer) for value in state.values()]
    return [value for value in values if isinstance(value, Tensor)]


def _are_equal(group: Group, tensors: list[Tensor]) -> bool:
    """Whether all ranks have the same numbers, as after an earlier call. Two checksums of them take
    a third of the time that gloo's sockets take to send them. An unequal sum of equal numbers, as
    of NaN, costs no more than that."""
    checksums = [
        (_checksum([tensor.detach().reshape(-1).view(torch.uint8).numpy()]), float(tensor.sum()))
        for tensor in tensors
    ]
    first, *others = group.gather(checksums)
    return all(other == first for other in others)


def _shapes(tensors: list[Tensor]) -> list[tuple[tuple[int, ...], str, str]]:
    """With the kinds of numbers and devices."""
    return [(tuple(tensor.shape), str(tensor.dtype), tensor.device.type) for tensor in tensors]
