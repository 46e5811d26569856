"""The GPU's limits: the bandwidth of a copy, and the rate of its library's products."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from aefast import environment
from gpu_check.worker import DEVICE, REHEARSAL, Record, attempt

SIZE = 128 if REHEARSAL else 8192
COPIED = 2**20 if REHEARSAL else 2**31  # bytes
ROUNDS = 11


def work(_: str, record: Record) -> None:
    attempt(record, "machine", lambda: {"machine": environment.describe()})
    attempt(record, "copy", copy)
    for name, dtype, precision in (
        ("bfloat16", torch.bfloat16, "highest"),
        ("TF32", torch.float32, "high"),
        ("float32", torch.float32, "highest"),
    ):
        attempt(record, f"mm {SIZE} {name}", lambda d=dtype, p=precision: product(d, p))


def copy() -> dict[str, Any]:
    source = torch.rand(COPIED // 4, device=DEVICE)
    target = torch.empty_like(source)
    return {"rate": 2 * COPIED / seconds(lambda: target.copy_(source)) / 1e9, "unit": "GB/s"}


def product(dtype: torch.dtype, precision: str) -> dict[str, Any]:
    torch.set_float32_matmul_precision(precision)
    a, b = (torch.randn(SIZE, SIZE, device=DEVICE, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    took = seconds(lambda: torch.mm(a, b, out=out))
    return {"rate": 2 * SIZE**3 / took / 1e12, "unit": "TFLOP/s"}


def seconds(call: Callable[[], object]) -> float:
    """The median of a call's, after three."""
    times = []
    for _ in range(3 + ROUNDS):
        start = time.perf_counter()
        call()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[3:])
