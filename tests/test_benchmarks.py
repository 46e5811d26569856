"""The benchmark harness: its statistics, its order of turns, its refusals and its report."""

import copy
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

SUITE = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(SUITE))

harness = importlib.import_module("harness")
memory = importlib.import_module("memory")
report = importlib.import_module("report")
bench_corrupt = importlib.import_module("bench_corrupt")
bench_linear_act = importlib.import_module("bench_linear_act")
bench_jacobian = importlib.import_module("bench_jacobian")
bench_reconstruction = importlib.import_module("bench_reconstruction")

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
    "device": "cpu",
    "backend": "cpp",
    "overhead": False,
    "seconds": 2e-3,
    "peak_bytes": 12 * 2**20,
    "baselines": {
        "eager": {
            "seconds": 1e-3,
            "ratio": {"median": 0.5, "lower_quartile": 0.45, "upper_quartile": 0.55},
            "peak_bytes": 24 * 2**20,
        },
        "compile": {"skipped": "no C++ compiler"},
    },
    "limit": {"name": "copy", "rate": 12.5, "unit": "GB/s", "share": {"median": 0.625}},
}
OVERHEAD = {
    **LOST,
    "case": "masking 8x8",
    "overhead": True,
    "seconds": 7.5e-6,
    "baselines": {"eager": {"seconds": 5e-6}, "compile": {"seconds": 16e-6}},
}


class FakeBenchmark:
    """pytest-benchmark's fixture as far as the harness uses it; one second a round."""

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
    assert turns[3:] == ["eager", "limit", "aefast"] * harness.MIN_ROUNDS
    assert {name: len(series) for name, series in times.items()} == dict.fromkeys(
        runs, harness.MIN_ROUNDS
    )


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
    assert record["rounds"] == harness.MIN_ROUNDS
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
    row = report.case_row({**record, "backend": "cpp"})
    assert "3 G states/s" in row[2]
    assert row[4] == "-"


def test_a_compiler_that_fails_leaves_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(*_: object) -> None:
        raise RuntimeError("no g++ here\nand a long trace")

    monkeypatch.setattr(torch, "compile", lambda layer, mode: no_compiler)
    record = harness.race(make_case(), FakeBenchmark(), seconds=0.0)
    assert record["baselines"]["compile"] == {"skipped": "no g++ here"}
    assert "ratio" in record["baselines"]["eager"]


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
    made: list[int] = []

    def make_inputs() -> tuple[torch.Tensor]:
        made.append(len(made))
        return (torch.full((2**20,), float(made[-1])),)  # 4 MiB

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
    """Each computes the penalty that it is timed for; the estimate on average."""
    torch.manual_seed(0)
    widths = (12, 9) if eager == "closed_form" else (12, 9, 12 if "contracted" in eager else 5)
    inputs = bench_jacobian.Autoencoder("cpu", torch.float32, 6, widths)()
    baseline = getattr(bench_jacobian, eager)
    if eager == "with_jvp":
        expected = bench_jacobian.ours(*inputs)
        drawn = torch.stack([baseline(*inputs) for _ in range(400)])
        assert ((drawn.mean(0) - expected).abs() < 4 * drawn.std(0) / 20).all()
    else:
        ours = bench_jacobian.ours_contracted if "contracted" in eager else bench_jacobian.ours
        torch.testing.assert_close(baseline(*inputs), ours(*inputs))


@pytest.mark.parametrize("run", bench_jacobian.RUNS)
@pytest.mark.parametrize("widths", [(30, 20), (30, 20, 10)], ids=len)
def test_the_jacobians_limit_is_called(run: str, widths: tuple[int, ...]) -> None:
    inputs = bench_jacobian.Autoencoder("cpu", torch.float32, 4, widths)
    limit = bench_jacobian.limit(inputs, run, bench_jacobian.ours)
    with torch.no_grad():
        limit.call(*inputs())
    assert limit.work > 0


def test_the_report_shows_a_loss_its_spread_and_the_limit() -> None:
    text = report.render(MACHINE, [LOST], failed=[])
    for part in ("0.50x (0.45-0.55)", "2 ms", "62% of copy at 12.5 GB/s", "12.0 / 24.0"):
        assert part in text
    assert "Some CPU, 2 threads, instruction set avx512" in text
    assert "Some GPU" in text
    assert "triton -" in text


def test_the_report_says_why_a_number_is_missing() -> None:
    text = report.render(MACHINE, [LOST], failed=["test_corrupt[gaussian]"])
    assert "No number: test_corrupt[gaussian] failed" in text
    assert "No number: compile, no C++ compiler" in text


def test_the_report_gives_call_overhead_as_a_difference() -> None:
    text = report.render(MACHINE, [OVERHEAD], failed=[])
    row = next(line for line in text.splitlines() if "8x8" in line)
    for part in ("7.5 us", "5.0 us", "+2.5 us", "16.0 us"):
        assert part in row


def test_the_tables_are_aligned_markdown() -> None:
    lines = report.table([["case", "x"], ["long name", "1"]]).splitlines()
    assert lines == ["| case      | x |", "|-----------|---|", "| long name | 1 |"]


def test_the_report_comes_from_the_file_alone(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    file.write_text(
        json.dumps(
            {
                "machine_info": {"aefast": MACHINE},
                "commit_info": {"id": "0123456789abcdef", "dirty": True},
                "datetime": "2026-01-02T03:04:05+00:00",
                "benchmarks": [{"extra_info": copy.deepcopy(LOST)}],
                "failed": [],
            }
        )
    )
    printed = subprocess.run(
        [sys.executable, "-S", str(SUITE / "report.py"), str(file)],  # -S: no packages at all
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert printed.startswith("Measured 2026-01-02, commit 0123456789 with local changes.")
    assert "0.50x (0.45-0.55)" in printed


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
    written = json.loads(file.read_text())
    assert "node" not in written["machine_info"]
    assert written["machine_info"]["aefast"]["torch_cpu_capability"] == "DEFAULT"
    assert "corrupt masking 8x8 float32" in report.render_file(file)
