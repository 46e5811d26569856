"""What goes wrong on one rank of a test's process group, and what each rank makes of it."""

import os
import signal
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

import aefast
from aefast.distributed import engine
from aefast.distributed.group import current
from aefast.estimators import PCA, SparseCoding
from aefast.training import fit_steps
from tests.distributed import training

ROWS = training.rows()

# What does not stop before is ended by the test's alarm.
ENDLESS = 10**8


def is_second() -> bool:
    return dist.get_rank() == 1


def outcome(case: Callable[[], Any]) -> str:
    """What a call returned, or its error in one line."""
    try:
        return str(case())
    except (Exception, KeyboardInterrupt) as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]


def fit(model: Any = None, data: Any = ROWS, rate: float = 0.05, **options: Any) -> str:
    torch.manual_seed(0)
    model = training.MODELS["ae"]() if model is None else model
    optimizer = options.pop("optimizer", torch.optim.SGD)(model.parameters(), rate)
    history = aefast.fit(model, data, optimizer, **{"seed": 1, "batch_size": 20, **options})
    return f"{len(history.losses)} steps by {history.engine}"


class Broken(training.models.Autoencoder):
    """Its loss fails in the third step, on one rank."""

    steps = 0

    def loss(self, x: Any, **options: Any) -> Any:
        self.steps += 1
        if self.steps == 3 and is_second():
            raise RuntimeError("out of memory")
        return super().loss(x, **options)


class BrokenCode(training.models.SparseAutoencoder):
    """Its code, over which the ranks exchange sums, fails on one rank."""

    def encode(self, x: Any) -> Any:
        if is_second():
            raise RuntimeError("out of memory")
        return super().encode(x)


class BrokenBatch(training.models.BatchTopKSparseAutoencoder):
    """What it selects from, which the ranks do together, fails on one rank."""

    def _centered(self, x: Any) -> Any:
        if is_second():
            raise RuntimeError("out of memory")
        return super()._centered(x)


def stop(progress: Any) -> bool:
    return is_second()


def fail(progress: Any) -> None:
    if is_second():
        raise KeyError("a callback's own")


def slow_down(progress: Any) -> None:
    if is_second():
        slow_down.optimizer.param_groups[0]["lr"] = 1e-3  # type: ignore[attr-defined]


def changing_rate() -> str:
    def make(parameters: Any, rate: float) -> Any:
        slow_down.optimizer = torch.optim.SGD(parameters, rate)  # type: ignore[attr-defined]
        return slow_down.optimizer  # type: ignore[attr-defined]

    return fit(optimizer=make, callback=slow_down, epochs=ENDLESS)


def interrupted() -> str:
    """Ctrl-C on one rank, in a step."""

    class Interrupted(training.models.Autoencoder):
        steps = 0

        def loss(self, x: Any, **options: Any) -> Any:
            self.steps += 1
            if self.steps == 3 and is_second():
                os.kill(os.getpid(), signal.SIGINT)
            return super().loss(x, **options)

    signal.signal(signal.SIGINT, signal.default_int_handler)
    return fit(Interrupted(12, 8), epochs=ENDLESS)


def interrupted_estimator() -> Any:
    class Interrupted(SparseCoding):
        def _step(self, *arguments: Any) -> None:
            if is_second():
                os.kill(os.getpid(), signal.SIGINT)
            super()._step(*arguments)

    model = Interrupted(4, 0.3, n_iter=10**6, random_state=0)
    return model.fit(ROWS.numpy(), process_group=dist.group.WORLD)


def sharded() -> str:
    from torch.distributed.fsdp import fully_shard

    model = training.MODELS["ae"]()
    fully_shard(model)
    return fit(model)


def hooked(parameters: Any, rate: float) -> Any:
    optimizer = torch.optim.SGD(parameters, rate)

    def hook(*_: Any) -> None:
        if is_second():
            raise RuntimeError("a hook's own")

    optimizer.register_step_post_hook(hook)
    return optimizer


def with_hook(on_first: bool) -> Any:
    """A model whose layer has a hook on one rank, which takes the ordinary loop there."""
    model = training.MODELS["ae"]()
    if is_second() != on_first:
        next(model.children()).register_forward_hook(lambda *arguments: None)
    return model


def frozen() -> Any:
    """A dictionary whose encoder's bias is not trained on one rank."""
    model = training.models.TopKSparseAutoencoder(12, 40, 3)
    model.encoder_bias.requires_grad_(not is_second())
    return model


def with_momentum(parameters: Any, rate: float) -> Any:
    """One rank's optimizer has a past."""
    parameters = list(parameters)
    optimizer = torch.optim.SGD(parameters, rate, momentum=0.5)
    if is_second():
        sum(parameter.sum() for parameter in parameters).backward()
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 12))


def without_plan() -> Any:
    """A model that takes the ordinary loop, with another corruption on one rank."""
    level = 0.4 if is_second() else 0.1
    model = training.models.DenoisingAutoencoder(12, 8, corruption_level=level)
    next(model.children()).register_forward_hook(lambda *arguments: None)
    return model


def unfrozen() -> str:
    """A callback of each rank lets a bias train, of a model that takes the ordinary loop."""
    model = nn.Sequential(nn.Linear(12, 12), nn.Softmax(1))
    bias = model[0].bias.requires_grad_(False)
    with mock.patch.object(fit_steps, "CALLBACK_SECONDS", 0.0):
        fit(model, callback=lambda progress: bias.requires_grad_(True) is None, epochs=2)
    first, second = current().gather(bias.tolist())
    return "the same" if first == second else "other biases"


def unread(name: str) -> str:
    """Some rows cannot be read on one rank, of a model whose loss the ranks exchange sums in."""
    read = engine.minibatches_of

    def unreadable(*arguments: Any) -> Any:
        if is_second():
            raise OSError("a bad sector")
        yield from read(*arguments)

    ranks = dist.new_group(timeout=timedelta(seconds=8))
    with mock.patch.object(engine, "minibatches_of", unreadable):
        return fit(training.MODELS[name](), process_group=ranks)


def on_first_only(case: Callable[[], Any]) -> str:
    """Rank 0 makes a call, and the other one waits for it somewhere else."""
    result = "nothing" if is_second() else str(case())
    dist.barrier()
    return result


CASES: dict[str, Callable[[], Any]] = {
    "pca on one rank": lambda: on_first_only(lambda: PCA(2).fit(ROWS.numpy()).n_samples_seen_),
    "sparse coding on one rank": lambda: on_first_only(
        lambda: SparseCoding(4, 0.3, n_iter=1).fit(ROWS.numpy()).n_steps_
    ),
    "fit on one rank": lambda: on_first_only(lambda: fit(process_group=None)),
    "pca of the same rows": lambda: PCA(2).fit(ROWS.numpy()).n_samples_seen_,
    "pca of a group": lambda: (
        PCA(2).fit(ROWS.numpy(), process_group=dist.group.WORLD).n_samples_seen_
    ),
    "pca, no rows on a rank": lambda: (
        PCA(2)
        .fit(ROWS.numpy()[: 0 if is_second() else None], process_group=dist.group.WORLD)
        .n_samples_seen_
    ),
    "sparse coding, no rows on a rank": lambda: (
        SparseCoding(4, 0.3, n_iter=1, random_state=0)
        .fit(ROWS.numpy()[: 0 if is_second() else None], process_group=dist.group.WORLD)
        .n_steps_
    ),
    "pca, its own error": lambda: PCA("x" if is_second() else 2).fit(
        ROWS.numpy(), process_group=dist.group.WORLD
    ),
    "pca, other options": lambda: PCA(3 if is_second() else 2).fit(
        ROWS.numpy(), process_group=dist.group.WORLD
    ),
    "pca, other widths": lambda: PCA(2).fit(
        ROWS.numpy()[:, is_second() :], process_group=dist.group.WORLD
    ),
    "sparse coding, its own error": lambda: SparseCoding(4, 0.3).fit(
        np.full((5, 3), 1e30 if is_second() else 1.0), process_group=dist.group.WORLD
    ),
    "no group": lambda: fit(process_group=3),
    "fit in a group": lambda: fit(process_group=dist.group.WORLD),
    "epochs": lambda: fit(epochs=-1 if is_second() else 1),
    "a model without parameters in the optimizer": lambda: fit(
        optimizer=lambda parameters, rate: torch.optim.SGD(
            plain().parameters() if is_second() else parameters, rate
        )
    ),
    "other data": lambda: fit(data=1 - ROWS if is_second() else ROWS),
    "other held-out rows": lambda: fit(validation=1 - ROWS if is_second() else ROWS),
    "held-out rows of another width": lambda: fit(validation=ROWS[:, is_second() :]),
    "another rate": lambda: fit(rate=0.1 if is_second() else 0.05),
    "another optimizer": lambda: fit(
        optimizer=torch.optim.Adam if is_second() else torch.optim.SGD
    ),
    "another corruption": lambda: fit(
        training.models.DenoisingAutoencoder(12, 8, corruption_level=0.1 + 0.1 * is_second())
    ),
    "an optimizer with a past": lambda: fit(optimizer=with_momentum),
    "a function": lambda: fit(data=lambda: iter([ROWS])),
    "another k": lambda: fit(training.models.BatchTopKSparseAutoencoder(12, 40, 3 + is_second())),
    "another corruption without a plan": lambda: fit(without_plan()),
    "another dropout without a plan": lambda: fit(
        nn.Sequential(nn.Linear(12, 12), nn.Dropout(0.4 if is_second() else 0.1), nn.Softmax(1))
    ),
    "another loss without a plan": lambda: fit(
        nn.Sequential(nn.Linear(12, 12), nn.Softmax(1)), loss="bce" if is_second() else "mse"
    ),
    "a hook on one rank": lambda: fit(with_hook(on_first=True)),
    "a hook on the other rank": lambda: fit(with_hook(on_first=False)),
    "a frozen weight on one rank": lambda: fit(frozen()),
    "a width that is not the model's": lambda: fit(data=ROWS[:, 1:]),
    "numbers outside [0, 1]": lambda: fit(
        training.models.VariationalAutoencoder(12, 3, layers=[8]), data=ROWS * 2
    ),
    "fewer rows than ranks": lambda: fit(data=ROWS[:1]),
    "a last batch below the ranks": lambda: fit(data=ROWS[:21]),
    "a loss that fails": lambda: fit(Broken(12, 8)),
    "a code that fails": lambda: fit(BrokenCode(12, 8)),
    "a batch's code that fails": lambda: fit(BrokenBatch(12, 40, 3)),
    "an optimizer's hook that fails": lambda: fit(optimizer=hooked),
    "rows that cannot be read": lambda: unread("topk"),
    "rows of a machine that cannot be read": lambda: unread("rbm sparse"),
    "a dictionary's optimizer's hook that fails": lambda: fit(
        training.MODELS["topk"](), optimizer=hooked
    ),
    "a callback that stops": lambda: fit(callback=stop, epochs=ENDLESS),
    "a callback that fails": lambda: fit(callback=fail, epochs=ENDLESS),
    "a callback that changes the rate": changing_rate,
    "a callback that unfreezes": unfrozen,
    "an interrupt": interrupted,
    "a sum": lambda: fit(plain(), loss=nn.MSELoss(reduction="sum")),
    "a partial sum": lambda: fit(plain(), loss=lambda y, x: F.mse_loss(y, x, reduction="sum")),
    "a sum of squares": lambda: fit(plain(), loss=lambda y, x: (y - x).square().sum()),
    "a mean of sums": lambda: fit(plain(), loss=lambda y, x: (y - x).square().sum(1).mean()),
    "batch norm": lambda: fit(nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Linear(8, 12))),
    "a sharded model": sharded,
    "an interrupt of an estimator": interrupted_estimator,
    "afterwards": fit,
}


def late() -> str:
    """A rank that makes no call until the group's timeout."""
    ranks = dist.new_group(timeout=timedelta(seconds=1))
    result = "nothing" if is_second() else outcome(lambda: fit(process_group=ranks))
    dist.barrier()
    return result


def outcomes() -> dict[str, str]:
    results = {}
    for name, case in CASES.items():
        print(name, flush=True)  # what hangs is the last one
        results[name] = outcome(case)
    return results
