"""Fixtures that every op's tests share."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

# Triton decides at import whether it interprets. Without a GPU its kernels run in the interpreter.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

from aefast import backend

# The compiler below takes the other core: beside it, threads that wait for each other wait long.
torch.set_num_threads(1)


def _places() -> list[tuple[str, str]]:
    """Every (backend, device) that can run here."""
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    return [
        (name, device)
        for device in devices
        for name in backend.BACKENDS
        if backend.unavailable(name, device) is None
    ]


PLACES = _places()


@pytest.fixture(params=PLACES, ids="-".join)
def place(request):
    """Forces one backend; the value is the device that it serves."""
    name, device = request.param
    with backend.use_backend(name):
        yield torch.device(device)


@pytest.fixture(params=[p for p in PLACES if p[0] != "eager"], ids="-".join)
def kernel_place(request):
    """As ``place``, without the definition itself."""
    name, device = request.param
    with backend.use_backend(name):
        yield torch.device(device)


@pytest.fixture(autouse=True)
def poisoned_memory():
    """torch.empty hands out NaN, so that an element that a kernel leaves out shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def same_start():
    torch.manual_seed(0)


@pytest.fixture
def threads():
    """Sets the thread count, and restores it."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def instruction_set():
    """Caps the C++ kernels to an instruction set, and restores it; skips where it is not there."""
    before = backend.cpu_isa()

    def cap(name: str) -> None:
        if name not in backend.cpu_features():
            pytest.skip(f"the C++ kernels have no {name} here")
        backend.extension().cap_instruction_set(name)

    with backend.use_backend("cpp"):
        yield cap
    backend.extension().cap_instruction_set(before)


@pytest.fixture
def matmul_precision():
    """Sets torch's float32 matmul precision, and restores it."""
    yield torch.set_float32_matmul_precision
    torch.set_float32_matmul_precision("highest")


COMPILER = pytest.StashKey[tuple[subprocess.Popen, Path]]()


def _take_idle_time():
    """Merely nice, it kept one of two threads waiting, and with it the other, 8 ms at a time."""
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def pytest_collection_finish(session):
    """The ahead-of-time compiler starts with the first test and takes what the tests leave of the
    machine: on its own it takes two minutes where nothing is cached."""
    if session.config.option.collectonly:
        return
    if not any(
        "ahead_of_time_report" in getattr(item, "fixturenames", ()) for item in session.items
    ):
        return
    folder = Path(tempfile.mkdtemp(prefix="aefast-aot-"))
    compiler = [sys.executable, "-m", "aefast.aot", "--jobs", str(os.cpu_count())]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    process = subprocess.Popen(
        [*compiler, "--json", str(folder / "report.json"), "--cubins", str(folder / "cubins")],
        env=environment,
        preexec_fn=_take_idle_time,
        stdout=(folder / "log").open("w"),
        stderr=subprocess.STDOUT,
    )
    session.config.stash[COMPILER] = process, folder


@pytest.fixture(scope="session")
def ahead_of_time_report(request):
    """The compiler's report, once it has ended."""
    process, folder = request.config.stash[COMPILER]
    assert process.wait() == 0, (folder / "log").read_text()
    return folder / "report.json"


def pytest_unconfigure(config):
    if COMPILER in config.stash:
        process, folder = config.stash[COMPILER]
        process.terminate()
        process.wait()
        shutil.rmtree(folder)
