"""Checkpoints: what was written comes back, or one line says why not; a file is whole or not."""

import errno
import json
import os
import pickle

import pytest
import torch

pytest.importorskip("safetensors")

import safetensors.torch

from aefast.training import checkpoint
from aefast.training.checkpoint import CHECKPOINT_FILE, CheckpointError
from tests.training.runs import SMALL, new, proceed


@pytest.fixture
def trainer():
    trainer = new("dae")
    proceed(trainer, until=5)
    return trainer


@pytest.fixture
def file(tmp_path, trainer):
    checkpoint.save(tmp_path, trainer.checkpoint())
    return tmp_path / CHECKPOINT_FILE


def rewrite(file, change):
    """The file with its metadata changed."""
    with safetensors.safe_open(file, "pt") as opened:
        metadata, tensors = opened.metadata(), safetensors.torch.load_file(file)
    told = json.loads(metadata[checkpoint.KEY])
    change(told, tensors)
    safetensors.torch.save_file(tensors, file, {checkpoint.KEY: json.dumps(told)})


@pytest.mark.parametrize("model", SMALL)
def test_what_was_saved_comes_back(model, tmp_path):
    trainer = new(model)
    proceed(trainer, until=5)
    saved = trainer.checkpoint()
    checkpoint.save(tmp_path, saved)
    loaded = checkpoint.load(tmp_path)
    assert loaded.config == saved.config
    assert loaded.progress == saved.progress
    state = loaded.model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in saved.model.state_dict().items())
    assert loaded.optimizer.keys() == saved.optimizer.keys()


def test_a_folder_and_its_file_are_the_same_checkpoint(file):
    assert checkpoint.load(file).progress == checkpoint.load(file.parent).progress


def test_the_configuration_can_be_read_beside_it(file):
    told = json.loads((file.parent / "config.json").read_text())
    assert told["config"]["model"] == "dae"
    assert told["config"]["options"]["corruption"] == "masking"


def test_a_write_that_fails_leaves_the_last_checkpoint(file, trainer, monkeypatch):
    before = file.read_bytes()
    proceed(trainer, until=9)

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(file.parent, trainer.checkpoint())
    assert file.read_bytes() == before
    assert {path.name for path in file.parent.iterdir()} == {CHECKPOINT_FILE, "config.json"}


@pytest.mark.parametrize("share", [0.0, 0.001, 0.2, 0.9, 0.999])
def test_a_file_cut_short(file, share):
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match=f"^{file} is no safetensors file, or cut short: "):
        checkpoint.load(file)


def test_a_pickle_is_not_opened(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "opened"),))

    file = tmp_path / "model.safetensors"
    file.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError, match=f"^{file} is no safetensors file"):
        checkpoint.load(file)
    assert not (tmp_path / "opened").exists()


def test_the_file_of_another_program(tmp_path):
    file = tmp_path / "model.safetensors"
    safetensors.torch.save_file({"weight": torch.ones(2)}, file)
    with pytest.raises(CheckpointError, match=f"^{file} is not a checkpoint of aefast's$"):
        checkpoint.load(file)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(CheckpointError, match=f"^{tmp_path / 'x'} cannot be read: No such file"):
        checkpoint.load(tmp_path / "x")


WRONG = [
    (lambda told, tensors: told.update(format=2), r"has format 2; aefast .* reads 1$"),
    (lambda told, tensors: told["config"].update(model="gan"), "is of a model 'gan'"),
    (lambda told, tensors: told["config"].update(model="rbm"), "does not hold what aefast writes"),
    (lambda told, tensors: told["config"].update(hidden=[9]), r"size mismatch for 0\.weight"),
    (lambda told, tensors: told["config"].update(hidden=["a"]), r"layers\[1\] is a str"),
    (lambda told, tensors: told["config"].update(epochs="3"), "epochs is '3'"),
    (lambda told, tensors: told["config"].pop("seed"), "config takes the fields"),
    (lambda told, tensors: told["progress"].update(step=None), "step is None"),
    (lambda told, tensors: told.pop("progress"), "'progress'"),
    (lambda told, tensors: tensors.pop("model.0.weight"), "Missing key"),
    (lambda told, tensors: tensors.update({"optimizer.x.step": torch.ones(())}), "'x'"),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_a_file_that_holds_something_else_is_told_in_one_line(file, change, message):
    rewrite(file, change)
    with pytest.raises(CheckpointError, match=message) as raised:
        checkpoint.load(file)
    assert str(raised.value).startswith(str(file))
    assert "\n" not in str(raised.value)
