"""The budgets of instructions, Python calls and tensors: how they are counted and compared."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
if not BENCHMARKS.exists():
    pytest.skip("needs the source tree", allow_module_level=True)
sys.path.insert(0, str(BENCHMARKS))

budgets = importlib.import_module("counts.budgets")
callgrind = importlib.import_module("counts.callgrind")
main = importlib.import_module("counts.__main__")
steps = importlib.import_module("counts.steps")

DUMP = """# callgrind format
desc: Trigger: Client Request: gemm, gradient of W
positions: line
events: Ir

ob=(2) /usr/bin/python3
fn=(1) call
0 1000
cob=(7) /elsewhere/_C.so
cfn=(2)
calls=1 0
0 300

ob=(7)
fn=(2) 0x01
0 200
+3 40
cob=(9) /lib/libc.so
cfn=(4)
calls=2 0
* 60

ob=(9)
fn=(4) memcpy
0 60
"""


def test_the_extensions_own_instructions_are_counted() -> None:
    assert callgrind.parse(DUMP, "_C.so") == ("gemm, gradient of W", 240)


def test_a_compiler_is_named_as_it_left_its_mark(tmp_path: Path) -> None:
    extension = tmp_path / "_C.so"
    for mark, name in (
        (b"\0GCC: (Debian 12.2.0-14) 12.2.0\0", "gcc 12.2.0"),
        (b"\0Debian clang version 14.0.6\0", "clang 14.0.6"),
        (b"\0", "unknown compiler"),
    ):
        extension.write_bytes(mark)
        assert callgrind.compiler(extension) == name


def test_what_is_over_its_budget_is_shown_and_what_is_below() -> None:
    known = {"instructions": {"same": 100, "over": 1000, "below": 1000, "gone": 1}}
    counts = {"instructions": {"same": 102, "over": 1021, "below": 970, "new": 5}}
    assert budgets.failures(counts, known) == [
        "instructions, over: 1,021 of 1,000, +21 (+2.1%)",
        "instructions, new: 5 has no budget",
        "instructions, gone: no such case",
    ]
    assert budgets.savings(counts, known) == ["instructions, below: 970 of 1,000, -30 (-3.0%)"]


def test_a_comparison_fails_over_a_budget_and_leaves_other_versions_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(budgets, "read", lambda: {"gcc 12": {"instructions": {"step": 100}}})
    for origin, count, status in (("gcc 12", 100, 0), ("gcc 12", 103, 1), ("gcc 13", 103, 0)):
        assert main.compare(origin, {"instructions": {"step": count}}) == status
    assert "gcc 13: 1 counts, not compared" in capsys.readouterr().out


def test_budgets_of_other_origins_stay(tmp_path: Path) -> None:
    file = tmp_path / "budgets.json"
    budgets.write("gcc 12", {"avx2": {"step": 1}}, file)
    budgets.write("gcc 13", {"avx2": {"step": 2}}, file)
    budgets.write("gcc 12", {"baseline": {"step": 3}}, file)
    assert json.loads(file.read_text()) == {
        "gcc 12": {"avx2": {"step": 1}, "baseline": {"step": 3}},
        "gcc 13": {"avx2": {"step": 2}},
    }


def test_without_valgrind_nothing_is_counted_and_the_reason_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(callgrind.shutil, "which", lambda program: None)
    assert main.count_instructions(Path("_C.so")) == {}
    assert "avx2 instructions: not counted, valgrind is not installed" in capsys.readouterr().out


def test_python_calls_and_tensors_are_those_of_the_call() -> None:
    import torch

    def call() -> Any:
        return torch.empty(3), torch.empty(4)

    assert steps.python_calls(call) == 3  # of call itself, too
    assert steps.tensors(call) == 2


@pytest.mark.slow  # half a minute
def test_the_counts_are_within_their_budgets() -> None:
    """In a process of its own: pytest's hooks are calls, too."""
    pytest.importorskip("aefast._C", reason="needs the C++ extension")
    environment = os.environ | {"PYTHONPATH": f"{BENCHMARKS.parent}:{BENCHMARKS}"}
    command = [sys.executable, "-m", "counts"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
