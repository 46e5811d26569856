"""A run's metrics: a file of JSON lines, and TensorBoard's events."""

import json
import math
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from aefast.training.files import replacing

METRICS_FILE = "metrics.jsonl"
MODEL_METRICS = (
    *("held_out_loss", "reconstruction_error", "pseudo_log_likelihood"),
    *("fraction_of_variance_unexplained", "l0", "dead_share"),
)
CURVES = ("loss", "samples_per_second", "tokens_per_second", *MODEL_METRICS)

Line = dict[str, float | str]  # of metrics: the stage's name, and numbers


class Metrics:
    """The metrics of a run, appended line by line; a context manager.

    A run that resumes from a checkpoint takes the steps after it again. Their old lines are dropped
    and their old events hidden, so that each step stands there once.

    Args:
        folder: the run's.
        step: the number of the run's last step.
    """

    def __init__(self, folder: Path, step: int) -> None:
        path = folder / METRICS_FILE
        lines = path.read_bytes().splitlines(True) if path.is_file() else []
        with replacing(path) as file:  # a new file, where a link may have been
            file.writelines(line for line in lines if _is_up_to(line, step))
        from torch.utils.tensorboard import (
            SummaryWriter,  # imported late: reading a run does not need it
        )

        self._file = path.open("a", encoding="utf-8")
        self._events = SummaryWriter(str(folder), purge_step=step + 1)

    def write(self, line: Line) -> None:
        """Append one line, of which :data:`CURVES` are curves over the steps too. What is no
        number, as the variance unexplained of rows that are all alike, is null: JSON has no NaN."""
        numbers = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in line.items()
        }
        self._file.write(json.dumps(numbers) + "\n")
        self._file.flush()
        for name in line.keys() & set(CURVES):
            self._events.add_scalar(name, line[name], line["step"])

    def __enter__(self) -> Self:
        self._excepthook = threading.excepthook
        threading.excepthook = self._print_error
        return self

    def _print_error(self, arguments: threading.ExceptHookArgs) -> None:
        """Print an error of a thread, but not TensorBoard's, of a full disk for one: its thread
        keeps it, and the next write raises it."""
        if not type(arguments.thread).__module__.startswith("tensorboard."):
            self._excepthook(arguments)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._file.close()
            self._events.close()
        finally:
            threading.excepthook = self._excepthook


def _is_up_to(line: bytes, step: int) -> bool:
    try:
        return line.endswith(b"\n") and json.loads(line)["step"] <= step
    except (LookupError, TypeError, ValueError, RecursionError):  # the process died meanwhile
        return False
