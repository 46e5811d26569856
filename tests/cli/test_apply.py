"""``aefast encode``, ``decode`` and ``sample``: arrays in, arrays out, or one line."""

import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("typer")
pytest.importorskip("safetensors")

from aefast.cli import apply
from aefast.training import models
from aefast.training.checkpoint import load, save
from tests.cli.command import invoke, refused
from tests.training.runs import SMALL, VISIBLE, new, proceed, rows


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(apply, "ROWS_AT_ONCE", 16)


@pytest.fixture
def data(tmp_path):
    np.save(tmp_path / "rows.npy", rows())
    return tmp_path / "rows.npy"


def trained(model, folder):
    run = new(model)
    proceed(run, until=3)
    folder.mkdir()
    save(folder, run.checkpoint())
    return folder


@pytest.mark.parametrize("model", SMALL)
def test_codes_and_reconstructions_are_the_models(model, data, tmp_path):
    run = trained(model, tmp_path / "run")
    codes, reconstructed = tmp_path / "codes.npy", tmp_path / "x.npy"
    result = invoke("encode", run, "--data", data, "--out", codes)
    assert result.exit_code == 0, result.output
    assert result.output == f"Wrote {codes}: 50 rows of {SMALL[model]['hidden'][-1]}\n"
    file = run / "checkpoint.safetensors"
    assert invoke("decode", file, "--data", codes, "--out", reconstructed).exit_code == 0
    module = load(run).model
    with torch.no_grad():
        code = models.encode(module, torch.from_numpy(rows()))
        x = models.decode(module, code)
    torch.testing.assert_close(torch.from_numpy(np.load(codes)), code)
    torch.testing.assert_close(torch.from_numpy(np.load(reconstructed)), x)


@pytest.mark.parametrize("model", ["stochastic", "vae", "rbm", "dbn"])
def test_samples_are_a_function_of_the_seed(model, tmp_path):
    run = trained(model, tmp_path / "run")
    actual = []
    for number, seed in enumerate((3, 3, 4)):
        out = tmp_path / f"{number}.npy"
        assert invoke("sample", run, "-n", 20, "--seed", seed, "--out", out).exit_code == 0
        actual.append(np.load(out))
    assert actual[0].shape == (20, VISIBLE)
    assert actual[0].dtype == np.float32
    assert np.array_equal(actual[0], actual[1])
    assert not np.array_equal(actual[0], actual[2])
    assert not np.array_equal(actual[0][:4], actual[0][16:])  # blocks draw anew


@pytest.mark.parametrize("model", ["ae", "dae", "cae", "sae"])
def test_a_plain_autoencoder_does_not_sample(model, tmp_path):
    run = trained(model, tmp_path / "run")
    assert refused("sample", run, "--out", tmp_path / "x.npy") == (
        f"{run} holds {model}, which is no distribution: nothing says which codes are likely; "
        "sample takes stochastic, vae, rbm, dbn"
    )


@pytest.mark.parametrize("command", ["encode", "decode"])
def test_rows_of_another_width(command, tmp_path):
    run = trained("ae", tmp_path / "run")
    source, out = tmp_path / "narrow.npy", tmp_path / "out.npy"
    np.save(source, np.ones((3, 5), np.float32))
    width = {"encode": VISIBLE, "decode": 8}[command]
    assert refused(command, run, "--data", source, "--out", out) == (
        f"{source} holds rows of 5 numbers; the model in {run} takes {width}"
    )
    assert not out.exists()


def test_codes_are_floats(tmp_path):
    run = trained("ae", tmp_path / "run")
    np.save(tmp_path / "codes.npy", np.ones((3, 8), np.uint8))
    message = refused("decode", run, "--data", tmp_path / "codes.npy", "--out", tmp_path / "x.npy")
    assert message.endswith("codes.npy holds uint8; codes are floats")


def test_data_on_another_scale_than_the_model_was_trained_on(tmp_path):
    run = trained("rbm", tmp_path / "run")
    np.save(tmp_path / "grey.npy", 255 * rows())
    message = refused("encode", run, "--data", tmp_path / "grey.npy", "--out", tmp_path / "x.npy")
    assert message.endswith("rbm with --visible-kind bernoulli takes [0, 1]")


def run_on(array, tmp_path):
    """A run of a small autoencoder on an array."""
    np.save(tmp_path / "trained.npy", array)
    options = ["--data", tmp_path / "trained.npy", "--hidden", 3, "--epochs", 1]
    result = invoke("train", "ae", *options, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    return tmp_path / "run"


def encoded(run, array, tmp_path):
    """The codes of an array, and what the command said."""
    np.save(tmp_path / "data.npy", array)
    out = tmp_path / "codes.npy"
    result = invoke("encode", run, "--data", tmp_path / "data.npy", "--out", out)
    assert result.exit_code == 0, result.output
    return np.load(out), result.output


GREY = np.random.default_rng(0).integers(0, 256, (40, 12), np.uint8)


@pytest.mark.parametrize("other", [GREY.astype("f4"), GREY.astype("i8"), GREY / 127.5 - 1.0])
def test_grey_levels_on_another_scale_are_refused_with_both_ranges(other, tmp_path):
    run = run_on(GREY, tmp_path)
    np.save(tmp_path / "other.npy", other)
    message = refused("encode", run, "--data", tmp_path / "other.npy", "--out", tmp_path / "x.npy")
    assert message == (
        f"{tmp_path}/other.npy holds numbers from {other.min():g} to {other.max():g}, and the "
        f"model in {run} was trained on numbers from 0 to 1: another scale; it takes -0.5 to 1.5"
    )


@pytest.mark.parametrize("other", [GREY.astype("f4"), GREY.astype("i8"), GREY / 255 - 0.75])
def test_bytes_are_refused_where_the_training_data_were_not_divided(other, tmp_path):
    run = run_on(other, tmp_path)
    np.save(tmp_path / "grey.npy", GREY)
    message = refused("encode", run, "--data", tmp_path / "grey.npy", "--out", tmp_path / "x.npy")
    assert message.endswith(
        f"another scale; it takes {other.dtype}, which is not divided by 255, as uint8 is"
    )


def test_bytes_are_over_what_the_models_bytes_were(tmp_path):
    run = run_on(GREY, tmp_path)
    dark = GREY[:5] % 2
    bits, _ = encoded(run, dark, tmp_path)
    floats, _ = encoded(run, dark.astype("f4") / 255, tmp_path)
    assert np.array_equal(bits, floats)


def test_numbers_without_ends_may_be_outliers_but_of_the_same_scale(tmp_path):
    numbers = np.random.default_rng(0).standard_normal((40, 12))
    run = run_on(numbers, tmp_path)
    assert "note" not in encoded(run, numbers[:20], tmp_path)[1]
    assert "see that they are on the same scale" in encoded(run, 5 * numbers, tmp_path)[1]
    assert "see that they are on the same scale" in encoded(run, 0.1 * numbers, tmp_path)[1]
    np.save(tmp_path / "far.npy", 100 * numbers)
    message = refused("encode", run, "--data", tmp_path / "far.npy", "--out", tmp_path / "x.npy")
    assert ": another scale; it takes " in message


@pytest.mark.parametrize(
    ("model", "options", "takes"),
    [
        ("ae", {}, "-0.5 to 1.5"),
        ("ae", {"code_activation": "tanh"}, "-2 to 2"),
        ("stochastic", {}, "-2 to 2"),
        ("rbm", {}, "-0.5 to 1.5"),
        ("dbn", {}, "-0.5 to 1.5"),
        ("ae", {"activation": "relu"}, None),
        ("vae", {}, None),
    ],
)
def test_codes_on_another_scale(model, options, takes, tmp_path):
    trainer = new(model, **options)
    save(tmp_path, trainer.checkpoint())
    codes = np.full((3, trainer.config.sizes[-1]), 30.0)
    codes[0] = 0
    np.save(tmp_path / "codes.npy", codes)
    arguments = ["--data", tmp_path / "codes.npy", "--out", tmp_path / "x.npy"]
    if takes is None:
        assert invoke("decode", tmp_path, *arguments).exit_code == 0
    else:
        message = refused("decode", tmp_path, *arguments)
        assert message.startswith(f"{tmp_path}/codes.npy holds codes from 0 to 30, and those of")
        assert message.endswith(f"another scale; it takes {takes}")


@pytest.mark.parametrize("command", ["encode", "decode"])
def test_what_is_read_is_not_written_over(command, data, tmp_path):
    run = trained("ae", tmp_path / "run")
    before = data.read_bytes()
    (tmp_path / "link.npy").symlink_to(data)
    for out in (data, tmp_path / "link.npy"):
        message = refused(command, run, "--data", data, "--out", out)
        assert message == f"--out is '{out}', which --data reads; it takes another file"
    assert data.read_bytes() == before


@pytest.mark.parametrize("command", ["encode", "decode"])
def test_nothing_is_written_into_the_folder_that_is_read(command, data, tmp_path):
    run, folder = trained("ae", tmp_path / "run"), tmp_path / "shards"
    folder.mkdir()
    data.rename(folder / "a.npy")
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "around").mkdir()
    (tmp_path / "around" / "linked").symlink_to(folder)
    before = (folder / "a.npy").read_bytes()
    message = refused(command, run, "--data", tmp_path / "around", "--out", folder / "a.npy")
    assert message.startswith(f"--out is '{folder}/a.npy', in the folder that --data reads")
    for out in (folder / "a.npy", folder / "b.npy", tmp_path / "link" / "b.npy"):
        message = refused(command, run, "--data", folder, "--out", out)
        assert message.startswith(f"--out is '{out}', in the folder that --data reads")
    assert [(path.name, path.read_bytes()) for path in folder.iterdir()] == [("a.npy", before)]


@pytest.mark.parametrize("command", ["encode", "sample"])
def test_the_checkpoint_is_not_written_over(command, data, tmp_path):
    model = trained("vae", tmp_path / "run").rename(tmp_path / "kept") / "checkpoint.safetensors"
    out = tmp_path / "model.npy"
    model.rename(out)
    before = out.read_bytes()
    more = ["--data", data] if command == "encode" else []
    message = refused(command, out, *more, "--out", out)
    assert message == f"--out is '{out}', which is the checkpoint; it takes another file"
    assert out.read_bytes() == before


def test_a_file_name_that_is_too_long_is_one_line(data, tmp_path):
    run = trained("ae", tmp_path / "run")
    message = refused("encode", run, "--data", data, "--out", tmp_path / f"{'a' * 300}.npy")
    assert message.startswith("--out: ")
    assert "\n" not in message


def test_a_checkpoints_name_that_is_too_long_is_one_line(data, tmp_path):
    out = tmp_path / "x.npy"
    out.touch()
    message = refused("encode", "x" * 300, "--data", data, "--out", out)
    assert "File name too long" in message


def test_a_link_to_write_to_is_replaced_not_followed(data, tmp_path):
    run, out = trained("ae", tmp_path / "run"), tmp_path / "out.npy"
    (tmp_path / "victim").write_bytes(b"precious")
    out.symlink_to(tmp_path / "victim")
    assert invoke("encode", run, "--data", data, "--out", out).exit_code == 0
    assert (tmp_path / "victim").read_bytes() == b"precious"
    assert np.load(out).shape == (50, 8)


@pytest.mark.parametrize("command", ["encode", "sample"])
def test_a_signal_to_end_leaves_no_temporary_file(command, data, tmp_path, monkeypatch):
    run, out = trained("rbm", tmp_path / "run"), tmp_path / "x.npy"

    def end(*arguments):
        assert list(tmp_path.glob(".aefast-*"))
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(models, "encode", end)
    monkeypatch.setitem(models.MODELS, "rbm", replace(models.MODELS["rbm"], sample=end))
    source = [] if command == "sample" else ["--data", data]
    assert invoke(command, run, *source, "--out", out).exit_code == 128 + signal.SIGTERM
    assert {path.name for path in tmp_path.iterdir()} == {"run", "rows.npy"}
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("content", [b"", b"no checkpoint"])
@pytest.mark.parametrize("command", ["encode", "decode", "sample"])
def test_a_file_that_is_no_checkpoint(command, content, data, tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    source = [] if command == "sample" else ["--data", data]
    message = refused(command, file, *source, "--out", tmp_path / "x.npy")
    assert message.startswith(f"{file} is no safetensors file, or cut short")


def test_what_goes_wrong_on_the_way_leaves_the_old_file(data, tmp_path, monkeypatch):
    run, out = trained("ae", tmp_path / "run"), tmp_path / "codes.npy"
    out.write_bytes(b"old")
    encoded = []

    def encode(model, x):
        encoded.append(x)
        if len(encoded) == 3:
            raise OSError("the disk is gone")
        return x

    monkeypatch.setattr(models, "encode", encode)
    assert refused("encode", run, "--data", data, "--out", out) == "the disk is gone"
    assert out.read_bytes() == b"old"
    assert {path.name for path in tmp_path.iterdir()} == {"run", "rows.npy", "codes.npy"}


def test_a_folder_that_is_not_there(data, tmp_path):
    message = refused("encode", tmp_path, "--data", data, "--out", tmp_path / "no" / "x.npy")
    assert "but there is no folder" in message
