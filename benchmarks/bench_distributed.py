"""``aefast.fit`` in a gloo process group, on one thread a rank: what the group costs at one rank,
and the rows a second of two ranks beside one process's (weak scaling)."""

import os
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from harness import Case
from samples import samples
from shapes import Shape
from torch import Tensor, multiprocessing

import aefast

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="this torch has no gloo"
)

SHAPE = Shape(512, (784, 512))  # of a rank's minibatch
RANKS = 2
# The group's steps an epoch, of which one process alone takes RANKS times as many, and a call's
# epochs: as people train, for many steps. Before a call's first step two ranks
# compare their data and parameters, some 40 ms.
STEPS = 16
EPOCHS = 8
# A rank that does not answer for so long never will.
SECONDS_TO_ANSWER = 120


class Training:
    """A model that each call trains for some more epochs. All begin with the same parameters."""

    def __init__(self, batch: int, **options: Any) -> None:
        torch.manual_seed(0)
        self.model = aefast.nn.Autoencoder(*SHAPE.widths)
        self.optimizer = torch.optim.Adam(self.model.parameters(), fused=True)
        self.options = {"batch_size": batch, "seed": 0, **options}

    def __call__(self, data: Tensor) -> aefast.History:
        return aefast.fit(self.model, data, self.optimizer, **self.options)


def serve(rank: int, store: str, data: Tensor, pipe: Connection) -> None:
    """What a rank does: it trains for some epochs whenever it is asked to, until nobody can ask."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(store, RANKS), rank=rank, world_size=RANKS)
    train = Training(RANKS * SHAPE.batch, epochs=EPOCHS)
    try:
        while True:
            pipe.recv()
            history = train(data)
            assert history.engine == "group", history.reason
            pipe.send(history.losses.tolist())
    except EOFError:
        dist.destroy_process_group()


class Ranks:
    """The processes of a group, which train together on the rows that they were started with."""

    def __init__(self, data: Tensor, folder: str) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipes: list[Connection] = []
        self.processes = []
        for rank in range(RANKS):
            ours, theirs = context.Pipe()
            arguments = rank, str(Path(folder, "store")), data, theirs
            process = context.Process(target=serve, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self.pipes.append(ours)
            self.processes.append(process)

    def __call__(self) -> Tensor:
        """The losses of some epochs, once all ranks have finished them."""
        for pipe in self.pipes:
            pipe.send("some epochs")
        losses = []
        for pipe in self.pipes:
            assert pipe.poll(SECONDS_TO_ANSWER), "a rank does not answer"
            losses = pipe.recv()
        return torch.tensor(losses, dtype=torch.float64)

    def end(self) -> None:
        for pipe in self.pipes:
            pipe.close()
        for process in self.processes:
            process.join(SECONDS_TO_ANSWER)


@pytest.fixture
def group_of_one() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def data() -> Tensor:
    """The rows that all contenders train on; ranks map them."""
    return samples(STEPS * RANKS * SHAPE.batch, SHAPE.widths[0]).share_memory_()


@pytest.fixture
def ranks(data: Tensor) -> Iterator[Ranks]:
    with tempfile.TemporaryDirectory() as folder:
        ranks = Ranks(data, folder)
        yield ranks
        ranks.end()


@pytest.mark.parametrize("device", ["cpu"])
def test_group_of_one_rank(
    compare: Callable[[Case], None], group_of_one: None, data: Tensor, device: str
) -> None:
    one_epoch: dict[str, Any] = {"epochs": 1}
    alone = {**one_epoch, "process_group": None}
    compare(
        case(
            f"fit {SHAPE}, a group of one rank, eager is without it",
            data,
            ours=Training(SHAPE.batch, **one_epoch),
            eager=Training(SHAPE.batch, **alone),
            check=lambda: check(
                Training(SHAPE.batch, **one_epoch)(data).losses,
                Training(SHAPE.batch, **alone)(data),
            ),
        )
    )


@pytest.mark.slow
@pytest.mark.skipif((os.cpu_count() or 1) < RANKS, reason="a rank takes a core")
@pytest.mark.parametrize("device", ["cpu"])
def test_weak_scaling(
    compare: Callable[[Case], None], ranks: Ranks, data: Tensor, device: str
) -> None:
    compare(
        case(
            f"fit {SHAPE} a rank, {RANKS} ranks, eager is one process",
            data,
            ours=lambda _: ranks(),
            eager=Training(SHAPE.batch, epochs=EPOCHS),
            check=lambda: check(ranks(), Training(RANKS * SHAPE.batch, epochs=EPOCHS)(data)),
        )
    )


def case(name: str, data: Tensor, **contenders: Any) -> Case:
    """The same rows on both sides, so that the ratio of the times is that of the throughputs."""
    return Case(
        op="distributed",
        name=name,
        device="cpu",
        dtype=torch.float32,
        make_inputs=lambda: (data,),
        compiles=False,
        training=True,
        threads=1,
        **contenders,
    )


def check(losses: Tensor, alone: aefast.History) -> None:
    """Check the losses of a call against those of one process with the same minibatches."""
    torch.testing.assert_close(losses, alone.losses, rtol=1e-5, atol=0.0)
