"""Rows that keep a norm of 1: the kernels against the equations in float64, and who serves."""

import pytest
import torch

pytest.importorskip("aefast._C", reason="needs the C++ extension")

from aefast.backend import use_backend
from aefast.step import unit_rows

SHAPES = [(1, 1), (3, 1), (5, 16), (7, 33), (401, 129), (2, 20_000), (0, 4)]


def definition(gradient, rows):
    norms = rows.norm(dim=1, keepdim=True).clamp(min=1e-12)
    directions = rows / norms
    return gradient - (gradient * directions).sum(1, keepdim=True) * directions, directions


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("backend", ["cpp", "eager"])
def test_rows_and_gradients_are_the_equations(shape, backend):
    torch.manual_seed(0)
    rows, gradient = 3 * torch.randn(shape), torch.randn(shape)
    if len(rows) > 2:
        rows[1] = 0
    expected = definition(gradient.double(), rows.double())
    with use_backend(backend):
        unit_rows.project_rows(gradient, rows)
        unit_rows.normalize_rows(rows)
    for actual, exact in zip((gradient, rows), expected, strict=True):
        torch.testing.assert_close(actual.double(), exact, rtol=1e-6, atol=1e-6)


def test_a_row_whose_square_leaves_float32_has_a_norm():
    rows = torch.tensor([[3e30, 4e30], [3e-30, 4e-30], [torch.nan, 1.0]])
    unit_rows.normalize_rows(rows)
    torch.testing.assert_close(rows[0], torch.tensor([0.6, 0.8]))
    torch.testing.assert_close(rows[1], torch.tensor([3e-18, 4e-18]))  # of the smallest norm
    assert rows[2].isnan().all()


@pytest.mark.parametrize(
    "layout",
    [
        lambda rows: rows.t().contiguous().t(),
        lambda rows: torch.cat([rows, rows], 1)[:, : rows.shape[1]],
        lambda rows: rows.double(),
    ],
    ids=["columns", "strided", "float64"],
)
def test_other_layouts_and_dtypes_have_the_same_numbers(layout):
    torch.manual_seed(0)
    rows, gradient = torch.randn(9, 5), torch.randn(9, 5)
    expected = definition(gradient, rows)
    rows, gradient = layout(rows), layout(gradient)
    unit_rows.project_rows(gradient, rows)
    unit_rows.normalize_rows(rows)
    for actual, exact in zip((gradient, rows), expected, strict=True):
        torch.testing.assert_close(actual.to(exact), exact)


def test_one_and_two_threads_give_the_same_bits(threads):
    start, incoming = torch.randn(3000, 65), torch.randn(3000, 65)
    results = []
    for count in (1, 2):
        threads(count)
        rows, gradient = start.clone(), incoming.clone()
        unit_rows.project_rows(gradient, rows)
        unit_rows.normalize_rows(rows)
        results.append((gradient, rows))
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


def test_autograd_sees_that_rows_were_changed():
    weight = torch.randn(4, 3, requires_grad=True)
    loss = (weight * weight).sum()
    unit_rows.normalize_rows(weight)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
