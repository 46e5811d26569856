"""``python -m gpu_check.worker STAGE JOB``: a job of a stage, a line for each case."""

import os
import sys
import traceback
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from gpu_check import journal, process

REHEARSAL = os.environ.get("GPU_CHECK_REHEARSAL") == "1"
DEVICE = "cpu" if REHEARSAL else "cuda"

Record = Callable[..., None]


def main(stage: str, job: str) -> None:
    process.end_with_parent()  # which may be compute-sanitizer
    import_module(f"gpu_check.{stage}").work(job, partial(record, stage, job))


def record(stage: str, job: str, **fields: Any) -> None:
    """Write a line of this job."""
    line = {"stage": stage, "job": job, **fields}
    journal.write(Path(os.environ["GPU_CHECK_RESULTS"]), line)


def attempt(record: Record, case: str, function: Callable[[], dict[str, Any]]) -> None:
    """One case: what the function found, or what it raised; the process ends at a CUDA fault."""
    try:
        outcome = function()
    except Exception as error:
        traceback.print_exc()
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        record(case=case, failed=reason)
        leave_after_fault()
    else:
        record(case=case, **outcome)


def leave_after_fault() -> None:
    """End the process where CUDA answers every further call with the same error."""
    if is_faulted():
        os._exit(process.FAULT)


def is_faulted() -> bool:
    if not torch.cuda.is_available():
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


if __name__ == "__main__":
    main(*sys.argv[1:])
