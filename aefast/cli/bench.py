"""``aefast bench``: how fast it is."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from aefast.cli.shared import app, check_device, check_folder, fail, require


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
    if device is not None:
        check_device(device)
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
    package = Path(__file__).parent.parent
    for folder in (package / "_benchmarks", package.parent / "benchmarks"):
        if (folder / "harness.py").exists():
            return folder
    fail("the benchmark suite is not part of this installation")
