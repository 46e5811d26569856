"""The machine's peak rates, on one thread and on all: ``python benchmarks/limits.py``.

They are multiply-adds in registers, a copy of memory, and the float32 product of each library that
is installed. Every result of ``aefast bench`` has them.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from results import PEAK
from torch import Tensor

from aefast import backend
from aefast.ops.shared.precision import product_level

SIZE = 1024  # of a product's three sides
COPIED_BYTES = 128 * 2**20  # past every cache
# So many rounds of the kernel take some milliseconds.
ROUNDS_OF_KERNEL = 1_000_000
ROUNDS = 11

Rate = dict[str, Any]  # {"rate": ..., "unit": ...}


def measure() -> dict[str, dict[str, Rate]]:
    """``{threads: {name: rate}}``, the medians over some rounds."""
    all_threads = torch.get_num_threads()
    limits = {}
    for threads in sorted({1, all_threads}):
        torch.set_num_threads(threads)
        limits[str(threads)] = on_these_threads()
    torch.set_num_threads(all_threads)
    return limits


def on_these_threads() -> dict[str, Rate]:
    source = torch.rand(COPIED_BYTES // 4)
    target = torch.empty_like(source)
    limits = {"copy": rate(2 * COPIED_BYTES, "GB/s", lambda: target.copy_(source))}
    if backend.select(torch.device("cpu"), torch.float32) == "cpp":
        extension, threads = backend.extension(), torch.get_num_threads()
        count = 2 * extension.multiply_adds(ROUNDS_OF_KERNEL, threads)
        limits[PEAK] = rate(
            count, "TFLOP/s", lambda: extension.multiply_adds(ROUNDS_OF_KERNEL, threads)
        )
    for name, multiply in products().items():
        limits[name] = rate(2 * SIZE**3, "TFLOP/s", multiply)
    return limits


def products() -> dict[str, Callable[[], object]]:
    """A product of each library; NumPy's has threads of its own, so it counts beside all alone."""
    left, right, output = (torch.rand(SIZE, SIZE) for _ in range(3))
    calls: dict[str, Callable[[], object]] = {"torch.mm": lambda: torch.mm(left, right, out=output)}
    if backend.select(torch.device("cpu"), torch.float32) == "cpp":
        calls["aefast's product"] = lambda: ours(left, right)
    if torch.backends.mkldnn.is_available():
        packed = right.to_mkldnn()
        calls["oneDNN's product"] = lambda: torch.ops.aten.mkldnn_linear(left.to_mkldnn(), packed)
    if torch.get_num_threads() > 1:
        arrays = left.numpy(), right.numpy()
        calls["NumPy's product"] = lambda: np.matmul(*arrays, out=output.numpy())
    return calls


def ours(left: Tensor, right: Tensor) -> Tensor:
    from aefast.ops.shared import cpp

    precision = getattr(backend.extension().Precision, product_level("cpu"))
    return cpp.multiply(left, cpp.RightOperand(right.t(), precision))


def rate(work: float, unit: str, call: Callable[[], object]) -> Rate:
    """The median's, after two calls that are not counted."""
    seconds = []
    for _ in range(2 + ROUNDS):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    scale = {"GB/s": 1e9, "TFLOP/s": 1e12}[unit]
    return {"rate": float(f"{work / statistics.median(seconds[2:]) / scale:.4g}"), "unit": unit}


if __name__ == "__main__":
    for threads, limits in measure().items():
        print(f"{threads} thread" + "s" * (threads != "1"))
        for name, limit in limits.items():
            print(f"  {name:22}{limit['rate']:9.4g} {limit['unit']}")
