"""Times of the hot paths, whole steps and ``fit``, beside eager PyTorch and torch.compile.

The cases are the benchmark suite's own. Each contender is timed twice: replays of a CUDA graph of
ten calls, which is what the GPU takes, and plain calls with a wait, which is what a user has. The
contenders take turns, on inputs that rotate past the L2 cache.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import bench_contractive
import bench_corrupt
import bench_linear_act
import bench_rbm
import bench_reconstruction
import bench_step
import bench_variational
import harness
import results
import torch
from harness import Case, Run
from shapes import Shape

import aefast
from gpu_check.worker import DEVICE, REHEARSAL, Record, attempt

# Seconds of one contender in one case.
SECONDS = 0.02 if REHEARSAL else 0.4
FEWEST_ROUNDS, MOST_ROUNDS = 5, 101

Compare = Callable[[Case], None]
Bench = Callable[[Compare], None]  # builds one case and hands it on


def work(job: str, record: Record) -> None:
    compiles = job.startswith("compile ")
    for bench in BENCHES[job.removeprefix("compile ")](compiles):
        case = case_of(bench)
        attempt(record, f"{case.op} {case.name}", lambda c=case: measure(c, compiles))
        torch.set_float32_matmul_precision("highest")


def case_of(bench: Bench) -> Case:
    """The one that a function of the benchmark suite would compare."""
    cases: list[Case] = []
    bench(cases.append)
    return cases[0]


def linear(compiles: bool) -> Iterator[Bench]:
    def case(precision: str) -> Bench:
        return lambda compare: bench_linear_act.test_forward_backward(
            compare, torch.set_float32_matmul_precision, DEVICE, *shape(8192, 4096, 4096), precision
        )

    yield case("bfloat16")
    if not compiles:
        yield lambda compare: bench_linear_act.test_forward(
            compare, DEVICE, *shape(8192, 4096, 4096)
        )
        yield case("high")
        yield case("highest")
        yield lambda compare: bench_linear_act.test_call_overhead(compare, DEVICE, True)


def reconstruction(compiles: bool) -> Iterator[Bench]:
    def bfloat16(visible: int) -> Bench:
        return lambda compare: bench_reconstruction.test_reconstruction_loss_in_bfloat16(
            compare, DEVICE, *shape(16384, visible, 1024), "fwd+bwd"
        )

    def float32(visible: int, precision: str) -> Bench:
        return lambda compare: bench_reconstruction.test_reconstruction_loss(
            compare,
            torch.set_float32_matmul_precision,
            DEVICE,
            *shape(16384, visible, 1024),
            precision,
            "fwd+bwd",
        )

    yield bfloat16(784)
    yield float32(784, "highest")
    if not compiles:
        yield bfloat16(4096)
        yield float32(4096, "highest")
        yield float32(4096, "high")


def gibbs(compiles: bool) -> Iterator[Bench]:
    yield lambda compare: bench_rbm.test_one_step(
        compare, DEVICE, *shape(16384, 784, 1024), "torch.bernoulli"
    )
    if not compiles:
        yield lambda compare: compare(
            bench_rbm.case(
                bench_rbm.Machine(DEVICE, *shape(512, 784, 500), k=2 if REHEARSAL else 100),
                "torch.bernoulli",
            )
        )
        yield lambda compare: bench_rbm.test_persistent_contrastive_divergence(
            compare, DEVICE, *shape(16384, 784, 1024)
        )


def corrupt(compiles: bool) -> Iterator[Bench]:
    def case(kind: str) -> Bench:
        return lambda compare: bench_corrupt.test_corrupt(compare, kind, DEVICE, *shape(8192, 8192))

    yield case("masking")
    yield case("gaussian")
    if not compiles:
        yield lambda compare: bench_variational.test_gaussian(
            compare, "reparameterize", "fwd+bwd", DEVICE, *shape(65536, 512)
        )


def contractive(compiles: bool) -> Iterator[Bench]:
    for run in ("fwd", "fwd+bwd"):
        yield lambda compare, run=run: bench_contractive.test_deep(
            compare, DEVICE, 8 if REHEARSAL else 4096, run
        )
    yield lambda compare: bench_contractive.test_one_layer(
        compare, DEVICE, *shape(16384, 784, 1024), "fwd+bwd"
    )


def step(compiles: bool) -> Iterator[Bench]:
    """Models' steps and epochs as a user writes them, rows and parameters on the GPU."""
    for kind in (bench_step.plain, bench_step.variational, bench_step.rbm):
        yield partial(step_case, kind=kind, whole=False)
        yield partial(step_case, kind=kind, whole=True)


def step_case(compare: Compare, kind: bench_step.Kind, whole: bool) -> None:
    rows, *widths = shape(1024, 784, 512)
    sizes = Shape(rows, tuple(widths))
    with torch.device(DEVICE):
        model, theirs, _ = bench_step.contenders(kind, sizes)
    steps = 2 if REHEARSAL else 16
    ours = bench_step.Run(model, lambda x: model.loss(x).backward())
    optimizer = torch.optim.Adam(model.parameters(), bench_step.LEARNING_RATE, fused=True)

    def fit(data: torch.Tensor) -> None:
        aefast.fit(model, data, optimizer, batch_size=rows)

    count = steps * rows if whole else rows
    compare(
        Case(
            op="fit" if whole else "step",
            name=f"{kind.__name__} {sizes}",
            device=DEVICE,
            dtype=torch.float32,
            make_inputs=lambda: (bench_step.rows_of(count, sizes, kind).to(DEVICE),),
            ours=fit if whole else ours.step,
            eager=(lambda data: theirs.epoch(data, rows)) if whole else theirs.step,
            compiles=False,
            check=lambda: None,  # the tests of the stage before
            run=lambda layer, x: layer(x),
            calls_in_round=2 if whole else 20,
            training=True,
        )
    )


BENCHES: dict[str, Callable[[bool], Iterator[Bench]]] = {
    "linear": linear,
    "reconstruction": reconstruction,
    "gibbs": gibbs,
    "corrupt": corrupt,
    "contractive": contractive,
    "step": step,
}


def shape(*sizes: int) -> tuple[int, ...]:
    """The sizes; in a rehearsal small ones."""
    return tuple(max(8, size // 256) for size in sizes) if REHEARSAL else sizes


def measure(case: Case, compiles: bool) -> dict[str, Any]:
    """Check the case, then the median seconds of a call, and ratios paired round by round."""
    case.check()
    torch.compiler.reset()
    rotation = harness.rotate(case.make_inputs, DEVICE)
    compiles = compiles and case.compiles and not REHEARSAL
    calls, skipped = harness.warm_calls(replace(case, compiles=compiles), rotation)
    rounds, counts = contenders(case, calls, skipped)
    if case.limit is not None:
        limit = without_grad(case.limit.call, rotation)
        limit()
        rounds["limit"] = harness.one_round(limit, case)
        counts["limit"] = harness.calls_in_round(case)
    times = {
        name: [total / counts[name] for total in series]
        for name, series in take_turns(rounds).items()
    }
    measured: dict[str, Any] = {"seconds": {}, "ratio": {}}
    for name, series in times.items():
        measured["seconds"][name] = float(f"{statistics.median(series):.4g}")
        ours = times["aefast plain" if name.endswith("plain") else "aefast"]
        if series is not ours:
            ratios = harness.paired_ratio(series, ours)
            measured["ratio"][name] = [round(value, 3) for value in ratios.values()]
    measured["records"] = list(records(case, times, skipped))
    return measured | ({"skipped": skipped} if skipped else {})


def records(
    case: Case, times: dict[str, list[float]], skipped: dict[str, str]
) -> Iterator[dict[str, Any]]:
    """The case as ``aefast bench`` writes it: the graph's replays; and plain calls, with a wait."""
    plain = {name.removesuffix(" plain"): s for name, s in times.items() if name.endswith(" plain")}
    graphed = {name: s for name, s in times.items() if not name.endswith(" plain")}
    as_called = replace(case, name=f"{case.name}, a call and a wait", limit=None)
    for each, series in ((case, graphed), (as_called, plain)):
        if "aefast" in series:
            lower, median, upper = statistics.quantiles(series["aefast"], method="inclusive")
            summary = harness.summarize(each, series, {}, skipped)
            yield results.record(summary, {"q1": lower, "median": median, "q3": upper})


def contenders(
    case: Case, calls: dict[str, Run], skipped: dict[str, str]
) -> tuple[dict[str, Run], dict[str, int]]:
    """What is timed of each contender, and how many calls that is: a graph, and one plain call.

    Of calls that are timed from the host there is no graph.
    """
    rounds, counts = {}, {}
    for name, call in calls.items():
        try:
            rounds[name] = harness.one_round(call, case)
        except Exception as error:
            if name == "aefast":
                raise
            skipped[name] = str(error).strip().splitlines()[0][:200]
            continue
        counts[name] = harness.calls_in_round(case)
        if DEVICE == "cuda" and not case.from_host:
            rounds[f"{name} plain"] = harness.then_synchronize(call)
            counts[f"{name} plain"] = 1
    return rounds, counts


def without_grad(call: Callable[..., object], rotation: Iterator[harness.Inputs]) -> Run:
    @torch.no_grad()
    def run() -> None:
        call(*next(rotation))

    return run


def take_turns(rounds: dict[str, Run]) -> dict[str, list[float]]:
    """Seconds of each round of each contender, in turn."""
    times: dict[str, list[float]] = {name: [] for name in rounds}
    start = time.perf_counter()
    for run in rounds.values():
        run()
    cycle = time.perf_counter() - start
    count = int(SECONDS * len(rounds) / cycle)
    for _ in range(max(FEWEST_ROUNDS, min(MOST_ROUNDS, count))):
        for name, run in rounds.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return times
