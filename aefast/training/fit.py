"""``aefast.fit``: training in one call, the optimizer's steps included."""

import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from aefast import random
from aefast.data import Dataset
from aefast.data.pairs import Pair, PairedRows
from aefast.distributed.agreement import (
    agree,
    check_batch_size,
    data_facts,
    module_facts,
    settings_of,
    start_alike,
    state_facts,
)
from aefast.distributed.group import Group, current, group_of, warn_of_forgotten_group
from aefast.distributed.interrupts import noted_interrupts
from aefast.distributed.losses import check_micro_batches, check_model, check_plain_model
from aefast.nn.shared_batch import shared_batch
from aefast.nn.step_plan import plan_of
from aefast.nn.trainable import Trainable
from aefast.ops.shared import checks
from aefast.training.arguments import (
    Batches,
    Rows,
    as_kernels_read,
    check_function,
    check_optimizer,
    rows_or_pairs,
    with_loss,
)
from aefast.training.engines import TrainingLoop, check_held_out, release_memory
from aefast.training.evaluation import held_out_loss, loss_of
from aefast.training.fit_steps import (
    Callback,
    CallSteps,
    DatasetSteps,
    EngineChoice,
    EpochSeed,
    StreamSteps,
    in_training,
)
from aefast.training.held_out import Samples, on_scale_of
from aefast.training.plain_model import PlainModel

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

# A call of the kernels takes several short epochs, up to so many rows: a call costs 0.1 ms, as much
# as ten steps of a small model.
MOST_ROWS = 1 << 15

# The number of epochs that were taken with each optimizer, by seed. The next call continues there.
_epochs_done: "weakref.WeakKeyDictionary[torch.optim.Optimizer, dict[int, int]]" = (
    weakref.WeakKeyDictionary()
)


@dataclass(frozen=True)
class History:
    """What a call of :func:`fit` did.

    Attributes:
        losses: a loss a step, float64 ``[steps]``.
        validation: the held-out loss after each epoch, float64 ``[epochs]``; empty without data.
        seconds: how long the call took.
        engine: what took the steps. ``"step"``: C++; ``"graph"``: a CUDA graph of a step;
            ``"loop"``: the ordinary loop; ``"group"``: a process group's loop.
        reason: why it was that engine.
    """

    losses: Tensor
    validation: Tensor
    seconds: float
    engine: str
    reason: str


def fit(
    model: nn.Module,
    data: Rows | tuple[Rows, Rows] | Batches,
    optimizer: torch.optim.Optimizer,
    *,
    epochs: int = 1,
    batch_size: int = 128,
    seed: int | None = None,
    shuffle: bool = True,
    loss: str | Callable[..., Tensor] | None = None,
    validation: Rows | tuple[Rows, Rows] | None = None,
    callback: Callback | None = None,
    micro_batch_size: int | None = None,
    first_epoch: int | None = None,
    process_group: "ProcessGroup | str | None" = "default",
) -> History:
    """Train a model for some epochs: any number of steps, the optimizer's included, in one call.

    Epoch e is what this loop does, with the same minibatches and draws, and parameters that are
    equal to rounding. Of a top-k dictionary rounding may select another latent, where two
    pre-activations are nearly equal, and what follows differs by more::

        for n, x in enumerate(aefast.data.batches(data, batch_size, seed=seed, epoch=e)):
            optimizer.zero_grad()
            model.loss(x, seed=child_seed(child_seed(seed, e), n)).backward()
            optimizer.step()

    Epochs may be split over calls: with the same optimizer and seed, or with ``torch.manual_seed``
    and no seed, the next call goes on with the next epoch, also after one that was broken off. An
    optimizer that was loaded from a checkpoint, or copied, does not know how many there were:
    ``first_epoch`` says it. Where C++ takes the steps nothing depends on the number of threads; in
    the loop the sums in torch's products may, to rounding.

    On a CPU C++ takes the whole step where the model is one of :mod:`aefast.nn` with nothing on its
    layers, its parameters are float32, and the optimizer is ``SGD``, ``Adam``, ``AdamW`` or
    ``DictionaryAdam``. It reads rows of float32 or uint8, each row's numbers side by side: data in
    memory of another dtype or layout are copied once a call, to float32, or bits to uint8, beside
    what was given. The loop above trains on data of another kind that are mapped from a file, which
    are not copied. On processors where torch's matrix products are faster than ours, or that were
    not measured, the loop takes the large steps of encoder-decoders: those with more than 2**24
    multiplications in a layer's product. On a CUDA device such a step is captured as a CUDA graph,
    which is replayed for each minibatch: rows, seeds and learning rates are read from the GPU's
    memory, and the data lie there, where they take no more than a quarter of what is free; a
    dictionary's is not. Elsewhere the loop above runs. ``engine`` and ``reason`` say which and why.

    A plain PyTorch model is trained with ``loss``: any module. ``loss`` may be left out for an
    ``nn.Sequential``, and for a model that was accelerated with its loss. C++ takes the steps of a
    chain of linear layers whose loss is mse or bce, a mean over all elements; each layer but the
    last may have an activation, ``nn.BatchNorm1d`` and ``nn.Dropout``, and ``seed`` governs the
    dropout. Elsewhere the loop above runs, and the model draws from torch's generator.

    Where torch.distributed's default process group was initialized, all its ranks make the same
    call with the same data: a rank takes its rows of each minibatch, the gradients are summed, and
    the parameters, which begin as rank 0's, end as one process's, to rounding. Noise and persistent
    chains are one process's to the bit. A plain module's draws are each rank's own. An error, a
    callback that ends the training, or Ctrl-C on one rank ends it on all. ``process_group=None``
    trains on this rank alone. A process that ``torchrun`` started, and that initialized no group,
    trains alone, too, and warns.

    Args:
        model: whose ``loss(x, seed=...)`` is minimized, as the models of :mod:`aefast.nn` have it;
            or a plain module, which may keep a criterion under the name ``loss``. It is put in
            training mode.
        data: the rows ``[N, D]``: a tensor or an array of floats, integers or bits, which may be
            mapped from a file, or an :class:`aefast.data.Dataset`; uint8 with a number above 1 is
            divided by 255. Or a function that is called once an epoch, and gives its batches
            ``[B, D]``, as tensors of floats, one after the other, or in lists or tuples, as a
            ``DataLoader`` does: ``batch_size`` and ``shuffle`` say nothing then. More dimensions
            are flattened to one. A tensor stays on its device, and keeps its dtype, for a model
            that is not float32 on a CPU. A transcoder takes pairs: a tuple ``(inputs, targets)`` of
            such rows, ``[N, D]`` and ``[N, O]``, or a function whose batches are pairs. The loop
            above trains on them, with ``target=`` in the loss, or C++ where it takes the model's
            steps.
        optimizer: of the model's parameters. Its settings are read at the start of each epoch and
            after each call of ``callback``, which may change them. Its state is as if it had taken
            the steps itself.
        epochs: passes over the data, at least 0.
        batch_size: rows a step; an epoch's last step may have fewer.
        seed: of the order of the rows and of all draws, an int in [0, 2**63); None draws one for
            each epoch from torch's default generator.
        shuffle: False takes the rows in their order.
        loss: of a plain module, ``"mse"``, ``"bce"``, or a function or module of its output and x;
            of a tuple of outputs, ``loss(outputs[0], x, *outputs[1:])``. None takes that of
            :func:`aefast.accelerate`, or mean squared error.
        validation: held-out rows, or pairs of them, whose mean loss in evaluation mode is taken
            after each epoch, on the data's scale: uint8 ones are divided by what uint8 data are.
        callback: called a few times a second with a :class:`TrainingProgress`; True ends the
            training. After it the model is in training mode again. In a process group a rank may do
            without.
        micro_batch_size: the most rows that are computed at once: a step's gradients are added up
            over parts of its minibatch, or of a rank's rows of it, to the whole's, to rounding. It
            bounds the memory that a step takes. None computes all rows together.
        first_epoch: the number of the first epoch, which decides its minibatches and draws
            together with ``seed``; None goes on after the last call with this optimizer and seed.
        process_group: whose ranks train together, each of which makes the call: ``"default"``,
            torch's default group where there is one; a ``torch.distributed.ProcessGroup``; or None,
            this process alone.

    Returns:
        the losses, and what took the steps.

    Raises:
        TypeError, ValueError: an argument is of a wrong type or outside its range.
        aefast.training.engines.DivergenceError: a loss is not finite; the message names the step.
            Parameters and optimizer are as they were before it. Where C++ takes the steps, so is
            the rest of the model. In the ordinary loop the loss has changed what it updates itself:
            running statistics of batch normalization, counts of idle latents, persistent chains.
            To restore those, every step would have to copy them.
        aefast.distributed.agreement.DisagreementError: a rank has other data or arguments.
        aefast.distributed.group.OtherRankError: a rank has an error, which it raises itself; it is
            a ValueError.
        aefast.distributed.group.LostRankError: a rank is gone; or, as a LateRankError, it did not
            make the call or hangs, and the group's timeout is over: 10 minutes, or half an hour
            with gloo, or what ``init_process_group(timeout=)`` set.
        KeyboardInterrupt: after a whole step, and on all ranks. A second Ctrl-C does not wait.

    >>> import torch, aefast
    >>> model = aefast.nn.DenoisingAutoencoder(64, 32)
    >>> optimizer = torch.optim.Adam(model.parameters())
    >>> data = aefast.data.load("digits")
    >>> history = aefast.fit(model, data, optimizer, epochs=3, batch_size=100, seed=0)
    >>> len(history.losses), bool(history.losses[-1] < history.losses[0])
    (54, True)
    """
    if process_group == "default":
        warn_of_forgotten_group()
    group = current() if process_group == "default" else group_of(process_group)

    def begin() -> _Call:
        settings = _checked_settings(
            epochs, batch_size, micro_batch_size, seed, shuffle, first_epoch
        )
        if callback is not None and not callable(callback):
            raise TypeError(f"callback is a {type(callback).__name__}; it takes a function or None")
        return _call(model, data, optimizer, loss, validation, settings)

    call = group.together(begin)
    call.model.train()
    if group.size > 1:
        _begin_together(group, call, optimizer)
    run = _new_run(call, data, optimizer, group, callback and in_training(call.model, callback))
    start = time.perf_counter()
    try:
        held_out_losses = _train(run, call)
    finally:
        release_memory(run.engine)
    return History(
        torch.tensor(run.losses, dtype=torch.float64, device="cpu"),
        torch.tensor(held_out_losses, dtype=torch.float64, device="cpu"),
        time.perf_counter() - start,
        run.engine.name,
        run.engine.reason,
    )


class _FitSettings(NamedTuple):
    """A call's arguments that say which rows each step takes, and the seed."""

    epochs: int
    batch_size: int
    micro_batch_size: int | None
    seed: int | None
    shuffle: bool
    first_epoch: int | None


class _Call(NamedTuple):
    """A call of :func:`fit` whose arguments were checked.

    Attributes:
        dataset: None where the batches come from a function.
    """

    model: Trainable
    dataset: Samples | None
    held_out: Samples | None
    settings: _FitSettings

    def held_out_loss(self) -> float:
        assert self.held_out is not None
        return held_out_loss(self.model, self.held_out, self.settings.batch_size)

    def loss(self, x: Tensor | Pair, seed: int | Tensor) -> Tensor:
        """Of a process that trains alone."""
        with shared_batch(None):
            return loss_of(self.model, x, seed)


def _checked_settings(
    epochs: int,
    batch_size: int,
    micro_batch_size: int | None,
    seed: int | None,
    shuffle: bool,
    first_epoch: int | None,
) -> _FitSettings:
    shuffle = checks.check_flag(shuffle, "shuffle")
    epochs = checks.check_integer(epochs, "epochs", 2**31)
    batch_size = checks.check_integer(batch_size, "batch_size", 2**31, low=1)
    if seed is not None:
        seed = checks.check_integer(seed, "seed", random.SEED_LIMIT)
    if micro_batch_size is not None:
        micro_batch_size = checks.check_integer(micro_batch_size, "micro_batch_size", 2**31, low=1)
    if first_epoch is not None:
        first_epoch = checks.check_integer(first_epoch, "first_epoch", 2**31)
        if seed is None:
            raise ValueError(f"first_epoch is {first_epoch}; without a seed it takes None")
    return _FitSettings(epochs, batch_size, micro_batch_size, seed, shuffle, first_epoch)


def _call(
    model: nn.Module,
    data: Rows | tuple[Rows, Rows] | Batches,
    optimizer: torch.optim.Optimizer,
    loss: str | Callable[..., Tensor] | None,
    validation: Rows | tuple[Rows, Rows] | None,
    settings: _FitSettings,
) -> _Call:
    trained = with_loss(model, loss)
    check_optimizer(trained, optimizer)
    if callable(data) and not isinstance(data, Tensor | nn.Module | Dataset):
        check_function(data)
        dataset = None
    else:
        dataset = rows_or_pairs(data, "data", model)
    held_out = None if validation is None else rows_or_pairs(validation, "validation", model)
    held_out = on_scale_of(dataset, held_out)
    if held_out is not None:
        check_held_out(trained, dataset, held_out)
    dataset = None if dataset is None else as_kernels_read(dataset, model)
    if settings.micro_batch_size is not None:
        _check_parts(trained, dataset)
    return _Call(trained, dataset, held_out, settings)


def _check_parts(model: Trainable, dataset: Samples | None) -> None:
    """
    Raises:
        TypeError, ValueError: the losses of a minibatch's parts do not add up to its loss.
    """
    if dataset is None:
        raise TypeError("data is a function, which gives its own batches; micro_batch_size is None")
    check_micro_batches(model)
    _check_mean(model, dataset)


def _check_mean(model: Trainable, dataset: Samples) -> None:
    if isinstance(model, PlainModel) and not isinstance(dataset, PairedRows):
        first = torch.arange(min(2, len(dataset)), dtype=torch.int64, device="cpu")
        check_plain_model(model, dataset.take(first).to(next(model.parameters())))


def _begin_together(group: Group, call: _Call, optimizer: torch.optim.Optimizer) -> None:
    """Check that the ranks have the same model and data, and give all of them rank 0's state.

    Raises:
        DisagreementError: a rank has others.
        TypeError, ValueError: a process group cannot train the model.
    """
    agree(group, group.together(lambda: _facts(call, optimizer)))
    check_batch_size(call.settings.batch_size, group, "batch_size")
    start_alike(group, call.model, optimizer)


def _facts(call: _Call, optimizer: torch.optim.Optimizer) -> dict[str, object]:
    if call.dataset is None:
        raise TypeError("data is a function; in a process group it takes rows")
    check_model(call.model)
    _check_mean(call.model, call.dataset)
    model: Any = call.model.module if isinstance(call.model, PlainModel) else call.model
    planned = plan_of(call.model)
    fields = {} if isinstance(planned, str) else planned.plan._asdict()
    facts = {**data_facts(call.dataset), **call.settings._asdict(), **settings_of(optimizer)}
    if call.held_out is not None:
        facts |= {f"validation {name}": one for name, one in data_facts(call.held_out).items()}
    return {
        "what takes a step": planned if isinstance(planned, str) else "the kernels",
        **facts,
        "the model": type(model).__name__,
        "loss": _loss_name(call.model),
        **{f"the model's {name}": value for name, value in fields.items()},
        **module_facts(model),
        "validation is None": call.held_out is None,
        **state_facts(call.model, optimizer),
    }


def _loss_name(model: Trainable) -> str:
    """The name of a plain module's loss."""
    if not isinstance(model, PlainModel):
        return "the model's own"
    loss = model.criterion
    return model.objective or str(getattr(loss, "__qualname__", type(loss).__name__))


def _new_run(
    call: _Call,
    data: Any,
    optimizer: torch.optim.Optimizer,
    group: Group,
    callback: Callback | None,
) -> CallSteps:
    """The call's steps, and the engine that takes them."""
    model, dataset, settings = call.model, call.dataset, call.settings
    if dataset is None:
        steps = TrainingLoop(model, optimizer, call.loss, "the batches come from a function")
        return StreamSteps(steps, data, group, callback)
    sizes = settings.batch_size, group, settings.micro_batch_size
    choice = EngineChoice(model, dataset, optimizer, call.loss, *sizes)
    return DatasetSteps(choice, settings.shuffle, callback)


def _train(run: CallSteps, call: _Call) -> list[float]:
    """Take the steps; the held-out loss after each epoch.

    Short epochs are taken several at a time, where no callback or held-out loss comes between, and
    their seeds are known: others are drawn from torch's generator, from which a model may draw
    between them.
    """
    epochs, seed = call.settings.epochs, call.settings.seed
    group, dataset = run.group, call.dataset
    if seed is not None and call.settings.first_epoch is not None:
        _epochs_done.setdefault(run.optimizer, {})[seed] = call.settings.first_epoch
    held_out_losses = []
    looks_up = call.held_out is not None or run.is_watched
    at_once = 1
    if dataset is not None and seed is not None and not looks_up:
        at_once = max(1, MOST_ROWS // len(dataset))
    # Also where the caller is under no_grad or in inference mode, whose tensors cannot be trained.
    interrupts = noted_interrupts(group)
    with torch.inference_mode(False), torch.enable_grad(), interrupts as run.interrupts:
        for first in range(0, epochs, at_once):
            epochs_before = run.epochs_begun
            try:
                seeds = _epoch_seeds(run.optimizer, seed, min(at_once, epochs - first))
                run.take(group.broadcast_object(seeds))
            finally:
                _count_epochs(run.optimizer, seed, run.epochs_begun - epochs_before)
            if call.held_out is not None:
                held_out_losses.append(group.together(call.held_out_loss))
            if run.is_stopped:
                break
    return held_out_losses


def _epoch_seeds(optimizer: torch.optim.Optimizer, seed: int | None, count: int) -> list[EpochSeed]:
    """The seeds of the next epochs with this optimizer; of one where they are drawn."""
    if seed is None:
        drawn = int(random.draw_seed(None, torch.device("cpu")))
        return [EpochSeed(drawn, 0, random.child_seed(drawn, 0))]
    first = _epochs_done.get(optimizer, {}).get(seed, 0)
    return [
        EpochSeed(seed, epoch, random.child_seed(seed, epoch))
        for epoch in range(first, first + count)
    ]


def _count_epochs(optimizer: torch.optim.Optimizer, seed: int | None, count: int) -> None:
    """Add the epochs that were begun; one that was broken off counts as over."""
    if seed is not None:
        counts = _epochs_done.setdefault(optimizer, {})
        counts[seed] = counts.get(seed, 0) + count
