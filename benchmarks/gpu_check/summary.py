"""Sums up a check's results in forty lines, also if the check was killed."""

from collections.abc import Iterator

from gpu_check.journal import Line
from gpu_check.process import NOT_RUN, PASSED

MOST_LINES, WIDTH = 40, 118
MOST_FAILURES = 10


def text(lines: list[Line]) -> str:
    """At most forty lines: the failures first, then what was measured."""
    if not lines:
        return "no results"
    whole = any(line.get("end") for line in lines)
    parts = [
        *machine(lines),
        *verdicts(lines),
        *failures(lines),
        *not_run(lines),
        *([] if whole else ["The check did not reach its end; this is what was done."]),
        *speeds(lines),
        *reasons(lines),
    ]
    if len(parts) > MOST_LINES:
        left = len(parts) - MOST_LINES + 1
        parts = [*parts[: MOST_LINES - 1], f"... and {left} more lines in results.jsonl"]
    return "\n".join(part[:WIDTH] for part in parts)


def is_well(lines: list[Line]) -> bool:
    """Whether the check came to its end, and nothing failed on the way."""
    return any(line.get("end") for line in lines) and not [*failed(lines), *not_run(lines)]


def cases(lines: list[Line], stage: str) -> list[Line]:
    return [line for line in lines if line["stage"] == stage and "case" in line]


def machine(lines: list[Line]) -> Iterator[str]:
    """The GPU, the versions, and what it does at best."""
    for line in cases(lines, "limits"):
        if "machine" in line:
            description = line["machine"]
            versions = ", ".join(
                f"{name} {number}" for name, number in description["versions"].items()
            )
            yield f"{', '.join(description['gpus']) or description['cpu']}; {versions}"
    rates = [
        f"{line['case']} {line['rate']:.4g} {line['unit']}"
        for line in cases(lines, "limits")
        if "rate" in line
    ]
    if rates:
        yield "limits: " + ", ".join(rates)


def verdicts(lines: list[Line]) -> Iterator[str]:
    """A line a stage: cases, failures, and jobs that did not come to their end."""
    for stage in dict.fromkeys(line["stage"] for line in lines if line["stage"] != "check"):
        outcomes = cases(lines, stage)
        jobs = [line for line in lines if line["stage"] == stage and "ending" in line]
        passed = sum("failed" not in case for case in outcomes)
        ended = sum(job["ending"] == PASSED for job in jobs)
        seconds = sum(job["seconds"] for job in jobs)
        yield (
            f"{stage}: {passed} of {len(outcomes)} cases passed, {ended} of {len(jobs)} "
            f"processes ended well, {seconds:.0f} s of processes"
        )


def failures(lines: list[Line]) -> Iterator[str]:
    messages = list(failed(lines))
    yield from messages[:MOST_FAILURES]
    if len(messages) > MOST_FAILURES:
        yield f"... and {len(messages) - MOST_FAILURES} more failures"


def failed(lines: list[Line]) -> Iterator[str]:
    """The failures; crashed processes come first."""
    for line in lines:
        if line.get("ending", PASSED) not in (PASSED, NOT_RUN):
            yield f"FAILED {line['stage']} {line['job']}: {line['ending']}"
    for line in lines:
        if "failed" in line:
            yield f"FAILED {line['stage']} {line['job']}: {line['case']}: {line['failed']}"


def not_run(lines: list[Line]) -> Iterator[str]:
    """A line for each stage whose time was over."""
    left: dict[str, list[str]] = {}
    for line in lines:
        if line.get("ending") == NOT_RUN:
            left.setdefault(line["stage"], []).append(line["job"])
    for stage, jobs in left.items():
        yield f"no time was left in {stage} for {len(jobs)}: {', '.join(jobs)}"


def speeds(lines: list[Line]) -> Iterator[str]:
    """Microseconds of a call, and the others' as multiples of them."""
    for line in cases(lines, "speed"):
        if "seconds" not in line:
            continue
        ours = line["seconds"]["aefast"]
        ratios = [
            f"{name} {spread[1]:.2f}x" for name, spread in line["ratio"].items() if name != "limit"
        ]
        share = line["ratio"].get("limit")
        ratios += [f"{share[1]:.0%} of the limit"] if share else []
        yield f"{1e6 * ours:10.1f} us  {line['case']}: {', '.join(ratios)}"


def reasons(lines: list[Line]) -> Iterator[str]:
    """Launches and the host's time of a call."""
    for line in cases(lines, "profiles"):
        if "host_us" in line:
            yield (
                f"{line['host_us']:10.1f} us of host, {line['launches']:.0f} launches, "
                f"{line['gpu_us']:.1f} us of GPU: {line['case']}"
            )
        elif "microseconds" in line:
            times = ", ".join(f"{name} {us:.1f}" for name, us in line["microseconds"].items())
            yield f"{line['case']}: {times}"
