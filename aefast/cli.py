"""The ``aefast`` command: what runs here, how fast it is, and a demonstration."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import torch
import typer

from aefast import backend, environment

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None)

DEVICES = ("cpu", "cuda")


def fail(message: str) -> NoReturn:
    """End the command with one line and exit code 2."""
    typer.echo(f"aefast: {message}", err=True)
    raise typer.Exit(2)


@app.callback()
def check_settings() -> None:
    """Compiled kernels for autoencoders."""
    try:
        backend.cpu_isa()
        backend.select(torch.device("cpu"), torch.float32)
    except backend.BackendUnavailableError:
        pass  # info says why; an op that needs the backend raises it again
    except ValueError as error:
        fail(str(error))


@app.command()
def info() -> None:
    """Print versions, processor, threads and GPU, and which backend runs where and why."""
    found = environment.describe()
    versions = (f"{name} {version or '-'}" for name, version in found["versions"].items())
    lines = {
        "versions": ", ".join(versions),
        "processor": f"{found['cpu']}, {found['cores']} cores",
        "features": " ".join(found["cpu_features"]) or "unknown (no C++ extension)",
        "in use": f"{found['cpu_isa']} (torch: {found['torch_cpu_capability']})",
        "threads": f"{found['threads']} in an op, {found['interop_threads']} across ops",
        "GPU": ", ".join(found["gpus"]) or "none",
        **{f"backend {name}": availability(name) for name in backend.BACKENDS},
        "CPU float32": choice("cpu"),
        "CUDA float32": choice("cuda") if found["gpus"] else "no CUDA device",
    }
    for name, value in lines.items():
        typer.echo(f"{name:16}{value}")


def availability(name: str) -> str:
    """Where a backend runs, or why it does not on the device that it is made for."""
    present = DEVICES if torch.cuda.is_available() else ("cpu",)
    usable = [device for device in present if backend.unavailable(name, device) is None]
    if usable:
        return f"runs on {' and '.join(usable)}"
    return f"not here: {backend.unavailable(name, 'cuda' if name == 'triton' else 'cpu')}"


def choice(device: str) -> str:
    """The backend that an op on float32 tensors takes."""
    try:
        return f"runs {backend.select(torch.device(device), torch.float32)}"
    except backend.BackendUnavailableError as error:
        return str(error)


@app.command()
def bench(
    op: Annotated[str | None, typer.Argument(help="One hot path; all without it.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; both without it.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the results to this file.")] = None,
) -> None:
    """Measure the kernels against PyTorch as a user would write it."""
    suite = find_suite()
    ops = sorted(path.stem.removeprefix("bench_") for path in suite.glob("bench_*.py"))
    if op is not None and op not in ops:
        fail(f"OP is {op!r}; it takes one of {', '.join(ops)}")
    if device is not None and device not in DEVICES:
        fail(f"--device is {device!r}; it takes one of {', '.join(DEVICES)}")
    if device == "cuda" and not torch.cuda.is_available():
        fail("--device is 'cuda', but torch sees no CUDA device")
    if json is not None:
        check_folder(json, "--json")
    for package in ("pytest", "pytest_benchmark"):
        require(package, "bench")

    # A process of its own: the suite caps eager PyTorch's instruction set before torch is loaded.
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    command += [str(suite if op is None else suite / f"bench_{op}.py")]
    command += [] if device is None else ["--device", device]
    command += [] if json is None else ["--benchmark-json", str(json)]
    raise typer.Exit(subprocess.run(command, check=False).returncode)


def find_suite() -> Path:
    """The benchmarks: inside an installed package, or beside it in a source checkout."""
    package = Path(__file__).parent
    for folder in (package / "_benchmarks", package.parent / "benchmarks"):
        if (folder / "harness.py").exists():
            return folder
    fail("the benchmark suite is not part of this installation")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="The picture to write.")] = Path("demo.png"),
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training set.")] = 600,
) -> None:
    """Train a denoising autoencoder on handwritten digits, beside PCA and eager PyTorch."""
    check_folder(out, "--out")
    for package in ("sklearn", "matplotlib"):
        require(package, "demo")
    from aefast.demo import run

    try:
        run(out, epochs)
    except backend.BackendUnavailableError as error:
        fail(str(error))


def check_folder(file: Path, option: str) -> None:
    """A run must not end, after minutes, at a folder that was never there."""
    if file.is_dir():
        fail(f"{option} is {str(file)!r}, a folder; it takes a file")
    if not file.parent.is_dir():
        fail(f"{option} is {str(file)!r}, but there is no folder {str(file.parent)!r}")


def require(package: str, extra: str) -> None:
    if importlib.util.find_spec(package) is None:
        fail(f"{package} is missing: pip install 'aefast[{extra}]'")
