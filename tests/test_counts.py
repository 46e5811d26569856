"""benchmarks/counts: how instructions, Python calls and tensors are counted and compared."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aefast import aot
from aefast.ops.topk import triton as topk

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
if not BENCHMARKS.exists():
    pytest.skip("needs the source tree", allow_module_level=True)
sys.path.insert(0, str(BENCHMARKS))

cubins = importlib.import_module("counts.cubins")
budgets = importlib.import_module("counts.budgets")
callgrind = importlib.import_module("counts.callgrind")
inner_loops = importlib.import_module("counts.inner_loops")
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
    capsys: pytest.CaptureFixture[str],
) -> None:
    known = {"gcc 12": {"instructions": {"step": 100}}}
    for origin, count, status in (("gcc 12", 100, 0), ("gcc 12", 103, 1), ("gcc 13", 103, 0)):
        counts = {"instructions": {"step": count}}
        assert budgets.compare(origin, counts, known.get(origin)) == status
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


LOOPS = """
    1000:\tvmovups (%rax),%zmm1
    1006:\tvbroadcastss (%rdi),%zmm2
""" + "\n".join(
    [
        *(f"    {0x1010 + 6 * i:x}:\tvfmadd231ps %zmm1,%zmm2,%zmm{i + 3}" for i in range(8)),
        "    1040:\tadd    $0x40,%rax",
        "    1044:\tjne    1006 <aefast+0x6>",
        "    1046:\tvfmadd231ps %ymm1,%ymm2,%ymm3",
        "    1050:\tjne    1000 <aefast>",  # around the other one
        "    1056:\tjmp    2000 <elsewhere>",
    ]
)


def test_an_inner_loops_instructions_are_counted_by_its_multiply_adds() -> None:
    assert inner_loops.totals(LOOPS) == {"1 loops of 8 multiply-adds": 11}


def test_an_extension_without_avx512_kernels_has_no_inner_loops_to_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inner_loops.shutil, "which", lambda program: program)
    done = subprocess.CompletedProcess([], 0, "    1000:\tret\n", "")
    monkeypatch.setattr(inner_loops.subprocess, "run", lambda *command, **options: done)
    with pytest.raises(budgets.Unavailable, match="no kernels for AVX-512"):
        inner_loops.instructions(Path("_C.so"))


LISTING = """
 Function _scale:
  REG:34 STACK:0 SHARED:0 LOCAL:0 CONSTANT[0]:572

        /*0000*/                   LDC R1, c[0x0][0x28] ;      /* 0x00000a00ff017b82 */
                                                               /* 0x000fe20000000800 */
        /*0010*/              @!P0 LDG.E.128 R4, desc[UR6][R4.64] ;
        /*0020*/               @P1 STL [R1+0x10], R8 ;
        /*0030*/                   HGMMA.64x128x16.F32.BF16 R24, gdesc[UR8], R24 ;
        /*0040*/              @UP2 UTMALDG.2D [UR16], [UR4] ;
        /*0050*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
"""


def test_a_triton_cubins_instructions_are_counted_by_kind() -> None:
    assert cubins.parse(LISTING) == {
        "registers": 34,
        "instructions": 6,
        "tensor cores": 1,
        "multiply-adds": 0,
        "special functions": 0,
        "loads": 2,
        "stores": 0,
        "shared memory": 0,
        "local memory": 1,
        "waits": 1,
    }


def test_a_cubins_budgets_are_a_line_a_kernel_beside_those_of_other_chips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cubins, "FILE", tmp_path / "cubins.json")
    cubins.write("triton 3.7, sm_90", {"b": {"registers": 2}, "a": {"registers": 1}})
    cubins.write("triton 3.7, sm_80", {"a": {"registers": 3}})
    assert cubins.read("triton 3.7, sm_90") == {"registers": {"a": 1, "b": 2}}
    assert cubins.read("triton 3.6, sm_90") is None
    assert len(cubins.FILE.read_text().splitlines()) == 9


def committed_cubins() -> tuple[str, dict[str, dict[str, int]]]:
    """What the budgets of the Triton kernels are of, and those of each of them."""
    known: dict[str, dict[str, dict[str, int]]] = json.loads(cubins.FILE.read_text())
    return next((origin, known[origin]) for origin in known if origin.endswith(", sm_90"))


def test_every_triton_kernel_of_sm_90_has_a_budget(
    short_chunks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """make counts-gpu COUNTS=--write sets those of kernels that were changed."""
    monkeypatch.setattr(topk, "CHUNK", short_chunks)  # what the other tests do not sort by
    topk._merge_variant.cache_clear()
    names = {variant.name for op in aot.OPS for variant in aot.variants(op, 90)}
    topk._merge_variant.cache_clear()
    _, kernels = committed_cubins()
    assert set(kernels) == names
    assert {name for name, counts in kernels.items() if counts["local memory"]} == set()


def test_a_kernel_over_its_budget_fails_with_the_difference(
    capsys: pytest.CaptureFixture[str],
) -> None:
    origin, kernels = committed_cubins()
    name = next(name for name in kernels if name.startswith("half_step_kernel"))
    counts = kernels[name]
    counted = cubins.by_measure(kernels)
    assert budgets.compare(origin, counted, cubins.read(origin)) == 0
    counted["registers"][name] += 8
    counted["local memory"][name] += 2
    assert budgets.compare(origin, counted, cubins.read(origin)) == 1
    shown = capsys.readouterr().out
    registers = counts["registers"]
    share = f"{8 / registers:+.1%}"
    assert f"registers, {name}: {registers + 8} of {registers}, +8 ({share})" in shown
    assert f"local memory, {name}: 2 of 0, +2\n" in shown


def test_python_calls_and_tensors_are_those_of_the_call() -> None:
    import torch

    def call() -> Any:
        return torch.empty(3), torch.empty(4)

    assert steps.python_calls(call) == 3  # of call itself, too
    assert steps.tensors(call) == 2


@pytest.mark.slow  # half a minute
def test_the_counts_are_within_their_budgets() -> None:
    """The counts run in a process of their own, since pytest's hooks are calls, too."""
    pytest.importorskip("aefast._C", reason="needs the C++ extension")
    environment = os.environ | {"PYTHONPATH": f"{BENCHMARKS.parent}:{BENCHMARKS}"}
    command = [sys.executable, "-m", "counts"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
