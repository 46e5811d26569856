"""The stages of a check, and how they share its time."""

import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path

from gpu_check import binaries, journal, process

Write = Callable[[journal.Line], None]

# The largest first: what takes longest is not to begin last.
OPS = sorted(
    (path.parent.name for path in (process.ROOT / "aefast" / "ops").glob("*/selftest.py")),
    key=lambda op: (op not in ("contractive", "reconstruction", "rbm"), op),
)
# Test files whose cases on the GPU say most come first.
TESTS = (
    "tests/test_cubins_cuda.py",
    "tests/ops/test_*.py",
    "tests/nn/test_*.py",
    "tests/test_*.py",
)
# A test that takes a device from tests/conftest.py, or names one.
GPU_CASES = re.compile(r'def test_\w+\([^)]*\b(?:kernel_)?device\b|"cuda"|cuda_devices')
# Processes of the stages that measure, with the seconds that each may take.
SPEED_SECONDS = {
    "linear": 60,
    "reconstruction": 60,
    "gibbs": 60,
    "corrupt": 40,
    "contractive": 40,
    "step": 60,
    "compile linear": 45,
    "compile reconstruction": 60,
    "compile gibbs": 30,
    "compile corrupt": 30,
}
PROFILED = ("linear", "reconstruction", "gibbs", "contractive", "corrupt", "launches")
MEMORY_CHECK = ("--tool", "memcheck", "--error-exitcode", "1")
CUDA = Path("/usr/local/cuda/bin")  # where it is, though not on every PATH

# A process that has less time than this does not get as far as its first case.
LEAST_SECONDS = 3.0
BINARIES = "binaries"


@dataclass(frozen=True)
class Job:
    """What one process of a stage does.

    Args:
        name: the file or the cases.
        command: what runs.
        seconds: its own limit.
        environment: what it finds there besides.
    """

    name: str
    command: Sequence[str]
    seconds: float
    environment: dict[str, str]


@dataclass(frozen=True)
class Stage:
    """Jobs that share a time.

    Args:
        name: as ``--stages`` and the results call it.
        seconds: its share in a check of 480 seconds, besides the binaries.
        processes: how many jobs run at a time: one where they are timed.
        jobs: in the order of what is to be known first.
    """

    name: str
    seconds: float
    processes: int
    jobs: Sequence[Job]


def stages(rehearsal: bool) -> list[Stage]:
    """All stages but the binaries, which come before."""
    several = max(1, min(8, (os.cpu_count() or 1) // 2))
    one = partial(worker, rehearsal)
    tests = [test_file(file, rehearsal) for file in test_files(rehearsal)]
    return [
        Stage("limits", 30, 1, [one("limits", "limits", 30)]),
        Stage("correctness", 120, several, [*(one("correctness", op, 60) for op in OPS), *tests]),
        Stage(
            "speed", 210, 1, [one("speed", name, limit) for name, limit in SPEED_SECONDS.items()]
        ),
        Stage("profiles", 60, 1, [one("profiles", name, 30) for name in PROFILED]),
        Stage("sanitize", 60, several, [one("sanitize", op, 60) for op in OPS]),
    ]


def worker(rehearsal: bool, stage: str, name: str, seconds: float) -> Job:
    """A job that :mod:`gpu_check.worker` does."""
    command = [sys.executable, "-m", "gpu_check.worker", stage, name]
    environment = {}
    if stage == "sanitize":
        # Tensors that share a block of torch's memory would hide what is read beside one of them.
        environment["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"
        command = command if rehearsal else [memory_checker(), *MEMORY_CHECK, *command]
    return Job(name, command, seconds, environment)


def memory_checker() -> str:
    """CUDA's compute-sanitizer."""
    name = "compute-sanitizer"
    return shutil.which(name) or shutil.which(name, path=str(CUDA)) or name


def test_files(rehearsal: bool) -> list[str]:
    """The test files with cases for a GPU."""
    if rehearsal:
        return ["tests/ops/test_waiting.py"]
    files = [path for pattern in TESTS for path in sorted(process.ROOT.glob(pattern))]
    with_cases = [path for path in files if GPU_CASES.search(path.read_text())]
    return [str(path.relative_to(process.ROOT)) for path in dict.fromkeys(with_cases)]


def test_file(file: str, rehearsal: bool) -> Job:
    """The file's cases on the GPU alone."""
    chosen = () if rehearsal else ("-k", "cuda")
    options = ("-q", "-m", "not slow", "-p", "no:cacheprovider", "-p", "gpu_check.tests_plugin")
    command = [sys.executable, "-m", "pytest", file, *options, *chosen]
    return Job(file, command, 60, {"GPU_CHECK_JOB": file})


def check(out: Path, seconds: float, names: Sequence[str], rehearsal: bool) -> None:
    """Run the stages within the seconds; what they find goes into the folder as it is found."""
    end = time.monotonic() + seconds
    results, log = out / journal.NAME, out / "log.txt"
    if rehearsal:
        os.environ |= {"GPU_CHECK_REHEARSAL": "1", "TRITON_INTERPRET": "1"}
    write = partial(journal.write, results)
    write({"stage": "check", "measured": str(date.today()), "seconds": seconds})
    write({"stage": "check", "stages": list(names), "rehearsal": rehearsal})
    if BINARIES in names and not rehearsal:
        bring_binaries(seconds / 2, log, write)
    left = [stage for stage in stages(rehearsal) if stage.name in names]
    while left:
        share = left[0].seconds / sum(stage.seconds for stage in left)
        run_stage(left.pop(0), share * (end - time.monotonic()), log, write)
    write({"stage": "check", "end": True})


def bring_binaries(seconds: float, log: Path, write: Write) -> None:
    """The extension and the kernels for this GPU: the bundle's, or compiled on all cores."""
    # A new machine may take half a minute to read torch from its disk; what is wrong ends at once.
    verify = worker(False, BINARIES, "verify", 120)
    there = binaries.install(binaries.BUNDLE, binaries.PACKAGE)
    if there and run_job(BINARIES, verify, seconds, log, write) == process.PASSED:
        return
    shutil.rmtree(binaries.PACKAGE / "cubins", ignore_errors=True)
    compiled = [Job(name, command, seconds, {}) for name, command in binaries.COMPILE.items()]
    run_stage(Stage(BINARIES, 0, len(compiled), compiled), seconds, log, write)
    run_job(BINARIES, verify, seconds, log, write)


def run_stage(stage: Stage, seconds: float, log: Path, write: Write) -> None:
    """The jobs, as many at a time as may be, until the stage's time is over."""
    end = time.monotonic() + seconds

    def run(job: Job) -> None:
        run_job(stage.name, job, end - time.monotonic(), log, write)

    with ThreadPoolExecutor(stage.processes) as pool:
        list(pool.map(run, stage.jobs))


def run_job(stage: str, job: Job, seconds: float, log: Path, write: Write) -> str:
    """One process, within its own limit and the stage's; how it ended."""
    start, limit = time.monotonic(), min(job.seconds, seconds)
    ending = process.NOT_RUN
    if limit >= LEAST_SECONDS:
        ending = process.run(job.command, limit, log, job.environment)
    took = round(time.monotonic() - start, 1)
    write({"stage": stage, "job": job.name, "ending": ending, "seconds": took})
    print(f"{stage:11} {took:6.1f} s  {job.name}: {ending}", flush=True)
    return ending
