"""``PYTHONPATH=.:benchmarks python -m counts [--write]``: counts, and compares with the budgets.

It ends with 1 where a count is more than 2 % over its budget. ``--write`` makes the counts the
budgets.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from aefast import backend
from counts import budgets, callgrind, inner_loops, steps
from counts.budgets import Counts, Unavailable


def main() -> int:
    parser = argparse.ArgumentParser(prog="counts", description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="make the counts the budgets")
    is_writing = parser.parse_args().write
    extension = Path(backend.extension().__file__ or "")
    counted = {steps.versions(): steps.count()}
    if instructions := count_instructions(extension):
        counted[callgrind.compiler(extension)] = instructions
    if is_writing:
        for origin, counts in counted.items():
            budgets.write(origin, counts)
        return 0
    known = budgets.read()
    return max(
        budgets.compare(origin, counts, known.get(origin)) for origin, counts in counted.items()
    )


def count_instructions(extension: Path) -> Counts:
    """Count the instructions of each instruction set; for one that cannot be counted here the
    reason is printed."""
    measures: dict[str, Callable[[], dict[str, int]]] = {
        f"{name} instructions": partial(callgrind.instructions, extension, name)
        for name in callgrind.INSTRUCTION_SETS
    }
    measures["avx512 inner loops"] = partial(inner_loops.instructions, extension)
    counts: Counts = {}
    for measure, count in measures.items():
        try:
            counts[measure] = count()
        except Unavailable as reason:
            print(f"{measure}: not counted, {reason}")
    return counts


if __name__ == "__main__":
    sys.exit(main())
