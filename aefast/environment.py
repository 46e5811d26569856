"""What the package runs on: versions, processor, threads, GPUs and backends.

``aefast info`` prints it, and every benchmark record carries it.
"""

import os
import platform
from importlib import metadata
from typing import Any

import torch

from aefast import backend, processors
from aefast.version import __version__


def describe() -> dict[str, Any]:
    """Everything that a measured number depends on, as JSON can hold it."""
    return {
        "versions": versions(),
        "processor": processors.kind() or processors.name(),
        "cpu": processors.name(),
        "cpu_features": backend.cpu_features(),
        "cpu_isa": backend.cpu_isa(),
        "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
        "gpus": gpu_names(),
    }


def versions() -> dict[str, str | None]:
    """The version of aefast and of what it runs on; None for a package that is not installed."""
    versions: dict[str, str | None] = {"aefast": __version__, "python": platform.python_version()}
    for package in ("torch", "triton", "numba", "numpy"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return versions


def gpu_names() -> list[str]:
    """The CUDA devices that torch sees, in its order."""
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
