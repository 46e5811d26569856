"""The file of one run: the machine, and of each case its medians and quartiles, a case a line.

A spread is ``[lower quartile, median, upper quartile]``. The rounds themselves, which
pytest-benchmark writes, take a hundred times the room and are left out.
``python benchmarks/results.py FILE...`` makes its files into this form, in place.
"""

import json
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpu_check import journal

Result = dict[str, Any]
Record = dict[str, Any]
Spread = list[float]

# A case's name holds its rows and the widths that they go through: "128x64-32" or "64-32 b128".
WIDTHS = r"\d+(?:(?:->|-)\d+)*"
SHAPE = re.compile(rf"\b(\d+)x({WIDTHS})|\b({WIDTHS}) b(\d+)\b")
DIGITS = 4
KEYS = ("measured", "commit", "local_changes", "machine", "failed", "cases")
# The limit that a share of the peak is of, as limits.py names it.
PEAK = "multiply-adds alone"
# Why a baseline has no number, where its operators take more memory than there is.
OUT_OF_MEMORY = "out of memory"
# A case's shares of it, each contender's: of a call whose products were counted.
PEAK_SHARES = "shares_of_peak"


def compact(raw: dict[str, Any]) -> Result:
    """What a reader takes of pytest-benchmark's JSON."""
    commit, limits = raw["commit_info"], raw.get("limits", {})
    # One that was interrupted, or went wrong, has no record.
    measured = [benchmark for benchmark in raw["benchmarks"] if benchmark["extra_info"]]
    cases = [record(benchmark["extra_info"], benchmark["stats"]) for benchmark in measured]
    return {
        "measured": raw["datetime"][:10],
        "commit": (commit.get("id") or "unknown")[:10],
        "local_changes": bool(commit.get("dirty")),
        "machine": raw["machine_info"]["aefast"],
        "failed": raw["failed"],
        "limits": limits,
        "cases": [with_share_of_peak(case, limits) for case in cases],
    }


def of_check(lines: Sequence[journal.Line]) -> Result:
    """What gpu_check has measured on a GPU, and its limits."""
    dates = [line["measured"] for line in lines if "measured" in line]
    limits = [line for line in lines if line["stage"] == "limits"]
    machines = [line["machine"] for line in limits if "machine" in line]
    return {
        "measured": dates[0],
        "commit": "unknown",
        "local_changes": False,
        "machine": machines[0],
        "failed": [line["case"] for line in lines if "failed" in line],
        "limits": {
            "GPU": {
                line["case"]: {"rate": line["rate"], "unit": line["unit"]}
                for line in limits
                if "rate" in line
            }
        },
        "cases": [record for line in lines for record in line.get("records", [])],
    }


def record(measured: Record, stats: dict[str, float]) -> Record:
    """One case.

    Args:
        measured: what ``harness.summarize`` made of it.
        stats: pytest-benchmark's, of our own rounds.
    """
    scale = measured["seconds"] / stats["median"]  # a round may be many calls
    record = dict(measured)
    record["seconds"] = [scale * stats[key] for key in ("q1", "median", "q3")]
    if (shape := shape_of(measured["case"])) is not None:
        record["shape"] = shape
    return rounded(record)


def with_share_of_peak(case: Record, limits: dict[str, Any]) -> Record:
    """A case whose limit is a product's rate, or whose products were counted, gets its share of the
    processor's multiply-adds."""
    peak = limits.get(str(case.get("threads")), {}).get(PEAK)
    if peak is None or case["device"] != "cpu":
        return case
    limit, operations = case.get("limit"), case.get("operations")
    if operations is not None:
        rate = operations / (1e12 * peak["rate"])
        seconds = {name: times["seconds"] for name, times in ratios(case).items()}
        seconds["aefast"] = case["seconds"][1]
        case = {**case, PEAK_SHARES: rounded({name: rate / s for name, s in seconds.items()})}
    if limit is not None and limit["unit"] == peak["unit"]:
        share = limit["rate"] * limit["share"][1] / peak["rate"]
        case = {**case, "limit": {**limit, "share_of_peak": rounded(share)}}
    return case


def rounded(value: Any) -> Any:
    """A value with spreads as lists, as many digits as mean something, and no nulls."""
    if isinstance(value, dict):
        if "lower_quartile" in value:
            return rounded([value[key] for key in ("lower_quartile", "median", "upper_quartile")])
        return {key: rounded(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def shape_of(name: str) -> list[int] | None:
    """Rows and widths, ``[4096, 784, 1024]``; None of a name that holds none."""
    match = SHAPE.search(name)
    if match is None:
        return None
    rows, widths = match[1] or match[4], match[2] or match[3]
    return [int(rows), *map(int, re.split("->|-", widths))]


def setting_of(name: str) -> str:
    """What sets a case apart besides its shape: ``"fwd+bwd highest"``."""
    return " ".join(SHAPE.sub("", name, count=1).replace(" ,", ",").split()).lstrip(", ")


def label(machine: dict[str, Any]) -> str:
    """The machine in a few words: ``"AMD Zen 5, 2 threads, AVX-512"``."""
    instruction_sets = {"avx2": "AVX2", "avx512": "AVX-512", "amx": "AMX"}
    name = machine.get("processor") or machine["cpu"]
    instruction_set = instruction_sets.get(machine["cpu_isa"], machine["cpu_isa"])
    threads = f"{machine['threads']} thread" + "s" * (machine["threads"] > 1)
    parts = [name, threads, instruction_set, *machine["gpus"]]
    return ", ".join(parts)


def ratios(case: Record) -> dict[str, Record]:
    """The baselines that ran."""
    return {name: times for name, times in case["baselines"].items() if "ratio" in times}


def worst(case: Record) -> float:
    """The median ratio to the quickest baseline; of a case whose baselines all ran out of memory
    there is nothing that it could be slower than."""
    return min((times["ratio"][1] for times in ratios(case).values()), default=math.inf)


def as_json(result: Result) -> str:
    """One line a case, so that a change of one shows as one."""
    head = json.dumps({key: value for key, value in result.items() if key != "cases"}, indent=1)
    cases = ",\n".join("  " + json.dumps(case) for case in result["cases"])
    return head.removesuffix("\n}") + f',\n "cases": [\n{cases}\n ]\n}}\n'


def read(path: Path) -> Result:
    """The result in a file, of this form, pytest-benchmark's, or ``results.jsonl`` of gpu_check.

    Raises:
        ValueError: it is neither.
    """
    try:
        if path.suffix == ".jsonl":
            return of_check(journal.read(path))
        content = json.loads(path.read_text())
        if "benchmarks" in content:
            return compact(content)
        return {key: content[key] for key in KEYS} | {"limits": content.get("limits", {})}
    except (
        *(ArithmeticError, AttributeError, LookupError),
        *(RecursionError, TypeError, ValueError),
    ) as error:
        raise ValueError(f"{str(path)!r} is no result of aefast bench --json") from error


if __name__ == "__main__":
    if len(sys.argv) == 1:
        sys.exit("usage: python benchmarks/results.py FILE...")
    for argument in sys.argv[1:]:
        Path(argument).write_text(as_json(read(Path(argument))))
