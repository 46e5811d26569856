"""Whole steps where the C++ extension is not installed: numba's kernels, and torch's products where
those are the quicker ones."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import bench_step
import pytest
from harness import Case
from shapes import MIDDLE, SMALL, Shape

from aefast import backend

SHAPES = [bench_step.TABLES, bench_step.DIGITS, bench_step.LARGE_LAYER]
SHAPES += [Shape(128, widths) for widths in (SMALL, (200, 50), (784, 64), MIDDLE)]
KINDS = [bench_step.plain, bench_step.denoising, bench_step.variational]


@pytest.fixture
def without_extension(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Backends are chosen as in a pure wheel: one that is forced by name would run where torch's
    operators are the quicker ones, too."""
    pytest.importorskip("numba")
    with monkeypatch.context() as patched:
        patched.setattr(backend, "_extension_unavailable", lambda: "it is left out here")
        backend._select.cache_clear()
        yield
    backend._select.cache_clear()


@pytest.mark.parametrize("device", ["cpu"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_step(
    compare: Callable[[Case], None],
    without_extension: None,
    shape: Shape,
    kind: bench_step.Kind,
    device: str,
) -> None:
    case = bench_step.step_case(kind, shape)
    compare(replace(case, name=f"{case.name}, numba alone", compiles=False))
