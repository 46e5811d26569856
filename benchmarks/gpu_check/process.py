"""Runs a process with a time limit, which is killed if its parent ends."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]

PASSED, NOT_RUN = "passed", "not run"
# What a process ends with after a CUDA error that every later call in it would see too.
FAULT = 86

PR_SET_PDEATHSIG = 1


def run(
    command: Sequence[str], seconds: float, log: Path, environment: Mapping[str, str] | None = None
) -> str:
    """Run a command to its end or its limit, with its output behind the log's.

    Returns:
        ``"passed"``, or in a few words how else it ended.
    """
    with log.open("ab") as output:
        try:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=os.environ
                | {"PYTHONPATH": f"{ROOT}:{ROOT / 'benchmarks'}"}
                | (environment or {}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )
        except OSError as error:
            return f"{command[0]} does not start: {error.strerror}"
    try:
        return ending(process.wait(seconds))
    except subprocess.TimeoutExpired:
        return f"stopped after {seconds:.0f} s"
    finally:
        end_group(process)


def end_group(process: "subprocess.Popen[bytes]") -> None:
    """Kill the process with all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def end_with_parent() -> None:
    """Have the system kill this process when the thread that started it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def ending(code: int) -> str:
    """Describe an exit code in words."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return {0: PASSED, FAULT: "CUDA fault"}.get(code, f"exit code {code}")
