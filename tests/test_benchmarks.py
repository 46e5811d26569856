"""The benchmark harness: its statistics, order of turns, correctness checks and report."""

import copy
import importlib
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests import fresh

SUITE = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(SUITE))

harness = importlib.import_module("harness")
memory = importlib.import_module("memory")
comparison = importlib.import_module("comparison")
explanations = importlib.import_module("explanations")
growth = importlib.import_module("growth")
page = importlib.import_module("page")
readme = importlib.import_module("readme")
report = importlib.import_module("report")
results = importlib.import_module("results")
selection = importlib.import_module("selection")
shapes = importlib.import_module("shapes")
bench_busy = importlib.import_module("bench_busy")
bench_corrupt = importlib.import_module("bench_corrupt")
bench_distributed = importlib.import_module("bench_distributed")
bench_linear_act = importlib.import_module("bench_linear_act")
bench_contractive = importlib.import_module("bench_contractive")
bench_rbm = importlib.import_module("bench_rbm")
bench_topk = importlib.import_module("bench_topk")
bench_reconstruction = importlib.import_module("bench_reconstruction")
bench_step = importlib.import_module("bench_step")

MACHINE = {
    "versions": {"aefast": "0.1.0", "torch": "2.13.0", "triton": None},
    "cpu": "Some CPU",
    "cpu_isa": "avx512",
    "torch_cpu_capability": "AVX512",
    "threads": 2,
    "gpus": ["Some GPU"],
}
LOST = {
    "op": "corrupt",
    "case": "masking 4096x784",
    "shape": [4096, 784],
    "device": "cpu",
    "backend": "cpp",
    "overhead": False,
    "seconds": [1.9e-3, 2e-3, 2.2e-3],
    "peak_bytes": 12 * 2**20,
    "baselines": {
        "eager": {
            "seconds": 1e-3,
            "ratio": [0.45, 0.5, 0.55],
            "peak_bytes": 24 * 2**20,
        },
        "compile": {"skipped": "no C++ compiler"},
    },
    "limit": {"name": "copy", "rate": 12.5, "unit": "GB/s", "share": [0.6, 0.625, 0.65]},
}
OVERHEAD = {
    **LOST,
    "case": "masking 8x8",
    "overhead": True,
    "seconds": [7e-6, 7.5e-6, 8e-6],
    "baselines": {
        "eager": {"seconds": 5e-6, "ratio": [0.4, 0.5, 0.6]},
        "compile": {"seconds": 16e-6, "ratio": [2.0, 2.1, 2.2]},
    },
}
RESULT = {
    "measured": "2026-01-02",
    "commit": "0123456789",
    "local_changes": True,
    "machine": MACHINE,
    "failed": [],
    "limits": {},
    "cases": [LOST, OVERHEAD],
}


class FakeBenchmark:
    """The part of pytest-benchmark's fixture that the harness uses; a round takes one second."""

    disabled = False

    def __init__(self) -> None:
        self.stats = SimpleNamespace(stats=SimpleNamespace(data=[]))

    def pedantic(
        self, target: Callable[[], object], setup: Callable[[], None], rounds: int
    ) -> None:
        for _ in range(rounds):
            setup()
            target()
            self.stats.stats.data.append(1.0)


def make_case(**changes: Any) -> Any:
    case = {
        "op": "op",
        "name": "name",
        "device": "cpu",
        "dtype": torch.float32,
        "make_inputs": lambda: (torch.ones(4),),
        "ours": torch.neg,
        "eager": torch.neg,
        "check": lambda: None,
    }
    return harness.Case(**{**case, **changes})


def test_the_ratio_is_paired_round_by_round() -> None:
    ours, theirs = [1.0, 2.0, 4.0, 8.0, 1.0], [2.0, 4.0, 8.0, 16.0, 5.0]
    spread = harness.paired_ratio(theirs, ours)
    assert spread == {"median": 2.0, "lower_quartile": 2.0, "upper_quartile": 2.0}


def test_the_quartiles_are_those_of_the_ratios() -> None:
    spread = harness.paired_ratio([1.0, 2.0, 3.0, 4.0, 5.0], [1.0] * 5)
    assert spread == {"median": 3.0, "lower_quartile": 2.0, "upper_quartile": 4.0}


def test_the_contenders_take_turns() -> None:
    turns: list[str] = []
    runs = {name: (lambda name=name: turns.append(name)) for name in ("aefast", "eager", "limit")}
    times = harness.take_turns(runs, FakeBenchmark(), seconds=0.0)
    rounds = len(times["aefast"])
    assert rounds in harness.FEWEST_ROUNDS.values()
    assert turns[3:] == ["eager", "limit", "aefast"] * rounds
    assert {name: len(series) for name, series in times.items()} == dict.fromkeys(runs, rounds)


@pytest.mark.parametrize(
    ("cycle", "rounds"), [(1e-6, 501), (0.01, 50), (0.05, 11), (0.1, 5), (0.9, 5), (1.0, 3)]
)
def test_slow_calls_are_timed_in_fewer_rounds(cycle: float, rounds: int) -> None:
    assert harness.rounds_of(cycle, seconds=0.5) == rounds


def test_a_wrong_kernel_is_never_timed() -> None:
    def wrong() -> None:
        raise AssertionError("wrong")

    benchmark = FakeBenchmark()
    with pytest.raises(AssertionError, match="wrong"):
        harness.race(make_case(check=wrong), benchmark, seconds=0.0)
    assert benchmark.stats.stats.data == []


def test_a_race_records_ratios_and_the_share_of_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda layer, mode: layer)
    limit = harness.Limit("copy", torch.clone, work=32.0, unit="GB/s")
    record = harness.race(make_case(limit=limit), FakeBenchmark(), seconds=0.0)
    assert record["rounds"] in harness.FEWEST_ROUNDS.values()
    assert record["seconds"] == 1.0
    for baseline in ("eager", "compile"):
        times = record["baselines"][baseline]
        assert times["ratio"]["median"] == times["seconds"]  # over our one second
    assert record["limit"]["share"]["median"] < 1
    assert record["limit"]["rate"] == pytest.approx(32e-9 / record["limit"]["share"]["median"])


def test_a_peers_function_is_not_compiled_and_states_are_counted() -> None:
    case = make_case(compiles=False, states=3 * 10**9)
    record = harness.race(case, FakeBenchmark(), seconds=0.0)
    assert set(record["baselines"]) == {"eager"}
    assert record["states_per_second"] == 3e9
    row = report.case_row({**LOST, **results.record(record, {"q1": 0.9, "median": 1, "q3": 1.1})})
    assert "3 G states/s" in row[2]
    assert row[4] == "-"


def test_a_compiler_that_fails_leaves_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(*_: object) -> None:
        raise RuntimeError("no g++ here\nand a long trace")

    monkeypatch.setattr(torch, "compile", lambda layer, mode: no_compiler)
    record = harness.race(make_case(), FakeBenchmark(), seconds=0.0)
    assert record["baselines"]["compile"] == {"skipped": "no g++ here"}
    assert "ratio" in record["baselines"]["eager"]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError])
def test_a_baseline_that_takes_too_much_memory_has_a_row_that_says_so(error: Any) -> None:
    def too_large(*_: object) -> None:
        raise error("CUDA out of memory")

    case = make_case(eager=too_large, compiles=False)
    record = harness.race(case, FakeBenchmark(), seconds=0.0)
    assert record["baselines"] == {"eager": {"skipped": "out of memory"}}
    kept = results.record(record, {"q1": 0.9, "median": 1, "q3": 1.1}) | {"shape": [1, 2, 3]}
    assert report.case_row(kept)[3] == "out of memory"
    result = {**RESULT, "cases": [kept]}
    assert "out of memory" in page.render([result])
    assert "out of memory" in report.render(result)
    with pytest.raises(error):
        harness.race(make_case(ours=too_large), FakeBenchmark(), seconds=0.0)


def test_a_broken_eager_baseline_is_an_error() -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        harness.race(make_case(eager=broken), FakeBenchmark(), seconds=0.0)


def test_calls_too_short_to_time_share_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda layer, mode: layer)
    record = harness.race(make_case(calls_in_round=4), FakeBenchmark(), seconds=0.0)
    assert record["overhead"]
    assert record["seconds"] == 0.25


def test_inputs_rotate_past_the_cache() -> None:
    inputs: list[int] = []

    def make_inputs() -> tuple[torch.Tensor]:
        inputs.append(len(inputs))
        return (torch.full((2**20,), float(inputs[-1])),)  # 4 MiB

    rotation = harness.rotate(make_inputs, "cpu")
    first_turn = [next(rotation)[0][0].item() for _ in range(5)]
    assert first_turn == [0.0, 1.0, 2.0, 3.0, 0.0]


def test_large_inputs_rotate_too_and_small_ones_stay_few() -> None:
    large = harness.rotate(lambda: (torch.empty(2**23),), "cpu")  # 32 MiB
    assert next(large)[0] is not next(large)[0]
    small: list[int] = []
    harness.rotate(lambda: small.append(1) or (torch.empty(8, 8),), "cpu")
    assert len(small) == harness.MAX_SETS


def test_peak_memory_counts_what_a_call_holds_at_once() -> None:
    def call() -> torch.Tensor:
        temporary = torch.ones(2**22)  # 16 MiB
        return temporary + 1

    call()
    peak = memory.peak_bytes(call, "cpu")
    if peak is None:
        pytest.skip("this system does not tell a call's peak of resident memory")
    # Both tensors, give or take a megabyte that the kernel has not counted yet or not given back.
    assert abs(peak - 32 * 2**20) < 2**20


@pytest.mark.parametrize("kind", bench_corrupt.EAGER)
def test_the_corruption_check_passes_the_kernel_and_catches_a_wrong_one(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.rand(200, 40, generator=torch.Generator().manual_seed(0))
    bench_corrupt.check(x, kind)
    right = bench_corrupt.corrupt

    def wrong_in_the_middle(x: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        result = right(x, *arguments, **options)
        if len(x) == 200:
            result[70:130] = x[70:130]
        return result

    monkeypatch.setattr(bench_corrupt, "corrupt", wrong_in_the_middle)
    with pytest.raises(AssertionError, match="is noised"):
        bench_corrupt.check(x, kind)


def test_the_corruption_check_catches_other_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.rand(200, 40, generator=torch.Generator().manual_seed(0))
    right = bench_corrupt.corrupt

    def another_seed(x: torch.Tensor, *arguments: Any, seed: int, **options: Any) -> torch.Tensor:
        return right(x, *arguments, seed=seed + (len(x) == 200), **options)

    monkeypatch.setattr(bench_corrupt, "corrupt", another_seed)
    with pytest.raises(AssertionError, match="not equal"):
        bench_corrupt.check(x, "masking")


@pytest.mark.parametrize("training", [False, True])
def test_the_layer_check_passes_the_kernel_and_catches_a_wrong_one(
    training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    layer = bench_linear_act.LayerInputs("cpu", torch.float32, 40, 30, 20)
    run = bench_linear_act.forward_backward if training else harness.forward
    inputs = layer.training() if training else layer.inference()
    bench_linear_act.check(run, inputs, "highest")

    def slightly_wrong(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return bench_linear_act.eager(x, weight * (1 + 1e-5), bias)

    monkeypatch.setattr(bench_linear_act, "ours", slightly_wrong)
    with pytest.raises(AssertionError, match="error"):
        bench_linear_act.check(run, inputs, "highest")
    bench_linear_act.check(run, inputs, "medium")  # whose own rounding is larger than that


@pytest.mark.parametrize("run", bench_reconstruction.RUNS)
@pytest.mark.parametrize("widths", [(30, 20, 30), bench_reconstruction.DEEP_WIDTHS], ids=len)
def test_the_reconstruction_check_passes_the_kernel_and_catches_a_wrong_one(
    run: str, widths: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    make_inputs = bench_reconstruction.Autoencoder("cpu", torch.float32, 40, widths)
    kind = "" if len(widths) == 3 else "_deep"
    ours, eager = (getattr(bench_reconstruction, name + kind) for name in ("ours", "eager"))
    call, inputs = bench_reconstruction.RUNS[run], make_inputs()
    bench_reconstruction.check(call, inputs, 2**-23, ours, eager)

    def slightly_wrong(x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        return eager(x * (1 + 1e-4), *parameters)

    with pytest.raises(AssertionError, match="error"):
        bench_reconstruction.check(call, inputs, 2**-23, slightly_wrong, eager)
    with torch.no_grad():
        make_inputs.products(run).call(*inputs)


@pytest.mark.parametrize(
    "eager", ["closed_form", "with_jacrev", "with_batched_products", "with_jvp", "eager_contracted"]
)
def test_the_baselines_of_the_jacobian_are_right(eager: str) -> None:
    """Each baseline computes the penalty that it is timed for; the estimate does so on average."""
    torch.manual_seed(0)
    widths = (12, 9) if eager == "closed_form" else (12, 9, 12 if "contracted" in eager else 5)
    inputs = bench_contractive.Autoencoder("cpu", torch.float32, 6, widths)()
    baseline = getattr(bench_contractive, eager)
    if eager == "with_jvp":
        expected = bench_contractive.ours(*inputs)
        drawn = torch.stack([baseline(*inputs) for _ in range(400)])
        assert ((drawn.mean(0) - expected).abs() < 4 * drawn.std(0) / 20).all()
    else:
        ours = getattr(bench_contractive, "ours_contracted" if "contracted" in eager else "ours")
        torch.testing.assert_close(baseline(*inputs), ours(*inputs))


@pytest.mark.parametrize("run", bench_contractive.RUNS)
@pytest.mark.parametrize("widths", [(30, 20), (30, 20, 10)], ids=len)
def test_the_jacobians_limit_is_called(run: str, widths: tuple[int, ...]) -> None:
    inputs = bench_contractive.Autoencoder("cpu", torch.float32, 4, widths)
    limit = bench_contractive.limit(inputs, run, bench_contractive.ours)
    with torch.no_grad():
        limit.call(*inputs())
    assert limit.work > 0


def test_a_wrong_step_of_a_dictionary_is_caught() -> None:
    def contenders() -> tuple[Any, Any]:
        torch.manual_seed(0)
        return bench_topk.contenders(bench_topk.SMALL, "cpu", "dense")

    def compare(ours: Any, theirs: Any) -> None:
        x = bench_topk.SMALL.rows_of_data("cpu")
        bench_topk.compare_steps((ours, ours.model), (theirs, theirs.model), x)

    compare(*contenders())
    ours, theirs = contenders()
    ours.loss = lambda model, x: model.loss(x) * 1.001
    with pytest.raises(AssertionError, match="not close"):
        compare(ours, theirs)
    ours, theirs = contenders()
    ours.optimizer.param_groups[0]["lr"] *= 1.2
    with pytest.raises(AssertionError, match="are close"):
        compare(ours, theirs)


def test_a_wrong_update_of_a_machine_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    machine = bench_rbm.Machine("cpu", 40, 30, 20)
    bench_rbm.check_update(machine)
    right = bench_rbm.contrastive_divergence

    def wrong(data: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        loss, chain = right(data, *arguments, **options)
        return loss * (1.1 if not bench_rbm.backend.is_forced("eager") else 1.0), chain

    monkeypatch.setattr(bench_rbm, "contrastive_divergence", wrong)
    with pytest.raises(AssertionError):
        bench_rbm.check_update(machine)


def test_the_report_shows_a_loss_its_spread_and_the_limit() -> None:
    text = report.render(RESULT)
    for part in ("0.50x (0.45-0.55)", "2 ms", "62% of copy at 12.5 GB/s", "12.0 / 24.0"):
        assert part in text
    assert "Some CPU, 2 threads, instruction set avx512" in text
    assert "Some GPU" in text
    assert "triton -" in text


def test_the_report_says_why_a_number_is_missing() -> None:
    text = report.render({**RESULT, "failed": ["test_corrupt[gaussian]"]})
    assert "No number: test_corrupt[gaussian] failed" in text
    assert "No number: compile, no C++ compiler" in text


def test_the_report_gives_call_overhead_as_a_difference() -> None:
    text = report.render(RESULT)
    row = next(line for line in text.splitlines() if "8x8" in line)
    for part in ("7.5 us", "5.0 us", "+2.5 us", "16.0 us"):
        assert part in row


def test_the_tables_are_aligned_markdown() -> None:
    lines = report.table([["case", "x"], ["long name", "1"]]).splitlines()
    assert lines == ["| case      | x |", "|-----------|---|", "| long name | 1 |"]


RAW = {
    "machine_info": {
        "aefast": MACHINE,
        "cpu": {"vendor_id_raw": "AuthenticAMD", "family": 25, "model": 1, "brand_raw": "AMD EPYC"},
    },
    "commit_info": {"id": "0123456789abcdef", "dirty": True},
    "datetime": "2026-01-02T03:04:05+00:00",
    "failed": ["test_corrupt[gaussian]"],
    "benchmarks": [
        {
            "extra_info": {
                **{key: value for key, value in LOST.items() if key != "shape"},
                "seconds": 2e-3,
                "baselines": {
                    "eager": {
                        "seconds": 1e-3,
                        "ratio": {"lower_quartile": 0.45, "median": 1 / 3, "upper_quartile": 0.55},
                        "peak_bytes": None,
                    }
                },
            },
            # Four calls a round.
            "stats": {"q1": 4e-3, "median": 8e-3, "q3": 16e-3, "data": [8e-3] * 500},
        }
    ],
}


def test_a_result_is_medians_and_quartiles_in_few_digits() -> None:
    raw = copy.deepcopy(RAW)
    raw["benchmarks"].append({"extra_info": {}, "stats": {"median": 1}})  # one that was interrupted
    compact = results.compact(raw)
    (case,) = compact.pop("cases")
    assert case["seconds"] == [1e-3, 2e-3, 4e-3]
    assert case["baselines"] == {"eager": {"seconds": 1e-3, "ratio": [0.45, 0.3333, 0.55]}}
    assert case["shape"] == [4096, 784]
    assert compact == {
        "measured": "2026-01-02",
        "commit": "0123456789",
        "local_changes": True,
        "machine": MACHINE,
        "failed": ["test_corrupt[gaussian]"],
        "limits": {},
    }


def test_a_product_has_its_share_of_the_multiply_adds_on_its_threads() -> None:
    limit = {"name": "torch.mm", "rate": 0.08, "unit": "TFLOP/s", "share": [0.9, 1.0, 1.1]}
    case = {**LOST, "threads": 1, "limit": limit}
    peaks = {str(n): {results.PEAK: {"rate": 0.1 * n, "unit": "TFLOP/s"}} for n in (1, 2)}
    shared = results.with_share_of_peak(case, peaks)
    assert shared["limit"]["share_of_peak"] == 0.8
    assert "100% of torch.mm at 0.08 TFLOP/s, 80% of the peak" in report.case_row(shared)
    for other in ({**case, "threads": 3}, {**case, "limit": LOST["limit"]}):
        assert results.with_share_of_peak(other, peaks) == other
    text = report.render({**RESULT, "limits": peaks})
    assert ["multiply-adds alone", "0.1 TFLOP/s", "0.2 TFLOP/s"] in cells(text.split("\n\n")[1])
    assert "multiply-adds alone 0.1 TFLOP/s, 0.2 TFLOP/s" in page.render(
        [{**RESULT, "limits": peaks}]
    )


def powers() -> dict[str, Any]:
    """Cases whose time is a power of the batch, the weights, k and the threads."""
    base = copy.deepcopy(LOST)
    cases = []
    for batch, hidden, k, threads in (
        *((batch, 10, 1, 2) for batch in (16, 64, 256)),
        *((16, hidden, 1, 2) for hidden in (20, 80)),
        *((16, 10, k, 2) for k in (2, 4)),
        (16, 10, 1, 1),
    ):
        seconds = 1e-6 * batch**0.5 * (64 * hidden) ** 1.5 * k / threads**0.75
        name = f"k={k} {batch}x64-{hidden}, plain" + ", 1 thread" * (threads == 1)
        times = {"seconds": [seconds] * 3, "steps": 10, "shape": [batch, 64, hidden]}
        theirs = {"eager": {"seconds": 1e-3 * batch, "ratio": [1, 1, 1]}}
        cases.append({**base, "op": "fit", "case": name, **times, "baselines": theirs})
    return {**RESULT, "cases": cases}


def test_growth_is_the_exponent_of_what_the_cases_differ_in() -> None:
    assert growth.rows(powers()) == [
        ["fit, plain, 64-10, k=1, threads: 2", "batch, 16 to 256", "0.50", "1.00", "1.00x", ""],
        [
            "fit, plain, batch 16, k=1, threads: 2",
            "weights, 640 to 5120",
            "1.50",
            "0.00",
            "1.00x",
            "",
        ],
        ["fit, plain, 64-10, batch 16, threads: 2", "k, 1 to 4", "1.00", "0.00", "1.00x", ""],
        ["fit, plain, 64-10, batch 16, k=1", "threads, 1 to 2", "-0.75", "0.00", "-", ""],
    ]
    assert growth.rows(RESULT) == []


def test_growth_has_an_axis_of_latents() -> None:
    def case(latents: int) -> dict[str, Any]:
        times = {"seconds": [1e-6 * latents] * 3, "shape": [1024, 512, latents]}
        name = f"step 1024x512-{latents} k32 float32"
        return {**LOST, **times, "op": "topk", "case": name}

    found = growth.rows({**RESULT, "cases": [case(4096), case(8192), case(16384)]})
    (row,) = (row for row in found if row[1].startswith("latents"))
    assert row[:3] == [
        "topk, step float32, width 512, batch 1024, k=32, threads: 2",
        "latents, 4096 to 16384",
        "1.00",
    ]


def test_a_gpus_cases_are_no_points_of_a_cpus_curve() -> None:
    result = powers()
    result["cases"] = [
        {**case, "device": "cuda"} if case["shape"][0] == 16 else case for case in result["cases"]
    ]
    shared = [row[0] for row in growth.rows(result) if row[1].startswith("batch")]
    assert shared == []


def test_growth_names_how_far_a_time_is_from_the_power() -> None:
    bent = growth.Curve("case", "batch", [1, 10, 100], [1.0, 20.0, 100.0], [1.0, 1.0, 1.0])
    assert bent.exponent == pytest.approx(1)
    assert bent.bend == pytest.approx(2 ** (2 / 3))  # log 20 is a third of log 2 above, and so on


@pytest.mark.parametrize(
    ("seconds", "why"),
    [
        ([1, 2, 4, 8], ""),
        ([8, 8, 16, 32], "0.00 up to 2, 1.00 from there: below, the call takes most"),
        ([8, 16, 16, 16], "1.00 up to 2, 0.00 from there: above, another thread joins"),
        ([1, 1, 4, 16], "0.00 up to 2, 2.00 from there: above, the tensors leave a cache"),
    ],
)
def test_growth_says_where_a_curve_bends_and_why(seconds: list[float], why: str) -> None:
    assert growth.Curve("case", "weights", [1, 2, 4, 8], seconds, seconds).why == why


def test_a_result_is_written_a_case_a_line_and_read_back(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    file.write_text(results.as_json(RESULT))
    assert results.read(file) == RESULT
    assert sum('"op"' in line for line in file.read_text().splitlines()) == 2


def test_what_a_gpu_check_measured_is_a_result(tmp_path: Path) -> None:
    speed = importlib.import_module("gpu_check.speed")
    case = make_case(op="linear_act", name="sigmoid fwd 8192x4096->4096", device="cpu")
    times = {
        **{name: [1e-3, 1.1e-3, 0.9e-3] for name in ("aefast", "eager")},
        **{f"{name} plain": [2e-3, 2.1e-3, 1.9e-3] for name in ("aefast", "eager")},
    }
    lines = [
        {"stage": "check", "measured": "2026-01-02", "seconds": 480},
        {"stage": "limits", "job": "limits", "case": "machine", "machine": MACHINE},
        {"stage": "limits", "job": "limits", "case": "copy", "rate": 4300.0, "unit": "GB/s"},
        {
            **{"stage": "speed", "job": "linear", "case": "linear_act sigmoid"},
            "records": list(speed.records(case, times, {})),
        },
        {"stage": "speed", "job": "gibbs", "case": "gibbs k=1", "failed": "RuntimeError: no"},
    ]
    file = tmp_path / "results.jsonl"
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    result = results.read(file)
    replayed, called = result["cases"]
    assert replayed["seconds"][1] == 1e-3
    assert called["seconds"][1] == 2e-3
    assert replayed["shape"] == [8192, 4096, 4096]
    assert called["case"].endswith("a call and a wait")
    assert result["failed"] == ["gibbs k=1"]
    text = page.render([result])
    assert "copy 4.3e+03 GB/s" in text
    assert "limits, GPU" in text
    assert "| copy  | 4.3e+03 GB/s |" in report.render(result)


@pytest.mark.parametrize("name", ["result.json", "results.jsonl"])
@pytest.mark.parametrize("text", ["", "[]", "{}", "1", '{"benchmarks": [{}]}', "\x00"])
def test_what_is_no_result_is_one_error(text: str, name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(ValueError, match="is no result of aefast bench"):
        results.read(file)


@pytest.mark.parametrize(
    ("name", "shape", "setting"),
    [
        ("masking 4096x784 float32", [4096, 784], "masking float32"),
        ("fwd 128x784-256-784 high", [128, 784, 256, 784], "fwd high"),
        ("sigmoid fwd 8x9->7", [8, 9, 7], "sigmoid fwd"),
        ("k=1 8x9-7, eager draws", [8, 9, 7], "k=1, eager draws"),
        ("1000x64, 128 atoms", [1000, 64], "128 atoms"),
        ("50 x a step, plain 64-32 b128", [128, 64, 32], "50 x a step, plain"),
        ("no shape", None, "no shape"),
    ],
)
def test_a_cases_name_holds_its_shape(name: str, shape: list[int] | None, setting: str) -> None:
    assert results.shape_of(name) == shape
    assert results.setting_of(name) == setting


@pytest.mark.parametrize("script", ["report.py", "page.py"])
def test_a_report_comes_from_the_file_alone(script: str, tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    file.write_text(json.dumps(RAW))
    printed = subprocess.run(
        [sys.executable, "-S", str(SUITE / script), str(file)],  # -S: no packages at all
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for part in ("2026-01-02, commit 0123456789 with local changes", "0.33", "62% of copy"):
        assert part in printed


class Tags(HTMLParser):
    """Checks that every tag is closed, and collects the cells of the table of cases."""

    VOID = ("meta", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def won() -> dict[str, Any]:
    """The results of a similar machine, which is faster, with a case name that needs escaping."""
    case = copy.deepcopy(LOST)
    case["baselines"]["eager"]["ratio"] = [1.9, 2.0, 2.1]
    other = {**case, "case": "<b> 128x784-64", "shape": [128, 784, 64]}
    return {**RESULT, "machine": {**MACHINE, "cpu": "Other & Co"}, "cases": [case, other]}


def test_the_page_is_well_formed_and_asks_for_nothing() -> None:
    text = page.render([RESULT, won()])
    tags = Tags(text)
    assert tags.open == []
    assert not [attrs for _, attrs in tags.tags if "src" in attrs or "href" in attrs]
    assert "url(" not in text
    assert "<b>" not in text
    assert "Other &amp; Co" in text


def test_a_loss_is_red_and_a_gain_green() -> None:
    red, green = page.color(0.99), page.color(1.01)
    assert red.startswith("background:hsl(6 ")
    assert green.startswith("background:hsl(150 ")
    text = page.heat_cell(LOST)
    assert page.color(0.5) in text
    assert ">0.50<" in text
    assert "eager 0.50x (0.45-0.55)" in text


def test_a_heat_map_takes_the_quickest_baseline() -> None:
    case = copy.deepcopy(LOST)
    case["baselines"]["compile"] = {"seconds": 1e-3, "ratio": [0.2, 0.25, 0.3]}
    assert ">0.25<" in page.heat_cell(case)


def test_a_heat_map_has_a_row_a_width_and_a_column_a_batch() -> None:
    text = page.heat_map(won()["cases"], [128, 4096], "machine")
    rows = re.findall(r"<tr><th>([\d-]+)</th>(.*?)</tr>", text)
    assert [(widths, row.count('class="none"'), row.count(">2.00<")) for widths, row in rows] == [
        ("784", 1, 1),
        ("784-64", 1, 1),
    ]


def test_a_machines_gpu_has_a_heat_map_of_its_own() -> None:
    on_gpu = {**LOST, "device": "cuda"}
    text = "".join(page.heat_maps([{**RESULT, "cases": [LOST, on_gpu]}]))
    assert text.count("<table") == 2
    assert ": CPU</caption>" in text
    assert ": CUDA</caption>" in text


def test_a_loss_is_listed_with_its_cause() -> None:
    known = {**LOST, "case": "masking 128x64", "shape": [128, 64]}
    text = page.loss_list([{**RESULT, "cases": [known, LOST, *won()["cases"]]}])
    assert text.count("<li>") == 2
    assert "own cost" in text
    assert "No cause was found." in text
    assert page.loss_list([won()]) == ""


def test_a_cause_is_of_the_sizes_the_processor_and_the_ratios_that_it_was_found_in() -> None:
    def cause(
        shape: list[int], op: str = "step", instruction_set: str = "amx", ratio: float = 0.9
    ) -> str | None:
        baselines = {"eager": {"seconds": 1e-3, "ratio": [ratio] * 3}}
        case = {**LOST, "op": op, "case": "plain", "shape": shape, "baselines": baselines}
        return explanations.explanation_of(case, instruction_set)

    assert "MKL" in cause([1024, 784, 512], "mlp")
    assert cause([1024, 784, 512], "mlp", "avx512") is None
    assert cause([1024, 784, 512], "mlp", ratio=0.6) is None  # that products do not account for
    assert cause([1024, 784, 512]) is None
    assert "one thread" in cause([4, 784, 256])
    assert cause([32, 784, 256]) is None
    assert "own cost" in cause([128, 64, 32])


@pytest.mark.parametrize("path", sorted(readme.RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_each_loss_in_the_committed_results_has_a_cause(path: Path) -> None:
    causes = explanations.losses(results.read(path))
    assert [case["case"] for case in causes.get(None, [])] == []


def test_every_row_of_the_page_has_each_machines_columns() -> None:
    text = page.case_table([RESULT, won()])
    body = text[text.index("<tbody>") :]
    rows = body.split("</tr>")[:-1]
    assert [row.count("<td") for row in rows] == [11, 11]  # an overhead is not among them
    assert [row.count('data-value=""') + row.count("data-value=>") for row in rows] == [2, 6]


def test_the_limit_is_a_line_where_the_speed_is() -> None:
    drawn = page.bars(LOST)  # ours at 0.625 of the limit, eager twice as fast as ours
    widths = [float(width) for width in re.findall(r'width="([\d.]+)" height', drawn)]
    (limit,) = re.findall(r'x1="([\d.]+)"', drawn)
    assert widths[1] == pytest.approx(2 * widths[0], rel=1e-2)
    assert widths[0] / float(limit) == pytest.approx(0.625, rel=1e-2)


def test_a_comparison_flags_only_what_is_outside_of_the_noise() -> None:
    def compared(*ratio: float) -> list[str]:
        new = copy.deepcopy(LOST)
        new["baselines"]["eager"]["ratio"] = list(ratio)
        ((*_, change, verdict),) = comparison.case_rows(LOST, new)
        return [change.split()[0], verdict]

    assert compared(0.45, 0.5, 0.55) == ["1.00", ""]
    assert compared(0.54, 0.6, 0.62) == ["1.20", ""]  # the quartiles overlap
    assert compared(0.56, 0.6, 0.62) == ["1.20", "faster"]
    assert compared(0.38, 0.4, 0.44) == ["0.80", "slower"]


def test_a_comparison_says_how_many_ratios_of_long_calls_agree() -> None:
    def pair(ratio: float, seconds: float) -> tuple[dict[str, Any], dict[str, Any]]:
        new = copy.deepcopy(LOST)
        new["baselines"]["eager"]["ratio"][1], new["seconds"][1] = ratio, seconds
        return LOST, new

    near, further, far, short = pair(0.52, 2e-3), pair(0.54, 2e-3), pair(0.9, 2e-3), pair(9, 5e-4)
    (sentence,) = comparison.agreement([near, further, far, short])
    assert sentence.startswith(
        "Of 3 ratios of calls above 1 ms, 33% agree within 5% and 67% within 10%"
    )
    assert sentence.endswith("new / old is 1.080 in the median.")
    assert comparison.agreement([short]) == []


def test_a_comparison_names_what_only_one_run_has_and_two_machines() -> None:
    text = comparison.render(RESULT, won())
    assert text.startswith("1 of 1 ratios changed")
    assert "Only in the old: corrupt masking 8x8 cpu" in text
    assert "Only in the new: corrupt <b> 128x784-64" in text
    assert "Two machines: Some CPU, 2 threads, AVX-512, Some GPU; Other & Co" in text


def figures(ratio: float, **machine: object) -> dict[str, Any]:
    case = copy.deepcopy(LOST)
    case["case"] = "masking 4096x784 float32"
    case["baselines"]["eager"]["ratio"][1] = ratio
    return {**RESULT, "machine": {**MACHINE, **machine}, "cases": [case, OVERHEAD]}


def cells(table: str) -> list[list[str]]:
    """The cells of a Markdown table, without the line below its heading."""
    head, _, *rows = table.splitlines()
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in (head, *rows)]


def test_readmes_figures_are_the_span_and_the_median_of_each_machine() -> None:
    measured = [figures(2.0), figures(12.4), figures(0.5, threads=1, gpus=[])]
    assert cells(readme.summary(measured)) == [
        [
            "",
            "Some CPU, 2 threads, AVX-512, Some GPU: 4 cases",
            "Some CPU, 1 thread, AVX-512: 2 cases",
        ],
        ["noise", "2.0 to 12x (7.2)", "**0.50x**"],
        [readme.SMALL, "**0.50x** (0.50)", "**0.50x**"],
    ]
    detailed = cells(readme.figure_table(measured))  # the other rows have no case
    assert [row[0] for row in detailed] == ["", "`corrupt`, masking", readme.SMALL]


def test_runs_of_one_machine_are_one_unless_they_share_a_case() -> None:
    other = {**RESULT, "commit": "9876543210", "cases": [{**LOST, "case": "masking 128x64"}]}
    other["limits"] = {"1": {"copy": {"rate": 12.5, "unit": "GB/s"}}}
    (together,) = page.merged([RESULT, other])
    assert together["limits"] == other["limits"]
    assert together["cases"] == [*RESULT["cases"], *other["cases"]]
    text = page.render([RESULT, other])
    assert "commit 0123456789 with local changes; 2026-01-02, commit 9876543210" in text
    third = {**RESULT, "cases": [{**LOST, "case": "masking 16x64"}]}
    assert len(page.merged([RESULT, other, third])) == 1
    assert len(page.merged([RESULT, other, RESULT])) == 2
    assert len(page.merged([RESULT, RESULT])) == 2
    assert len(RESULT["cases"]) == 2  # what is merged is no argument's own


def test_a_machine_whose_cases_have_no_row_has_no_column() -> None:
    products = {**figures(2.0, threads=1, gpus=[]), "cases": []}
    assert len(cells(readme.summary([figures(2.0), products]))[0]) == 2


def test_readmes_first_figures_are_of_training_and_of_single_calls() -> None:
    measured = figures(2.0)
    measured["cases"][0] |= {"op": "fit", "case": "plain 128x64-32"}
    text = " ".join(readme.headline([measured, figures(3.0, threads=1)]).split())
    assert "a speed of 2.0x (Some CPU, 2 threads, AVX-512, Some GPU); single calls" in text
    assert text.endswith("have 0.50x.")


needs_results = pytest.mark.skipif(not readme.RESULTS.exists(), reason="needs the source tree")


@needs_results
@pytest.mark.parametrize(
    ("page", "name"),
    [
        (readme.PAGES[0], "headline"),
        *zip(readme.PAGES, ("summary", "table", "targets"), strict=True),
        (readme.PAGES[1], "origins"),
        (readme.PAGES[1], "losses"),
        (readme.PAGES[2], "reasons"),
    ],
)
def test_the_figures_are_the_committed_results(page: Path, name: str) -> None:
    text = page.read_text()
    assert f"<!-- {name}: filled by `make readme` -->" in text
    assert readme.fill(text, readme.committed()) == text, "make readme fills them in"


@needs_results
@pytest.mark.parametrize(
    "page",
    [readme.PAGES[0], *sorted(readme.PAGES[1].parent.rglob("*.md"))],
    ids=lambda page: page.stem,
)
def test_no_page_has_a_speed_but_of_the_results(page: Path) -> None:
    text = re.sub(r"<!-- (\w+): filled.*?<!-- end of \1 -->", "", page.read_text(), flags=re.S)
    # A prediction's row ends in what was measured of it: nothing so far.
    text = re.sub(r"^\|.*\| not yet \|$", "", text, flags=re.M)
    assert re.findall(r"\d+\.\d+x|\w+ times (?:as fast|faster)", text) == []


@needs_results
def test_the_committed_results_are_one_page() -> None:
    measured = readme.committed()
    text = page.render(measured)
    assert all(results.label(result["machine"]) in text for result in measured)
    assert len(page.merged(measured)) < len(measured)


@needs_results
def test_every_committed_result_is_small_and_every_row_of_readme_can_be_filled() -> None:
    for file in readme.RESULTS.glob("*.json"):
        assert file.stat().st_size < 200_000, (
            f"{file.name}: python benchmarks/results.py makes it so"
        )
    measured = readme.committed()
    empty = {row.op for row in readme.ROWS if not readme.ratios(measured, [row])}
    assert empty <= {"fit", "step"}


def test_time_to_quality_takes_the_fewest_passes_that_reach_the_score() -> None:
    pytest.importorskip("sklearn")
    quality = importlib.import_module("quality").Quality

    def train(rows: str, passes: int, seed: int) -> float:
        assert rows == "rows"
        return passes + seed

    def score(model: float, held_out: str) -> float:
        assert held_out == "held out"
        return model

    def reaching(target: float, seeds: int = 1, has_passes: bool = True) -> Any:
        data = lambda: ("rows", "held out")  # noqa: E731
        return quality("peer", data, train, train, score, "{:g}", target, seeds, has_passes)

    assert [reaching(target).passes(train) for target in (0.5, 2, 11, 512)] == [1, 2, 11, 512]
    assert reaching(0.5, has_passes=False).passes(train) == 1
    assert reaching(11, seeds=3).passes(train) == 10  # whose mean is one more
    for beyond in (reaching(513), reaching(2, has_passes=False)):
        with pytest.raises(AssertionError, match="score"):
            beyond.passes(train)


def test_a_machines_likelihood_is_a_distribution() -> None:
    pytest.importorskip("sklearn")
    random = np.random.default_rng(0)
    machines = importlib.import_module("quality_machines")
    machine = machines.Machine(*(random.normal(size=size) for size in ((3, 5), 3, 5)))
    states = np.array(list(itertools.product([0.0, 1.0], repeat=5)))
    total = sum(np.exp(machines.likelihood(machine, state[None])) for state in states)
    assert total == pytest.approx(1)


def test_a_lower_bound_of_an_ignored_code_is_a_coins_likelihood() -> None:
    pytest.importorskip("sklearn")
    bound = importlib.import_module("quality_autoencoders").evidence_lower_bound
    rows = np.eye(5, dtype=np.float32)[:3]

    def posterior(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.ones(len(x), 2), torch.zeros(len(x), 2)

    def decode(code: torch.Tensor) -> torch.Tensor:
        return torch.full((len(code), 5), 0.5)

    assert bound((posterior, decode), rows) == pytest.approx(-5 * np.log(2) - 1)


def test_a_duality_gap_is_none_for_the_best_codes_and_the_whole_objective_for_far_ones() -> None:
    pytest.importorskip("sklearn")
    dictionaries = importlib.import_module("quality_dictionaries")
    rows, _ = dictionaries.images()
    codes = dictionaries.encode(rows, 1000)
    assert 0 <= -dictionaries.duality_gap(codes, rows) < 1e-7
    worse = codes.copy()
    worse[7] += 0.01
    assert -dictionaries.duality_gap(worse, rows) > 1e-3


def test_the_explained_variance_is_one_of_the_rows_and_none_of_their_mean() -> None:
    explained = importlib.import_module("quality_topk").explained_variance
    rows = np.random.default_rng(0).normal(2, 1, (50, 4)).astype(np.float32)
    assert explained(lambda x: x, rows) == 1
    assert explained(lambda x: x.mean(0).expand_as(x), rows) == pytest.approx(0, abs=1e-6)
    assert explained(lambda x: (x + x.mean(0)) / 2, rows) == pytest.approx(0.75)


def test_the_shapes_that_others_take_are_in_the_table() -> None:
    assert {*shapes.QUICK, *shapes.CROSS, *shapes.COMPILED} <= {*shapes.SHAPES}
    assert {*shapes.ONE_THREAD, *shapes.LARGE_TENSORS} <= {*shapes.SHAPES}
    assert not {*shapes.LARGE} & {*shapes.SHAPES}
    assert len(shapes.SHAPES) == len(set(shapes.SHAPES))
    assert not {*shapes.MORE_OP_SHAPES} & {*shapes.OP_SHAPES}


@pytest.mark.parametrize("kind", bench_step.KINDS, ids=lambda kind: kind.__name__)
def test_a_models_twin_has_its_parameters_and_all_of_them_learn(kind: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    shape = shapes.Shape(16, (30, 16))
    model, theirs, compiled = bench_step.contenders(kind, shape)
    assert compiled is None
    parameters = theirs.optimizer.param_groups[0]["params"]
    assert sum(p.numel() for p in parameters) == sum(p.numel() for p in model.parameters())
    before = [parameter.detach().clone() for parameter in parameters]
    theirs.epoch(bench_step.rows_of(32, shape, kind), 16)
    assert all((a != b).any() for a, b in zip(before, parameters, strict=True))
    bench_step.check_fit(model, shape, kind)


@pytest.mark.parametrize("kind", bench_step.KINDS[:-1], ids=lambda kind: kind.__name__)
def test_a_models_twin_has_its_loss(kind: Callable[..., Any]) -> None:
    """The losses are equal at equal parameters, or equal on average over draws."""
    torch.manual_seed(0)
    model, twin, loss = kind(12, 8)
    with torch.no_grad():
        for theirs, ours in zip(twin.parameters(), model.parameters(), strict=True):
            theirs.copy_(ours)
        x = torch.rand(20, 12)
        draws = [torch.stack([f(x) for _ in range(400)]) for f in (model.loss, loss)]
    ours, theirs = (draw.mean() for draw in draws)
    spread = sum(draw.var() / 400 for draw in draws) ** 0.5
    assert abs(ours - theirs) < 5 * spread + 1e-6 * ours


def test_a_long_call_has_its_steps_in_its_name_and_in_its_rows() -> None:
    shape = shapes.Shape(32, (30, 16))
    short, long = (bench_step.fit_case(bench_step.plain, shape, count) for count in (None, 70))
    assert (short.name, long.name) == ("plain 32x30-16", "plain 32x30-16, 70 steps")
    assert [len(case.make_inputs()[0]) for case in (short, long)] == [64 * 32, 70 * 32]
    assert (short.steps, long.steps) == (64, 70)
    long.ours(*long.make_inputs())
    assert results.setting_of(long.name) == "plain, 70 steps"


@pytest.mark.skipif(not Path("/proc").exists(), reason="Linux tells a process's state")
def test_the_busy_program_is_at_work_only_beside_a_call() -> None:
    program = bench_busy.BusyProgram()

    def state() -> str:
        status = Path(f"/proc/{program.process.pid}/status").read_text()
        return re.findall(r"State:\s+(\w)", status)[0]

    try:
        assert state() == "T"  # stopped
        with program.at_work():
            assert state() != "T"
        assert state() == "T"
        with pytest.raises(RuntimeError), program.at_work():  # as of a fit that fails
            raise RuntimeError
        assert state() == "T"
    finally:
        program.end()
    assert program.process.returncode is not None


def test_ranks_that_trained_otherwise_than_one_process_fail_their_check() -> None:
    alone = SimpleNamespace(losses=torch.tensor([0.3, 0.2], dtype=torch.float64))
    bench_distributed.check(alone.losses * (1 + 1e-6), alone)
    for other in (alone.losses * (1 + 1e-4), alone.losses[:1]):
        with pytest.raises(AssertionError):
            bench_distributed.check(other, alone)


def test_the_quick_suite_has_all_of_it_in_few_cases() -> None:
    options = ["-p", "no:cacheprovider", "-p", "no:xdist", "--collect-only", "-q"]
    options += ["--quick", "--device", "cpu", str(SUITE)]
    program = f"import pytest; raise SystemExit(pytest.main({options}))"
    result = fresh.run(program, dict(os.environ))
    cases = re.findall(r"(bench_\w+)\.py::(\w+)\[(.*)\]", result.stdout)
    assert {name for name, _, _ in cases} == {path.stem for path in SUITE.glob("bench_*.py")}
    assert len(cases) == len(set(cases)) < 100
    fitted = {case for *where, case in cases if where == ["bench_step", "test_fit"]}
    assert len(fitted) == len(bench_step.KINDS) * len(shapes.QUICK)


def test_a_setting_is_compiled_once_and_a_whole_step_where_it_says_so() -> None:
    class Item(SimpleNamespace):
        __hash__ = object.__hash__

    def item(file: str, function: str, **params: object) -> Item:
        callspec = SimpleNamespace(params=params)
        return Item(path=SUITE / f"{file}.py", originalname=function, callspec=callspec)

    small, large = (128, 64), (1024, 784)
    forward = [item("bench_gibbs", "test_step", run="fwd", shape=s) for s in (small, large)]
    backward = [item("bench_gibbs", "test_step", run="bwd", shape=s) for s in (small, large)]
    steps = [item("bench_step", "test_step", shape=s) for s in (small, large)]
    chosen = selection.compiled([*forward, *backward, *steps])
    assert chosen == [forward[0], backward[0], *steps]


@pytest.mark.slow
def test_a_case_of_each_benchmark_runs_and_is_right() -> None:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", "-q"]
    command += [str(SUITE), "--quick", "--benchmark-disable", "--device", "cpu"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr


@pytest.mark.slow  # 11 s, most of them imports: what it writes has tests of its own
def test_the_suite_runs_capped_and_writes_what_the_report_needs(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist"]
    command += [str(SUITE / "bench_corrupt.py"), "-k", "overhead", "--device", "cpu"]
    command += ["--benchmark-max-time", "0.001", "--benchmark-json", str(file)]
    # The cap must reach eager too; and compiling would take longer than all the rest.
    environment = {**os.environ, "AEFAST_CPU_ISA": "baseline", "TORCH_COMPILE_DISABLE": "1"}
    # The plugin times nothing in what it takes for one of xdist's workers.
    environment.pop("PYTEST_XDIST_WORKER", None)
    result = subprocess.run(
        command,
        cwd=SUITE.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "1 passed" in result.stdout
    assert "corrupt masking 8x8 float32" in result.stdout
    assert "node" not in json.loads(file.read_text())["machine_info"]
    written = results.read(file)
    assert written["machine"]["torch_cpu_capability"] == "DEFAULT"
    assert written["machine"]["processor"]
    assert "corrupt masking 8x8 float32" in report.render(written)
