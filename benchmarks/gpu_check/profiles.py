"""Where the time of the hot paths goes: a profiler's kernels, launches and host time of a call.

Four of them leave a trace for chrome://tracing or Perfetto beside the results.
"""

import gzip
import os
import time
from pathlib import Path
from typing import Any

import harness
import torch
from harness import Case
from torch.profiler import ProfilerActivity, profile

from aefast import cubins
from gpu_check import speed
from gpu_check.worker import DEVICE, REHEARSAL, Record, attempt

TRACED = ("linear", "reconstruction", "gibbs", "contractive")
CALLS = 5
MOST_KERNELS = 8


def work(job: str, record: Record) -> None:
    if job == "launches":
        if not REHEARSAL:
            attempt(record, "a launch, microseconds of the host", launch_times)
        return
    for index, bench in enumerate(speed.BENCHES[job](False)):
        case = speed.case_of(bench)
        trace = trace_file(job) if index == 0 and job in TRACED else None
        attempt(record, f"{case.op} {case.name}", lambda c=case, t=trace: profiled(c, t))
        torch.set_float32_matmul_precision("highest")


def trace_file(job: str) -> Path:
    return Path(os.environ["GPU_CHECK_RESULTS"]).parent / f"trace-{job}.json.gz"


def profiled(case: Case, trace: Path | None) -> dict[str, Any]:
    """A call's launches and kernels, and the time until it returns: the host's."""
    rotation = harness.rotate(case.make_inputs, DEVICE)

    def call() -> object:
        return case.run(case.ours, *next(rotation))

    for _ in range(3):
        call()
    measured = {"host_us": host_microseconds(call)}
    activities = [ProfilerActivity.CPU, *([] if REHEARSAL else [ProfilerActivity.CUDA])]
    with profile(activities=activities) as profiler:
        for _ in range(CALLS):
            call()
        wait()
    if trace is not None:
        export(profiler, trace)
    events = [e for e in profiler.key_averages() if e.self_device_time_total > 0]
    events.sort(key=lambda event: -event.self_device_time_total)
    measured["launches"] = sum(event.count for event in events) / CALLS
    measured["gpu_us"] = round(sum(e.self_device_time_total for e in events) / CALLS, 1)
    measured["kernels"] = {
        event.key[:80]: [event.count / CALLS, round(event.self_device_time_total / CALLS, 1)]
        for event in events[:MOST_KERNELS]
    }
    return measured


def host_microseconds(call: harness.Run) -> float:
    """The least of a few calls, each on an idle GPU: how long Python and the launches take."""
    times = []
    for _ in range(7):
        wait()
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    wait()
    return round(1e6 * min(times), 1)


def wait() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def export(profiler: profile, trace: Path) -> None:
    """The trace, compressed."""
    plain = trace.with_suffix("")
    profiler.export_chrome_trace(str(plain))
    trace.write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()


def launch_times() -> dict[str, Any]:
    """A ready-made cubin's and Triton's launch of the same kernel."""
    import launches

    return {"microseconds": launches.launch_times(cubins.FOLDER)}
