"""The time that a ready-made cubin saves on a GPU: in a process's first call, and in each launch.

``python benchmarks/launches.py FILE`` compiles the cubins for the GPU at hand, as a wheel carries
them, and writes how long each takes beside Triton's own compilation and launcher.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from aefast import cubins
from aefast.functional import linear_act
from aefast.ops.shared.triton import Variant

ROOT = Path(__file__).parents[1]
STARTS, ROUNDS, LAUNCHES = 5, 21, 500

# From torch's own start on the GPU to a layer's output: import, load or compile, launch.
FIRST_CALL = """
import pathlib, sys, time
import torch

x, weight = (torch.rand(512, 784, device="cuda") for _ in range(2))
torch.cuda.synchronize()
start = time.perf_counter()
from aefast import cubins
from aefast.functional import linear_act

cubins.FOLDER = pathlib.Path(sys.argv[1])
linear_act(x, weight, activation="sigmoid")
torch.cuda.synchronize()
print(time.perf_counter() - start)
"""


def main(result: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ready, none, cache = (Path(folder, name) for name in ("ready", "none", "cache"))
        arch = cubins.architecture(torch.cuda.get_device_capability())
        run("-m", "aefast.aot", "--archs", str(arch), "--cubins", str(ready))
        record = {
            "first_call_seconds": {
                "ready made": first_call(ready),
                "Triton, cached": first_call(none),
                "Triton, nothing cached": first_call(none, cache),
            },
            "launch_microseconds": launch_times(ready),
        }
    result.write_text(json.dumps(record, indent=1) + "\n")
    print(result.read_text())


def run(*arguments: str, **environment: str) -> str:
    command = [sys.executable, *arguments]
    settings = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    completed = subprocess.run(command, cwd=ROOT, env=settings, stdout=subprocess.PIPE, check=True)
    return completed.stdout.decode()


def first_call(folder: Path, cache: Path | None = None) -> float:
    """The median over fresh processes; each with a cache of its own below ``cache``."""
    seconds = []
    for number in range(STARTS):
        cache_folder = {} if cache is None else {"TRITON_CACHE_DIR": str(cache / str(number))}
        seconds.append(float(run("-c", FIRST_CALL, str(folder), **cache_folder)))
    return statistics.median(seconds)


def launch_times(folder: Path) -> dict[str, float]:
    """The host's time a launch of the same kernel, both ways in turn."""
    cubins.FOLDER = folder
    variant, programs, arguments = captured_launch()
    device = arguments[2].device

    def launch_cubin() -> None:
        assert cubins.launch(variant.name, device, programs, arguments)

    def launch_jit() -> None:
        variant.launch_jit(programs, arguments)

    launches = {"ready made": launch_cubin, "Triton": launch_jit}
    seconds: dict[str, list[float]] = {name: [] for name in launches}
    for _ in range(ROUNDS):
        for name, launch in launches.items():
            seconds[name].append(time_launches(launch))
    return {name: 1e6 * statistics.median(rounds) for name, rounds in seconds.items()}


def captured_launch() -> tuple[Variant, int, tuple[Any, ...]]:
    """The kernel, programs and arguments that a small layer launches."""
    launches: list[tuple[Variant, int, tuple[Any, ...]]] = []
    launch = Variant.launch_in_order
    Variant.launch_in_order = lambda variant, programs, arguments: launches.append(
        (variant, programs, arguments)
    )
    try:
        x, weight = (torch.rand(64, 64, device="cuda") for _ in range(2))
        linear_act(x, weight, activation="sigmoid")
    finally:
        Variant.launch_in_order = launch
    return launches[0]


def time_launches(launch: Callable[[], None]) -> float:
    """Seconds a launch, of fewer than the queue holds, so that none waits for the GPU."""
    launch()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(LAUNCHES):
        launch()
    seconds = time.perf_counter() - start
    torch.cuda.synchronize()
    return seconds / LAUNCHES


if __name__ == "__main__":
    main(Path(sys.argv[1]))
