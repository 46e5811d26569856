"""Two runs of the suite: what changed by more than their noise.
``python benchmarks/comparison.py OLD.json NEW.json``

Times of two runs differ with the machine's clocks and neighbours; the ratios to a baseline that
took turns with them much less. So both are shown, and a change is one of the ratio.
"""

import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

from report import duration, table
from results import Record, Result, Spread, label, read

# Two runs agree on a ratio if it differs by at most so much. Shorter calls than LONG_SECONDS are
# left out: their noise is the clock's and the caches'.
AGREEMENT, LONG_SECONDS = 0.05, 1e-3

HEADING = ["case", "baseline", "time", "time, new / old", "times as fast", "new / old", ""]


def render(old: Result, new: Result) -> str:
    """A table of all cases that both have, and the names of those that only one has."""
    before, after = ({key_of(case): case for case in result["cases"]} for result in (old, new))
    rows = [row for key in after if key in before for row in case_rows(before[key], after[key])]
    changed = sum(row[-1] != "" for row in rows)
    parts = [f"{changed} of {len(rows)} ratios changed by more than their quartiles."]
    parts += agreement([(before[key], after[key]) for key in after if key in before])
    if label(old["machine"]) != label(new["machine"]):
        parts.append(f"Two machines: {label(old['machine'])}; {label(new['machine'])}.")
    if rows:
        parts.append(table([HEADING, *rows]))
    for run, own, other in (("old", before, after), ("new", after, before)):
        if names := [" ".join(key) for key in own if key not in other]:
            parts.append(f"Only in the {run}: {'; '.join(names)}")
    return "\n\n".join(parts) + "\n"


def agreement(pairs: list[tuple[Record, Record]]) -> list[str]:
    """How many of the long calls' ratios are the same in both runs, as a sentence."""
    changes = [
        later["ratio"][1] / earlier["ratio"][1]
        for old, new in pairs
        if min(old["seconds"][1], new["seconds"][1]) >= LONG_SECONDS
        for _, earlier, later in baselines_of_both(old, new)
    ]
    if not changes:
        return []
    shares = [
        sum(1 - limit <= change <= 1 + limit for change in changes) / len(changes)
        for limit in (AGREEMENT, 2 * AGREEMENT)
    ]
    return [
        f"Of {len(changes)} ratios of calls above {duration(LONG_SECONDS)}, {shares[0]:.0%} agree "
        f"within {AGREEMENT:.0%} and {shares[1]:.0%} within {2 * AGREEMENT:.0%}; "
        f"new / old is {statistics.median(changes):.3f} in the median."
    ]


def baselines_of_both(old: Record, new: Record) -> Iterator[tuple[str, Record, Record]]:
    """Each baseline that ran both times: its name, then and now."""
    for name, later in new["baselines"].items():
        earlier = old["baselines"].get(name, {})
        if "ratio" in later and "ratio" in earlier:
            yield name, earlier, later


def case_rows(old: Record, new: Record) -> list[list[str]]:
    """A row for each baseline that ran both times."""
    rows = []
    for name, earlier, later in baselines_of_both(old, new):
        change = quotient(earlier["ratio"], later["ratio"])
        rows.append(
            [
                f"{new['op']} {new['case']}",
                name,
                duration(new["seconds"][1]),
                shown(quotient(old["seconds"], new["seconds"])),
                f"{later['ratio'][1]:.2f}x",
                shown(change),
                verdict(change),
            ]
        )
    return rows


def quotient(old: Spread, new: Spread) -> Spread:
    """New over old: of the medians, between the extremes that the quartiles allow."""
    return [new[0] / old[2], new[1] / old[1], new[2] / old[0]]


def verdict(change: Spread) -> str:
    """The verdict on a change; empty if the two runs' quartiles overlap."""
    lower, _, upper = change
    return "slower" if upper < 1 else "faster" if lower > 1 else ""


def shown(spread: Spread) -> str:
    lower, middle, upper = spread
    return f"{middle:.2f} ({lower:.2f}-{upper:.2f})"


def key_of(case: Record) -> tuple[str, str, str]:
    return case["op"], case["case"], case["device"]


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python benchmarks/comparison.py OLD.json NEW.json")
    print(render(*(read(Path(argument)) for argument in sys.argv[1:])), end="")
