"""``aefast train`` on several ranks: one run's files and numbers, and how the ranks end."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("typer")
pytest.importorskip("safetensors")
pytest.importorskip("tensorboard")

from safetensors.torch import load_file

from aefast.training.checkpoint import load, save
from aefast.training.models import MODELS
from tests import fresh
from tests.cli.command import invoke
from tests.distributed import worlds
from tests.training.runs import SMALL, rows


@pytest.fixture
def data(tmp_path):
    np.save(tmp_path / "rows.npy", rows())
    return tmp_path / "rows.npy"


def word(value):
    return ",".join(map(str, value)) if isinstance(value, list) else value


# Of a row with one active latent a tied start's gradient is 0 but for rounding, and Adam makes a
# whole step of it: with k = 3 there is such a row.
OPTIONS = {**SMALL, "matryoshka": {**SMALL["matryoshka"], "k": 8}}


def arguments(model, data, out, *more, epochs=2):
    options = {f"--{name.replace('_', '-')}": word(value) for name, value in OPTIONS[model].items()}
    options["--epochs"] = epochs
    words = [word for option in options.items() for word in option]
    common = ["--data", data, "--batch-size", 7, "--validation", 0.2, "--learning-rate", 0.01]
    return ["train", model, *common, *words, "--out", out, *more]


def same(out, other) -> None:
    """The checkpoints of two runs, to rounding."""
    expected, actual = (load_file(run / "checkpoint.safetensors") for run in (out, other))
    assert expected.keys() == actual.keys()

    def joined(tensors: dict[str, Tensor]) -> Tensor:
        return torch.cat([tensors[name].double().flatten() for name in sorted(tensors)])

    assert (joined(actual) - joined(expected)).norm() < 2e-6 * joined(expected).norm()
    lines, others = (
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (out, other)
    )
    assert [line["step"] for line in lines] == [line["step"] for line in others]
    for line, other in zip(lines, others, strict=True):
        for name in line.keys() & {"loss", "held_out_loss"}:
            assert np.isclose(other[name], line[name], rtol=1e-5, atol=1e-5), (line, other)


def check_run(model, data, tmp_path, size, resumed_on, *more):
    """A run of one process, and one of ranks that is taken up by other ones."""
    assert invoke(*arguments(model, data, tmp_path / "one", *more)).exit_code == 0
    several = tmp_path / "several"
    ended = worlds.command(*[arguments(model, data, several, *more, epochs=1)] * size)
    assert ended.codes == [0] * size, ended.lines
    assert len(ended.lines) == 1
    more = ["train", "--resume", "--out", several, "--epochs", 2]
    ended = worlds.command(*[more] * resumed_on)
    assert ended.codes == [0] * resumed_on, ended.lines
    same(tmp_path / "one", several)


def test_two_ranks_make_one_process_s_run_which_one_goes_on_with(data, tmp_path):
    check_run("sae", data, tmp_path, 2, 1)


@pytest.mark.slow
@pytest.mark.parametrize("model", sorted(MODELS.keys() - {"dbn"}))
@pytest.mark.parametrize(("size", "resumed_on"), [(1, 2), (2, 4), (4, 1)])
def test_every_model_on_any_number_of_ranks(model, data, tmp_path, size, resumed_on):
    check_run(model, data, tmp_path, size, resumed_on)


@pytest.mark.slow
def test_a_transcoder_with_the_same_targets_on_all_ranks(data, tmp_path):
    targets, other = tmp_path / "targets.npy", tmp_path / "other.npy"
    np.save(targets, rows()[:, :5] + rows()[:, 5:10])
    np.save(other, rows()[:, :5])
    ranks = [
        arguments("batchtopk", data, tmp_path / "none", "--targets", file)
        for file in (targets, other)
    ]
    ended = worlds.command(*ranks)
    assert re.match(r"aefast: the checksum of --targets is \d+ on rank 1, and", ended.lines[0])
    check_run("batchtopk", data, tmp_path, 2, 3, "--targets", targets)


@pytest.mark.slow
def test_a_stack_of_machines(data, tmp_path):
    out, several = tmp_path / "one", tmp_path / "several"
    assert invoke(*arguments("dbn", data, out)).exit_code == 0
    assert worlds.command(*[arguments("dbn", data, several)] * 2).codes == [0, 0]
    same(out, several)


WRONG = {
    "a batch below the ranks": (["--batch-size", 1], "--batch-size is 1 and there are 2 ranks"),
    "data": (
        ["--data", "other.npy"],
        r"the checksum of --data is \d+ on rank 1, and \d+ on rank 0",
    ),
    "options": (["--seed", 3], "--seed is 3 on rank 1, and 0 on rank 0; it takes the same"),
    "its own sizes": (["--hidden", "x"], "--hidden is 'x'; it takes sizes such as"),
    "a file": (["--data", "missing.npy"], "on rank 1: .*missing.npy: No such file"),
    "a backend": (["--backend", "mpi"], "--backend is 'mpi'; it takes one of gloo, nccl"),
    "its device": (["--backend", "nccl"], "--backend is 'nccl', which takes --device cuda"),
}
OF_ONE_RANK = ("data", "options", "its own sizes", "a file")
QUICK = ("a backend",)


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.slow] * (case not in QUICK)) for case in WRONG]
)
def test_what_is_wrong_is_one_line_and_leaves_nothing(case, data, tmp_path):
    """Found by all ranks, by one of them, or where they differ."""
    np.save(tmp_path / "other.npy", 1 - rows())
    options, line = WRONG[case]
    options = [tmp_path / word if str(word).endswith(".npy") else word for word in options]
    good = arguments("ae", data, tmp_path / "run")
    bad = [*good, *options]
    ended = worlds.command(good if case in OF_ONE_RANK else bad, bad)
    assert 2 in ended.codes, ended
    assert {*ended.codes} <= {2, -signal.SIGTERM}, ended
    assert len(ended.lines) == 1, ended.lines
    assert re.match(f"aefast: {line}", ended.lines[0]), ended.lines
    assert not (tmp_path / "run").exists()


def test_ranks_whose_steps_are_taken_by_other_engines_do_not_train(data, tmp_path):
    """They would lay out the memory that they share differently."""
    pytest.importorskip("aefast._C", reason="both take the loop")
    before = "os.environ.update(AEFAST_BACKEND='eager' if rank else '')"
    ended = worlds.command(*[arguments("ae", data, tmp_path / "run")] * 2, before=before)
    assert 2 in ended.codes, ended
    assert {*ended.codes} <= {2, -signal.SIGTERM}, ended
    assert ended.lines == [
        "aefast: what takes a step is 'loop' on rank 1, and 'step' on rank 0; it takes the same on "
        "each rank"
    ]


@pytest.mark.slow
def test_ranks_that_resume_a_run_on_gpus_without_one_say_so_once(data, tmp_path):
    out = tmp_path / "run"
    assert invoke(*arguments("ae", data, out)).exit_code == 0
    saved = load(out)
    save(out, replace(saved, config=replace(saved.config, device="cuda")))
    before = "torch.cuda.is_available = lambda: False"
    ended = worlds.command(*[["train", "--resume", "--out", out]] * 2, before=before)
    assert ended.lines == [
        "aefast: the run is on cuda, but torch sees no CUDA device; --device cpu moves it"
    ]
    more = ["train", "--resume", "--out", out, "--device", "cpu", "--epochs", 3]
    assert worlds.command(*[more] * 2).codes == [0, 0]


KILL = """
if rank == {rank}:
    from aefast.distributed.engine import GroupEngine
    take, steps = GroupEngine._step, []
    def step(*arguments):
        steps.append(1)
        if len(steps) == 9:
            os.kill(os.getpid(), signal.{signal})
        return take(*arguments)
    GroupEngine._step = step
"""


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_ends_the_others_which_go_on(rank, data, tmp_path):
    out = tmp_path / "run"
    own = [arguments("ae", data, out)] * 2
    before = KILL.format(rank=rank, signal="SIGKILL")
    ended = worlds.command(*own, before=before)
    assert sorted(ended.codes) == [-9, 2], ended
    assert ended.lines == [
        f"aefast: rank {rank} is gone, and the others end; {out} holds the run as last saved; "
        "--resume goes on with it"
    ]
    assert worlds.command(*own, restarts=1).codes == [0, 0]
    assert invoke(*arguments("ae", data, tmp_path / "one")).exit_code == 0
    same(tmp_path / "one", out)


HANG = """
import datetime, time
import aefast.distributed.world as world
world.TIMEOUT, world.ANSWER_SECONDS = datetime.timedelta(seconds=3), 1.0
if rank == 1:
    from aefast.distributed.engine import GroupEngine
    take, steps = GroupEngine._step, []
    def step(*arguments):
        steps.append(1)
        if len(steps) == 9:
            time.sleep(8)
        return take(*arguments)
    GroupEngine._step = step
"""


@pytest.mark.slow
def test_a_rank_that_hangs_is_waited_for_until_the_timeout(data, tmp_path):
    out = tmp_path / "run"
    ended = worlds.command(*[arguments("ae", data, out)] * 2, before=HANG)
    assert ended.codes[0] == 2, ended
    assert ended.lines[0] == (
        "aefast: rank 1 is without an answer for 0.05 minutes, and the others end; "
        f"{out} holds the run as last saved; --resume goes on with it"
    )


# In the ninth step; a run is saved often.
FAULT = """
import shutil
import aefast.training.loop as loop
loop.SAVE_SECONDS = loop.STATUS_SECONDS = 0.0
if rank == 0:
    from aefast.distributed.engine import GroupEngine
    take, steps = GroupEngine._step, []
    def step(*arguments):
        steps.append(1)
        if len(steps) == 9:
            {fault}
        return take(*arguments)
    GroupEngine._step = step
"""
FULL = """
            import errno
            def full(descriptor):
                raise OSError(errno.ENOSPC, "No space left on device")
            os.fsync = full
"""


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_run_goes_on_from_the_last_checkpoint(data, tmp_path):
    out = tmp_path / "run"
    own = [arguments("ae", data, out)] * 2
    ended = worlds.command(*own, before=FAULT.format(fault=FULL.strip()))
    assert 2 in ended.codes, ended
    assert {*ended.codes} <= {2, -signal.SIGTERM}, ended
    assert len(ended.lines) == 1, ended
    line = ended.lines[0]
    assert line.startswith("aefast: [Errno 28] No space left on device: "), line
    assert line.endswith(f"; {out} holds the run as last saved; --resume goes on with it"), line
    assert 0 < load(out).progress.step < 9
    assert worlds.command(*[["train", "--resume", "--out", out]] * 2).codes == [0, 0]
    assert invoke(*arguments("ae", data, tmp_path / "one")).exit_code == 0
    same(tmp_path / "one", out)


@pytest.mark.slow
def test_a_folder_that_is_lost_is_one_line(data, tmp_path):
    out = tmp_path / "run"
    lose = f"shutil.move({str(out)!r}, {str(tmp_path / 'lost')!r})"
    ended = worlds.command(*[arguments("ae", data, out)] * 2, before=FAULT.format(fault=lose))
    assert 2 in ended.codes, ended
    assert len(ended.lines) == 1, ended
    line = ended.lines[0]
    assert line.startswith("aefast: [Errno 2] No such file or directory: "), line
    assert line.endswith(f"; {out} holds no run now: once it does, --resume goes on with it"), line
    (tmp_path / "lost").rename(out)
    assert worlds.command(*[["train", "--resume", "--out", out]] * 2).codes == [0, 0]
    assert invoke(*arguments("ae", data, tmp_path / "one")).exit_code == 0
    same(tmp_path / "one", out)


RESTARTED = """
import os, runpy, signal, sys
rank = int(os.environ["RANK"])
if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
{kill}
sys.argv[1:] = {arguments}
runpy.run_module("aefast", run_name="__main__")
"""


@pytest.mark.slow
def test_torchrun_restarts_ranks_of_which_one_was_killed(data, tmp_path):
    """It gives them the store that holds the addresses of those before."""
    kill = textwrap.indent(KILL.format(rank=1, signal="SIGKILL"), "    ")
    words = list(map(str, arguments("ae", data, tmp_path / "run")))
    program = tmp_path / "program.py"
    program.write_text(RESTARTED.format(kill=kill, arguments=words))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, "--max-restarts", "1", str(program)],
        env={**os.environ, "PYTHONPATH": str(fresh.ROOT)},
        capture_output=True,
        text=True,
        timeout=worlds.LONGEST,
    )
    assert done.returncode == 0, done.stderr
    assert "aefast: rank 1 is gone" in done.stderr
    assert invoke(*arguments("ae", data, tmp_path / "one")).exit_code == 0
    same(tmp_path / "one", tmp_path / "run")


def test_ranks_that_are_asked_to_stop_save_and_say_so_once(data, tmp_path):
    out = tmp_path / "run"
    before = KILL.format(rank=1, signal="SIGTERM")
    # It is heard between two chunks of steps, of which a short run has none left.
    ended = worlds.command(*[arguments("ae", data, out, epochs=20)] * 2, before=before)
    assert ended.codes == [130, 130], ended
    assert len(ended.lines) == 1
    assert "and is saved; to go on: aefast train --resume" in ended.lines[0]


OFTEN = """
import aefast.training.loop as loop
loop.SAVE_SECONDS = loop.STATUS_SECONDS = 0.05
"""
RUNS, STARTS = int(os.environ.get("AEFAST_KILLED_RUNS", 3)), 12


@pytest.mark.slow
@pytest.mark.parametrize("number", range(RUNS))
def test_runs_that_are_killed_at_random_moments_end_at_the_same_numbers(number, data, tmp_path):
    """A run is started on 1, 2 or 4 ranks, and one of them killed, until it comes to its end."""
    chance = random.Random(number)
    model = chance.choice(["dae", "rbm", "vae"])
    assert invoke(*arguments(model, data, tmp_path / "one", epochs=60)).exit_code == 0
    own = arguments(model, data, tmp_path / "run", epochs=60)
    kills = 0
    for start in range(STARTS):
        size = chance.choice([1, 2, 4])
        kill = (chance.randrange(size), chance.uniform(0, 4)) if start < STARTS - 1 else None
        ended = worlds.command(*[own] * size, before=OFTEN, restarts=1, kill=kill)
        assert ended.seconds < 30, ended
        if -signal.SIGKILL not in ended.codes:
            assert {*ended.codes} == {0}, ended
            break
        kills += 1
        # Before a rank has joined the others, or while it reads the data, SIGTERM ends it as ever.
        ends = {-signal.SIGKILL, 2, 0, 128 + signal.SIGTERM, -signal.SIGTERM}
        assert {*ended.codes} <= ends, ended
        lines = [line for line in ended.lines if line.startswith("aefast: ")]
        assert len(lines) <= 1, ended
    assert {*ended.codes} == {0}, ended
    print(f"{kills} kills of {model}")
    same(tmp_path / "one", tmp_path / "run")
