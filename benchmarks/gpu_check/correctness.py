"""Whether every op is right on the GPU: its self-test, and what is hard; then the tests themselves.

The hard cases are the self-test's with other sizes, values and layouts, inside a CUDA graph, and on
two streams at once: a new op has them by its ``selftest.py``.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.testing import assert_close

from aefast import selftest
from aefast.backend import use_backend
from aefast.ops.shared.selftest_case import Case
from gpu_check.worker import DEVICE, REHEARSAL, Record, attempt

TARGET = selftest.Target("triton", DEVICE)

# The self-test's sizes: rows, inputs, units, and units of a second layer.
ROWS, INPUTS, UNITS, CODES = (33, 37, 40, 257), (47, 129, 131), (31, 19), (13,)
# Of states that are drawn, those whose uniform lies next to the probability may differ.
TIES = 1e-4
# Ops whose float32 products are TF32 at "high". Its 11 bits leave an error of 2^-12 in a factor.
PRODUCTS = ("linear_act", "mlp", "reconstruction", "contractive")
TF32_ERROR = 2.0**-10


def sizes(rows: int, inputs: int, units: int, codes: int) -> dict[int, int]:
    """The sizes that replace the self-test's."""
    named = ((ROWS, rows), (INPUTS, inputs), (UNITS, units), (CODES, codes))
    return {size: new for group, new in named for size in group}


SIZES = {
    "one unit": sizes(33, 47, 1, 1),
    "one row": sizes(1, 47, 31, 13),
    "large": sizes(1024, 768, 512, 128),
    "large and odd": sizes(1027, 785, 515, 131),
    "one tile too many": sizes(128 * 133, 64, 256, 16),  # than an H100 has multiprocessors
}
TF32_SIZES = sizes(4099, 785, 515, 131)  # rows for which a right operand is transposed
if REHEARSAL:
    SIZES = {"one unit": SIZES["one unit"]}
    TF32_SIZES = sizes(33, 47, 31, 13)


def work(op: str, record: Record) -> None:
    for case in selftest.cases():
        if case.op != op:
            continue
        for name, one in {case.name: case, **dict(hard(case))}.items():
            for dtype in one.dtypes:
                label = f"{name}, {str(dtype).removeprefix('torch.')}"
                attempt(record, label, lambda one=one, dtype=dtype: against_float64(one, dtype))
        if op in PRODUCTS:
            attempt(record, f"{case.name}, TF32", lambda c=case: at_tf32(resized(c, TF32_SIZES)))
        if case.same_bits:
            attempt(record, f"{case.name}, the CPU's bits", lambda case=case: cpu_bits(case))
        if not REHEARSAL:
            attempt(record, f"{case.name}, captured", lambda case=case: captured(case))
            attempt(record, f"{case.name}, two streams", lambda case=case: two_streams(case))


def hard(case: Case) -> Iterator[tuple[str, Case]]:
    """The variants of a case with harder inputs."""
    absolute = tuple(tensor.abs() for tensor in case.inputs)
    yield f"{case.name}, positive", replace(case, inputs=absolute)
    yield f"{case.name}, strided", replace(case, function=on_every_other(case.function))
    for label, changes in SIZES.items():
        if label == "one tile too many" and case.op != "linear_act":
            continue
        if case.op == "topk" and (case.name == "decoded" or label == "one unit"):
            continue  # its indices are those of the self-test's size; 5 of 1 unit there are not
        yield f"{case.name}, {label}", resized(case, changes)


def on_every_other(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function of the same numbers with a stride of 2 between them."""
    return lambda *tensors: function(*(torch.stack((t, t), -1)[..., 0] for t in tensors))


def resized(case: Case, changes: dict[int, int]) -> Case:
    """The case with other sizes: entries drawn from its own, weights for the same sums."""
    generator = torch.Generator().manual_seed(0)

    def resize(index: int, tensor: Tensor) -> Tensor:
        new = tensor
        for dim, size in enumerate(tensor.shape):
            if changes.get(size, size) != size:
                drawn = torch.randint(size, (changes[size],), generator=generator)
                new = new.index_select(dim, drawn)
        if torch.equal(tensor, tensor.round()):  # states, or ranks that rounding must not change
            return new
        new = new * (1 + 0.1 * torch.rand(new.shape, generator=generator))
        is_weight = index > 0 and tensor.dim() == 2
        return new * (tensor.shape[-1] / new.shape[-1]) ** 0.5 if is_weight else new

    inputs = tuple(resize(index, tensor) for index, tensor in enumerate(case.inputs))
    return replace(case, inputs=inputs)


def against_float64(case: Case, dtype: torch.dtype) -> dict[str, Any]:
    """Compare as the self-test does; of drawn states in large numbers, count how many differ."""
    if case.same_bits:
        computed, defined = (
            torch.cat([result.flatten() for result in results_of(name, case, dtype)])
            for name in ("triton", "eager")
        )
        differing = (computed != defined).double().mean().item()
        return judged(differing, TIES if computed.numel() > 1 / TIES else 0.0, "share that differs")
    return judged(error(case, dtype), selftest.LIMIT, "error")


def at_tf32(case: Case) -> dict[str, Any]:
    """The largest error at "high" of an output or a gradient, as a share of its norm.

    PyTorch's is no measure: for sizes that suit no TF32 kernel cuBLAS takes a float32 one.
    """
    torch.set_float32_matmul_precision("high")
    try:
        computed = results_of("triton", case, torch.float32)
    finally:
        torch.set_float32_matmul_precision("highest")
    truth = selftest.results(case, selftest.Target("eager", DEVICE), torch.float32, torch.float64)
    shares = [
        ((actual - expected).norm() / expected.norm()).item()
        for actual, expected in zip(computed, truth, strict=True)
        if expected.any()
    ]
    return judged(max(shares), TF32_ERROR, "relative error")


def error(case: Case, dtype: torch.dtype) -> float:
    """The self-test's, but of a few elements that torch's own tolerance lets pass.

    There eager may be exact by luck, and one unit's gradient is a sum in which all cancels.
    """
    computed, same_dtype = (results_of(name, case, dtype) for name in ("triton", "eager"))
    truth = selftest.results(case, selftest.Target("eager", DEVICE), dtype, torch.float64)
    errors = [
        selftest._in_units(*triple)
        for triple in zip(computed, same_dtype, truth, strict=True)
        if not torch.equal(triple[0], triple[1]) and not is_close_of_few(triple[0], triple[2])
    ]
    return torch.stack(errors).max().item() if errors else 0.0  # a NaN stays one


def is_close_of_few(result: Tensor, truth: Tensor) -> bool:
    try:
        assert_close(result, truth.to(result.dtype))
    except AssertionError:
        return False
    return truth.numel() < selftest.FEW


def results_of(backend: str, case: Case, dtype: torch.dtype) -> list[Tensor]:
    return selftest.results(case, selftest.Target(backend, DEVICE), dtype, dtype)


def judged(value: float, limit: float, unit: str) -> dict[str, Any]:
    outcome: dict[str, Any] = {"value": value, "limit": limit}
    if not value <= limit:  # a NaN is none
        outcome["failed"] = f"{unit} {value:.3g}, allowed {limit:.3g}"
    return outcome


def cpu_bits(case: Case) -> dict[str, Any]:
    """What is drawn on the GPU is what the definition draws on the processor."""
    cpu = selftest.Target("eager", "cpu")
    here, there = (
        selftest.results(case, target, torch.float32, torch.float32) for target in (TARGET, cpu)
    )
    differing = sum(int((a.cpu() != b).sum()) for a, b in zip(here, there, strict=True))
    return judged(differing, 0, "elements that differ:")


class Call:
    """A case's function with its gradients, of tensors that are on the GPU already."""

    def __init__(self, case: Case, dtype: torch.dtype = torch.float32) -> None:
        self.function = case.function
        self.leaves = [t.to(DEVICE, dtype).requires_grad_() for t in case.inputs]

    def __call__(self) -> list[Tensor]:
        with use_backend("triton"):
            result = self.function(*self.leaves)
        outputs = [result] if isinstance(result, Tensor) else [o for o in result if o is not None]
        smooth = [output for output in outputs if output.requires_grad]
        gradients = torch.autograd.grad(smooth, self.leaves, [torch.ones_like(o) for o in smooth])
        return [tensor.detach() for tensor in (*outputs, *(gradients if smooth else ()))]


def captured(case: Case) -> dict[str, Any]:
    """A graph's replay gives a plain call's bits, or the capture is refused in so many words."""
    call = Call(case)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        expected = call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            results = call()
    except RuntimeError as error:
        if "outside the capture" in str(error):
            return {"refused": str(error)}
        raise
    for result in results:
        result.zero_()
    graph.replay()
    torch.cuda.synchronize()
    return judged(differing(results, expected), 0, "elements that differ:")


def two_streams(case: Case) -> dict[str, Any]:
    """Calls on two streams at once give what they give one after the other."""
    calls = [Call(case), Call(replace(case, inputs=tuple(t.flip(0) for t in case.inputs)))]
    expected = [call() for call in calls]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in calls]
    by_stream: list[list[list[Tensor]]] = [[], []]
    for _ in range(10):
        for stream, call, results in zip(streams, calls, by_stream, strict=True):
            with torch.cuda.stream(stream):
                results.append(call())
    torch.cuda.synchronize()
    pairs = zip(by_stream, expected, strict=True)
    count = sum(
        differing(results, expected_tensors)
        for several, expected_tensors in pairs
        for results in several
    )
    return judged(count, 0, "elements that differ:")


def differing(results: list[Tensor], expected: list[Tensor]) -> int:
    pairs = zip(results, expected, strict=True)
    return sum(int((~torch.isclose(a, b, 0, 0, equal_nan=True)).sum()) for a, b in pairs)
