"""The paired measurement: this package and its baselines take turns in one process.

A machine drifts while a benchmark runs: clocks change, neighbours come and go. Two times taken
one after the other drift together, so their ratio holds still where the times do not. In every
round each contender makes the same number of calls, and the figure is the median over the rounds
of (their time / our time).
"""

import gc
import itertools
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from memory import peak_bytes
from results import OUT_OF_MEMORY
from torch import Tensor

from aefast import backend

Inputs = tuple[Tensor, ...]
Layer = Callable[..., Tensor]
Run = Callable[[], object]

MAX_ROUNDS = 501
# The fewest rounds, where all contenders together take so many seconds a round and more: the longer
# they take, the smaller is their noise beside them.
FEWEST_ROUNDS = {1.0: 3, 0.1: 5, 0.0: 11}
# A call is warm after so many, or after so long.
WARM_UP_CALLS, WARM_UP_SECONDS = 3, 0.1

# Inputs rotate through this many bytes: past any CPU's L2, and past a GPU's L2 (60 MB on an H200).
ROTATED_BYTES = {"cpu": 16 * 2**20, "cuda": 256 * 2**20}
MAX_SETS = 16
# One round on a GPU replays a graph of this many calls, so that launching it costs nothing.
CALLS_IN_GRAPH = 10


def forward(layer: Layer, *inputs: Tensor) -> object:
    """One call of a layer, the default of what a case times."""
    return layer(*inputs)


@dataclass(frozen=True)
class Limit:
    """What this machine does at best, measured in the same rounds.

    Args:
        name: the operation, as the table names it.
        call: takes a case's inputs and does the same work, with nothing besides.
        work: bytes moved or operations made in one call.
        unit: ``"GB/s"`` or ``"TFLOP/s"``.
    """

    name: str
    call: Callable[..., object]
    work: float
    unit: str


@dataclass(frozen=True)
class Case:
    """One line of the table.

    Args:
        op: the hot path.
        name: shape, dtype, and whatever sets this case apart.
        make_inputs: makes one set of inputs; the sets rotate, so that no call finds its own warm.
        ours: the op of this package.
        eager: what a user would write in PyTorch; torch.compile of it is the second baseline.
        check: raises where ``ours`` is wrong; it runs before anything is timed.
        run: what one call does with a layer and a set of inputs.
        limit: the machine's limit for this work.
        calls_in_round: more than 1 for calls that are too short to time one by one. They are timed
            from the host, on a GPU too: unless ``training``, what counts of them is their overhead.
        training: whether a call is a step or more of training, whatever its length.
        steps: of training, in one call.
        states: how many random states one call draws, where that is what it is for.
        operations: in the products of one call, where its share of the processor's peak counts.
        compiles: whether torch.compile of ``eager`` is a baseline; not where that is a peer
            library's own function.
        compiled: that baseline, where it is not torch.compile of the whole of ``eager``.
        threads: of all contenders; None for torch's own number.
    """

    op: str
    name: str
    device: str
    dtype: torch.dtype
    make_inputs: Callable[[], Inputs]
    ours: Layer
    eager: Layer
    check: Callable[[], None]
    run: Callable[..., object] = forward
    limit: Limit | None = None
    calls_in_round: int = 1
    training: bool = False
    steps: int = 1
    states: int | None = None
    operations: float | None = None
    compiles: bool = True
    compiled: Layer | None = None
    threads: int | None = None

    @property
    def from_host(self) -> bool:
        return self.calls_in_round > 1

    @property
    def measures_overhead(self) -> bool:
        return self.from_host and not self.training


def race(case: Case, benchmark: Any, seconds: float) -> dict[str, Any] | None:
    """Check a case, then time all its contenders; None where timing is switched off.

    Args:
        benchmark: pytest-benchmark's fixture. It times our calls; the others' are timed in its
            untimed set-up, right before.
        seconds: about how long one contender runs in all.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(case.threads or before)
    try:
        return race_on_these_threads(case, benchmark, seconds)
    finally:
        torch.set_num_threads(before)


def race_on_these_threads(case: Case, benchmark: Any, seconds: float) -> dict[str, Any] | None:
    case.check()
    if benchmark.disabled:
        benchmark.pedantic(case.run, (case.ours, *case.make_inputs()))
        return None

    torch.compiler.reset()  # a case's shapes are its own: none becomes dynamic after another's
    rotation = rotate(case.make_inputs, case.device)
    calls, skipped = warm_calls(case, rotation)
    peaks = {} if case.measures_overhead else peak_memory(calls, case.device)
    if case.limit is not None:
        calls["limit"] = _bind(_without_grad, case.limit.call, rotation)
        _warm_up(calls["limit"])
    runs = {name: one_round(call, case) for name, call in calls.items()}
    times = take_turns(runs, benchmark, seconds)
    seconds_a_call = {
        name: [total / calls_in_round(case) for total in series] for name, series in times.items()
    }
    return summarize(case, seconds_a_call, peaks, skipped)


def warm_calls(case: Case, rotation: Iterator[Inputs]) -> tuple[dict[str, Run], dict[str, str]]:
    """Each contender's call, compiled and warm; and why a contender has none."""
    calls: dict[str, Run] = {}
    skipped: dict[str, str] = {}
    # A round on a GPU is a graph already; its best tiles are searched for.
    mode = "max-autotune-no-cudagraphs" if case.device == "cuda" else None
    layers = {"aefast": case.ours, "eager": case.eager}
    if case.compiles:
        layers["compile"] = case.compiled or torch.compile(case.eager, mode=mode)
    for name, layer in layers.items():
        call = _bind(case.run, layer, rotation)
        try:
            _warm_up(call)
        except Exception as error:  # the compiler may be missing, or fail in any of many ways
            if name != "aefast" and is_out_of_memory(error):
                skipped[name] = OUT_OF_MEMORY
            elif name == "compile":
                skipped[name] = str(error).strip().splitlines()[0]
            else:
                raise
        else:
            calls[name] = call
    return calls, skipped


def is_out_of_memory(error: Exception) -> bool:
    """On a GPU, or of torch's allocator on a CPU, whose error has no class of its own."""
    of_memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return of_memory or "can't allocate memory" in str(error)


def peak_memory(calls: dict[str, Run], device: str) -> dict[str, int | None]:
    return {name: peak_bytes(call, device) for name, call in calls.items()}


def rotate(make_inputs: Callable[[], Inputs], device: str) -> Iterator[Inputs]:
    """Endless turns through as many sets of inputs as do not fit the cache."""
    first = make_inputs()
    bytes_in_set = sum(tensor.nbytes for tensor in first)
    count = min(max(2, -(-ROTATED_BYTES[device] // bytes_in_set)), MAX_SETS)
    return itertools.cycle([first, *(make_inputs() for _ in range(count - 1))])


def calls_in_round(case: Case) -> int:
    in_graph = case.device == "cuda" and not case.from_host
    return CALLS_IN_GRAPH if in_graph else case.calls_in_round


def one_round(call: Run, case: Case) -> Run:
    """What a contender does in one round, up to the moment when its result is there."""
    if case.device == "cpu":
        return _repeat(call, case.calls_in_round)
    if case.from_host:
        return then_synchronize(_repeat(call, case.calls_in_round))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        _repeat(call, CALLS_IN_GRAPH)()
    return then_synchronize(graph.replay)


def take_turns(runs: dict[str, Run], benchmark: Any, seconds: float) -> dict[str, list[float]]:
    """Time every contender once a round; the seconds that each one took, round by round."""
    others: dict[str, list[float]] = {name: [] for name in runs if name != "aefast"}

    def time_the_others() -> None:
        for name, series in others.items():
            start = time.perf_counter()
            runs[name]()
            series.append(time.perf_counter() - start)

    start = time.perf_counter()
    for run in runs.values():
        run()
    cycle = time.perf_counter() - start
    gc.collect()
    rounds = rounds_of(cycle, seconds * len(runs))
    benchmark.pedantic(runs["aefast"], setup=time_the_others, rounds=rounds)
    return {"aefast": list(benchmark.stats.stats.data), **others}


def rounds_of(cycle: float, seconds: float) -> int:
    """How many rounds of ``cycle`` seconds to time in about so many seconds."""
    fewest = next(rounds for least, rounds in FEWEST_ROUNDS.items() if cycle >= least)
    return min(max(int(seconds / cycle), fewest), MAX_ROUNDS)


def paired_ratio(theirs: list[float], ours: list[float]) -> dict[str, float]:
    """Median and quartiles of their time over ours, paired round by round."""
    ratios = [their / our for their, our in zip(theirs, ours, strict=True)]
    lower, middle, upper = statistics.quantiles(ratios, n=4, method="inclusive")
    return {"median": middle, "lower_quartile": lower, "upper_quartile": upper}


def summarize(
    case: Case,
    times: dict[str, list[float]],
    peaks: dict[str, int | None],
    skipped: dict[str, str],
) -> dict[str, Any]:
    """The record of one case: everything that the report prints."""
    ours = times["aefast"]
    baselines: dict[str, dict[str, Any]] = {name: {"skipped": why} for name, why in skipped.items()}
    for name, theirs in times.items():
        if name not in ("aefast", "limit"):
            baselines[name] = {
                "seconds": statistics.median(theirs),
                "ratio": paired_ratio(theirs, ours),
                "peak_bytes": peaks.get(name),
            }
    record = {
        "op": case.op,
        "case": case.name,
        "device": case.device,
        "backend": backend.select(torch.device(case.device), case.dtype),
        "threads": torch.get_num_threads(),
        "overhead": case.measures_overhead,
        "rounds": len(ours),
        "seconds": statistics.median(ours),
        "peak_bytes": peaks.get("aefast"),
        "baselines": baselines,
    }
    if case.training:
        record["steps"] = case.steps
    if case.states is not None:
        record["states_per_second"] = case.states / statistics.median(ours)
    if case.operations is not None:
        record["operations"] = case.operations
    if case.limit is not None:
        scale = {"GB/s": 1e9, "TFLOP/s": 1e12}[case.limit.unit]
        record["limit"] = {
            "name": case.limit.name,
            "rate": case.limit.work / statistics.median(times["limit"]) / scale,
            "unit": case.limit.unit,
            "share": paired_ratio(times["limit"], ours),
        }
    return record


def as_tuple(result: object) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """The error's share in the whole, in the Frobenius norm."""
    difference = torch.linalg.norm(actual.detach().double() - expected)
    return (difference / torch.linalg.norm(expected)).item()


def assert_mostly_close(
    actual: Iterable[Tensor], expected: Iterable[Tensor], rtol: float, atol: float
) -> None:
    """Check that of each pair nearly all elements are close. Where two numbers are nearly equal,
    rounding decides which one is selected, or on which side of a threshold it is."""
    for ours, theirs in zip(actual, expected, strict=True):
        share = torch.isclose(ours, theirs, rtol=rtol, atol=atol).double().mean().item()
        assert share > 0.999, f"{share:.4%} of {tuple(ours.shape)} are close"


def _bind(
    run: Callable[..., object], layer: Callable[..., object], rotation: Iterator[Inputs]
) -> Run:
    return lambda: run(layer, *next(rotation))


def _without_grad(call: Callable[..., object], *inputs: Tensor) -> object:
    with torch.no_grad():
        return call(*inputs)


def _repeat(call: Run, times: int) -> Run:
    def repeated() -> None:
        for _ in range(times):
            call()

    return repeated


def then_synchronize(run: Run) -> Run:
    def synchronized() -> None:
        run()
        torch.cuda.synchronize()

    return synchronized


def _warm_up(call: Run) -> None:
    start = time.perf_counter()
    for _ in range(WARM_UP_CALLS):
        call()
        if time.perf_counter() - start > WARM_UP_SECONDS:
            return
