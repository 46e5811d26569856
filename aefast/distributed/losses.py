"""A rank's part of a minibatch's loss. Over the ranks the parts sum to the minibatch's loss.

For a loss that is a mean over rows, the part is the mean over the rank's rows times their share of
the minibatch. For other losses, as with a mean activity or persistent chains, the ranks exchange
what the loss is a function of.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeGuard, TypeVar

import torch
from torch import Tensor, nn

from aefast.data.pairs import Pair
from aefast.distributed.batch_shard import BatchShard
from aefast.distributed.group import Group, with_gradient_of
from aefast.nn import RBM, BatchTopKSparseAutoencoder, SparseAutoencoder
from aefast.nn.autoencoder import check_draw
from aefast.nn.dictionary import Code, SparseDictionary
from aefast.nn.trainable import Trainable
from aefast.ops.shared import dispatch
from aefast.thread_local_generator import ThreadLocalGenerator

BATCH_NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.LazyBatchNorm1d,
    nn.LazyBatchNorm2d,
    nn.LazyBatchNorm3d,
)

Model = TypeVar("Model", bound=nn.Module)

ADDITIVE_LOSS = "shared or in parts it takes a mean over the rows, to which these add up"


class WithCriterion(Trainable, Protocol):
    """A module beside its loss: :class:`aefast.training.plain_model.PlainModel`."""

    module: nn.Module
    criterion: Callable[..., Tensor]
    objective: str | None


class Statistics(NamedTuple):
    """What the loss of a minibatch's part depends on beside its rows, of the whole minibatch.

    Attributes:
        activity: the mean activity ``[H]``, where a penalty is of it.
    """

    activity: Tensor | None


def loss_of_shard(
    model: Trainable,
    x: Tensor | Pair,
    seed: int,
    shard: BatchShard,
    statistics: Statistics | None = None,
) -> Tensor | None:
    """The part of the loss of a shard's rows x ``[B, D]``, or pairs; None without rows.

    What a model draws is what one process would draw for the whole minibatch, where its ``loss``
    takes a ``row_offset``, as those of :mod:`aefast.nn` do.

    Args:
        statistics: those of :func:`look_ahead`, where the ranks compute their rows in parts; None
            where they exchange them here.
    """
    loss_of = _loss_of_minibatch(model)
    if loss_of is not None:
        return loss_of(x, seed, shard, statistics)
    options: dict[str, Any] = {"seed": seed}
    if isinstance(x, Pair):
        x, options["target"] = x
    if len(x) == 0:
        return None
    if takes_row_offset(model):
        options["row_offset"] = shard.first
    return shard.weight * model.loss(x, **options)


def _loss_of_minibatch(
    model: Trainable,
) -> Callable[[Any, int, BatchShard, Statistics | None], Tensor | None] | None:
    """The function of a shard's part, for a loss that is not a mean over rows; else None."""
    if _has_loss_of(model, RBM):
        return functools.partial(_machine_loss, model)
    if _has_loss_of(model, SparseAutoencoder) and model.exchanges:
        return functools.partial(_sparse_loss, model)
    if _has_loss_of(model, SparseDictionary):
        return functools.partial(_dictionary_loss, model)
    return None


def exchanges(model: Trainable) -> bool:
    """Whether the ranks exchange something in the loss, which all of them reach or none."""
    if _loss_of_minibatch(model) is None:
        return False
    return model.exchanges if isinstance(model, RBM) else True


@torch.no_grad()
def look_ahead(model: Trainable, parts: Sequence[Tensor | Pair], group: Group) -> Statistics:
    """The statistics of a minibatch, of which this rank has the rows of some parts; all ranks call
    this, before the first part. Of a dictionary it counts the idle latents.

    The parts are encoded once more for it, without gradients.

    Raises:
        OtherRankError: another rank has an error.
    """
    rows = [part.inputs if isinstance(part, Pair) else part for part in parts]
    if _has_loss_of(model, SparseDictionary):
        dictionary = model
        active = group.together(lambda: [dictionary._active(dictionary.encode(x)) for x in rows])
        model._count_active(torch.stack(active).any(0), sum(map(len, rows)), group)
    if _has_loss_of(model, SparseAutoencoder) and model.exchanges:
        encode: Callable[[Tensor], Tensor] = model.encode
    elif _has_loss_of(model, RBM) and model.sparsity_target is not None:
        encode = model
    else:
        return Statistics(None)
    return Statistics(group.mean_of_parts(group.together(lambda: [encode(x) for x in rows])))


def check_micro_batches(model: Trainable) -> None:
    """
    Raises:
        ValueError: parts of a minibatch do not add up to its loss.
    """
    check_model(model)
    if isinstance(model, BatchTopKSparseAutoencoder):
        raise ValueError(
            f"model is a {type(model).__name__}, which selects latents among all codes of a "
            "minibatch; micro_batch_size takes None"
        )


def check_model(model: Trainable | nn.Module) -> None:
    """
    Raises:
        ValueError: its loss cannot be shared, or its parameters are sharded already.
    """
    if any(map(dispatch.is_sharded, model.parameters())):
        raise ValueError(
            "model has sharded parameters, as fully_shard leaves them; a training in a process "
            "group takes whole ones, and a loop of your own trains sharded ones"
        )
    if isinstance(model, BatchTopKSparseAutoencoder) and not (
        _has_loss_of(model, SparseDictionary)
        and model._has_method_of(BatchTopKSparseAutoencoder, "encode")
    ):
        raise ValueError(
            f"model is a {type(model).__name__}, which has a loss or an encode of its own; in a "
            "process group or in parts the code of a batch takes BatchTopKSparseAutoencoder's"
        )


def check_plain_model(model: WithCriterion, x: Tensor) -> None:
    """Check that a plain module's loss is a mean over rows, none of which depends on the others.

    Args:
        model: :class:`aefast.training.plain_model.PlainModel`.
        x: some rows, ``[B, D]``, to try a loss of the user's on.

    Raises:
        ValueError: it is not.
    """
    for module in model.module.modules():
        if isinstance(module, BATCH_NORMS):
            raise ValueError(
                f"model holds a {type(module).__name__}, which takes the moments of a whole "
                "minibatch; it takes one process"
            )
    reduction = _reduction_of(model.criterion)
    if reduction != "mean":
        raise ValueError(f"loss has reduction={reduction!r}; {ADDITIVE_LOSS}")
    if model.objective is None and len(x) > 1 and not _is_mean_over_rows(model, x):
        raise ValueError(f"loss of some rows is not the mean of their losses; {ADDITIVE_LOSS}")


def _reduction_of(criterion: Callable[..., Tensor]) -> str:
    if isinstance(criterion, functools.partial):
        reduction = _reduction_of(criterion.func)
        return str(criterion.keywords.get("reduction", reduction))
    return str(getattr(criterion, "reduction", "mean"))


@torch.no_grad()
def _is_mean_over_rows(model: WithCriterion, x: Tensor) -> bool:
    """Compare the loss of two rows with the mean of their losses.

    True, too, where that tells nothing: outputs that are not rows, or a loss that draws.
    """
    x = x[:2]
    was_training = model.training
    model.eval()
    try:
        with ThreadLocalGenerator(x.device):
            outputs = model.module(x)
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            if not all(
                isinstance(output, Tensor) and output.shape[:1] == x.shape[:1] for output in outputs
            ):
                return True
            loss, repeated = (_criterion(model, outputs, x) for _ in range(2))
            row_losses = [
                _criterion(model, [output[n : n + 1] for output in outputs], x[n : n + 1])
                for n in (0, 1)
            ]
    except NotImplementedError:
        return True
    finally:
        model.train(was_training)
    is_known = bool(loss.isfinite()) and torch.equal(loss, repeated)
    return not is_known or torch.allclose(
        loss, (row_losses[0] + row_losses[1]) / 2, rtol=1e-3, atol=1e-6
    )


def _criterion(model: WithCriterion, outputs: Sequence[Tensor], x: Tensor) -> Tensor:
    output, *others = outputs
    loss: Tensor = model.criterion(output, x, *others)
    if loss.numel() != 1:
        raise ValueError(f"loss has shape {list(loss.shape)}; it takes a scalar")
    return loss.double().reshape(())


def takes_row_offset(model: Trainable) -> bool:
    return "row_offset" in inspect.signature(model.loss).parameters


def chains_of(model: Trainable) -> Tensor | None:
    """An RBM's persistent chains ``[C, D]``, of which each rank updates its rows; else None."""
    return model.chain if isinstance(model, RBM) else None


def _has_loss_of(model: Trainable, cls: type[Model]) -> TypeGuard[Model]:
    """Whether the model's loss is the method of this very class."""
    return getattr(model.loss, "__func__", None) is cls.__dict__["loss"]


def _sparse_loss(
    model: SparseAutoencoder,
    x: Tensor,
    seed: int,
    shard: BatchShard,
    statistics: Statistics | None,
) -> Tensor | None:
    """The divergence is a function of the units' mean activity over the minibatch."""
    check_draw(seed, None, shard.first)
    if statistics is None:
        code = shard.group.together(lambda: model.encode(x))
        activity = shard.group.mean(code)
    else:
        assert statistics.activity is not None
        code = model.encode(x)
        activity = with_gradient_of(statistics.activity, code)
    loss = model._loss_of(x, code, activity, seed, None, shard.first)
    return shard.weight * loss if len(x) else None


def _machine_loss(
    model: RBM, x: Tensor, seed: int, shard: BatchShard, statistics: Statistics | None
) -> Tensor | None:
    """A rank's part of the chains may differ from its part of the rows: its first part of them
    moves them."""
    is_first = shard.micro_batch == 0
    if model.exchanges:
        mean_of = None
        if statistics is not None and statistics.activity is not None:
            mean_of = functools.partial(with_gradient_of, statistics.activity)
        model.training_steps += int(is_first)
        own = shard.group, shard.weight, seed, shard.first
        return model._part_of_loss(x, *own, mean_of, moves_chains=is_first)
    steps = model.training_steps.clone()
    loss = shard.weight * model.loss(x, seed=seed, row_offset=shard.first) if len(x) else None
    steps += int(is_first)  # a step is counted once
    model.training_steps.copy_(steps)
    return loss


def _dictionary_loss(
    model: SparseDictionary,
    x: Tensor | Pair,
    seed: int,
    shard: BatchShard,
    statistics: Statistics | None,
) -> Tensor | None:
    """Dead latents are counted over the minibatch: a latent is active if it is on any rank. So are
    the largest latents that a batch top-k code takes."""
    x, given = x if isinstance(x, Pair) else (x, None)

    def objective() -> tuple[Tensor, Code, Tensor]:
        return model._objective(x, model._checked_target(x, given))

    if isinstance(model, BatchTopKSparseAutoencoder) and model.training:
        target = shard.group.together(lambda: model._checked_target(x, given))
        shared_code = model._encode_shared(x, shard.group)
        objective = functools.partial(model._objective_of, shared_code, target)
    if statistics is not None and len(x) == 0:
        return None
    if statistics is None:
        loss, code, residual = shard.group.together(objective)
        if model.training:
            model._count(code, shard.group)
    else:
        loss, _, residual = objective()
    if len(x) == 0:
        return None
    return shard.weight * model._with_auxiliary(loss, x, residual)
