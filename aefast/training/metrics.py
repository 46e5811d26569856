"""A run's metrics: a file of JSON lines, and TensorBoard's events."""

import json
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aefast.training.files import replacing

METRICS_FILE = "metrics.jsonl"
FIGURES = (
    *("held_out_loss", "reconstruction_error", "pseudo_log_likelihood"),
    *("fraction_of_variance_unexplained", "l0", "dead_share"),
)
CURVES = ("loss", "samples_per_second", "tokens_per_second", *FIGURES)


class Metrics:
    """The metrics of a run, appended line by line; a context manager.

    A run that goes on from a checkpoint first drops the lines, and hides the events, of the steps
    past it, which it takes again: what is there reads as of one run.

    Args:
        folder: the run's.
        step: the steps that the run has behind it.
    """

    def __init__(self, folder: Path, step: int) -> None:
        path = folder / METRICS_FILE
        lines = path.read_bytes().splitlines(True) if path.is_file() else []
        with replacing(path) as file:  # a file of the run's own, also where a link lay
            file.writelines(line for line in lines if _is_kept(line, step))
        from torch.utils.tensorboard import SummaryWriter  # what reads a run does without

        self._file = path.open("a", encoding="utf-8")
        self._events = SummaryWriter(str(folder), purge_step=step + 1)

    def write(self, line: dict[str, Any]) -> None:
        """Append one line, of which :data:`CURVES` are curves over the steps too."""
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        for name in line.keys() & set(CURVES):
            self._events.add_scalar(name, line[name], line["step"])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        self._events.close()


def _is_kept(line: bytes, step: int) -> bool:
    try:
        return line.endswith(b"\n") and json.loads(line)["step"] <= step
    except (LookupError, TypeError, ValueError):  # the process died while it wrote this one
        return False
