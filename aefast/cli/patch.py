"""``aefast patch``: runs an unedited program with its libraries' models on these kernels."""

import runpy
import sys
import traceback
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

from aefast import patching
from aefast.cli.shared import app, fail, note, one_line_about


class WithProgram(TyperCommand):
    """Arguments after ``--`` belong to the program."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        separator = args.index("--") if "--" in args else len(args)
        ctx.obj = args[separator + 1 :]
        return super().parse_args(ctx, args[:separator])


@app.command(cls=WithProgram, options_metavar="", epilog="aefast patch sklearn -- script.py --fast")
def patch(
    context: typer.Context,
    packages: list[str] = typer.Argument(  # noqa: B008
        metavar="PACKAGE... -- PROGRAM [ARGUMENT]...",
        help="sklearn, rbms or pyod; PROGRAM is a Python file, or -m and a module.",
    ),
) -> None:
    """Run a Python program with other libraries' models on these kernels."""
    program: list[str] = context.obj
    if not program or program == ["-m"]:
        fail("there is no program; aefast patch takes PACKAGE... -- script.py, or -- -m module")
    with one_line_about("PROGRAM"):
        if program[0] != "-m" and not Path(program[0]).exists():
            fail(f"there is no file {program[0]!r}; it takes a Python program, or -m and a module")
    try:
        patching.patch(*packages)
    except (ValueError, ModuleNotFoundError, patching.UnknownVersionError) as error:
        fail(str(error))
    try:
        _run(program)
    finally:
        note(_summary())


def _run(program: list[str]) -> None:
    """Run a program as ``python PROGRAM ARGUMENT...`` does, with its tracebacks and exit codes."""
    is_module = program[0] == "-m"
    name, *arguments = program[1:] if is_module else program
    sys.argv = [name, *arguments]
    sys.path.insert(0, "" if is_module else str(Path(name).resolve().parent))
    try:
        if is_module:
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(name, run_name="__main__")
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:
        traceback.print_exception(_from_program(error))
        raise SystemExit(1) from None


def _from_program(error: Exception) -> Exception:
    """The program's error, whose traceback has no frames of this command or of runpy."""
    frame = error.__traceback__
    while frame is not None and frame.tb_frame.f_code.co_filename in (__file__, runpy.__file__):
        frame = frame.tb_next
    return error.with_traceback(frame) if frame else error


def _summary() -> list[str]:
    """A line for each class that was used: how many calls ran on these kernels, and why not all."""
    lines = []
    for name, patched_class in patching.patched().items():
        if not patched_class.calls and not patched_class.original_calls:
            continue
        reasons = "; ".join(f"{count} {why}" for why, count in patched_class.original_calls.items())
        original_calls = f"; by its own code {reasons}" if reasons else ""
        lines.append(f"{name}: {patched_class.calls} calls served{original_calls}")
    return lines
