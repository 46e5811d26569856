"""Large tensors with the C library's allocator as it comes, which is as users have it.

It gives large blocks back to the system, and the next call faults their pages in anew. The other
cases keep what is freed, as ``memory.keep_freed_memory`` says; these come before them, since that
cannot be taken back.
"""

from collections.abc import Callable
from dataclasses import replace

import bench_step
import pytest
from bench_threads import OPS, op_cases
from harness import Case
from shapes import LARGE_TENSORS, Shape

pytestmark = pytest.mark.allocator_as_it_comes


@pytest.mark.parametrize("device", ["cpu"])
@pytest.mark.parametrize("measured", bench_step.CASES)
@bench_step.each_model(LARGE_TENSORS)
def test_model(
    compare: Callable[[Case], None],
    kind: bench_step.Kind,
    shape: Shape,
    measured: str,
    device: str,
) -> None:
    compare(as_it_comes(bench_step.CASES[measured](kind, shape)))


@pytest.mark.parametrize("device", ["cpu"])
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("shape", LARGE_TENSORS, ids=str)
def test_op(compare: Callable[[Case], None], shape: Shape, op: str, device: str) -> None:
    compare(as_it_comes(op_cases(shape.batch, *shape.widths)[op]))


def as_it_comes(case: Case) -> Case:
    return replace(case, name=f"{case.name}, allocator as it comes", compiles=False)
