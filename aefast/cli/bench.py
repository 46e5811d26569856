"""``aefast bench``: runs the benchmark suite, and compares and reports its results."""

import contextlib
import importlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from aefast.cli.shared import app, check_device, check_folder, fail, one_line_about, require
from aefast.messages import cut, printable
from aefast.ops import names_with
from aefast.training.files import replacing

# Seconds for each contender of a case: the suite takes some 20 minutes.
SECONDS = "0.1"


class Bench(TyperGroup):
    """``run`` is the default command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        named = args[:1] and (args[0] in self.commands or args[0] == "--help")
        return super().parse_args(ctx, args if named else ["run", *args])


bench = typer.Typer(cls=Bench, rich_markup_mode=None)
app.add_typer(bench, name="bench")


@bench.callback()
def describe() -> None:
    """Measure the kernels against PyTorch: all, or ``aefast bench OP...``.

    Without a command's name what follows is ``run``'s.
    """


@bench.command()
def run(
    ops: Annotated[list[str] | None, typer.Argument(help="Some hot paths; all without.")] = None,
    quick: Annotated[bool, typer.Option(help="A case of each kind: 2 minutes in all.")] = False,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; both without it.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the results to this file.")] = None,
    compare: Annotated[
        Path | None, typer.Option(help="Show what changed since the results in this file.")
    ] = None,
) -> None:
    """Measure the kernels against PyTorch as a user would write it."""
    suite = find_suite()
    files = benchmarks(suite)
    for op in ops or []:
        if op not in files:
            fail(f"OP is {op!r}; it takes one of {', '.join(files)}")
    if device is not None:
        check_device(device)
    if json is not None:
        check_folder(json, "--json")
    old = None if compare is None else read(compare, "--compare")
    for package in ("pytest", "pytest_benchmark"):
        require(package, "bench")

    paths = list(dict.fromkeys(str(files[op]) for op in ops or [])) or [str(suite)]
    # A process of its own: the suite caps eager PyTorch's instruction set before torch is loaded.
    # A peer's warnings about its own steps would fill pages; a line says which peers are missing.
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--disable-warnings"]
    # Without the settings of a project in whose folder aefast is installed or called.
    command += ["-rs", "-c", os.devnull, "--rootdir", str(suite), *paths]
    command += [] if device is None else ["--device", device]
    command += ["--benchmark-max-time", SECONDS]
    command += ["--quick"] if quick else []
    with tempfile.TemporaryDirectory() as folder:
        rounds = Path(folder, "rounds.json")
        # pytest-benchmark makes a folder for what it may save, by itself in the current one.
        command += ["--benchmark-storage", f"file://{folder}/saved"]
        status = wait_for([*command, "--benchmark-json", str(rounds)])
        if rounds.exists() and rounds.stat().st_size > 0:  # something was measured
            new = read(rounds, "--benchmark-json")
            if json is not None:
                write(json, import_from_suite("results").as_json(new))
            if old is not None:
                echo(
                    rendered(lambda: import_from_suite("comparison").render(old, new), "--compare")
                )
    raise typer.Exit(status)


def wait_for(command: list[str]) -> int:
    """Run a program; its exit status. It receives Ctrl-C, too, and reports what it measured."""
    with subprocess.Popen(command) as process:
        while True:
            with contextlib.suppress(KeyboardInterrupt):
                return process.wait()


@bench.command()
def report(
    files: Annotated[list[Path], typer.Argument(help="What --json wrote, one a machine.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The page; .md for a summary.")] = Path(
        "report.html"
    ),
) -> None:
    """Show results as one HTML page, machines side by side, or as Markdown."""
    check_folder(out, "--out")
    results = [read(file, "FILES") for file in files]
    if out.exists() and any(map(out.samefile, files)):
        fail(f"--out is {str(out)!r}, one of FILES; it takes another file")
    if out.suffix == ".md":
        text = rendered(
            lambda: "\n".join(map(import_from_suite("report").render_dated, results)), "FILES"
        )
    else:
        text = rendered(lambda: import_from_suite("page").render(results), "FILES")
    write(out, text)
    echo(f"wrote {out}")


# How a benchmark names the op that its cases are of, as the report shows it.
OP_OF_CASES = re.compile(r'\bop="(\w+)"')


def benchmarks(suite: Path) -> dict[str, Path]:
    """The file that measures each op, by the op's folder, by the names of its functions and by what
    the report calls its cases; an op without a file is measured by its self-test's cases."""
    measured = {path.stem.removeprefix("bench_"): path for path in suite.glob("bench_*.py")}
    folders = {op: measured.get(op, suite / "bench_cases.py") for op in names_with("selftest")}
    functions = {
        name: path
        for op, path in folders.items()
        for name in importlib.import_module(f"aefast.ops.{op}").__all__
    }
    reported = {
        op: path
        for path in measured.values()
        for op in OP_OF_CASES.findall(path.read_text(encoding="utf-8"))
    }
    return dict(sorted((reported | functions | folders | measured).items()))


def read(file: Path, argument: str) -> Any:
    """The results in a file."""
    with one_line_about(argument):
        if not file.is_file():
            fail(f"{argument} is {str(file)!r}, but there is no such file")
        try:
            return import_from_suite("results").read(file)
        except ValueError as error:
            fail(str(error))


def rendered(render: Callable[[], str], argument: str) -> str:
    """What is shown of results from files, which anybody may have changed."""
    try:
        return render()
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        reason = cut(error) or type(error).__name__
        fail(f"{argument}: no results as aefast bench --json writes them: {reason}")


def write(file: Path, text: str) -> None:
    try:
        with replacing(file) as stream:
            stream.write(text.encode())
    except OSError as error:
        fail(str(error))


def echo(text: str) -> None:
    """Print lines that contain names from a file."""
    typer.echo("\n".join(map(printable, text.split("\n"))))


def import_from_suite(name: str) -> ModuleType:
    """Import a module of the suite, whose modules import each other by their bare names."""
    suite = str(find_suite())
    if suite not in sys.path:
        sys.path.insert(0, suite)
    return importlib.import_module(name)


def find_suite() -> Path:
    """The benchmarks: inside an installed package, or beside it in a source checkout."""
    package = Path(__file__).parent.parent
    for folder in (package / "_benchmarks", package.parent / "benchmarks"):
        if (folder / "harness.py").exists():
            return folder
    fail("the benchmark suite is not part of this installation")
