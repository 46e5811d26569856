"""Checkpoints: they are restored exactly, or refused with one line; writing one is atomic."""

import errno
import json
import os
import pickle
import struct

import numpy as np
import pytest
import torch

pytest.importorskip("safetensors")

import safetensors.torch

from aefast.nn import DenoisingAutoencoder
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
    """Rewrite a checkpoint with changed metadata."""
    with safetensors.safe_open(file, "pt") as opened:
        metadata, tensors = opened.metadata(), safetensors.torch.load_file(file)
    header = json.loads(metadata[checkpoint.KEY])
    change(header, tensors)
    safetensors.torch.save_file(tensors, file, {checkpoint.KEY: json.dumps(header)})


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
    header = json.loads((file.parent / "config.json").read_text())
    assert header["config"]["model"] == "dae"
    assert header["config"]["options"]["corruption"] == "masking"


def test_a_write_that_fails_leaves_the_last_checkpoint(file, trainer, monkeypatch):
    before = file.read_bytes()
    proceed(trainer, until=9)

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(file.parent, trainer.checkpoint())
    assert file.read_bytes() == before
    names = {path.name for path in file.parent.iterdir()}
    assert names == {CHECKPOINT_FILE, "config.json", "optimizer-5.safetensors"}


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


def config(**changes):
    return lambda header, tensors: header["config"].update(changes)


def data(**changes):
    return lambda header, tensors: header["config"]["data"].update(changes)


def progress(**changes):
    return lambda header, tensors: header["progress"].update(changes)


WRONG = [
    (lambda header, tensors: header.update(format=1), r"has format 1; aefast .* reads 2$"),
    (lambda header, tensors: header.update(format="2" * 500), r"has format 2+\.\.\.; aefast"),
    (lambda header, tensors: header.pop("progress"), "'progress'"),
    (lambda header, tensors: header.pop("optimizer"), "'optimizer'"),
    (config(model="gan"), "is of a model 'gan'"),
    (config(model="rbm"), "options are not those of rbm"),
    (config(hidden=[9]), r"size mismatch for 0\.weight"),
    (config(hidden=["a"]), r"hidden is 'a'; it takes int$"),
    (config(hidden=[8, True]), r"hidden is True; it takes int$"),
    (config(hidden=[]), r"hidden is \[\]"),
    (config(hidden=[0]), r"hidden is \[0\]"),
    (config(hidden=[2**40]), r"hidden is \[1099511627776\]"),
    (config(hidden=[2**30, 2**30]), "size mismatch|Missing key"),
    (config(hidden=[1] * 99), "99 layers in 4 tensors"),
    (config(epochs="3"), "epochs is '3'"),
    (config(epochs=0), "epochs is 0"),
    (config(batch_size=True), "batch_size is True"),
    (config(batch_size=0), "batch_size is 0"),
    (config(learning_rate=float("nan")), "learning_rate is nan"),
    (config(learning_rate=-1.0), "learning_rate is -1.0"),
    (config(precision="x"), "precision is 'x'; it takes one of highest, high, medium"),
    (config(device="foo"), "device is 'foo'"),
    (config(seed=-1), "seed is -1"),
    (config(seed=2**70), "seed is 1180591620717411303424"),
    (config(data=3), "datasummary takes the fields"),
    (config(options=[]), r"options is \[\]"),
    (
        lambda header, tensors: header["config"]["options"].pop("reconstruction"),
        "options are not those of dae",
    ),
    (
        lambda header, tensors: header["config"]["options"].update(more=1),
        "options are not those of dae",
    ),
    (
        lambda header, tensors: header["config"]["options"].update(reconstruction={}),
        "reconstruction",
    ),
    (lambda header, tensors: header["config"].pop("seed"), "config takes the fields"),
    (data(source=3), "source is 3"),
    (data(visible=12.0), r"visible is 12\.0"),
    (data(visible=13), "sample_shape is"),
    (data(scale=0.0), r"scale is 0\.0"),
    (data(low=float("nan")), "low is nan"),
    (progress(step=None), "step is None"),
    (progress(losses=[[3]]), r"losses is \[3\]"),
    (progress(losses=[float("inf")]), r"losses is \[inf\]"),
    (progress(losses=[1e308, 1e308]), r"losses is \[1e\+308"),
    (progress(held_out=[-1e39]), r"held_out is \[-1e\+39\]; it takes finite float32 numbers"),
    (progress(batch=-1), "batch is -1"),
    (progress(epoch=-5), "epoch is -5"),
    (progress(seconds=float("nan")), "seconds is nan"),
    (progress(step=2**60), "step is 1152921504606846976"),
    (lambda header, tensors: tensors.pop("0.weight"), "Missing key"),
    (
        lambda header, tensors: tensors.update({"\x1b" * 99: torch.ones(3)}),
        r"Unexpected key.*\\x1b",
    ),
    (lambda header, tensors: tensors.update({"0.weight": torch.ones(8, 12).double()}), "float64"),
    (lambda header, tensors: tensors["0.weight"].fill_(torch.nan), r"0\.weight is not finite"),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_a_file_that_holds_something_else_is_told_in_one_line(file, change, message):
    rewrite(file, change)
    with pytest.raises(CheckpointError, match=message) as raised:
        checkpoint.load(file)
    assert str(raised.value).startswith(str(file))
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < len(str(file)) + 450


def changed(number, tensor):
    """A tensor with a wrong shape, dtype or size, or with numbers that are not finite."""
    if number % 3 == 0:
        return torch.zeros(*tensor.shape, 2, dtype=tensor.dtype)
    if number % 3 == 1 or not tensor.is_floating_point():
        return tensor.to(torch.complex64)
    return torch.full_like(tensor, torch.nan)


@pytest.mark.parametrize("model", SMALL)
def test_an_edited_checkpoint_of_any_model_is_one_line(model, tmp_path):
    checkpoint.save(tmp_path, new(model).checkpoint())
    file = tmp_path / CHECKPOINT_FILE
    whole = file.read_bytes()
    names = safetensors.torch.load_file(file).keys()
    options = json.loads((tmp_path / "config.json").read_text())["config"]["options"]
    edits = [
        lambda header, tensors, number=number, name=name: tensors.update(
            {name: changed(number, tensors[name])}
        )
        for number, name in enumerate(names)
    ]
    edits += [lambda header, tensors: tensors.pop(next(iter(names)))]
    edits += [
        lambda header, tensors, name=name, value=value: header["config"]["options"].update(
            {name: value}
        )
        for name in options
        for value in (-(2**70), "x")
    ]
    for edit in edits:
        file.write_bytes(whole)
        rewrite(file, edit)
        with pytest.raises(CheckpointError) as raised:
            checkpoint.load(file)
        assert str(raised.value).isprintable()


@pytest.mark.parametrize(("model", "name"), [("batchtopk", "threshold"), ("rbm", "chain")])
def test_a_buffer_that_is_not_finite_is_named(model, name, tmp_path):
    checkpoint.save(tmp_path, new(model).checkpoint())
    file = tmp_path / CHECKPOINT_FILE
    rewrite(file, lambda header, tensors: tensors[name].fill_(torch.nan))
    with pytest.raises(CheckpointError, match=f"{name} is not finite$"):
        checkpoint.load(file)


def test_a_file_with_holes_that_is_larger_than_memory_is_one_line(tmp_path):
    size = 2**43
    entry = {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}
    header = json.dumps({"a": entry}).encode()
    file = tmp_path / "x.safetensors"
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", len(header)) + header)
        try:
            stream.truncate(8 + len(header) + size)
        except OSError:
            pytest.skip("this file system has no file so large")
    with pytest.raises(CheckpointError, match="cannot be read: ") as caught:
        checkpoint.load(file)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_with_an_options_old_name_is_read(file, trainer):
    def rename(header, tensors):
        header["config"]["options"]["loss"] = header["config"]["options"].pop("reconstruction")

    rewrite(file, rename)
    loaded = checkpoint.load(file)
    assert loaded.config == trainer.checkpoint().config
    assert loaded.model.reconstruction == "mse"


def test_the_model_is_what_load_state_dict_takes(file, trainer):
    model = DenoisingAutoencoder(12, 8, output_activation="sigmoid")
    model.load_state_dict(safetensors.torch.load_file(file))
    assert torch.equal(model.encoder[0].weight, trainer.model.encoder[0].weight)


def test_a_checkpoint_has_one_optimizers_state(file, trainer):
    proceed(trainer, until=9)
    checkpoint.save(file.parent, trainer.checkpoint())
    names = {path.name for path in file.parent.iterdir()}
    assert names == {CHECKPOINT_FILE, "config.json", "optimizer-9.safetensors"}
    assert not checkpoint.load_trained(file.parent).optimizer
    (file.parent / "optimizer-9.safetensors").unlink()
    assert checkpoint.load_trained(file.parent).progress.step == 9
    with pytest.raises(CheckpointError, match=r"optimizer-9\.safetensors cannot be read: No such"):
        checkpoint.load(file.parent)


def test_an_optimizers_tensor_of_no_parameter_is_named(file):
    safetensors.torch.save_file({"x.step": torch.ones(())}, file.parent / "optimizer-5.safetensors")
    with pytest.raises(CheckpointError, match=r"5\.safetensors holds 'x\.step', which is of no"):
        checkpoint.load(file.parent)


def test_no_size_is_allocated_before_it_is_compared(file):
    """A file of a kilobyte that describes a model of 144 MB."""
    resource = pytest.importorskip("resource")

    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10

    def change(header, tensors):
        header["config"].update(hidden=[6000])
        header["config"]["data"].update(visible=6000, sample_shape=[6000])
        tensors.clear()
        tensors["a"] = torch.zeros(1)

    rewrite(file, change)
    before = peak()
    with pytest.raises(CheckpointError, match="Missing key"):
        checkpoint.load(file)
    assert peak() - before < 48


def test_loading_leaves_torchs_generator_alone(tmp_path):
    trainer = new("rbm")
    checkpoint.save(tmp_path, trainer.checkpoint())
    before = torch.get_rng_state()
    checkpoint.load(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("default", [torch.float64, torch.float32])
def test_a_default_of_torchs_changes_nothing(default, file):
    torch.set_default_dtype(default)
    try:
        assert checkpoint.load(file).model.encoder[0].weight.dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", [CHECKPOINT_FILE, "config.json", "optimizer-9.safetensors"])
def test_a_link_that_someone_planted_is_replaced_not_followed(name, file, trainer, tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (file.parent / name).unlink(missing_ok=True)
    (file.parent / name).symlink_to(victim)
    proceed(trainer, until=9)
    checkpoint.save(file.parent, trainer.checkpoint())
    assert victim.read_bytes() == b"precious"
    assert not (file.parent / name).is_symlink()


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / CHECKPOINT_FILE)
    with pytest.raises(CheckpointError, match=r"cannot be read: it is no regular file$"):
        checkpoint.load(tmp_path)


def test_any_byte_that_changed_gives_a_checkpoint_or_one_line(file):
    content = file.read_bytes()
    random = np.random.default_rng(0)
    size = 8 + int.from_bytes(content[:8], "little")
    reasons = []
    for _ in range(300):
        damaged = bytearray(content)
        for position in random.integers(size if random.random() < 0.9 else len(content), size=2):
            damaged[position] = random.integers(256)
        file.write_bytes(damaged)
        try:
            checkpoint.load(file)
        except CheckpointError as error:
            reasons.append(str(error))
    assert len(reasons) > 200
    assert not [reason for reason in reasons if "\n" in reason]
