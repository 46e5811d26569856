"""The ten programs of the page "Your program, and one line", with the line and without.

    python benchmarks/programs.py [--rounds 5] [--write]

It prints the seconds of both, medians over rounds in which they take turns, and their last losses;
``--write`` puts them into the page. Of a program whose libraries are not installed it names these.
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

import torch

import aefast
from aefast import processors

PAGE = Path(aefast.__file__).parent / "docs" / "how-to" / "your-program.md"
BEGIN = "<!-- programs: filled by `python benchmarks/programs.py --write` -->\n"
END = "<!-- end of programs -->"
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


def row_of(program: Program, rounds: int) -> str:
    """The program's line of the table: medians over rounds in which both ways take turns."""
    if program.missing:
        return f"| {program.name} | {', '.join(program.missing)} not installed | | | | |"
    _seconds(program.before), _seconds(program.text)  # what is imported and compiled once
    pairs = [(_seconds(program.before), _seconds(program.text)) for _ in range(rounds)]
    before, after = (statistics.median(run[0] for run in runs) for runs in zip(*pairs, strict=True))
    ratio = statistics.median(old[0] / new[0] for old, new in pairs)
    (_, last_before), (_, last_after) = pairs[-1]
    times = f"{before:.2f} | {after:.2f} | {ratio:.2f}x"
    return f"| {program.name} | {times} | {last_before:.4f} | {last_after:.4f} |"


def table(rows: list[str]) -> str:
    kind = f"{processors.kind() or processors.name()}, {torch.get_num_threads()} threads"
    head = f"Seconds and last losses on this processor: {kind}.\n\n"
    names = "| program | before, s | after, s | ratio | loss before | loss after |\n"
    return "\n".join([head + names + "| --- | ---: | ---: | ---: | ---: | ---: |", *rows, ""])


def write(page: str, table: str) -> str:
    """The page with this table between its two marks."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}{table}{END}{rest.split(END)[1]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="put the table into the page")
    arguments = parser.parse_args()
    rows = []
    for program in programs():
        rows.append(row_of(program, arguments.rounds))
        print(rows[-1], flush=True)
    if arguments.write:
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(write(page, table(rows)), encoding="utf-8")


if __name__ == "__main__":
    main()
