"""Training end to end, an epoch at a time: `aefast train`'s loop against a script with a DataLoader,
and against bare steps on one batch that is there already."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from harness import Case
from torch import Tensor, nn

from aefast.data.dataset import from_array
from aefast.training.checkpoint import Checkpoint
from aefast.training.config import Config, Progress
from aefast.training.loop import Trainer, train
from aefast.training.models import build
from aefast.training.run import describe

VISIBLE, BATCH, BATCHES = 784, 1024, 16
LEARNING_RATE = 1e-3


class Run:
    """One model, trained for an epoch a call by `aefast train`'s loop."""

    def __init__(self, data: Tensor, hidden: int, batch_size: int, device: str) -> None:
        self.dataset = from_array(data.numpy(), "random numbers")
        self.config = Config(
            model="ae",
            hidden=[hidden],
            options={"activation": "sigmoid", "output_activation": "sigmoid"},
            data=describe(self.dataset),
            epochs=1,
            batch_size=batch_size,
            learning_rate=LEARNING_RATE,
            precision="highest",
            seed=0,
            device=device,
        )
        self.model = build(self.config).to(device)

    def epoch(self) -> None:
        train(
            Trainer(Checkpoint(self.config, Progress(), self.model, {}), self.dataset),
            save=lambda _: None,
            write=lambda _: None,
            show=lambda _: None,
            is_stopped=lambda: False,
        )

    def bare_steps(self, batch: Tensor, count: int) -> None:
        optimizer = torch.optim.Adam(self.model.parameters(), LEARNING_RATE, fused=True)
        for _ in range(count):
            optimizer.zero_grad()
            self.model.loss(batch).backward()
            optimizer.step()


def script(data: Tensor, hidden: int, batch_size: int, device: str) -> Callable[[], None]:
    """An epoch as PyTorch's tutorials write it."""
    visible = data.shape[1]
    model = nn.Sequential(
        nn.Linear(visible, hidden), nn.Sigmoid(), nn.Linear(hidden, visible), nn.Sigmoid()
    ).to(device)
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE, fused=True)
    dataset = torch.utils.data.TensorDataset(data)
    loader = torch.utils.data.DataLoader(dataset, batch_size, shuffle=True)

    def epoch() -> None:
        for (rows,) in loader:
            x = rows.to(device)
            optimizer.zero_grad()
            F.mse_loss(model(x), x).backward()
            optimizer.step()

    return epoch


SHAPES = [("cpu", 784, 512, 1024, 16), ("cpu", 64, 128, 128, 128), ("cuda", 784, 512, 1024, 64)]


@pytest.mark.parametrize(("device", "visible", "hidden", "batch", "batches"), SHAPES)
@pytest.mark.parametrize("against", ["DataLoader", "bare steps"])
def test_training(
    compare: Callable[[Case], None],
    against: str,
    device: str,
    visible: int,
    hidden: int,
    batch: int,
    batches: int,
) -> None:
    data = torch.rand(batch * batches, visible)
    run = Run(data, hidden, batch, device)
    first = data[:batch].to(device)
    peers: dict[str, Callable[[], None]] = {
        "DataLoader": script(data, hidden, batch, device),
        "bare steps": lambda: run.bare_steps(first, batches),
    }
    compare(
        Case(
            op="training",
            name=f"an epoch of {batches} batches, {batch}x{visible}-{hidden}, against {against}",
            device=device,
            dtype=torch.float32,
            make_inputs=tuple,
            ours=run.epoch,
            eager=peers[against],
            run=lambda epoch: epoch(),
            check=lambda: check(data[:batch], hidden, device),
            compiles=False,
        )
    )


def check(data: Tensor, hidden: int, device: str) -> None:
    """An epoch of one batch leaves the parameters where plain PyTorch's step does."""
    run = Run(data, hidden, len(data), device)
    visible = data.shape[1]
    plain = nn.Sequential(
        nn.Linear(visible, hidden), nn.Sigmoid(), nn.Linear(hidden, visible), nn.Sigmoid()
    ).to(device)
    plain.load_state_dict(run.model.state_dict())
    optimizer = torch.optim.SGD(plain.parameters(), LEARNING_RATE)
    x = data.to(device)
    loss = run.model.loss(x)  # type: ignore[operator]
    torch.testing.assert_close(loss, F.mse_loss(plain(x), x))
    before = [parameter.detach().clone() for parameter in run.model.parameters()]
    run.epoch()
    after = list(run.model.parameters())
    assert all((a != b).any() for a, b in zip(after, before, strict=True))
    optimizer.zero_grad()
