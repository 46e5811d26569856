"""``aefast selftest``: its table, its exit code."""

import pytest
import torch

pytest.importorskip("typer")

from aefast import backend, cli
from aefast.selftest import Case, Target
from tests.cli.command import invoke


def case(op, function, **options):
    return Case(op, "a case", function, (torch.linspace(0.5, 1, 200),), **options)


def wrong(x):
    return x.clone() if backend.select(x.device, x.dtype) == "eager" else 2 * x


@pytest.fixture
def suite(monkeypatch):
    """Sets the cases that are run, on one backend."""
    if backend.unavailable("numba", "cpu"):
        pytest.skip("needs numba")
    monkeypatch.setattr(cli.selftest.suite, "targets", lambda: [Target("numba", "cpu")])
    return lambda *cases: monkeypatch.setattr(cli.selftest.suite, "cases", lambda: list(cases))


def test_a_row_for_each_op_and_exit_code_0_where_all_pass(suite):
    suite(case("corrupt", torch.clone), case("sparsity", torch.clone))
    result = invoke("selftest")
    assert result.exit_code == 0
    heading, *rows, summary = result.output.splitlines()
    assert heading.split() == ["op", "numba", "(cpu)"]
    assert [row.split() for row in rows] == [
        ["corrupt", "same", "bits"],
        ["sparsity", "same", "bits"],
    ]
    assert summary.startswith("6 comparisons, 0 failed")


def test_a_wrong_kernel_is_named_and_gives_exit_code_1(suite):
    suite(case("corrupt", torch.clone), case("sparsity", wrong, dtypes=(torch.float32,)))
    result = invoke("selftest")
    assert result.exit_code == 1
    assert result.output.splitlines()[2].split() == ["sparsity", "FAILED"]
    assert "FAILED sparsity, a case, numba (cpu), float32: error " in result.output
    assert "4 comparisons, 1 failed" in result.output


def test_a_selftest_of_nothing_does_not_pass(monkeypatch):
    monkeypatch.setattr(cli.selftest.suite, "targets", lambda: [])
    result = invoke("selftest")
    assert result.exit_code == 1
    assert "no kernel runs here" in result.output
