"""csrc/shared/crew.cpp, compiled alone: the threads that share the small tasks of a call."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def crew(tmp_path_factory):
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    target = tmp_path_factory.mktemp("crew") / "crew.so"
    names = "csrc/shared/crew", "csrc/shared/parallel", "tests/csrc/crew_shim"
    sources = [str(ROOT / f"{name}.cpp") for name in names]
    flags = ["-std=c++17", "-O2", "-fPIC", "-shared", "-fopenmp", f"-I{ROOT / 'csrc'}"]
    subprocess.run(["g++", *flags, *sources, "-o", str(target)], check=True)
    library = ctypes.CDLL(str(target))

    def run(jobs, tasks, *, threads, helpers):
        """The number of jobs that did not run each task once, and of tasks run by helpers."""
        helped = ctypes.c_long()
        wrong = library.run_jobs(
            ctypes.c_long(jobs), ctypes.c_long(tasks), threads, helpers, ctypes.byref(helped)
        )
        return wrong, helped.value

    run.together = library.run_together
    return run


@pytest.mark.parametrize("tasks", [2, 7])
@pytest.mark.parametrize("helpers", [1, 3])
def test_each_task_runs_once(crew, tasks, helpers):
    wrong, _ = crew(300_000, tasks, threads=4, helpers=helpers)
    assert wrong == 0


def test_nobody_waits_for_a_helper_that_does_not_come(crew):
    """A helper does not come if another program runs on its core."""
    assert crew(1000, 7, threads=4, helpers=0) == (0, 0)


def test_no_more_threads_take_part_than_a_job_asks_for(crew):
    assert crew(1000, 7, threads=1, helpers=3) == (0, 0)


def test_a_helper_takes_part_and_begins_with_its_own_tasks(crew):
    """Threads that wait for each other end. Of four tasks the first two are the leader's."""
    assert crew.together() == 2
