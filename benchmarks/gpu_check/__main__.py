"""``python -m gpu_check [--seconds N] [--out FOLDER]``, as ``make gpu-check`` runs it."""

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

import torch

from gpu_check import journal, stages, summary

STAGES = ("binaries", "limits", "correctness", "speed", "profiles", "sanitize")
SECONDS = 470.0
SUMMARY = "summary.txt"


def main() -> int:
    parser = argparse.ArgumentParser(prog="make gpu-check", description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("build/gpu-check"), metavar="FOLDER")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--summarize", type=Path, metavar="FOLDER", help="of an earlier check")
    parser.add_argument(
        "--rehearse", action="store_true", help="without a GPU: small cases, Triton's interpreter"
    )
    options = parser.parse_args()
    if options.summarize is not None:
        print(summary.text(journal.read(options.summarize / journal.NAME)))
        return 0
    if not options.rehearse and not torch.cuda.is_available():
        raise SystemExit(
            "gpu-check: torch sees no CUDA GPU. Without one there is --rehearse: small cases on "
            "the processor, by Triton's interpreter"
        )
    out: Path = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    for name in (journal.NAME, "log.txt", SUMMARY, "trace-*.json*"):
        for file in out.glob(name):  # of an earlier check
            file.unlink()
    os.environ["GPU_CHECK_RESULTS"] = str(out / journal.NAME)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    try:
        stages.check(out, options.seconds, options.stages, options.rehearse)
    finally:
        lines = summarize(out)
    return 0 if summary.is_well(lines) else 1


def summarize(out: Path) -> list[journal.Line]:
    """What has been found so far, and its summary, printed and beside it."""
    lines = journal.read(out / journal.NAME)
    (out / SUMMARY).write_text(summary.text(lines) + "\n")
    print(summary.text(lines), flush=True)
    return lines


def stop(number: int, _: object) -> NoReturn:
    """End now, by way of the summary; what runs is killed with this process."""
    signal.signal(number, signal.SIG_DFL)
    summarize(Path(os.environ["GPU_CHECK_RESULTS"]).parent)
    os._exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
