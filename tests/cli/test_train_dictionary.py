"""``aefast train`` of sparse dictionaries: shards to a folder, its figures, and what it refuses."""

import json

import numpy as np
import pytest
import torch

pytest.importorskip("typer")
pytest.importorskip("safetensors")
pytest.importorskip("tensorboard")

from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import aefast
from aefast.nn.dictionary import geometric_median
from aefast.training import run
from aefast.training.loop import Trainer
from tests.cli.command import invoke, refused
from tests.training.runs import proceed

D, L, K = 12, 40, 3
FIGURES = {"fraction_of_variance_unexplained", "l0", "dead_share"}


@pytest.fixture
def shards(tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    directions = torch.randn(20, D, generator=torch.Generator().manual_seed(0))
    code = torch.rand(240, 20, generator=torch.Generator().manual_seed(1))
    rows = (code * (code > 0.9)) @ directions + 2
    save_file({"activations": rows[:100].bfloat16()}, folder / "0.safetensors")
    save_file({"activations": rows[100:200].half()}, folder / "1.safetensors")
    np.save(folder / "2.npy", rows[200:].numpy())
    return folder


def train(shards, out, *more, model="topk"):
    sizes = ["--latents", L, "--k", K, "--batch-size", 16]
    return ["train", model, "--data", shards, "--out", out, *sizes, *more]


def test_a_run_leaves_its_figures_in_json_lines_and_for_tensorboard(shards, tmp_path):
    out = tmp_path / "run"
    more = ["--epochs", 20, "--learning-rate", 0.01, "--aux-k", 4, "--dead-after", 500]
    result = invoke(*train(shards, out, *more))
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert all(line.keys() >= {"loss", "tokens_per_second", *FIGURES} for line in lines)
    assert "samples_per_second" not in lines[0]
    assert 0 < lines[-1]["fraction_of_variance_unexplained"] < 0.5
    assert 0 < lines[-1]["l0"] <= K
    events = EventAccumulator(str(out)).Reload()
    assert {"loss", "tokens_per_second", *FIGURES} <= set(events.Tags()["scalars"])

    model = aefast.load(out)
    torch.testing.assert_close(model.decoder_weight.norm(dim=1), torch.ones(L))
    x = aefast.data.load(shards).take(torch.arange(240))
    residual = (x - model(x)).square().sum() / (x - x.mean(0)).square().sum()
    assert lines[-1]["fraction_of_variance_unexplained"] == pytest.approx(residual.item(), rel=1e-3)
    assert lines[-1]["dead_share"] == model.dead.double().mean()


def test_a_run_starts_at_the_rows_geometric_median(shards, tmp_path):
    (tmp_path / "run").mkdir()
    options = {"model": "topk", "data": str(shards), "latents": L, "k": K}
    trainer = run.start(tmp_path / "run", options)
    rows = aefast.data.load(shards).take(torch.arange(240))
    assert torch.equal(trainer.model.decoder_bias, geometric_median(rows))


def test_a_run_that_stopped_goes_on_to_the_same_bits(shards, tmp_path):
    options = {"model": "topk", "data": str(shards), "latents": L, "k": K, "batch_size": 16}
    options |= {"epochs": 3, "aux_k": 4, "dead_after": 100}
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
        trainer = run.start(tmp_path / name, options)
        proceed(trainer, until=20 if name == "stopped" else None)
        run.save(tmp_path / name, trainer.checkpoint())
    resumed = run.resume(tmp_path / "stopped", {"latents": L})
    assert isinstance(resumed, Trainer)
    proceed(resumed)
    run.save(tmp_path / "stopped", resumed.checkpoint())
    actual, expected = (
        load_file(tmp_path / n / "checkpoint.safetensors") for n in ("stopped", "whole")
    )
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


def test_a_transcoder_learns_targets_and_goes_on_to_the_same_bits(shards, tmp_path):
    targets = tmp_path / "targets"
    targets.mkdir()
    x = aefast.data.load(shards).take(torch.arange(240))
    y = x[:, :5] * 2 - x[:, 5:10] + 1
    np.save(targets / "0.npy", y.numpy())
    out, stopped = tmp_path / "run", tmp_path / "stopped"
    more = ["--targets", targets, "--learning-rate", 0.03, "--validation", 0.1]
    assert invoke(*train(shards, out, "--epochs", 6, *more)).exit_code == 0
    assert invoke(*train(shards, stopped, "--epochs", 1, *more)).exit_code == 0
    moved = targets.rename(tmp_path / "moved")
    assert "--targets says where it is now" in refused("train", "--resume", "--out", stopped)
    goes_on = ["train", "--resume", "--out", stopped, "--epochs", 6]
    assert "and holds other numbers" in refused(*goes_on, "--targets", shards)
    assert invoke(*goes_on, "--targets", moved).exit_code == 0
    model, resumed = aefast.load(out), aefast.load(stopped)
    assert model.is_transcoder
    for a, b in zip(model.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    line = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    left = (y - model(x)).square().sum() / (y - y.mean(0)).square().sum()
    assert line["fraction_of_variance_unexplained"] < 0.8
    assert left < 0.8
    codes, decoded = tmp_path / "codes.npy", tmp_path / "decoded.npy"
    assert invoke("encode", out, "--data", shards, "--out", codes).exit_code == 0
    assert invoke("decode", out, "--data", codes, "--out", decoded).exit_code == 0
    torch.testing.assert_close(torch.from_numpy(np.load(decoded)), model(x).detach())


def test_wrong_targets_are_one_line_and_leave_no_folder(shards, tmp_path):
    targets, out = tmp_path / "targets.npy", tmp_path / "run"
    np.save(targets, np.zeros((239, 5), np.float32))
    more = ["--targets", targets]
    assert refused(*train(shards, out, *more)).startswith(
        "--data has 240 rows and --targets 239; a transcoder takes a target for each row"
    )
    line = refused("train", "ae", "--data", shards, "--out", out, *more)
    assert line.startswith("ae takes no --targets; it is for topk")
    assert "in the folder that --targets reads" in refused(
        *train(targets, shards / "run", "--targets", shards)
    )
    assert not out.exists()
    assert invoke(*train(shards, out, "--epochs", 1)).exit_code == 0
    line = refused("train", "--resume", "--out", out, *more)
    assert line.startswith(f"--targets is given, but the run in {out} has none")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--k", L + 1], "k is 41; of 40 latents it takes an int in [1, 40]; the model is topk"),
        (["--aux-k", L + 1], "aux_k is 41; of 40 latents it takes an int in [0, 40]"),
        (["--hidden", 5], "--latents and --hidden are both given"),
        (
            ["--normalize-activations", "batch"],
            "normalize_activations is 'batch'; it takes one of none",
        ),
        (["--activation", "tanh"], "topk takes no --activation; it is for"),
    ],
)
def test_a_wrong_option_is_one_line_and_leaves_no_folder(shards, tmp_path, more, message):
    assert message in refused(*train(shards, tmp_path / "run", *more))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("model", "more"),
    [
        ("batchtopk", ["--k", K]),
        ("jumprelu", ["--bandwidth", 0.5, "--sparsity-weight", 0.01]),
        ("gated", ["--sparsity-weight", 0.01]),
        ("matryoshka", ["--k", K, "--prefixes", "10,40"]),
    ],
)
def test_its_kin_train_and_go_on(shards, tmp_path, model, more):
    out = tmp_path / "run"
    command = ["train", model, "--data", shards, "--out", out, "--latents", L, "--epochs", 1, *more]
    result = invoke(*command)
    assert result.exit_code == 0, result.output
    assert invoke("train", "--resume", "--out", out, "--epochs", 2, *more).exit_code == 0
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1].keys() >= FIGURES
    assert aefast.load(out).encode_dense(torch.zeros(2, D)).shape == (2, L)
    wrong = refused("train", model, "--data", shards, "--out", tmp_path / "x", "--chains", 3)
    assert f"{model} takes no --chains" in wrong


def test_rows_are_scaled_and_norms_are_part_of_the_selection(shards, tmp_path):
    more = ["--epochs", 1, "--rescale-acts-by-decoder-norm", "--normalize-activations"]
    rows = aefast.data.load(shards).take(torch.arange(240))
    for name in ("expected_average_only_in", "layer_norm"):
        out = tmp_path / name
        result = invoke(*train(shards, out, *more, name))
        assert result.exit_code == 0, result.output
        model = aefast.load(out)
        assert (model.normalize_activations, model.rescale_acts_by_decoder_norm) == (name, True)
        assert ((model.decoder_weight.norm(dim=1) - 1).abs() > 1e-4).any()
        assert (
            invoke("encode", out, "--data", shards, "--out", tmp_path / "code.npy").exit_code == 0
        )
        back = "decode", out, "--data", tmp_path / "code.npy", "--out", tmp_path / "back.npy"
        if name == "layer_norm":
            assert "which its code does not hold" in refused(*back)
            continue
        assert invoke(*back).exit_code == 0
        expected = model(rows).detach()
        torch.testing.assert_close(torch.from_numpy(np.load(tmp_path / "back.npy")), expected)
        factor = D**0.5 / rows.norm(dim=1).mean()
        torch.testing.assert_close(model.input_factor, factor)


def test_wrong_prefixes_are_one_line(shards, tmp_path):
    line = refused(*train(shards, tmp_path / "run", "--prefixes", "10,30", model="matryoshka"))
    assert line.startswith("prefixes is [10, 30]; it takes rising numbers, the last of them 40")
    assert "--prefixes is 'a'" in refused(
        *train(shards, tmp_path / "run", "--prefixes", "a", model="matryoshka")
    )


def test_latents_are_those_of_a_dictionary(shards, tmp_path):
    line = refused(*train(shards, tmp_path / "run", model="rbm"))
    assert line.startswith("rbm takes no --latents; it is for topk")
    two = ["train", "topk", "--data", shards, "--out", tmp_path / "run", "--hidden", "8,4"]
    assert "takes one number of latents" in refused(*two)


def test_shards_of_two_widths_and_a_cut_one_are_one_line_and_nothing_is_overwritten(
    shards, tmp_path
):
    out = tmp_path / "run"
    invoke(*train(shards, out, "--epochs", 1))
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    np.save(shards / "3.npy", np.zeros((4, D + 1), np.float32))
    for folder, more in ((tmp_path / "new", []), (out, [])):
        line = refused(*train(shards, folder, *more))
        assert ("takes shards of one width" in line) == (folder != out)
    assert "takes shards of one width" in refused("train", "--resume", "--out", out)
    (shards / "3.npy").unlink()
    (shards / "1.safetensors").write_bytes((shards / "1.safetensors").read_bytes()[:-3])
    assert "1.safetensors: cut short" in refused(*train(shards, tmp_path / "new"))
    assert "1.safetensors: cut short" in refused("train", "--resume", "--out", out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert not (tmp_path / "new").exists()
