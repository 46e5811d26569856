"""Fixtures and hooks of all tests."""

import gc
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

# Another worker of xdist runs on the other core. Threads that wait for each other would wait long,
# and OpenMP's would spin meanwhile. Both variables are read while torch and numpy are imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import pytest
import torch

# Triton decides at import whether it interprets. Without a GPU its kernels run in the interpreter.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

from aefast import backend
from tests.interpreter import quicken

gc.disable()  # until pytest has collected all tests: the modules stay, and need not be scanned
torch.set_num_threads(1)
if not backend.unavailable("triton", "cpu"):
    quicken()


def _targets() -> list[tuple[str, str]]:
    """Every pair of a backend and a device that can run here."""
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    return [
        (name, device)
        for device in devices
        for name in backend.BACKENDS
        if backend.unavailable(name, device) is None
    ]


TARGETS = _targets()


@pytest.fixture(params=TARGETS, ids="-".join)
def device(request):
    """Forces each backend in turn; the value is its device."""
    name, device = request.param
    with backend.use_backend(name):
        yield torch.device(device)


@pytest.fixture(params=[p for p in TARGETS if p[0] != "eager"], ids="-".join)
def kernel_device(request):
    """As ``device``, without eager, the definition."""
    name, device = request.param
    with backend.use_backend(name):
        yield torch.device(device)


@pytest.fixture
def our_product(monkeypatch):
    """Lets our matrix product serve on every processor. Where the vendor's serves, the order of its
    sums depends on the threads."""
    from aefast.ops.shared import product_routes

    monkeypatch.setattr(product_routes, "_outpaces", lambda *_: True)


@pytest.fixture
def vendor_product(monkeypatch):
    """Lets the vendor's matrix product serve, as on a processor that was not measured."""
    from aefast.ops.shared import product_routes

    monkeypatch.setattr(product_routes, "_outpaces", lambda *_: False)


@pytest.fixture(autouse=True)
def poisoned_memory():
    """Lets torch.empty return NaN, so that elements that a kernel does not write are found."""
    if not torch.is_deterministic_algorithms_warn_only_enabled():  # setting it takes a millisecond
        torch.use_deterministic_algorithms(True, warn_only=True)


@pytest.fixture(autouse=True)
def same_start():
    """Seeds torch with 0. torch.manual_seed takes 3 ms more, without devices to seed."""
    torch.default_generator.manual_seed(0)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(0)


@pytest.fixture(autouse=True, scope="session")
def short_chunks():
    """Sets the chunks that Triton's interpreter sorts from 1024 latents to 64: it sorts one by one.
    The edges are the same. Codes of more than 64 latents are too wide then."""
    from aefast.ops.topk import triton

    whole = triton.CHUNK
    if os.environ.get("TRITON_INTERPRET") == "1" and not backend.unavailable("triton", "cpu"):
        triton.CHUNK = 64
    yield whole
    triton.CHUNK = whole


@pytest.fixture
def threads():
    """Sets the number of threads, and restores it at the end."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def threads_started(monkeypatch):
    """Counts the threads that a call starts where the kernels have two, and torch one. It is made
    in a thread of its own: OpenMP starts others for each thread that calls."""
    pytest.importorskip("aefast._C", reason="needs the C++ extension")
    tasks = Path("/proc/self/task")
    if not tasks.exists():
        pytest.skip("threads are listed on Linux")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)

    def started_by(call):
        before = set(os.listdir(tasks))
        call()
        return len(set(os.listdir(tasks)) - before)

    def count(call):
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(started_by, call).result()

    return count


@pytest.fixture
def instruction_set():
    """Caps the C++ kernels to an instruction set, and restores it; skips if there is none."""
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
    """Sets torch's float32 matmul precision, and restores it at the end."""
    yield torch.set_float32_matmul_precision
    torch.set_float32_matmul_precision("highest")


@dataclass(frozen=True)
class Compiled:
    """Triton's kernels for one GPU architecture, compiled ahead of time."""

    arch: int
    every: bool  # every variant; else at least one of each kernel
    folder: Path

    @cached_property
    def reports(self) -> list[dict[str, Any]]:
        return json.loads((self.folder / "report.json").read_text())

    @property
    def cubins(self) -> Path:
        return self.folder / "cubins"


@pytest.fixture(scope="session")
def compile_ahead(tmp_path_factory):
    """Compiles for an architecture, once: half a minute for some kernels, minutes for all."""

    @cache
    def compile_ahead(arch: int, every: bool) -> Compiled:
        folder = tmp_path_factory.mktemp(f"sm_{arch}")
        jobs = os.cpu_count() // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
        arguments = [arch, "every" if every else "some", max(jobs, 1), folder]
        environment = dict(os.environ)
        environment.pop("TRITON_INTERPRET", None)
        done = subprocess.run(
            [sys.executable, "-m", "tests.ahead_of_time", *map(str, arguments)],
            cwd=Path(__file__).parents[1],
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return Compiled(arch, every, folder)

    return compile_ahead


TARGETS = {
    "sm_90-some": (90, False),
    "sm_80": (80, True),
    "sm_90": (90, True),
    "sm_100": (100, True),
    # These have the same kernels as sm_100 and sm_80.
    "sm_103-some": (103, False),
    "sm_120-some": (120, False),
}


@pytest.fixture(
    scope="session",
    params=[
        pytest.param(target, marks=[pytest.mark.slow] * (target != (90, False)))
        for target in TARGETS.values()
    ],
    ids=TARGETS,
)
def compiled(request, compile_ahead):
    """The compiled kernels: in `make test` some for one architecture; in `make test-all` all for
    three architectures, and some for the others, which have the same ones."""
    return compile_ahead(*request.param)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if _is_left_to_test_all(item):
            item.add_marker(pytest.mark.slow)
    # The slowest tests run first, so that no worker is left alone with them at the end.
    items.sort(key=lambda item: "compile_ahead" not in getattr(item, "fixturenames", ()))


def pytest_collection_finish():
    gc.freeze()
    gc.enable()


def _is_left_to_test_all(item):
    """Whether a case gets the slow mark because of its backend.

    The marks ``interpreted`` name parameters' values: other cases are slow in Triton's interpreter.
    The mark ``same_on_numba`` says that the other backends show the same: numba's case is slow.
    """
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    target = parameters.get("device", parameters.get("kernel_device"))
    if target == ("numba", "cpu") and item.get_closest_marker("same_on_numba"):
        return True
    marks = list(item.iter_markers("interpreted"))
    return (
        target == ("triton", "cpu")
        and marks != []
        and not any(
            all(parameters.get(name) in values for name, values in mark.kwargs.items())
            for mark in marks
        )
    )
