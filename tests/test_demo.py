"""The demonstration on handwritten digits."""

from pathlib import Path

import pytest
import torch

pytest.importorskip("rich")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

from rich.console import Console

from aefast import backend, demo
from aefast.functional import corrupt
from aefast.nn import Autoencoder, DenoisingAutoencoder

PNG = b"\x89PNG\r\n\x1a\n"


def test_the_digits_are_split_once_and_for_all() -> None:
    train, _, held_out, _ = demo.load_digits()
    assert train.shape == (1437, 64)
    assert held_out.shape == (360, 64)
    assert train.min() == 0
    assert train.max() == 1
    assert torch.equal(demo.load_digits.__wrapped__()[2], held_out)


def test_the_autoencoder_is_ahead_of_pca_on_clean_digits_and_the_denoising_one_on_corrupted() -> (
    None
):
    torch.manual_seed(0)
    train, _, held_out, _ = demo.load_digits()
    corrupted = corrupt(held_out, "masking", demo.LEVEL, seed=0)
    console = Console(quiet=True)
    plain = Autoencoder(demo.VISIBLE, demo.HIDDEN, output_activation="sigmoid")
    denoising = DenoisingAutoencoder(demo.VISIBLE, demo.HIDDEN, corruption_level=demo.LEVEL)
    for model in (plain, denoising):
        demo.fit("", model, train, 2000, console)
    pca = demo.errors(demo.fit_pca(train), held_out, corrupted)
    assert demo.errors(plain, held_out, corrupted).clean < pca.clean
    assert demo.errors(denoising, held_out, corrupted).corrupted < pca.corrupted / 2.5


def test_the_demo_prints_its_figures_and_writes_the_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "TIMED_TURNS", 2)
    out = tmp_path / "[red]demo.png"
    out.symlink_to(tmp_path / "victim")
    demo.run(out, epochs=2)
    printed = capsys.readouterr().out
    assert not (tmp_path / "victim").exists()
    assert f"Kernels: {backend.select(torch.device('cpu'), torch.float32)}" in printed
    for text in (
        "PCA, 32 components",
        "clean digits",
        "in eager PyTorch",
        "samples/s",
        "[red]demo.png",
    ):
        assert text in printed
    assert out.read_bytes().startswith(PNG)
