"""Memory: how much of it one call holds at the most, and freed memory that stays at hand."""

import contextlib
import ctypes
import gc
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

SLOW_SECONDS = 0.05


def keep_freed_memory() -> None:
    """Let the C library keep what is freed, as the allocators do that serve PyTorch in production.

    By default it gives large blocks back to the system, and the next call faults their pages in
    anew: how many depends on what the contender before it freed. That took up to half of a call's
    time, on either side, and is no property of a kernel.
    """
    if sys.platform == "linux":
        trim_threshold, most_mappings = -1, -4  # malloc.h's M_TRIM_THRESHOLD and M_MMAP_MAX
        with contextlib.suppress(AttributeError):  # another C library
            ctypes.CDLL(None).mallopt(trim_threshold, 2**31 - 1)
            ctypes.CDLL(None).mallopt(most_mappings, 0)


def peak_bytes(call: Callable[[], object], device: str) -> int | None:
    """Peak of one call, after it has run at least once; None where it cannot be measured."""
    gc.collect()
    return _peak_on_gpu(call) if device == "cuda" else _peak_resident(call)


def _peak_on_gpu(call: Callable[[], object]) -> int:
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _peak_resident(call: Callable[[], object]) -> int | None:
    """The peak of resident memory, which sees every allocator.

    torch's profiler would count what torch allocates and miss the scratch memory of compiled
    kernels and of the vendor's GEMM. Linux sets a process's peak back on request, and malloc_trim
    first returns the free pages of earlier calls, which would otherwise serve this one unseen.
    """
    if sys.platform != "linux":
        return None
    peaks = []
    start = time.perf_counter()
    # The least of three: how freed memory lies in pieces varies by a call. It is small beside what
    # a slow call holds, which is measured once.
    while len(peaks) < 3 and time.perf_counter() - start < SLOW_SECONDS:
        try:
            ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")
        except (AttributeError, OSError):  # another C library, or a container that forbids it
            return None
        before = _process_status("VmRSS")
        call()
        peaks.append(_process_status("VmHWM") - before)
    return max(0, min(peaks))


def _process_status(field: str) -> int:
    line = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert line is not None
    return int(line[1]) * 1024
