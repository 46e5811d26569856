"""Loops of a user's own over batches that the ranks of a test's process group share."""

import warnings
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import aefast
from aefast.distributed.group import current
from aefast.nn import LossModule, shared_batch
from tests.distributed import training

DICTIONARIES = ("topk", "batchtopk", "matryoshka", "jumprelu")
# Whose losses are no means over rows.
MACHINES = ("rbm chains", "rbm sparse", "rbm gaussian")
SHARING = (*DICTIONARIES, *MACHINES, "sparse kl")
STEPS, BATCH = 12, 20


def trained(name: str) -> dict[str, Any]:
    """The state after some steps; in a group inside DistributedDataParallel."""
    model = training.new(name)
    group = current()
    step = LossModule(model) if group.size == 1 else DistributedDataParallel(LossModule(model))
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    data = training.rows()
    for number in range(STEPS):
        x = data[(5 * number) % 80 :][:BATCH]
        optimizer.zero_grad()
        rows = group.rows_of(BATCH)
        step(x[rows], seed=number, row_offset=rows.start).backward()
        optimizer.step()
    return dict(model.state_dict())


def trained_of_all() -> dict[str, dict[str, Any]]:
    return {name: trained(name) for name in SHARING}


def losses(counts: list[int]) -> list[tuple[float, int, torch.Tensor]]:
    """Inside shared_batch, of ranks with so many rows: the loss times its share of them, how many
    latents are active, and the idle counts."""
    group = current()
    first = sum(counts[: group.rank])
    x = training.rows()[first : first + counts[group.rank]]
    results = []
    for name in ("batchtopk", "matryoshka"):
        model = training.new(name)
        with shared_batch():
            loss = model.loss(x).item() * len(x) / sum(counts) if len(x) else model.loss(x).item()
            code = model.encode(x)
        results.append((loss, int((code.values > 0).sum()), model.idle))
    return results


def warned_and_refused() -> dict[str, list[str]]:
    """The warnings of losses in each surrounding, and what is refused inside shared_batch."""
    x = training.rows()[:20]
    model = training.new("batchtopk")

    def loss() -> Any:
        return model.loss(x)

    def inside(process_group: Any) -> None:
        with shared_batch(process_group):
            loss()

    def fit_alone() -> None:
        optimizer = torch.optim.SGD(model.parameters(), 0.05)
        aefast.fit(model, x, optimizer, process_group=None)

    results = {}
    cases: dict[str, Any] = {
        "nothing": loss,
        "no gradients": torch.no_grad()(loss),
        "the group": lambda: inside(dist.group.WORLD),
        "alone": lambda: inside(None),
        "fit alone": fit_alone,
        "top-k": lambda: training.new("topk").loss(x),
        "a penalty": lambda: training.new("sparse kl").loss(x),
        "chains": lambda: training.new("rbm chains").loss(x),
    }
    for name, case in cases.items():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            case()
        results[name] = [str(warning.message) for warning in caught]
    refused: dict[str, Any] = {
        "compiled": lambda: torch.compile(loss, backend="eager")(),
        "compiled penalty": lambda: torch.compile(training.new("sparse kl").loss, backend="eager")(
            x
        ),
        "compiled chains": lambda: torch.compile(training.new("rbm chains").loss, backend="eager")(
            x
        ),
        "checkpointed": lambda: torch.utils.checkpoint.checkpoint(loss, use_reentrant=False),
    }
    model.aux_k = 0  # dead latents are refused under checkpoint themselves
    with shared_batch():
        for name, case in refused.items():
            try:
                case()
            except RuntimeError as error:
                results[name] = [str(error)]
    return results
