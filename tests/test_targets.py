"""The targets of the first release: each names cases that the benchmark suite has, and is judged by
its measure."""

import copy
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aefast import cli

ROOT = Path(__file__).parents[1]
SUITE = ROOT / "benchmarks"
sys.path.insert(0, str(SUITE))

page = importlib.import_module("page")
readme = importlib.import_module("readme")
report = importlib.import_module("report")
results = importlib.import_module("results")
targets = importlib.import_module("targets")

MACHINE = {
    "versions": {},
    "cpu": "Some CPU",
    "cpu_isa": "avx2",
    "torch_cpu_capability": "AVX2",
    "threads": 2,
    "gpus": [],
}


def case_of(name: str, ratio: float, **changes: Any) -> dict[str, Any]:
    return {
        "op": "fit",
        "case": name,
        "device": "cpu",
        "backend": "cpp",
        "threads": 2,
        "overhead": False,
        "seconds": [0.01, 0.02, 0.03],
        "baselines": {"eager": {"seconds": 0.04, "ratio": [ratio] * 3}},
        **changes,
    }


def result_of(*cases: dict[str, Any], instruction_set: str = "avx2") -> dict[str, Any]:
    return {
        "measured": "2026-01-02",
        "commit": "0123456789",
        "local_changes": False,
        "machine": {**MACHINE, "cpu_isa": instruction_set},
        "failed": [],
        "limits": {},
        "cases": list(cases),
    }


TWO = targets.Target("group", "both", "fit", ("a 1x2-3", "b 1x2-3"), 2, 3, why="Because.")


def test_the_worst_of_a_targets_cases_counts_and_all_have_to_be_there() -> None:
    first, second = case_of("a 1x2-3", 2.5), case_of("b 1x2-3", 4.0)
    assert TWO.measured([result_of(first), result_of(second)]) == 2.5
    assert TWO.measured([result_of(first)]) is None
    assert TWO.measured([result_of(first, {**second, "op": "step"})]) is None


def test_the_asked_figure_is_the_instruction_sets() -> None:
    assert [TWO.asked(name) for name in ("avx2", "avx512", "amx")] == [2, 3, 3]
    assert TWO.heading() == "2.00x / 3.00x"
    one = targets.Target("group", "words", "fit", ("a",), 0.05, measure=targets.SECONDS)
    assert one.asked("avx512") == 0.05
    assert one.heading() == "at most 50 ms"


@pytest.mark.parametrize(
    ("measure", "asked", "value", "is_reached"),
    [
        (targets.RATIO, 2, 2.0, True),
        (targets.RATIO, 2, 1.99, False),
        (targets.SECONDS, 0.05, 0.05, True),
        (targets.SECONDS, 0.05, 0.051, False),
        (targets.RUNS, 1, 1.0, True),
        (targets.OVER_LIMIT, 1.9, 1.8, True),
        (targets.OVER_LIMIT, 1.9, 2.0, False),
    ],
)
def test_a_target_is_a_floor_or_a_ceiling(
    measure: Any, asked: float, value: float, is_reached: bool
) -> None:
    target = targets.Target("group", "words", "fit", ("a",), asked, measure=measure)
    verdict = targets.Verdict(target, value, asked)
    assert (verdict.is_reached, verdict.is_short) == (is_reached, not is_reached)
    assert (" of " in verdict.shown()) is not is_reached
    assert targets.Verdict(target, None, asked).shown() == "-"


def test_a_case_with_counted_products_gets_each_contenders_share_of_the_peak() -> None:
    limits = {"2": {results.PEAK: {"rate": 0.1, "unit": "TFLOP/s"}}}
    case = case_of("plain 1x2-3", 2.0, operations=1.5e9)
    shares = results.with_share_of_peak(case, limits)[results.PEAK_SHARES]
    assert shares == {"eager": 0.375, "aefast": 0.75}
    assert targets.share_of_peak({**case, results.PEAK_SHARES: shares}) == 0.75
    assert report.limit({results.PEAK_SHARES: shares}) == "of the peak: eager 38%, aefast 75%"
    assert results.PEAK_SHARES not in results.with_share_of_peak(case, {})
    assert targets.share_of_peak(case) is None


def test_the_report_and_the_pages_show_what_is_asked_and_why_it_is_less(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(targets, "TARGETS", (TWO,))
    measured = result_of(case_of("a 1x2-3", 1.5), case_of("b 1x2-3", 4.0))
    better = copy.deepcopy(measured)
    better["machine"]["cpu"] = "Other CPU"
    better["cases"][0]["baselines"]["eager"]["ratio"] = [2.5] * 3
    text = report.render(measured)
    row = next(line for line in text.splitlines() if line.startswith("| both"))
    assert [cell.strip() for cell in row.split("|")[1:-1]] == [
        *("both", "2.00x", "1.50x of 2.00x", "short")
    ]
    assert "\n\nBecause.\n" in text
    assert "Because." not in report.render(better)
    html = page.target_table([measured, better])
    assert f'<td style="{page.color(0.75)}">1.50x of 2.00x</td>' in html
    assert f'<td style="{page.color(1.25)}">2.50x</td>' in html
    assert "Other CPU, 2 threads, AVX2: 1 of 1" in html
    assert "Because." in html
    (*_, last) = readme.target_table([measured, better]).splitlines()
    assert last.split("|")[-3].strip() == "**1.50x of 2.00x**"
    assert readme.reasons([measured, better]) == "- Because.\n  - group: both"
    assert readme.reasons([better]) == ""
    assert page.target_table([result_of()]) == ""


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> set[tuple[str, str]]:
    """The op and the name of each of the suite's cases on a CPU, of the targets' files."""
    names = tmp_path_factory.mktemp("named") / "cases"
    files = cli.bench.benchmarks(SUITE)
    ops = {target.op for target in targets.TARGETS if target.device == "cpu"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += ["-p", "tests.named_cases", "-c", os.devnull, "--rootdir", str(SUITE)]
    command += ["--device", "cpu", *sorted({str(files[op]) for op in ops} | MORE_FILES)]
    environment = os.environ | {"NAMED_CASES": str(names), "PYTHONPATH": str(ROOT)}
    completed = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert completed.returncode == 0, completed.stdout[-2000:]
    pairs = (line.split("\t") for line in names.read_text().splitlines())
    return {(op, name) for op, name, _ in pairs}


# Files whose cases are another file's op.
MORE_FILES = {str(SUITE / f"bench_{name}.py") for name in ("busy", "numba")}
# Libraries that are left out of a plain installation of the tests: their cases cannot be named.
PEERS = ("rbms", "pyod", "trainer's step")


def test_every_target_names_cases_of_the_suite(named: set[tuple[str, str]]) -> None:
    asked = {
        (target.op, name)
        for target in targets.TARGETS
        for name in target.cases
        if target.device == "cpu" and not any(peer in name for peer in PEERS)
    }
    assert asked - named == set()


@pytest.mark.parametrize("target", targets.UNTIMED_TARGETS, ids=lambda target: target.words)
def test_what_no_case_measures_is_found_by_a_file_and_shown(target: Any) -> None:
    assert (ROOT / target.by).is_file()
    page = (ROOT / "aefast/docs/targets.md").read_text()
    assert f"{target.group}: {target.words}" in page


def test_every_function_has_a_case() -> None:
    functional = importlib.import_module("aefast.functional")
    measured = "\n".join(path.read_text() for path in SUITE.glob("bench_*.py"))
    unmeasured = [n for n in functional.__all__ if not re.search(rf"\b{n}\b", measured)]
    assert unmeasured == []
