"""The budgets of ``budgets.json``, and what a count is that goes over one.

A file of ``{of what: {measure: {case: count}}}``: the instructions are of a compiler, the Python
calls of the versions of Python and torch. Where these are others, nothing is compared.
"""

import json
from pathlib import Path

FILE = Path(__file__).with_name("budgets.json")
TOLERANCE = 0.02

Counts = dict[str, dict[str, int]]


class Unavailable(Exception):
    """Why something cannot be counted here."""


def read(file: Path = FILE) -> dict[str, Counts]:
    budgets: dict[str, Counts] = json.loads(file.read_text()) if file.exists() else {}
    return budgets


def write(origin: str, counts: Counts, file: Path = FILE) -> None:
    """Put the counts of one origin in the place of those that are there."""
    budgets = read(file)
    budgets[origin] = budgets.get(origin, {}) | counts
    file.write_text(json.dumps(budgets, indent=1, sort_keys=True) + "\n")


def failures(counts: Counts, budgets: Counts) -> list[str]:
    """A line for each count over its budget or without one, and for each budget without a case."""
    lines = []
    for measure, cases in counts.items():
        known = budgets.get(measure, {})
        for case, count in cases.items():
            if case not in known:
                lines.append(f"{measure}, {case}: {count:,} has no budget")
            elif count > known[case] * (1 + TOLERANCE):
                lines.append(f"{measure}, {case}: {difference(count, known[case])}")
        lines += [f"{measure}, {case}: no such case" for case in known if case not in cases]
    return lines


def savings(counts: Counts, budgets: Counts) -> list[str]:
    """A line for each count that is as far below its budget, which could be lower."""
    return [
        f"{measure}, {case}: {difference(count, budgets[measure][case])}"
        for measure, cases in counts.items()
        for case, count in cases.items()
        if count < budgets.get(measure, {}).get(case, 0) * (1 - TOLERANCE)
    ]


def difference(count: int, budget: int) -> str:
    share = f" ({count / budget - 1:+.1%})" if budget else ""
    return f"{count:,} of {budget:,}, {count - budget:+,}{share}"


def compare(origin: str, counts: Counts, known: Counts | None) -> int:
    """Print what is over its budget and what below; 1 where something is over, else 0."""
    cases = sum(map(len, counts.values()))
    if known is None:
        print(f"{origin}: {cases} counts, not compared: the budgets are of other versions")
        return 0
    failed = failures(counts, known)
    print(f"{origin}: {cases - len(failed)} of {cases} counts are within their budgets")
    for line in failed:
        print(f"  {line}")
    for line in savings(counts, known):
        print(f"  below: {line}")
    if failed:
        print("  Where that is meant, --write makes the counts the budgets")
    return int(bool(failed))
