"""The results as Markdown, from the JSON file alone: ``python benchmarks/report.py RESULT.json``.

Every case is shown, won or lost; one whose kernel was wrong is named, without a number.
"""

import sys
from pathlib import Path
from typing import Any

import explanations
import growth
import targets
from results import OUT_OF_MEMORY, PEAK_SHARES, Record, Result, Spread, read

HEADING = [
    "case",
    "on",
    "aefast",
    "eager / aefast",
    "compile / aefast",
    "limit reached",
    "peak MiB",
]
GROWTH = (
    "Growth: the exponent of a step's time as a power of what the cases differ in, fitted; how far "
    "a time is from that power at most; where that is over a quarter, the two powers that fit "
    "better, and why. A second thread joins from a million multiplications in a product on."
)
OVERHEAD_HEADING = ["call overhead", "on", "aefast", "eager", "aefast - eager", "compile"]


def render(result: Result) -> str:
    """The whole report of a run."""
    parts = [describe_machine(result["machine"])]
    if limit_rows := limits(result):
        parts.append(table(limit_rows))
    for heading, overhead, row in (
        (HEADING, False, case_row),
        (OVERHEAD_HEADING, True, overhead_row),
    ):
        rows = [row(record) for record in result["cases"] if record["overhead"] is overhead]
        if rows:
            parts.append(table([heading, *rows]))
    parts.append(
        "Ratios are medians of paired rounds, with quartiles: above 1x aefast is the faster. "
        "Peak memory: aefast / eager."
    )
    parts += [
        f"Slower in {len(cases)} of {len(result['cases'])} cases. {cause or 'No cause was found.'}"
        for cause, cases in explanations.losses(result).items()
    ]
    parts += asked(result)
    if curves := growth.rows(result):
        parts += [table([growth.HEADING, *curves]), GROWTH]
    parts += [f"No number: {reason}" for reason in missing_numbers(result)]
    return "\n\n".join(parts) + "\n"


def render_dated(result: Result) -> str:
    """The report of a run that was kept, with its commit and date."""
    return f"Measured {origin(result)}.\n\n{render(result)}"


def origin(result: Result) -> str:
    dirty = " with local changes" if result["local_changes"] else ""
    return f"{result['measured']}, commit {result['commit']}{dirty}"


def describe_machine(machine: dict[str, Any]) -> str:
    versions = ", ".join(
        f"{name} {version or '-'}" for name, version in machine["versions"].items()
    )
    processor = (
        f"{machine['cpu']}, {machine['threads']} threads, instruction set {machine['cpu_isa']} "
        f"(torch: {machine['torch_cpu_capability']})"
    )
    return "\n".join([f"- {line}" for line in (processor, *machine["gpus"], versions)])


def asked(result: Result) -> list[str]:
    """What was asked of the measured cases, as a table, and why some of it is not reached."""
    found = [each for each in targets.judge([result]) if each.value is not None]
    if not found:
        return []
    rows = [
        [each.target.words, each.target.measure.asked(each.asked), each.shown(), verdict(each)]
        for each in found
    ]
    reasons = dict.fromkeys(each.target.why for each in found if each.is_short)
    return [table([["asked of the first release", "asked", "measured", ""], *rows]), *reasons]


def verdict(target: targets.Verdict) -> str:
    return "short" if target.is_short else "reached"


def case_row(record: Record) -> list[str]:
    eager = record["baselines"]["eager"]
    return [
        f"{record['op']} {record['case']}",
        f"{record['device']} {record['backend']}",
        duration(median(record["seconds"])) + states(record.get("states_per_second")),
        ratio(eager),
        ratio(record["baselines"].get("compile")),
        limit(record),
        f"{mebibytes(record.get('peak_bytes'))} / {mebibytes(eager.get('peak_bytes'))}",
    ]


def overhead_row(record: Record) -> list[str]:
    eager, compiled = record["baselines"]["eager"], record["baselines"].get("compile", {})
    return [
        f"{record['op']} {record['case']}",
        f"{record['device']} {record['backend']}",
        duration(median(record["seconds"])),
        duration(eager["seconds"]),
        f"{(median(record['seconds']) - eager['seconds']) * 1e6:+.1f} us",
        duration(compiled["seconds"]) if "seconds" in compiled else "-",
    ]


def ratio(baseline: dict[str, Any] | None) -> str:
    if baseline is None or "skipped" in baseline:
        return missing(baseline)
    lower, middle, upper = baseline["ratio"]
    return f"{middle:.2f}x ({lower:.2f}-{upper:.2f})"


def missing(baseline: dict[str, Any] | None) -> str:
    """What stands in place of a ratio: one line below the tables has a longer reason."""
    is_short = baseline is not None and baseline["skipped"] == OUT_OF_MEMORY
    return OUT_OF_MEMORY if is_short else "-"


def limit(record: Record) -> str:
    """The share of the limit that a case is measured beside, and of the processor's peak."""
    if PEAK_SHARES in record:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in record[PEAK_SHARES].items())
        return f"of the peak: {shares}"
    if "limit" not in record:
        return "-"
    measured = record["limit"]
    rate = f"{measured['name']} at {measured['rate']:.3g} {measured['unit']}"
    peak = f", {measured['share_of_peak']:.0%} of the peak" if "share_of_peak" in measured else ""
    return f"{median(measured['share']):.0%} of {rate}{peak}"


def limits(result: Result) -> list[list[str]]:
    """A table of what the machine does at best, a column a number of threads; empty without any."""
    by_threads: dict[str, dict[str, Any]] = result.get("limits", {})
    if not by_threads:
        return []
    names = dict.fromkeys(name for measured in by_threads.values() for name in measured)
    heading = ["limit", *map(threads, by_threads)]
    return [
        heading,
        *(
            [name, *(rate(measured.get(name)) for measured in by_threads.values())]
            for name in names
        ),
    ]


def threads(count: str) -> str:
    """What limits are of: a number of threads, or a GPU."""
    return f"{count} thread" + "s" * (count != "1") if count.isdigit() else count


def rate(measured: dict[str, Any] | None) -> str:
    return "-" if measured is None else f"{measured['rate']:.3g} {measured['unit']}"


def median(spread: Spread) -> float:
    return spread[1]


def duration(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-4 else f"{seconds * 1e6:.1f} us"


def states(rate: float | None) -> str:
    return "" if rate is None else f", {rate / 1e9:.3g} G states/s"


def mebibytes(count: int | None) -> str:
    return "-" if count is None else f"{count / 2**20:.1f}"


def missing_numbers(result: Result) -> list[str]:
    """Why a number is not there: each failed case, and each reason that skipped a baseline."""
    reasons = {
        f"{name}, {baseline['skipped']}"
        for record in result["cases"]
        for name, baseline in record["baselines"].items()
        if "skipped" in baseline and baseline["skipped"] != OUT_OF_MEMORY
    }
    return [f"{name} failed" for name in result["failed"]] + sorted(reasons)


def table(rows: list[list[str]]) -> str:
    """An aligned Markdown table; the first row is its heading."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python benchmarks/report.py RESULT.json")
    print(render_dated(read(Path(sys.argv[1]))), end="")
