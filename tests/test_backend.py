"""Dispatch: which backend runs, how to force one, and what the environment variables say."""

import os
import subprocess
import sys
import textwrap

import pytest
import torch

import aefast
from aefast import backend
from aefast.functional import corrupt, linear_act
from tests.places import is_interpreted

CPU = torch.device("cpu")


def run(code, **environment):
    """A fresh interpreter: what it prints, and its exit code."""
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("AEFAST", "TRITON"))}
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=keep | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return process.returncode, process.stdout.strip(), process.stderr.strip()


SELECT = "import torch; from aefast import backend; print(backend.select(torch.device('cpu'), {}))"


def test_cpu_tensors_take_the_extension_then_numba_then_eager(monkeypatch):
    def first_of(*there):
        backend._select.cache_clear()
        monkeypatch.setattr(backend, "unavailable", lambda name, _: None if name in there else "no")
        try:
            return backend.select(CPU, torch.float32)
        finally:
            backend._select.cache_clear()

    assert first_of("eager", "triton", "numba", "cpp") == "cpp"
    assert first_of("eager", "triton", "numba") == "numba"
    assert first_of("eager", "triton") == "eager"


@pytest.mark.parametrize("device", ["cpu", "cuda", "meta", "mps"])
def test_float64_and_unknown_devices_take_eager(device):
    assert backend.select(torch.device(device), torch.float64) == "eager"
    if device not in ("cpu", "cuda"):
        assert backend.select(torch.device(device), torch.float32) == "eager"


def test_use_backend_forces_one_and_gives_it_back():
    before = backend.select(CPU, torch.float32)
    with aefast.use_backend("eager"):
        assert backend.select(CPU, torch.float32) == "eager"
        with aefast.use_backend("numba"):
            assert backend.select(CPU, torch.float32) == "numba"
        assert backend.select(CPU, torch.float32) == "eager"
    assert backend.select(CPU, torch.float32) == before


def test_use_backend_refuses_an_unknown_name():
    with (
        pytest.raises(ValueError, match="name is 'cuda'; it takes one of cpp, numba"),
        aefast.use_backend("cuda"),
    ):
        pass


def test_a_forced_backend_that_cannot_run_says_why():
    with (
        aefast.use_backend("cpp"),
        pytest.raises(backend.BackendUnavailableError, match="it takes float32, bfloat16"),
    ):
        corrupt(torch.ones(2, dtype=torch.float64), "masking", 0.5)
    with (
        aefast.use_backend("numba"),
        pytest.raises(backend.BackendUnavailableError, match="serves CPU tensors, not meta"),
    ):
        linear_act(torch.ones(2, 2, device="meta"), torch.ones(2, 2, device="meta"))


def test_environment_variable_forces_a_backend():
    assert run(SELECT.format("torch.float32"), AEFAST_BACKEND="numba") == (0, "numba", "")


def test_environment_variable_with_an_unknown_backend_is_named():
    code, _, errors = run(SELECT.format("torch.float32"), AEFAST_BACKEND="cuda")
    assert code == 1
    assert "AEFAST_BACKEND is 'cuda'; it takes one of cpp, numba, triton, eager" in errors


def test_environment_variable_with_a_backend_that_cannot_run_says_why():
    code, _, errors = run(SELECT.format("torch.float32"), AEFAST_BACKEND="triton")
    assert code == 1
    assert "backend 'triton' cannot run: it serves CUDA tensors, not cpu" in errors


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512", "amx"])
def test_instruction_set_is_capped(isa):
    code, printed, _ = run(
        "from aefast import backend; print(backend.cpu_isa(), backend.cpu_features()[-1])",
        AEFAST_CPU_ISA=isa,
    )
    used, detected = printed.split()
    order = backend.INSTRUCTION_SETS.index
    assert code == 0
    assert order(used) == min(order(isa), order(detected))


def test_unknown_instruction_set_is_named():
    code, _, errors = run("from aefast import backend; backend.cpu_isa()", AEFAST_CPU_ISA="sse9")
    assert code == 1
    assert "AEFAST_CPU_ISA is 'sse9'; it takes one of baseline, avx2, avx512, amx" in errors


def test_without_the_extension_numba_serves_and_says_so():
    """As in a pure wheel: the extension is hidden from the import system."""
    code, printed, errors = run(
        """
        import importlib.util, sys, torch
        find = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *rest: None if name == "aefast._C" else find(name)
        from aefast import backend
        from aefast.functional import corrupt
        print(backend.select(torch.device("cpu"), torch.float32), backend.cpu_isa())
        print(backend.unavailable("cpp", "cpu"))
        print(corrupt(torch.ones(2, 4), "masking", 0.5, seed=0).tolist())
        """
    )
    assert (code, errors) == (0, "")
    selected, reason, result = printed.splitlines()
    assert selected == "numba none"
    assert "not in this installation" in reason
    assert result == "[[0.0, 1.0, 1.0, 1.0], [0.0, 1.0, 0.0, 0.0]]"


def test_importing_the_package_imports_neither_numba_nor_triton():
    code, printed, _ = run(
        "import sys, aefast; print([m for m in ('numba', 'triton') if m in sys.modules])"
    )
    assert (code, printed) == (0, "[]")


@pytest.mark.parametrize("name", ["cpp", "numba"])
def test_a_forked_child_of_a_process_with_threads_computes_the_same(name):
    """OpenMP's threads are lost in the child, and waiting for them would hang it.

    The comparison is of bytes, because torch's own is parallel, and does hang there.
    """
    code, printed, errors = run(
        """
        import os, torch, aefast
        from aefast.functional import corrupt, linear_act
        torch.set_num_threads(2)
        x, weight = torch.randn(600, 512), torch.randn(64, 512)
        parent = corrupt(x, "gaussian", 0.5, seed=1)
        linear_act(x, weight, activation="tanh")
        child = os.fork()
        if child == 0:
            again = corrupt(x, "gaussian", 0.5, seed=1)
            os._exit(0 if again.numpy().tobytes() == parent.numpy().tobytes() else 3)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """,
        AEFAST_BACKEND=name,
    )
    assert (code, printed) == (0, "0"), errors


def test_two_python_threads_at_once_compute_the_same(kernel_place):
    name = backend.select(kernel_place, torch.float32)
    if is_interpreted(kernel_place):
        pytest.skip("Triton's interpreter serves one thread")
    from concurrent.futures import ThreadPoolExecutor

    x = torch.randn(64, 200, device=kernel_place)

    def call(seed):
        with aefast.use_backend(name):
            return corrupt(x, "masking", 0.5, seed=seed)

    expected = [call(seed) for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        for found, wanted in zip(pool.map(call, range(8)), expected, strict=True):
            assert torch.equal(found, wanted)
