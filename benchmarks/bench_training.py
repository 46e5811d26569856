"""Training end to end, an epoch at a time: the loop of `aefast train` against a script with a
DataLoader, and against bare steps on one batch that is there already."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from harness import Case
from samples import samples
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

pytest.importorskip("safetensors")

from aefast.data.dataset import from_array
from aefast.training.checkpoint import Checkpoint
from aefast.training.config import Config, RunProgress
from aefast.training.loop import Trainer, train
from aefast.training.models import MODELS, build
from aefast.training.scales import summarize

LEARNING_RATE = 1e-3


class Run:
    """One model, trained for an epoch a call by `aefast train`'s loop."""

    def __init__(self, data: Tensor, hidden: int, batch_size: int, device: str) -> None:
        self.dataset = from_array(data.numpy(), "random numbers")
        self.config = Config(
            model="ae",
            hidden=[hidden],
            options={**MODELS["ae"].options, "output_activation": "sigmoid"},
            data=summarize(self.dataset, self.dataset.name),
            epochs=1,
            batch_size=batch_size,
            learning_rate=LEARNING_RATE,
            precision="highest",
            seed=0,
            device=device,
        )
        self.model: Any = build(self.config).to(device)

    def epoch(self) -> None:
        train(
            Trainer(Checkpoint(self.config, RunProgress(), self.model, {}), self.dataset),
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


class Script:
    """A training script as PyTorch's tutorials write it."""

    def __init__(self, data: Tensor, hidden: int, batch_size: int, device: str) -> None:
        visible = data.shape[1]
        self.model = nn.Sequential(
            nn.Linear(visible, hidden), nn.Sigmoid(), nn.Linear(hidden, visible), nn.Sigmoid()
        ).to(device)
        self.device = device
        self.loader = DataLoader(TensorDataset(data), batch_size, shuffle=True)

    def epoch(self) -> None:
        optimizer = torch.optim.Adam(self.model.parameters(), LEARNING_RATE, fused=True)
        for (rows,) in self.loader:
            x = rows.to(self.device)
            optimizer.zero_grad()
            F.mse_loss(self.model(x), x).backward()
            optimizer.step()


@pytest.mark.parametrize(
    ("device", "visible", "hidden", "batch", "batches"),
    [("cpu", 64, 128, 128, 128), ("cpu", 784, 512, 1024, 8), ("cuda", 784, 512, 1024, 64)],
)
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
    data = samples(batch * batches, visible)
    run = Run(data, hidden, batch, device)
    script = Script(data, hidden, batch, device)
    first = data[:batch].to(device)
    compare(
        Case(
            op="training",
            name=f"an epoch of {batches} batches {batch}x{visible}-{hidden} against {against}",
            device=device,
            dtype=torch.float32,
            make_inputs=lambda: (data,),
            ours=lambda _: run.epoch(),
            eager=lambda _: (
                script.epoch() if against == "DataLoader" else run.bare_steps(first, batches)
            ),
            run=lambda epoch, x: epoch(x),
            check=lambda: check(data[:batch], hidden, device),
            # Timed from the host, on a GPU too: what the loop costs is there.
            calls_in_round=2 if device == "cuda" else 1,
            training=True,
            compiles=False,
        )
    )


def check(data: Tensor, hidden: int, device: str) -> None:
    """Check that an epoch of one batch gives the script's parameters."""
    run = Run(data, hidden, len(data), device)
    script = Script(data, hidden, len(data), device)
    script.model.load_state_dict(run.model.state_dict())
    run.epoch()
    script.epoch()
    # Adam's first step is the learning rate in the direction of the gradient's sign.
    for ours, theirs in zip(run.model.parameters(), script.model.parameters(), strict=True):
        agree = (ours - theirs).abs() < LEARNING_RATE / 10
        assert agree.double().mean() > 0.999
