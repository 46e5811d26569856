"""The ranks whose rows are one batch, where a training loss depends on the whole batch.

A rank's call of a loss has that rank's rows alone. What is selected or counted over a batch is
exchanged inside the call, with the ranks that this module names.
"""

import contextlib
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from aefast.distributed.group import Group, current, group_of, is_in_group
from aefast.ops.shared import dispatch
from aefast.ops.shared.registered import registered
from aefast.torch_private import active_data_parallel

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_shared: Group | None = None


@contextlib.contextmanager
def shared_batch(process_group: "ProcessGroup | str | None" = "default") -> Iterator[None]:
    """Inside it the rows of a training loss are this rank's part of a batch that ranks share.

    A batch top-k model selects its latents over the whole batch, sparse dictionaries count over it
    which latents are active, KL penalties are of its mean activity, and of an RBM's persistent
    chains each rank moves some: as one process would that has the ranks' rows, rank 0's first. All
    ranks call each loss; a dictionary's also without rows, and other models' with as many rows
    each. For FSDP2, and for loops that average gradients themselves; inside
    ``DistributedDataParallel`` and :func:`aefast.fit` it is so without.

    Args:
        process_group: the ranks: ``"default"``, torch's default group where there is one; a
            ``torch.distributed.ProcessGroup``; or None, this process alone.

    Raises:
        TypeError, ValueError: it is no process group, or one that this process is not in.

    >>> import torch
    >>> from aefast.nn import BatchTopKSparseAutoencoder, shared_batch
    >>> model = BatchTopKSparseAutoencoder(64, 512, k=8)
    >>> with shared_batch():
    ...     loss = model.loss(torch.randn(5, 64))
    >>> loss.backward()
    """
    global _shared
    before, _shared = _shared, current() if process_group == "default" else group_of(process_group)
    try:
        yield
    finally:
        _shared = before


def group_of_batch() -> Group:
    """The ranks that share the batch of a loss that is called now."""
    if _shared is not None:
        return _shared
    wrapper = active_data_parallel()
    return Group() if wrapper is None else group_of(wrapper.process_group)


def group_of_training(model: nn.Module) -> Group:
    """The same of a loss that trains: an evaluation is each rank's own."""
    return group_of_batch() if model.training and torch.is_grad_enabled() else Group()


def active_on_any_rank(
    active: Tensor, rows: int, group: Group | None
) -> tuple[Tensor, Tensor | int]:
    """Which latents, bool ``[L]``, are active on any rank, and the number of the ranks' rows.

    Args:
        active: those of this rank's rows.
        rows: how many it has.
        group: the ranks; None in a graph, which asks for them each time it runs.
    """
    is_alone = not is_in_group() if group is None else group.size == 1
    if is_alone:
        return active, rows
    counts = torch.cat([active.long(), active.new_full((1,), rows, dtype=torch.int64)])
    totals = _registered_total(counts) if group is None else group.summed(counts)
    return totals[:-1] > 0, totals[-1]


@registered("aefast::total_of_batch")
def _registered_total(counts: Tensor) -> Tensor:
    """Counts, summed over the ranks that share the batch of a graph that runs now."""
    return group_of_batch().summed(counts.clone())


_registered_total.register_fake(torch.empty_like)


def refuse_traces(what: str, *tensors: Tensor) -> None:
    """
    Raises:
        RuntimeError: something traces or transforms a call in which the ranks do ``what``.
    """
    if dispatch.is_traced(*tensors) or dispatch.is_in_functorch():
        raise RuntimeError(
            f"the ranks {what} together, which no graph holds: it takes a model outside "
            "torch.compile, traces and torch.func"
        )


def warn_if_alone() -> None:
    """Warn once where there are other ranks, and nothing says whether they share the batch.
    ``torch.compile`` is not asked."""
    if torch.compiler.is_compiling():
        return
    if _shared is None and torch.is_grad_enabled() and current().size > 1:
        warnings.warn(
            f"a loss selects latents among the rows of this process, one of {current().size}: "
            "aefast.nn.shared_batch() selects them among all ranks' rows, and shared_batch(None) "
            "says that this is meant",
            stacklevel=2,
        )
