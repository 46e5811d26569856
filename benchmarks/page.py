"""One HTML page of one run or of several side by side, which opens from disk without a network:
``python benchmarks/page.py RESULT.json... > report.html``."""

import math
import re
import sys
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import TypeVar

import explanations
import growth
import report
import targets
from results import (
    OUT_OF_MEMORY,
    PEAK_SHARES,
    Record,
    Result,
    label,
    ratios,
    read,
    setting_of,
    worst,
)

TEMPLATE = Path(__file__).with_name("page.html")
COLORS = {"aefast": "#0b8a6f", "eager": "#8b98a5", "compile": "#c7b3e0"}
# What people take the package for has its maps first.
TRAINING = ("fit", "step")
# A bar's height, the gap below it, and the drawing's width, in pixels.
BAR, GAP, WIDTH = 6, 2, 160

Key = tuple[str, str, str]
T = TypeVar("T")


def render(results: Sequence[Result]) -> str:
    """The page; the machines stand beside each other in the order of ``results``."""
    results = merged(results)
    return Template(TEMPLATE.read_text()).substitute(
        COLORS,
        loss=color(0.5),
        win=color(2.0),
        noise=color(1 - explanations.NOISE),
        heat_maps="\n".join(heat_maps(results)),
        targets=target_table(results),
        losses=loss_list(results),
        cases=case_table(results),
        overheads=overhead_tables(results),
        growth=growth_tables(results),
        machines="\n".join(map(machine, results)),
    )


def merged(results: Sequence[Result]) -> list[Result]:
    """Runs of one machine as one result, unless they share a case: then they are compared."""
    machines: list[list[Result]] = []
    for result in results:
        for runs in machines:
            is_same = label(runs[0]["machine"]) == label(result["machine"])
            if is_same and all(keys_of(result).isdisjoint(keys_of(run)) for run in runs):
                runs.append(result)
                break
        else:
            machines.append([result])
    return [joined(runs) for runs in machines]


def joined(runs: Sequence[Result]) -> Result:
    """Runs of one machine as one result, with the limits of the first run that measured them."""
    return {
        **runs[0],
        "origins": unique(map(report.origin, runs)),
        "failed": [name for run in runs for name in run["failed"]],
        "limits": next((run["limits"] for run in runs if run["limits"]), {}),
        "cases": [case for run in runs for case in run["cases"]],
    }


def heat_maps(results: Sequence[Result]) -> Iterable[str]:
    """A map an op, its machines side by side."""
    shaped = [[case for case in timed(result) if "shape" in case] for result in results]
    measured = unique(case["op"] for cases in shaped for case in cases)
    for op in sorted(measured, key=lambda op: op not in TRAINING):
        of_op = [[case for case in cases if case["op"] == op] for cases in shaped]
        batches = sorted({case["shape"][0] for cases in of_op for case in cases})
        maps = "".join(
            heat_map([case for case in cases if case["device"] == device], batches, caption)
            for cases, result in zip(of_op, results, strict=True)
            for device, caption in captions(cases, result)
        )
        summary = f"<summary>{escape(op)}</summary>"
        yield f'<details open>{summary}<div class="beside">{maps}</div></details>'


def captions(cases: Iterable[Record], result: Result) -> Iterable[tuple[str, str]]:
    """The devices that a machine's cases ran on, each with its map's caption."""
    for device in unique(case["device"] for case in cases):
        machine = label(result["machine"])
        yield device, f"{machine}: {device.upper()}" if result["machine"]["gpus"] else machine


def heat_map(cases: list[Record], batches: list[int], caption: str) -> str:
    heading = "".join(f"<th>{batch}</th>" for batch in batches)
    rows = [f"<tr><th>batch</th>{heading}</tr>"]
    for setting in unique(setting_of(case["case"]) for case in cases):
        of_setting = [case for case in cases if setting_of(case["case"]) == setting]
        span = len(batches) + 1
        rows.append(f'<tr><th class="setting" colspan="{span}">{escape(setting)}</th></tr>')
        for widths in sorted({tuple(case["shape"][1:]) for case in of_setting}):
            by_batch = {case["shape"][0]: case for case in of_setting if fits(case, widths)}
            cells = "".join(heat_cell(by_batch.get(batch)) for batch in batches)
            rows.append(f"<tr><th>{'-'.join(map(str, widths))}</th>{cells}</tr>")
    body = f"<caption>{escape(caption)}</caption>" + "\n".join(rows)
    return f'<div class="wide"><table class="map">{body}</table></div>'


def heat_cell(case: Record | None) -> str:
    if case is None:
        return '<td class="none"></td>'
    against = [f"{name} {report.ratio(times)}" for name, times in ratios(case).items()]
    title = escape("; ".join([report.duration(report.median(case["seconds"])), *against]))
    ratio = worst(case)
    if math.isinf(ratio):
        return f'<td title="{title}">{OUT_OF_MEMORY}</td>'
    return f'<td style="{color(ratio)}" title="{title}">{short(ratio)}</td>'


def color(ratio: float) -> str:
    """Red below 1, pale where it is noise, green above, the deeper the farther: four times either
    way is the deepest."""
    depth = min(1.0, abs(math.log2(ratio)) / 2)
    if ratio >= 1:
        hue, saturation, lightness = 150, 45, 92 - 28 * depth
    elif ratio >= 1 - explanations.NOISE:
        hue, saturation, lightness = 6, 70, 95.0
    else:
        hue, saturation, lightness = 6, 90, 82 - 20 * depth
    return f"background:hsl({hue} {saturation}% {lightness:.0f}%)"


def loss_list(results: Sequence[Result]) -> str:
    """The cases that are slower than a baseline, a machine after the other, by their cause."""
    parts = []
    for result in results:
        causes = explanations.losses(result)
        items = "".join(
            f"<li>{escape(cause or 'No cause was found.')}<details><summary>{len(cases)} "
            f"case{'s' * (len(cases) > 1)}</summary>{'<br>'.join(map(loss_line, cases))}"
            "</details></li>"
            for cause, cases in causes.items()
        )
        if items:
            heading = f'<h3 class="faint">{escape(label(result["machine"]))}</h3>'
            parts.append(f'{heading}<ul class="causes">{items}</ul>')
    if not parts:
        return ""
    return "<h2>Where it is slower, and why</h2>" + "".join(parts)


def loss_line(case: Record) -> str:
    return escape(f"{short(worst(case))}: {case['op']} {case['case']}")


def target_table(results: Sequence[Result]) -> str:
    """What was asked of the first release: a row a target, a column a machine."""
    machines = targets.verdicts(results)
    if not machines:
        return ""
    names = "".join(f"<th>{escape(machine)}</th>" for machine in machines)
    rows = [f"<tr><th></th><th>asked</th>{names}</tr>"]
    group = ""
    for verdicts in zip(*machines.values(), strict=True):
        target = verdicts[0].target
        if target.group != group:
            group = target.group
            span = len(machines) + 2
            rows.append(f'<tr><th class="setting" colspan="{span}">{coded(group)}</th></tr>')
        short_of = any(verdict.is_short for verdict in verdicts)
        why = f"<details><summary>why</summary>{coded(target.why)}</details>" if short_of else ""
        cells = "".join(map(target_cell, verdicts))
        asked = escape(target.heading())
        rows.append(f"<tr><th>{coded(target.words)}{why}</th><td>{asked}</td>{cells}</tr>")
    reached = "; ".join(f"{machine}: {tally(found)}" for machine, found in machines.items())
    explained = (
        "<p>How many times as fast as plain PyTorch, or as the peer that is named, the first "
        "release was to be, on a processor with AVX2 / with AVX-512. Of several cases the worst "
        "counts.</p>"
        f"<p>Reached: {escape(reached)}. A dash was not measured.</p>"
    )
    body = f'<div class="wide"><table class="targets">{"".join(rows)}</table></div>'
    return f"<h2>What was asked</h2>{explained}{body}"


def target_cell(verdict: targets.Verdict) -> str:
    """Red where it is less than asked, the deeper the less."""
    if verdict.value is None:
        return '<td class="faint">-</td>'
    share = verdict.value / verdict.asked
    style = color(share if verdict.target.measure.is_floor else 1 / share)
    return f'<td style="{style}">{escape(verdict.shown())}</td>'


def tally(found: Sequence[targets.Verdict]) -> str:
    measured = [verdict for verdict in found if verdict.value is not None]
    return f"{sum(verdict.is_reached for verdict in measured)} of {len(measured)}"


def coded(words: str) -> str:
    """Words as HTML, what stands between backticks as code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(words))


def case_table(results: Sequence[Result]) -> str:
    """Every timed case, a machine's columns beside the other's."""
    columns = ["time", "&times; eager", "&times; compile", "memory", "of the limit"]
    names = "".join(
        f'<th class="first" colspan="{len(columns)}">{escape(label(result["machine"]))}</th>'
        for result in results
    )
    headings = "".join(
        f'<th data-by="{1 + index}"{first(index % len(columns))}>{name}</th>'
        for index, name in enumerate(columns * len(results))
    )
    tables = [{key_of(case): case for case in timed(result)} for result in results]
    rows = [
        f"<tr>{name_cell(key)}{''.join(case_cells(cases.get(key)) for cases in tables)}</tr>"
        for key in unique(key for cases in tables for key in cases)
    ]
    return table(f"<tr><th></th>{names}</tr>", headings, rows, "wide tall")


def first(column: int) -> str:
    """What draws a line before a machine's columns."""
    return "" if column else ' class="first"'


def case_cells(case: Record | None) -> str:
    """Time, ratios, peak memory and share of the limit on one machine."""
    if case is None:
        return f'<td class="first" data-value=""></td>{4 * "<td data-value=></td>"}'
    seconds = report.median(case["seconds"])
    share = limit_share(case) or ""
    limit = f"<small>{escape(report.limit(case))}</small>"
    return (
        f'<td class="first" data-value="{seconds}">{report.duration(seconds)}</td>'
        + "".join(ratio_cell(case["baselines"].get(name)) for name in ("eager", "compile"))
        + memory_cell(case)
        + f'<td class="bars" data-value="{share}">{bars(case)}{limit}</td>'
    )


def limit_share(case: Record) -> float | None:
    """How much of what this machine does at best a case reaches."""
    if PEAK_SHARES in case:
        return case[PEAK_SHARES]["aefast"]
    return case["limit"]["share"][1] if "limit" in case else None


def memory_cell(case: Record) -> str:
    """The most that a call held beyond its inputs, and eager PyTorch's, in MiB."""
    ours, theirs = (side.get("peak_bytes") for side in (case, case["baselines"]["eager"]))
    if ours is None:
        return '<td data-value="">-</td>'
    eager = report.mebibytes(theirs)
    return f'<td data-value="{ours}">{report.mebibytes(ours)}<br><small>{eager}</small></td>'


def ratio_cell(baseline: Record | None) -> str:
    if baseline is None or "skipped" in baseline:
        return f'<td data-value="">{report.missing(baseline)}</td>'
    lower, middle, upper = baseline["ratio"]
    loss = ' class="loss"' if middle < 1 else ""
    quartiles = f"({short(lower)}&ndash;{short(upper)})"
    return (
        f'<td data-value="{middle}"><span{loss}>{short(middle)}</span>'
        f"<br><small>{quartiles}</small></td>"
    )


def bars(case: Record) -> str:
    """The contenders' speeds, and as a line the limit's."""
    speeds = {"aefast": 1.0} | {name: 1 / times["ratio"][1] for name, times in ratios(case).items()}
    share = limit_share(case)
    limit = 1 / share if share else 0.0
    scale = (WIDTH - 2) / max(*speeds.values(), limit)
    height = len(speeds) * (BAR + GAP)
    drawn = "".join(
        f'<rect y="{row * (BAR + GAP)}" width="{speed * scale:.1f}" height="{BAR}"'
        f' fill="{COLORS[name]}"/>'
        for row, (name, speed) in enumerate(speeds.items())
    )
    if limit:
        x = f"{limit * scale:.1f}"
        drawn += f'<line x1="{x}" x2="{x}" y2="{height}" stroke="#000" stroke-width="1.5"/>'
    return f'<svg viewBox="0 0 {WIDTH} {height}">{drawn}</svg>'


def overhead_tables(results: Sequence[Result]) -> str:
    """What a small call costs more than eager PyTorch's, a table a machine."""
    tables = []
    for result in results:
        rows = [
            f"<tr>{name_cell(key_of(case))}"
            + "".join(f"<td data-value={value}>{value:.1f}</td>" for value in overhead(case))
            + "</tr>"
            for case in result["cases"]
            if case["overhead"]
        ]
        if rows:
            names = ("aefast", "eager", "difference")
            headings = "".join(f'<th data-by="{1 + n}">{name}</th>' for n, name in enumerate(names))
            caption = f'<h3 class="faint">{escape(label(result["machine"]))}</h3>'
            tables.append(f"<div>{caption}{table('', headings, rows)}</div>")
    if not tables:
        return ""
    heading = "<h2>What a small call costs</h2><p>In microseconds.</p>"
    return f'{heading}<div class="beside">{"".join(tables)}</div>'


def growth_tables(results: Sequence[Result]) -> str:
    """The exponents of cost, a table a machine."""
    tables = []
    for result in results:
        rows = [
            f'<tr><td class="case" data-value="{escape(name)}">{escape(name)}</td>'
            + "".join(f'<td data-value="{escape(cell.rstrip("x"))}">{cell}</td>' for cell in cells)
            + f'<td class="why" data-value="{escape(why)}">{escape(why)}</td></tr>'
            for name, *cells, why in growth.rows(result)
        ]
        if rows:
            headings = "".join(
                f'<th data-by="{1 + number}">{name}</th>'
                for number, name in enumerate(growth.HEADING[1:])
            )
            caption = f'<h3 class="faint">{escape(label(result["machine"]))}</h3>'
            tables.append(f"<div>{caption}{table('', headings, rows)}</div>")
    if not tables:
        return ""
    explained = f"<h2>How cost grows</h2><p>{escape(report.GROWTH)}</p>"
    return f'{explained}<div class="beside">{"".join(tables)}</div>'


def overhead(case: Record) -> tuple[float, float, float]:
    """Microseconds of ours and of eager PyTorch's, and their difference."""
    ours, eager = 1e6 * case["seconds"][1], 1e6 * case["baselines"]["eager"]["seconds"]
    return ours, eager, ours - eager


def machine(result: Result) -> str:
    """What a number depends on, and the cases without one."""
    hardware = result["machine"]
    cases = [worst(case) for case in timed(result)]
    facts = {
        "processor": hardware["cpu"],
        "threads": f"{hardware['threads']} of {hardware.get('cores', '?')} cores",
        "instruction set": f"{hardware['cpu_isa']} (torch: {hardware['torch_cpu_capability']})",
        "GPUs": ", ".join(hardware["gpus"]) or "none",
        **limits(result),
        "versions": ", ".join(f"{name} {v or '-'}" for name, v in hardware["versions"].items()),
        "measured": "; ".join(result["origins"]),
        "losses": f"{sum(ratio < 1 for ratio in cases)} of {len(cases)} cases",
        "no number": "; ".join(report.missing_numbers(result)) or "none",
    }
    listed = "".join(f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in facts.items())
    return f"<div><h3>{escape(label(hardware))}</h3><dl>{listed}</dl></div>"


def limits(result: Result) -> dict[str, str]:
    """What the machine does at best, under a name that says on how many threads."""
    if not (lines := report.limits(result)):
        return {}
    (_, *threads), *rows = lines
    rates = (f"{name} {', '.join(rates)}" for name, *rates in rows)
    return {f"limits, {', '.join(threads)}": "; ".join(rates)}


def table(above: str, headings: str, rows: list[str], scrolls: str = "wide") -> str:
    """One that sorts by a click; its first column are the cases' names."""
    head = f'<thead>{above}<tr><th class="case" data-by="0">case</th>{headings}</tr></thead>'
    body = head + "<tbody>" + "\n".join(rows) + "</tbody>"
    return f'<div class="{scrolls}"><table class="sorted-by-click">{body}</table></div>'


def name_cell(key: Key) -> str:
    name = escape(" ".join(key[:2]))
    return f'<td class="case" data-value="{name}">{name}</td>'


def timed(result: Result) -> list[Record]:
    return [case for case in result["cases"] if not case["overhead"]]


def key_of(case: Record) -> Key:
    return case["op"], case["case"], case["device"]


def keys_of(result: Result) -> set[Key]:
    return {key_of(case) for case in result["cases"]}


def fits(case: Record, widths: tuple[int, ...]) -> bool:
    return tuple(case["shape"][1:]) == widths


def short(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 9.995 else f"{ratio:.3g}"


def unique(items: Iterable[T]) -> list[T]:
    """Each once, in the order of their first appearance."""
    return list(dict.fromkeys(items))


if __name__ == "__main__":
    if len(sys.argv) == 1:
        sys.exit("usage: python benchmarks/page.py RESULT.json... > report.html")
    print(render([read(Path(argument)) for argument in sys.argv[1:]]))
