"""What every command shares: the application, and its one-line errors."""

import contextlib
import importlib.util
import os
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

import torch
import typer

from aefast import backend
from aefast.messages import printable

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None)

DEVICES = ("cpu", "cuda")
OTHER_RANKS_SECONDS = 3.0


def fail(message: str) -> NoReturn:
    """End the command with one line and exit code 2. Of several ranks with the same error the first
    one prints it: when it has ended, torchrun ends the others."""
    if os.environ.get("RANK", "0") != "0":
        time.sleep(OTHER_RANKS_SECONDS)  # a rank that is still alive then has an error of its own
    say(message)
    raise typer.Exit(2)


def say(message: str) -> None:
    typer.echo(printable(f"aefast: {message}"), err=True)


def note(lines: Iterable[str]) -> None:
    """Print notes on the standard error."""
    for line in lines:
        typer.echo(printable(f"aefast: note: {line}"), err=True)


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Turn SIGTERM into SystemExit, so that ``with`` blocks remove half-written files."""

    def end(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@app.callback()
def check_settings() -> None:
    """Compiled kernels for autoencoders."""
    try:
        backend.cpu_isa()
        backend.select(torch.device("cpu"), torch.float32)
    except backend.BackendUnavailableError:
        pass  # aefast info says why, and an op that needs the backend raises it again
    except ValueError as error:
        fail(str(error))


def check_device(device: str) -> None:
    """Check that the device is available."""
    if device not in DEVICES:
        fail(f"--device is {device!r}; it takes one of {', '.join(DEVICES)}")
    if device == "cuda" and not torch.cuda.is_available():
        fail("--device is 'cuda', but torch sees no CUDA device")


def check_folder(file: Path, option: str) -> None:
    """Check that a file can be written, before minutes of work are lost."""
    with one_line_about(option):
        if file.is_dir():
            fail(f"{option} is {str(file)!r}, a folder; it takes a file")
        if file.exists() and not file.is_file():
            fail(f"{option} is {str(file)!r}, which is no regular file")
        _check_parent(file, option)


def check_output_folder(folder: Path, option: str) -> None:
    """Check a folder to write to, which may be created."""
    with one_line_about(option):
        if folder.exists() and not folder.is_dir():
            fail(f"{option} is {str(folder)!r}, a file; it takes a folder")
        _check_parent(folder, option)


def _check_parent(path: Path, option: str) -> None:
    if not path.parent.is_dir():
        fail(f"{option} is {str(path)!r}, but there is no folder {str(path.parent)!r}")


@contextlib.contextmanager
def one_line_about(argument: str) -> Iterator[None]:
    """Turn the file system's errors, such as a name that is too long, into one line."""
    try:
        yield
    except OSError as error:
        fail(f"{argument}: {error}")


def require(package: str, extra: str) -> None:
    if importlib.util.find_spec(package) is None:
        fail(f"{package} is missing: pip install 'aefast[{extra}]'")
