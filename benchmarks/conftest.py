"""The suite's fixtures and hooks. Run it with ``pytest benchmarks`` or ``aefast bench``."""

import contextlib
import gc
import itertools
import os
import sys
from collections import Counter
from pathlib import Path

import pytest

# AEFAST_CPU_ISA caps this package's kernels. A fair comparison caps eager PyTorch too, and its
# libraries read these variables once, when torch loads: so this must come before any import of it.
EAGER_CAPS = {
    "baseline": ("default", "SSE41", "SSE4_2"),
    "avx2": ("avx2", "AVX2", "AVX2"),
    "avx512": ("avx512", "AVX512_CORE", "AVX512"),
}
if (cap := os.environ.get("AEFAST_CPU_ISA")) in EAGER_CAPS:
    if "torch" in sys.modules:
        raise pytest.UsageError("torch is loaded already, so AEFAST_CPU_ISA cannot cap eager")
    variables = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")
    os.environ.update(zip(variables, EAGER_CAPS[cap], strict=True))

# The threads of a peer's OpenBLAS wait for work, busily, for some 20 ms after its last product, and
# would take a core from whoever has the next turn. 4 is the shortest wait that it knows.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")

from collections.abc import Callable, Iterable, Iterator  # noqa: E402
from dataclasses import replace  # noqa: E402
from typing import Any  # noqa: E402

import limits  # noqa: E402
import report  # noqa: E402
import results  # noqa: E402
import selection  # noqa: E402
import torch  # noqa: E402
from harness import Case, race  # noqa: E402
from memory import keep_freed_memory  # noqa: E402

from aefast import environment  # noqa: E402

RECORDS = pytest.StashKey[list[dict[str, Any]]]()
FAILED = pytest.StashKey[list[str]]()
COMPILED = pytest.StashKey[list[pytest.Item]]()


@pytest.fixture
def compare(benchmark: Any, request: pytest.FixtureRequest) -> Callable[[Case], None]:
    """Check a case, then race its contenders and keep the record."""
    seconds = float(request.config.getoption("benchmark_max_time"))

    def run(case: Case) -> None:
        if request.node not in request.config.stash[COMPILED]:
            case = replace(case, compiles=False)
        if request.node.get_closest_marker("allocator_as_it_comes") is None:
            keep_freed_memory()
        record = race(case, benchmark, seconds)
        if record is not None:
            benchmark.extra_info.update(record)
            stats = benchmark.stats.stats.as_dict()
            request.config.stash[RECORDS].append(results.record(record, stats))

    return run


@pytest.fixture
def matmul_precision() -> Iterator[Callable[[str], None]]:
    """Set torch's float32 matmul precision, which both sides obey, for one case."""
    before = torch.get_float32_matmul_precision()
    yield torch.set_float32_matmul_precision
    torch.set_float32_matmul_precision(before)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device", choices=("cpu", "cuda"), help="only this device; else all that torch sees"
    )
    parser.addoption("--quick", action="store_true", help="a few cases of each kind")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("device") == "cuda" and not torch.cuda.is_available():
        raise pytest.UsageError("--device cuda: torch sees no CUDA device")
    config.addinivalue_line("python_files", "bench_*.py")
    config.addinivalue_line("markers", "allocator_as_it_comes: nothing freed is kept")
    config.addinivalue_line("markers", "slow: left out of --quick, with all its cases")
    config.option.benchmark_quiet = True  # the table below takes the place of the plugin's own
    config.stash[RECORDS] = []
    config.stash[FAILED] = []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    devices = [config.getoption("device")] if config.getoption("device") else ["cpu", "cuda"]
    if not torch.cuda.is_available():
        devices = ["cpu"]
    chosen = [item for item in items if item.callspec.params["device"] in devices]
    if config.getoption("quick"):
        chosen = selection.quick(chosen)
    # Compiling takes longer than all the rest.
    config.stash[COMPILED] = [] if config.getoption("quick") else selection.compiled(chosen)
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    # Once freed memory is kept, it is kept to the end.
    items[:] = sorted(chosen, key=lambda item: not item.get_closest_marker("allocator_as_it_comes"))


def pytest_collection_finish(session: pytest.Session) -> None:
    """What was imported stays to the end: each case's collections need not go through it again. The
    compiler is loaded by its first compilation: its 150,000 objects took 70 ms a collection."""
    if session.config.stash[COMPILED]:
        with contextlib.suppress(Exception):  # a compiler may be missing: its cases say so
            torch.compile(torch.sigmoid)(torch.zeros(1))
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome = yield
    if outcome.failed:
        item.config.stash[FAILED].append(item.name)
    return outcome


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    for field in ("node", "release"):  # the names of a host and its kernel, not their speed
        del machine_info[field]
    machine_info["aefast"] = environment.describe()


def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    output_json["failed"] = config.stash[FAILED]
    if any(record["device"] == "cpu" for record in config.stash[RECORDS]):
        output_json["limits"] = limits.measure()


def seconds_by_file(reports: Iterable[Any]) -> str:
    """Where a run's seconds went."""
    seconds: Counter[str] = Counter()
    for each in reports:
        seconds[Path(each.nodeid.split("::")[0]).stem] += each.duration
    return ", ".join(f"{name} {total:.0f}" for name, total in seconds.most_common())


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if records := config.stash[RECORDS]:
        terminalreporter.section("aefast against its baselines")
        machine, failed = environment.describe(), config.stash[FAILED]
        terminalreporter.write_line(
            report.render({"machine": machine, "cases": records, "failed": failed})
        )
        reports = itertools.chain(*terminalreporter.stats.values())
        timed = (each for each in reports if isinstance(each, pytest.TestReport))
        terminalreporter.write_line(f"Seconds: {seconds_by_file(timed)}")
