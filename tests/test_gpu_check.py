"""``make gpu-check`` without a GPU: results survive a kill; a hang or crash ends one process."""

import importlib
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from aefast import backend, ops
from aefast.ops.shared.selftest_case import Case

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

os.environ["GPU_CHECK_REHEARSAL"] = "1"
try:
    binaries, command, journal, process, correctness, stages, summary, worker = (
        importlib.import_module(f"gpu_check.{name}")
        for name in (
            *("binaries", "__main__", "journal", "process"),
            *("correctness", "stages", "summary", "worker"),
        )
    )
finally:
    del os.environ["GPU_CHECK_REHEARSAL"]

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and prctl")
# Imports the standard library alone, so that a process starts in a hundredth of a second.
BARE = [sys.executable, "-S", "-c"]


def lines_of(out: Path) -> list[dict[str, Any]]:
    return journal.read(out / journal.NAME)


def job(name: str, program: str, seconds: float = 20) -> Any:
    return stages.Job(name, [*BARE, program], seconds, {})


def run_jobs(out: Path, jobs: list[Any], seconds: float = 60, processes: int = 1) -> list[str]:
    """Run the jobs; return how each one ended."""
    write = partial(journal.write, out / journal.NAME)
    stages.run_stage(stages.Stage("s", 1, processes, jobs), seconds, out / "log.txt", write)
    return [line["ending"] for line in lines_of(out)]


def test_a_line_that_a_kill_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / journal.NAME
    journal.write(path, {"case": "a"})
    with path.open("a") as file:
        file.write('{"case": "b", "sec')
    assert journal.read(path) == [{"case": "a"}]
    assert journal.read(tmp_path / "nothing") == []


def test_a_stage_goes_on_after_a_fault_a_crash_and_a_failure(tmp_path: Path) -> None:
    jobs = [
        stages.Job("missing", ["no-such-program"], 20, {}),
        job("fault", f"raise SystemExit({process.FAULT})"),
        job("crash", "import os; os.kill(os.getpid(), 11)"),
        job("failure", "raise SystemExit(3)"),
        job("well", "print('well')"),
    ]
    missing = "no-such-program does not start: No such file or directory"
    endings = [missing, "CUDA fault", "killed by SIGSEGV", "exit code 3", "passed"]
    assert run_jobs(tmp_path, jobs) == endings
    assert "well" in (tmp_path / "log.txt").read_text()


@linux
def test_what_hangs_is_stopped_with_all_that_it_started(tmp_path: Path, monkeypatch: Any) -> None:
    started = tmp_path / "started"
    program = (
        f"import pathlib, subprocess, time\nchild = subprocess.Popen(['sleep', '60'])\n"
        f"pathlib.Path({str(started)!r}).write_text(str(child.pid))\ntime.sleep(60)"
    )
    jobs = [job("hangs", program, seconds=3), job("next", ""), job("no time", "")]
    monkeypatch.setattr(stages, "LEAST_SECONDS", 0.5)
    assert run_jobs(tmp_path, jobs[:2]) == ["stopped after 3 s", "passed"]
    assert is_gone(int(started.read_text()))


def test_what_finds_no_time_is_said_to_be_left(tmp_path: Path) -> None:
    assert run_jobs(tmp_path, [job("a", "")], seconds=1) == ["not run"]
    assert "no time was left in s for 1: a" in summary.text(lines_of(tmp_path))
    assert not summary.is_well([*lines_of(tmp_path), {"stage": "check", "end": True}])


# Writes a line every 5 ms, and afterwards a record of it into another file.
WRITER = """
import os, sys, time
from pathlib import Path
from gpu_check import journal

out, name = Path(sys.argv[1]), sys.argv[2]
(out / f"pid-{name}").write_text(str(os.getpid()))
done = os.open(out / "done", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
for case in range(4000):
    journal.write(out / journal.NAME, {"stage": "s", "job": name, "case": case})
    os.write(done, f"{name} {case};".encode())
    time.sleep(0.005)
"""
# A stage of two such processes.
CHECK = """
import sys
from functools import partial
from pathlib import Path
from gpu_check import journal, stages

out, writer = Path(sys.argv[1]), sys.argv[2]
jobs = [
    stages.Job(name, [sys.executable, "-S", "-c", writer, str(out), name], 60, {})
    for name in "ab"
]
write = partial(journal.write, out / journal.NAME)
stages.run_stage(stages.Stage("s", 1, 2, jobs), 60, out / "log.txt", write)
"""


@linux
def test_killed_at_ten_moments_what_was_done_is_there(tmp_path: Path) -> None:
    for moment in range(10):
        out = tmp_path / str(moment)
        out.mkdir()
        environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'benchmarks'}"}
        command = [*BARE, CHECK, str(out), WRITER]
        check = subprocess.Popen(command, env=environment)
        wait_until(lambda out=out: {"a 0", "b 0"} <= done_in(out))
        time.sleep(0.023 * moment)
        check.send_signal(signal.SIGKILL)
        check.wait()
        workers = [int((out / f"pid-{name}").read_text()) for name in "ab"]
        wait_until(lambda workers=workers: all(map(is_gone, workers)))
        there = {f"{line['job']} {line['case']}" for line in lines_of(out)}
        assert done_in(out) <= there
        assert "did not reach its end" in summary.text(lines_of(out))


def done_in(out: Path) -> set[str]:
    """The writers' complete records."""
    file = out / "done"
    return set(file.read_text().split(";")[:-1]) if file.exists() else set()


@linux
@pytest.mark.slow
def test_a_whole_rehearsal_is_killed_and_summarized(tmp_path: Path) -> None:
    """The real stages on Triton's interpreter, killed in the second of them; it takes a minute."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'benchmarks'}"}
    command = [sys.executable, "-m", "gpu_check"]
    options = ["--rehearse", "--out", str(tmp_path), "--stages", "limits", "correctness"]
    check = subprocess.Popen([*command, *options], env=environment, cwd=ROOT)
    wait_until(lambda: any(line.get("value") for line in lines_of(tmp_path)), seconds=300)
    check.send_signal(signal.SIGKILL)
    check.wait()
    shown = subprocess.run(
        [*command, "--summarize", str(tmp_path)], env=environment, cwd=ROOT, capture_output=True
    ).stdout.decode()
    assert "limits: 5 of 5 cases passed" in shown
    assert "did not reach its end" in shown
    assert len(list(tmp_path.iterdir())) <= 8


def test_an_earlier_checks_files_are_replaced_and_no_others(
    tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "trace-linear.json.gz").write_text("old")
    journal.write(tmp_path / journal.NAME, {"stage": "check", "end": True})
    monkeypatch.setenv("GPU_CHECK_RESULTS", "of the check that monkeypatch puts back")
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--out", str(tmp_path)])
    monkeypatch.setattr(command.stages, "check", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert command.main() == 1
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["mine", "notes.txt", "summary.txt"]
    assert capsys.readouterr().out == "no results\n"


def test_without_a_gpu_there_is_one_line_and_what_was_there_stays(
    tmp_path: Path, monkeypatch: Any
) -> None:
    journal.write(tmp_path / journal.NAME, {"stage": "check", "end": True})
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--out", str(tmp_path)])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match=r"^gpu-check: torch sees no CUDA GPU\. .* --rehearse"):
        command.main()
    assert lines_of(tmp_path)


def wait_until(condition: Any, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def is_gone(process_id: int) -> bool:
    """Whether a process has ended, even if its parent has not waited for it."""
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


def test_a_summary_has_forty_lines_whatever_failed() -> None:
    lines = [
        {"stage": stage, "job": "p", "case": f"case {index}", "failed": "wrong " * 50}
        for stage in ("correctness", "speed", "profiles", "sanitize")
        for index in range(100)
    ]
    spread = [1.0, 1.25, 1.5]
    measured = {"stage": "speed", "job": "p", "ratio": {"eager": spread, "limit": spread}}
    lines += [{**measured, "case": f"m {i}", "seconds": {"aefast": 1e-5}} for i in range(50)]
    shown = summary.text(lines).splitlines()
    assert len(shown) == 40
    assert max(map(len, shown)) <= 118
    assert sum(line.startswith("FAILED") for line in shown) == summary.MOST_FAILURES
    assert "      10.0 us  m 0: eager 1.25x, 125% of the limit" in shown
    assert not summary.is_well(lines)
    assert summary.text([]) == "no results"


def test_the_bundle_takes_the_place_of_earlier_binaries(tmp_path: Path) -> None:
    bundle, package = tmp_path / "bundle", tmp_path / "package"
    assert not binaries.install(bundle, package)
    for folder, name in ((bundle, "new"), (package, "old")):
        (folder / "cubins").mkdir(parents=True)
        (folder / "cubins" / name).write_text(name)
    (bundle / "_C.so").write_text("extension")
    assert binaries.install(bundle, package)
    assert sorted(path.name for path in package.rglob("*")) == ["_C.so", "cubins", "new"]


def test_every_op_and_test_file_with_a_gpu_is_checked() -> None:
    assert set(stages.OPS) == set(ops.names_with("selftest"))
    files = stages.test_files(rehearsal=False)
    assert files[0] == "tests/test_cubins_cuda.py"
    assert {"tests/ops/test_linear_act.py", "tests/test_precision.py"} <= set(files)


def test_every_measured_job_has_its_cases() -> None:
    speed = importlib.import_module("gpu_check.speed")
    profiles = importlib.import_module("gpu_check.profiles")
    assert {name.removeprefix("compile ") for name in stages.SPEED_SECONDS} == set(speed.BENCHES)
    assert set(stages.PROFILED) == {*speed.BENCHES, "launches"} - {"step"}
    assert set(profiles.TRACED) < set(stages.PROFILED)
    compiled = [
        case for name in stages.SPEED_SECONDS if "compile" in name for case in cases(speed, name)
    ]
    assert len(compiled) == 6


@pytest.mark.parametrize("job", ["step", "corrupt"])
def test_the_cases_of_a_job_run(job: str, monkeypatch: pytest.MonkeyPatch) -> None:
    speed = importlib.import_module("gpu_check.speed")
    monkeypatch.setattr(speed, "DEVICE", "cpu")
    monkeypatch.setattr(speed, "REHEARSAL", True)
    ran = []

    def run(case: Any) -> None:
        inputs = case.make_inputs()
        case.run(case.ours, *inputs)
        case.run(case.eager, *inputs)
        ran.append(case.name)

    for bench in cases(speed, job):
        bench(run)
    assert ran


def cases(speed: Any, job: str) -> list[Any]:
    return list(speed.BENCHES[job.removeprefix("compile ")](True))


def sizes(case: Case) -> list[tuple[int, ...]]:
    return [tuple(tensor.shape) for tensor in case.inputs]


def test_hard_cases_keep_the_shapes_together() -> None:
    linear = next(case for case in correctness.selftest.cases() if case.op == "linear_act")
    large = correctness.resized(linear, correctness.sizes(1027, 785, 515, 131))
    assert sizes(large) == [(1027, 785), (515, 785), (515,)]
    cases = dict(correctness.hard(linear))
    assert sizes(cases["sigmoid, one unit"]) == [(33, 47), (1, 47), (1,)]
    assert all((tensor >= 0).all() for tensor in cases["sigmoid, positive"].inputs)


@pytest.mark.skipif(bool(backend.unavailable("triton", "cpu")), reason="needs the interpreter")
def test_a_wrong_kernel_fails_and_the_next_case_runs(capsys: Any) -> None:
    def doubled(x: torch.Tensor) -> torch.Tensor:
        return x * (2 if backend.is_forced("triton") else 1)

    case = Case("corrupt", "doubled", doubled, (torch.ones(20, 20),))
    records: list[dict[str, Any]] = []
    record = lambda **line: records.append(line)  # noqa: E731
    for one in (case, Case("corrupt", "shape", torch.nn.Linear(3, 3), case.inputs)):
        worker.attempt(
            record, one.name, lambda one=one: correctness.against_float64(one, torch.float32)
        )
    worker.attempt(record, "same", lambda: correctness.judged(0.0, 0.0, "error"))
    assert records[0]["failed"].startswith("error ")
    assert records[1]["failed"].startswith("RuntimeError: ")
    assert "failed" not in records[2]
    capsys.readouterr()


@pytest.mark.skipif(bool(backend.unavailable("triton", "cpu")), reason="needs the interpreter")
def test_products_at_tf32_may_lose_bits_as_tf32_does_and_no_more(monkeypatch: Any) -> None:
    linear = next(case for case in correctness.selftest.cases() if case.op == "linear_act")
    # The interpreter multiplies in float32, and rounds to TF32 before that in Triton 3.6.
    assert correctness.at_tf32(linear)["value"] < 2.0**-11
    exact = correctness.results_of
    for bits, is_well in ((11, True), (8, False)):  # TF32's, bfloat16's

        def rounded(*arguments: Any, bits: int = bits) -> list[torch.Tensor]:
            assert torch.get_float32_matmul_precision() == "high"
            mantissas, exponents = zip(*map(torch.frexp, exact(*arguments)), strict=True)
            unit = 2.0**bits
            return [
                torch.ldexp((mantissa * unit).round() / unit, exponent)
                for mantissa, exponent in zip(mantissas, exponents, strict=True)
            ]

        monkeypatch.setattr(correctness, "results_of", rounded)
        assert ("failed" not in correctness.at_tf32(linear)) == is_well
        assert torch.get_float32_matmul_precision() == "highest"
