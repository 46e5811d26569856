"""The ten programs of the page "Your program, and one line", with the line and without.

    python benchmarks/programs.py [--rounds 5]

It prints the seconds of both, medians over rounds in which they take turns, and their last losses.
Of a program whose libraries are not installed it names these.
"""

import argparse
import contextlib
import importlib.util
import io
import re
import statistics
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aefast

PAGE = Path(aefast.__file__).parent / "docs" / "how-to" / "your-program.md"
LINE = re.compile(r".*# the line\n")
LIBRARIES = ("lightning", "pyod", "rbms", "sklearn", "skorch", "transformers")


@dataclass(frozen=True)
class Program:
    """A program of the page.

    Attributes:
        name: its title.
        text: with the line.
    """

    name: str
    text: str

    @property
    def before(self) -> str:
        return LINE.sub("", self.text)

    @property
    def missing(self) -> list[str]:
        """The libraries that it imports and that are not installed."""
        imported = set(re.findall(r"^(?:from|import) (\w+)", self.text, re.MULTILINE))
        return [name for name in LIBRARIES if name in imported and not _is_installed(name)]


def programs() -> list[Program]:
    page = PAGE.read_text(encoding="utf-8")
    return [
        Program(*parts) for parts in re.findall(r"## (.*?)\n.*?```python\n(.*?)```", page, re.S)
    ]


def losses_of(text: str) -> list[float]:
    """What a program leaves under this name; nothing stays patched."""
    names: dict[str, Any] = {}
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exec(text, names)
    finally:
        aefast.unpatch()
    return [float(loss) for loss in names["losses"]]


def _is_installed(library: str) -> bool:
    return importlib.util.find_spec(library) is not None


def _seconds(text: str) -> tuple[float, float]:
    start = time.perf_counter()
    losses = losses_of(text)
    return time.perf_counter() - start, losses[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    print(f"{'program':50}{'before':>10}{'after':>10}{'ratio':>8}  last loss before, after")
    for program in programs():
        if program.missing:
            print(f"{program.name:50}{', '.join(program.missing)} not installed")
            continue
        _seconds(program.before), _seconds(program.text)  # what is imported and compiled once
        pairs = [(_seconds(program.before), _seconds(program.text)) for _ in range(rounds)]
        before, after = (
            statistics.median(run[0] for run in runs) for runs in zip(*pairs, strict=True)
        )
        ratio = statistics.median(old[0] / new[0] for old, new in pairs)
        ends = f"{pairs[-1][0][1]:.4f}, {pairs[-1][1][1]:.4f}"
        print(f"{program.name:50}{before:9.3f}s{after:9.3f}s{ratio:8.2f}  {ends}")


if __name__ == "__main__":
    main()
