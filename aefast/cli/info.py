"""``aefast info``: the backends and instruction sets of this machine, and what is missing."""

import torch
import typer

from aefast import backend, cubins, environment
from aefast.cli.shared import app


@app.command()
def info() -> None:
    """Print versions, processor, threads and GPU, and which backend runs where and why."""
    described = environment.describe()
    versions = (f"{name} {version or '-'}" for name, version in described["versions"].items())
    lines = {
        "versions": ", ".join(versions),
        "processor": f"{described['cpu']}, {described['cores']} cores",
        "features": " ".join(described["cpu_features"]) or "unknown (no C++ extension)",
        "in use": f"{described['cpu_isa']} (torch: {described['torch_cpu_capability']})",
        "threads": f"{described['threads']} in an op, {described['interop_threads']} across ops",
        "GPU": ", ".join(described["gpus"]) or "none",
        **{f"backend {name}": availability(name) for name in backend.BACKENDS},
        "CPU float32": choice("cpu"),
        "CUDA float32": choices() if described["gpus"] else "no CUDA device",
        "CUDA kernels": kernels() if described["gpus"] else "no CUDA device",
    }
    for name, value in lines.items():
        typer.echo(f"{name:16}{value}")


def availability(name: str) -> str:
    """Which device a backend runs on, or why it does not run."""
    usable = [
        device
        for device in ("cpu", *backend.cuda_devices())
        if backend.unavailable(name, device) is None
    ]
    if usable:
        return f"runs on {' and '.join(usable)}"
    return f"not here: {backend.unavailable(name, 'cuda' if name == 'triton' else 'cpu')}"


def choice(device: str) -> str:
    """The backend that an op on float32 tensors takes; of a GPU that takes none, why."""
    try:
        name = backend.select(torch.device(device), torch.float32)
    except backend.BackendUnavailableError as error:
        return str(error)
    reason = backend.unavailable("triton", device) if device != "cpu" else None
    return f"runs {name}" + (f" on {device}: {reason}" if reason else "")


def choices() -> str:
    """The backend that an op takes on each GPU."""
    return "; ".join(dict.fromkeys(map(choice, backend.cuda_devices())))


def kernels() -> str:
    """The source of the GPUs' kernels: ready-made cubins, or Triton's compiler."""
    sources = []
    for index in range(torch.cuda.device_count()):
        capability = torch.cuda.get_device_capability(index)
        if backend.unavailable("triton", f"cuda:{index}"):
            sources.append("none")
        elif cubins.serves(capability):
            count = len(cubins.broken(capability))
            but = f", but {count} of them are missing or broken" if count else ""
            sources.append(f"ready-made cubins for sm_{cubins.architecture(capability)}{but}")
        else:
            sources.append("Triton compiles at first use")
    return ", ".join(dict.fromkeys(sources))
