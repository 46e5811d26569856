"""The demonstration on handwritten digits."""

from pathlib import Path

import pytest
import torch

pytest.importorskip("rich")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

from aefast import backend, demo
from aefast.functional import corrupt
from aefast.nn import DenoisingAutoencoder

PNG = b"\x89PNG\r\n\x1a\n"


def test_the_digits_are_split_once_and_for_all() -> None:
    train, _, held_out, _ = demo.load_digits()
    assert train.shape == (1437, 64)
    assert held_out.shape == (360, 64)
    assert train.min() == 0
    assert train.max() == 1
    assert torch.equal(demo.load_digits.__wrapped__()[2], held_out)


def test_an_epoch_sees_every_digit_once() -> None:
    train = torch.arange(1200.0)[:, None]
    model = torch.nn.Linear(1, 1)
    seen: list[torch.Tensor] = []

    def loss(batch: torch.Tensor) -> torch.Tensor:
        seen.append(batch)
        return model(batch).mean() * 0 + len(seen)

    mean = demo.train_epoch(loss, demo.make_optimizer(model), train)
    assert [len(batch) for batch in seen] == [512, 512, 176]
    assert torch.equal(torch.cat(seen).sort(dim=0).values, train)
    assert mean == 2.0


def test_the_autoencoder_denoises_better_than_pca() -> None:
    torch.manual_seed(0)
    train, _, held_out, _ = demo.load_digits()
    corrupted = corrupt(held_out, "masking", demo.LEVEL, seed=0)
    model = DenoisingAutoencoder(demo.VISIBLE, demo.HIDDEN, corruption_level=demo.LEVEL)
    optimizer = demo.make_optimizer(model)
    for _ in range(120):
        demo.train_epoch(model.loss, optimizer, train)
    ours = demo.errors(model.eval(), held_out, corrupted)
    pca = demo.errors(demo.fit_pca(train), held_out, corrupted)
    assert ours.corrupted < pca.corrupted
    assert pca.clean < ours.clean  # no linear code of this size beats PCA, and no digit is masked


def test_the_demo_prints_its_figures_and_writes_the_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "TIMED_EPOCHS", 2)
    out = tmp_path / "demo.png"
    demo.run(out, epochs=2)
    printed = capsys.readouterr().out
    assert f"Kernels: {backend.select(torch.device('cpu'), torch.float32)}" in printed
    for text in ("PCA, 32 components", "clean digits", "in eager PyTorch", "samples/s", "demo.png"):
        assert text in printed
    assert out.read_bytes().startswith(PNG)
