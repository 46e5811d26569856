"""``PYTHONPATH=.:benchmarks python -m counts [--write]``: counts, and compares with the budgets.

It ends with 1 where a count is more than 2 % over its budget. ``--write`` makes the counts the
budgets.
"""

import argparse
import sys
from pathlib import Path

from aefast import backend
from counts import budgets, callgrind, steps
from counts.budgets import Counts


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
    return max(compare(origin, counts) for origin, counts in counted.items())


def count_instructions(extension: Path) -> Counts:
    """By instruction set; of one that cannot be counted here the reason is printed."""
    counts: Counts = {}
    for name in callgrind.INSTRUCTION_SETS:
        try:
            counts[f"{name} instructions"] = callgrind.instructions(extension, name)
        except callgrind.Unavailable as reason:
            print(f"{name} instructions: not counted, {reason}")
    return counts


def compare(origin: str, counts: Counts) -> int:
    known = budgets.read().get(origin)
    cases = sum(map(len, counts.values()))
    if known is None:
        print(f"{origin}: {cases} counts, not compared: the budgets are of other versions")
        return 0
    failed = budgets.failures(counts, known)
    print(f"{origin}: {cases - len(failed)} of {cases} counts are within their budgets")
    for line in failed:
        print(f"  {line}")
    for line in budgets.savings(counts, known):
        print(f"  below: {line}")
    if failed:
        print("  Where that is meant: make counts COUNTS=--write")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
