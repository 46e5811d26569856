"""``aefast train``: what it leaves in a run's folder, how it stops, and what it refuses."""

import errno
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import aefast

pytest.importorskip("typer")
pytest.importorskip("safetensors")
pytest.importorskip("tensorboard")

import safetensors
from safetensors.torch import load_file, save_file

from aefast.training import loop, run
from aefast.training.checkpoint import load, save
from aefast.training.models import MODELS
from aefast.training.run import claimed, start
from tests import fresh
from tests.cli.command import invoke, refused
from tests.training.runs import SMALL, rows

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def data(tmp_path):
    np.save(tmp_path / "rows.npy", rows())
    return tmp_path / "rows.npy"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "run"


def train(model, data, out, *more):
    sizes = ",".join(map(str, SMALL[model]["hidden"]))
    common = ["--data", data, "--hidden", sizes, "--epochs", 2, "--batch-size", 8]
    active = ["--k", SMALL[model]["k"]] if "k" in SMALL[model] else []
    return ["train", model, *common, *active, "--out", out, *more]


@pytest.mark.parametrize("location", ["run", ".", "link/run", "up/shards/run", "relative"])
def test_no_run_begins_in_the_folder_that_its_data_are_read_from(
    location, data, tmp_path, monkeypatch
):
    folder = tmp_path / "shards"
    folder.mkdir()
    data.rename(folder / "a.npy")
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "up").symlink_to(tmp_path)
    monkeypatch.chdir(folder)
    source = {"relative": "../shards", ".": "."}.get(location, folder)
    out = {"run": folder / "run", ".": ".", "relative": "run"}.get(location, tmp_path / location)
    message = refused(*train("ae", source, out))
    assert message.startswith(f"--out is '{out}', in the folder that --data reads")
    assert [path.name for path in folder.iterdir()] == ["a.npy"]


@pytest.mark.parametrize("model", MODELS)
def test_every_model_trains(model, data, out):
    result = invoke(*train(model, data, out))
    assert result.exit_code == 0, result.output
    assert "2 of 2 epochs" in result.output
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 14 * len(lines)
    config = json.loads((out / "config.json").read_text())["config"]
    assert config["model"] == model
    assert config["data"]["source"] == str(data)
    names = {re.split(r"[.-]", path.name)[0] for path in out.iterdir()}
    assert names == {"checkpoint", "config", "metrics", "events", "optimizer"}


def test_options_reach_the_model(data, out):
    options = [
        "--tied",
        "--corruption",
        "gaussian",
        "--corruption-level",
        0.5,
        "--reconstruction",
        "bce",
    ]
    invoke(*train("dae", data, out, *options, "--learning-rate", 0.01, "--seed", 3))
    config = json.loads((out / "config.json").read_text())["config"]
    expected = {
        "tied": True,
        "corruption": "gaussian",
        "corruption_level": 0.5,
        "reconstruction": "bce",
    }
    assert config["options"].items() >= expected.items()
    assert (config["learning_rate"], config["seed"]) == (0.01, 3)
    assert "2.weight" not in load_file(out / "checkpoint.safetensors")


def test_the_old_name_of_an_option_is_taken_with_a_note(data, out):
    result = invoke(*train("ae", data, out, "--loss", "bce"))
    assert "note: --loss is an old name and will be removed: use --reconstruction" in result.output
    assert load(out).config.options["reconstruction"] == "bce"
    assert "old name of --reconstruction" in refused(
        *train("ae", data, out, "--loss", "bce", "--reconstruction", "bce")
    )
    assert "--loss" not in invoke("train", "--help").output


def lines_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_held_out_rows_are_in_the_config_and_the_metrics(data, out):
    options = ["--validation", 0.2, "--learning-rate-decay", 0.9, "--patience", 5]
    assert invoke(*train("ae", data, out, *options)).exit_code == 0
    config = json.loads((out / "config.json").read_text())["config"]
    expected = {"validation": 0.2, "learning_rate_decay": 0.9, "patience": 5}
    assert config.items() >= expected.items()
    assert [(line["step"], line["held_out_loss"] > 0) for line in lines_of(out)] == [
        (5, True),
        (10, True),
    ]
    assert refused("train", "--resume", "--out", out, "--validation", 0.3) == (
        f"--validation is 0.3, but that of the run in {out} is 0.2"
    )


def test_a_weight_of_the_divergence_and_its_warm_up_reach_the_run(data, out):
    assert invoke(*train("vae", data, out, "--kl-weight", 0.5, "--kl-warm-up", 3)).exit_code == 0
    config = load(out).config
    assert (config.options["kl_weight"], config.kl_warm_up) == (0.5, 3)
    assert aefast.load(out).kl_weight == 0.5


@pytest.mark.parametrize("model", ["rbm", "dbn"])
def test_a_run_that_patience_ended_says_so_and_is_over(model, data, out):
    # Steps this large make no machine better.
    options = ["--validation", 0.2, "--patience", 1, "--epochs", 500, "--learning-rate", 5]
    result = invoke(*train(model, data, out, *options))
    assert result.exit_code == 0, result.output
    assert "and was no better on held-out rows for 1 epochs" in " ".join(result.output.split())
    assert load(out).progress.epoch < 500
    assert {"reconstruction_error", "pseudo_log_likelihood"} <= lines_of(out)[-1].keys()
    result = invoke("train", "--resume", "--out", out)
    assert result.output.rstrip().endswith("for 1 epochs: nothing is left")


def test_the_bar_shows_the_held_out_loss(data, out, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    result = invoke(*train("rbm", data, out, "--validation", 0.2))
    for name in ("loss", "held out loss", "reconstruction error", "pseudo log likelihood"):
        assert re.search(rf"{name} -?\d", re.sub(r"\x1b\[[\d;?]*\w", "", result.output)), name


def test_the_defaults_learn_the_digits(out):
    pytest.importorskip("sklearn")
    result = invoke("train", "dae", "--data", "digits", "--out", out)
    assert result.exit_code == 0
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    # The mean digit's error, which a code that says nothing reaches, is 0.0734.
    assert lines[-1]["loss"] < 0.0734 / 2


def test_the_output_reaches_as_far_as_the_data(data, out):
    invoke(*train("ae", data, out))
    assert load(out).config.options["output_activation"] == "sigmoid"
    np.save(data, 3 * rows())
    invoke(*train("ae", data, out.with_name("wide")))
    assert load(out.with_name("wide")).config.options["output_activation"] == "identity"


def test_precision_holds_for_the_run_alone(data, out, monkeypatch):
    precisions = []
    monkeypatch.setattr(loop, "train", lambda *a, **b: precisions.append(precision()))
    precision = torch.get_float32_matmul_precision
    invoke(*train("ae", data, out, "--precision", "medium"))
    assert precisions == ["medium"]
    assert precision() == "highest"


def test_a_finished_run_says_so_and_takes_more_epochs(data, out):
    invoke(*train("dae", data, out))
    before = (out / "checkpoint.safetensors").read_bytes()
    result = invoke("train", "--resume", "--out", out)
    assert result.exit_code == 0
    assert "nothing is left" in result.output
    assert (out / "checkpoint.safetensors").read_bytes() == before
    result = invoke("train", "dae", "--resume", "--out", out, "--epochs", 3)
    assert result.exit_code == 0
    assert "3 of 3 epochs" in result.output


def test_a_run_is_not_overwritten(data, out):
    invoke(*train("dae", data, out))
    before = {path: path.read_bytes() for path in out.iterdir()}
    assert (
        refused(*train("rbm", data, out)) == f"{out} holds a run already; --resume goes on with it"
    )
    assert {path: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("rbm",), "MODEL is 'rbm', but that of the run in .* is 'dae'"),
        (("--corruption-level", 0.5), "--corruption-level is 0.5, but .* is 0.3"),
        (("--hidden", "9"), r"--hidden is \[9\], but .* is \[8\]"),
        (("--data", "digits"), "--data is 'digits', but "),
        (("--seed", 1), "--seed is 1, but "),
        (("--chains", 1), "dae takes no --chains; it is for rbm, dbn"),
        (("--epochs", 1), "--epochs is 1, but the run in .* is past that"),
    ],
)
def test_a_run_is_taken_up_with_its_own_options(options, message, data, out):
    invoke(*train("dae", data, out))
    assert re.match(message, refused("train", *options, "--resume", "--out", out))


def test_a_run_from_a_machine_with_a_gpu(data, out, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    invoke(*train("dae", data, out))
    saved = load(out)
    save(out, replace(saved, config=replace(saved.config, device="cuda")))
    message = refused("train", "--resume", "--out", out, "--epochs", 3)
    assert message.endswith("but torch sees no CUDA device; --device cpu moves it")
    assert invoke("train", "--resume", "--out", out, "--device", "cpu").exit_code == 0


def test_data_that_have_changed(data, out):
    invoke(*train("dae", data, out))
    np.save(data, rows()[1:])
    message = refused("train", "--resume", "--out", out, "--epochs", 5)
    assert message == f"{data} is no longer what the run in {out} was started with"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train",), "MODEL is missing; it takes one of ae, dae, cae, sae, stochastic, vae, rbm"),
        (("train", "gan"), "MODEL is 'gan'; it takes one of ae, "),
        (("train", "dae"), "--data is missing"),
        (("train", "dae", "--data", "nowhere.npy", "--hidden", 8), "nowhere.npy"),
        (
            ("train", "dae", "--data", "DATA", "--hidden", "8,x"),
            "--hidden is '8,x'; it takes sizes",
        ),
        (("train", "dae", "--data", "DATA", "--hidden", "0"), "--hidden is '0'; it takes sizes"),
        (("train", "rbm", "--data", "DATA", "--hidden", "8,4"), "hidden is [8, 4]; rbm takes one"),
        (("train", "ae", "--corruption", "masking"), "ae takes no --corruption; it is for dae"),
        (
            ("train", "dae", "--sparsity-weight", 1),
            "dae takes no --sparsity-weight; it is for sae, rbm",
        ),
        (
            ("train", "dae", "--learning-rate", 0),
            "--learning-rate is 0.0; it takes a number above 0",
        ),
        (("train", "ae", "--validation", 1), "--validation is 1.0; it takes a number in [0, 1)"),
        (
            ("train", "ae", "--data", "DATA", "--hidden", 8, "--validation", 0.001),
            "validation is 0.001, which holds out 0 of 50 rows; it takes a share that leaves",
        ),
        (
            ("train", "ae", "--data", "DATA", "--hidden", 8, "--validation", 0.999),
            "validation is 0.999, which holds out 50 of 50 rows; it takes a share that leaves",
        ),
        (
            ("train", "ae", "--data", "DATA", "--hidden", 8, "--patience", 3),
            "--patience is 3; it takes a --validation above 0",
        ),
        (
            ("train", "ae", "--learning-rate-decay", 1.5),
            "--learning-rate-decay is 1.5; it takes a number in (0, 1]",
        ),
        (("train", "ae", "--kl-weight", 2), "ae takes no --kl-weight; it is for vae"),
        (("train", "rbm", "--kl-warm-up", 2), "rbm takes no --kl-warm-up; it is for vae"),
        (
            ("train", "vae", "--data", "DATA", "--bound", "importance", "--kl-warm-up", 2),
            "--kl-warm-up is 2; it takes --bound elbo",
        ),
        (
            ("train", "vae", "--data", "DATA", "--kl-weight", -1),
            "kl_weight is -1.0; it takes a finite number, at least 0",
        ),
        (("train", "dae", "--precision", "low"), "--precision is 'low'; it takes one of highest"),
        (("train", "dae", "--device", "tpu"), "--device is 'tpu'; it takes one of cpu, cuda"),
        (("train", "--resume"), "run holds no run; without --resume one starts there"),
        (
            ("train", "dae", "--data", "DATA", "--hidden", 8, "--corruption-level", 2),
            "corruption_level is 2.0; it takes a number in [0, 1]",
        ),
    ],
)
def test_a_wrong_argument_is_one_line(arguments, message, data, out, monkeypatch):
    monkeypatch.chdir(data.parent)
    words = [data if argument == "DATA" else argument for argument in arguments]
    assert refused(*words).startswith(message)
    assert not (data.parent / "run").exists()


@pytest.mark.parametrize(
    ("model", "option"),
    [
        ("dae", ("--reconstruction", "bce")),
        ("stochastic", ()),
        ("vae", ()),
        ("rbm", ()),
        ("dbn", ()),
    ],
)
def test_probabilities_take_data_between_0_and_1(model, option, data, out):
    np.save(data, 2 * rows() - 0.5)
    message = refused(*train(model, data, out, *option))
    assert message.startswith(f"{data} holds numbers from -0.5 to 1.5; {model} with --")
    assert message.endswith("takes [0, 1]")
    assert not out.exists()


@pytest.mark.parametrize("out", ["shards/run", "shards", "other/run"])
def test_a_run_does_not_lie_among_its_shards(out, data, tmp_path):
    """Its checkpoints would be shards."""
    (tmp_path / "shards").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "shards" / "linked").symlink_to(tmp_path / "other")
    data.rename(tmp_path / "shards" / "0.npy")
    message = refused(*train("ae", tmp_path / "shards", tmp_path / out))
    assert message.startswith(f"--out is '{tmp_path / out}', in the folder that --data reads")
    assert [path.name for path in (tmp_path / "shards").rglob("*")] in (
        ["linked", "0.npy"],
        ["0.npy", "linked"],
    )


def test_a_folder_that_is_none(data, tmp_path):
    assert refused(*train("ae", data, data)).endswith("a file; it takes a folder")
    message = refused(*train("ae", data, tmp_path / "no" / "run"))
    assert "but there is no folder" in message


def test_a_loss_that_is_not_finite_keeps_the_last_checkpoint(data, out):
    np.save(data, 1e30 * rows())
    message = refused(*train("ae", data, out))
    assert message.startswith("the loss of step 1 is inf; ")
    assert step_of(out) == 0


def test_an_rbm_that_diverges_is_one_line(data, out):
    options = ["--visible-kind", "gaussian", "--learning-rate", 1e20]
    message = refused(*train("rbm", data, out, *options))
    assert "after training step" in message or "the loss of step" in message


def started(arguments, folder):
    """The command in a process of its own, once its training is under way."""
    process = subprocess.Popen(
        [sys.executable, "-m", "aefast", *map(str, arguments)],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 300
    while not any(folder.glob("metrics.jsonl")) or not (folder / "metrics.jsonl").read_bytes():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(number, data, out):
    process = started([*train("dae", data, out)[:-2], "--out", out, "--epochs", 10**6], out)
    process.send_signal(number)
    assert process.wait(60) == 130
    message = process.stderr.read()
    assert message.count("\n") == 1
    assert message.rstrip().endswith(f"to go on: aefast train --resume --out {out}")
    stopped = step_of(out)
    assert f"{stopped} steps" in message
    assert invoke("train", "--resume", "--out", out, "--epochs", stopped // 7 + 2).exit_code == 0

    whole = out.with_name("whole")
    invoke(*train("dae", data, whole, "--epochs", stopped // 7 + 2))
    assert step_of(out) == step_of(whole)
    actual, expected = (load_file(run / "checkpoint.safetensors") for run in (out, whole))
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], expected[name]) for name in actual)
    lines = [(run / "metrics.jsonl").read_text().splitlines() for run in (out, whole)]
    steps = [[json.loads(line)["step"] for line in run] for run in lines]
    losses = [[json.loads(line)["loss"] for line in run] for run in lines]
    assert steps[0] == steps[1]
    assert losses[0] == losses[1]


def step_of(run):
    return load(run).progress.step


def test_a_checkpoint_is_there_before_the_first_step(data, out):
    out.mkdir()
    start(out, {"model": "dae", "data": str(data), "hidden": [8]})
    assert step_of(out) == 0


def test_data_of_the_same_shape_and_range_that_have_changed(data, out):
    invoke(*train("ae", data, out))
    np.save(data, np.load(data)[::-1].copy())
    message = refused("train", "--resume", "--out", out, "--epochs", "9")
    assert "is no longer what the run" in message


def test_two_runs_do_not_share_a_folder(data, out):
    with claimed(out):
        assert refused(*train("ae", data, out)) == f"{out} is in use by another run"


def test_a_run_that_fails_at_the_door_leaves_no_folder(data, out):
    assert "reconstruction is 'mae'" in refused(*train("ae", data, out, "--reconstruction", "mae"))
    assert not out.exists()


def test_a_stack_whose_first_machine_is_trained_takes_no_other_epochs(data, out):
    invoke(*train("dbn", data, out, "--epochs", "2"))
    message = refused("train", "--resume", "--out", out, "--epochs", "5")
    assert "--epochs is 5, but the run" in message
    assert "its first machine for 2" in message


def rewrite(path, change):
    """A safetensors file with its tensors, or what aefast told in it, changed."""
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    header = json.loads(metadata.get("aefast", "{}"))
    change(header, tensors)
    save_file(tensors, path, {"aefast": json.dumps(header)} if header else None)


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("progress", {"epoch": 0, "batch": 99}, "batch 99 is none of"),
        ("progress", {"stage": 3}, "stage 3, epoch .* is none of the run's"),
        ("progress", {"step": 15}, "optimizer-15.safetensors cannot be read: No such"),
        ("progress", {"samples": 99}, "14 steps of 99 samples, where stage 0, .* are 14 of 100"),
        ("config", {"device": "foo"}, "device is 'foo'"),
        ("config", {"batch_size": 0}, "batch_size is 0"),
        ("config", {"batch_size": 9}, "does not fit its run"),
    ],
)
def test_a_checkpoint_that_was_changed_is_named(data, out, part, change, message):
    invoke(*train("ae", data, out))
    rewrite(out / "checkpoint.safetensors", lambda header, _: header[part].update(change))
    assert re.search(message, refused("train", "--resume", "--out", out))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.update({"0.exp_avg": torch.zeros(3)}), "exp_avg has shape [3] and"),
        (lambda state: state.update({"0.exp_avg": torch.zeros(())}), "exp_avg has shape [] and"),
        (lambda state: state.update({"0.exp_avg": state["0.exp_avg"].double()}), "torch.float64;"),
        (lambda state: state.update({"0.x": torch.zeros(())}), "it takes step, exp_avg, exp_avg_s"),
        (lambda state: state.pop("0.step"), "optimizer.0 holds exp_avg, exp_avg_sq; it takes step"),
        (lambda state: state.update({"9.step": torch.zeros(())}), "state is of parameters [0, 1, "),
        (
            lambda state: state.update({f"{n}.step": torch.zeros(()) for n in range(999)}),
            "...; there are 4, after 14 steps",
        ),
        (
            lambda state: state.clear(),
            "the optimizer's state is of parameters []; there are 4, aft",
        ),
        (
            lambda state: state["1.exp_avg"].fill_(torch.nan),
            "1.exp_avg holds nan; it takes finite n",
        ),
        (
            lambda state: state["0.exp_avg_sq"].fill_(torch.inf),
            "0.exp_avg_sq holds inf; it takes f",
        ),
        (lambda state: state["0.exp_avg_sq"].neg_(), "; it takes finite numbers from 0 up"),
        (
            lambda state: state["0.step"].sub_(1),
            "0.step holds 13; it takes 14, the steps that were",
        ),
        (lambda state: state["3.step"].fill_(torch.nan), "3.step holds nan; it takes 14"),
    ],
)
def test_an_optimizers_state_that_is_another_is_named(data, out, change, message):
    invoke(*train("ae", data, out))
    rewrite(out / "optimizer-14.safetensors", lambda _, tensors: change(tensors))
    assert message in refused("train", "--resume", "--out", out, "--epochs", "9")


def test_a_checkpoint_that_denies_its_optimizers_state_is_named(data, out):
    invoke(*train("rbm", data, out))
    rewrite(out / "checkpoint.safetensors", lambda header, _: header.update(optimizer=False))
    message = refused("train", "--resume", "--out", out, "--epochs", "9")
    assert "the optimizer's state is of parameters []; there are 3, after 14 steps" in message


@pytest.mark.parametrize("source", ["x" * 5000, "/" + "y/" * 2000])
def test_a_source_of_any_length_in_a_checkpoint_is_cut(source, data, out):
    invoke(*train("ae", data, out))
    rewrite(
        out / "checkpoint.safetensors",
        lambda header, _: header["config"]["data"].update(source=source),
    )
    message = refused("train", "--resume", "--out", out)
    assert "... is not there, with which the run" in message
    assert len(message) < 600


def test_the_sizes_have_a_default(data, out):
    out.mkdir()
    for model in MODELS:
        result = invoke("train", model, "--data", data, "--epochs", 1, "--out", out / model)
        assert result.exit_code == 0, result.output
        assert load(out / model).config.hidden == list(MODELS[model].hidden)


def test_data_that_moved_are_found_by_what_they_hold(data, out, monkeypatch):
    monkeypatch.chdir(data.parent)
    invoke(*train("ae", data.name, out))
    monkeypatch.chdir("/")  # a relative path is of the folder where it was given
    assert invoke("train", "--resume", "--out", out, "--epochs", 3).exit_code == 0
    moved = data.with_name("moved.npy")
    data.rename(moved)
    assert refused("train", "--resume", "--out", out, "--epochs", 4) == (
        f"{data} is not there, with which the run in {out} was started; --data says where it is now"
    )
    resumed = invoke("train", "--resume", "--out", out, "--epochs", 4, "--data", moved)
    assert resumed.exit_code == 0, resumed.output
    assert invoke("train", "--resume", "--out", out, "--epochs", 5).exit_code == 0
    np.save(data, rows() + 1)
    assert refused("train", "--resume", "--out", out, "--epochs", 6, "--data", data) == (
        f"--data is '{data}', but that of the run in {out} is '{moved}', and holds other numbers"
    )


@pytest.mark.parametrize("name", ["ENOLCK", "ENOSYS", "EBADF", "EOPNOTSUPP", "EINVAL"])
def test_a_file_system_without_locks(name, data, out, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def flock(*arguments):
        raise OSError(getattr(errno, name), "no locks here")

    monkeypatch.setattr(fcntl, "flock", flock)
    result = invoke(*train("ae", data, out))
    assert result.exit_code == 0, result.output
    assert f"note: {out} cannot be locked here: see that no other run writes to it" in result.output


def test_a_system_without_locks(out, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)  # as on Windows
    spec = importlib.util.spec_from_file_location("run_without_locks", run.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with module.claimed(out) as doubt:
        assert "cannot be locked here" in doubt


def test_a_full_disk_is_one_line_and_the_last_checkpoint_stays(data, out):
    pytest.importorskip("resource")
    wide = ["train", "ae", "--data", data, "--hidden", 8, "--epochs", 1, "--out", out]
    assert invoke(*wide).exit_code == 0
    before = (out / "checkpoint.safetensors").read_bytes()
    program = (
        "import resource, aefast.cli; resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500)); "
    )
    resumed = ["train", "--resume", "--out", out, "--epochs", 9]
    result = fresh.run_aefast(resumed, before=program)
    assert result.returncode == 2, result.stderr
    way_on = re.escape(f"; {out} holds the run as last saved; --resume goes on with it")
    assert re.fullmatch(rf"aefast: \[Errno 27\] File too large: .*{way_on}\n", result.stderr)
    assert (out / "checkpoint.safetensors").read_bytes() == before
    assert not list(out.glob(".aefast-*"))
    assert invoke("train", "--resume", "--out", out, "--epochs", 9).exit_code == 0


def test_data_that_are_cut_while_a_run_reads_them(data, out, monkeypatch):
    np.save(data, np.resize(rows(), (20000, 12)))
    step = loop.Trainer.checkpoint

    def cut(self):
        with open(data, "r+b") as file:
            file.truncate(5000)
        return step(self)

    monkeypatch.setattr(loop.Trainer, "checkpoint", cut)  # the first one, before any step
    message = refused(*train("ae", data, out))
    assert message.startswith(f"{data}: it was cut to 5000 bytes while it was in use")


def test_what_was_left_out_of_a_table_is_said(tmp_path, out):
    lines = "".join(f"{i},{i % 3},{i % 5}\n" for i in range(40))
    (tmp_path / "x.csv").write_text(f",a,b\n{lines}")
    result = invoke("train", "ae", "--data", tmp_path / "x.csv", "--epochs", 1, "--out", out)
    assert f"aefast: note: {tmp_path}/x.csv: its first column names the rows: left out\n" in (
        result.output
    )
    assert load(out).config.data.visible == 2


@pytest.mark.parametrize("name", ["metrics.jsonl", "config.json"])
def test_a_link_in_the_folder_is_not_written_through(name, data, out, tmp_path):
    out.mkdir()
    (out / name).symlink_to(tmp_path / "victim")
    assert refused(*train("ae", data, out)).endswith("it takes a folder without one")
    (out / name).unlink()
    invoke(*train("ae", data, out))
    (out / name).unlink()
    (out / name).symlink_to(tmp_path / "victim")
    assert invoke("train", "--resume", "--out", out, "--epochs", 3).exit_code == 0
    assert not (tmp_path / "victim").exists()
