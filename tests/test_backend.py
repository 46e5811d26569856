"""Dispatch: which backend runs, how to force one, and the environment variables."""

import os
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import aefast
from aefast import backend, random
from aefast.functional import corrupt, linear_act
from aefast.nn import (
    RBM,
    TopKSparseAutoencoder,
    annealed_importance_sampling,
    dictionary,
    exact_log_partition,
    partition,
)
from aefast.ops.shared import triton_gemm
from tests import fresh
from tests.backends import is_interpreted

CPU = torch.device("cpu")


def surroundings(**environment):
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("AEFAST", "TRITON"))}
    return keep | environment


def run(code, **environment):
    """Run a program in a fresh interpreter; return its exit code and output."""
    process = fresh.run(textwrap.dedent(code), surroundings(**environment))
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


@pytest.fixture
def gpus(monkeypatch):
    """Pretend that there are GPUs of these compute capabilities, and an importable triton."""

    def install(*capabilities, hip=None):
        monkeypatch.setattr(torch.version, "hip", hip)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capabilities[index])
        monkeypatch.setattr(
            torch.cuda, "get_device_name", lambda index: f"GPU of {capabilities[index]}"
        )
        monkeypatch.setattr(backend, "_triton_missing", lambda: None)
        clear()

    def clear():
        backend._triton_unavailable.cache_clear()
        backend._select.cache_clear()

    yield install
    clear()


def selected(index):
    return backend.select(torch.device("cuda", index), torch.float32)


@pytest.mark.parametrize(
    ("capability", "name"),
    [
        ((6, 1), "eager"),
        ((7, 0), "eager"),
        ((7, 5), "eager"),
        ((8, 0), "triton"),
        ((8, 9), "triton"),
        ((9, 0), "triton"),
        ((10, 3), "triton"),
        ((12, 0), "triton"),
    ],
)
def test_a_gpu_without_bfloat16_takes_eager(gpus, capability, name):
    gpus(capability)
    assert selected(0) == name
    why = f"it takes a GPU of compute capability 8.0 or more, for bfloat16, not {capability[0]}"
    actual = backend.unavailable("triton", "cuda:0")
    assert actual is None if name == "triton" else actual.startswith(why)


@pytest.mark.parametrize("capability", [(9, 0), (9, 4), (11, 0)])
def test_amds_gpus_take_eager(gpus, capability):
    """AMD's GPUs have capabilities from 9 on, the number of NVIDIA's Hopper."""
    gpus(capability, hip="6.2")
    assert selected(0) == "eager"
    assert "NVIDIA's GPUs, and torch was built for AMD's (ROCm 6.2)" in backend.unavailable(
        "triton", "cuda"
    )
    with (
        aefast.use_backend("eager"),
        pytest.raises(backend.BackendUnavailableError, match="ROCm"),
        aefast.use_backend("triton"),
    ):
        selected(0)


def test_each_gpu_of_a_machine_is_asked_for_itself(gpus):
    gpus((7, 5), (9, 0))
    assert [selected(0), selected(1)] == ["eager", "triton"]
    with aefast.use_backend("triton"):
        assert selected(1) == "triton"
        with pytest.raises(backend.BackendUnavailableError, match=r"8\.0 or more.*not 7\.5"):
            selected(0)
    assert "not 7.5" in backend.unavailable("triton", "cuda")


def test_info_tells_why_a_gpu_runs_eager(gpus, monkeypatch):
    pytest.importorskip("typer")
    from aefast.cli import info

    gpus((7, 5), (9, 0))
    assert info.choices() == (
        "runs eager on cuda:0: it takes a GPU of compute capability 8.0 or more, for bfloat16, "
        "not 7.5; runs triton"
    )
    assert "cuda:1" in info.availability("triton")
    assert "cuda:0" not in info.availability("triton")
    assert info.kernels().startswith("none, ")
    monkeypatch.setattr(backend, "_triton_missing", lambda: "triton does not import")
    backend._triton_unavailable.cache_clear()
    assert info.kernels() == "none"


@pytest.mark.parametrize(
    ("capability", "generation", "is_full"),
    [
        ((7, 5), None, False),
        ((8, 0), 80, True),
        ((8, 9), 80, False),
        ((9, 4), 90, True),
        ((11, 0), 100, True),
        ((13, 0), 80, False),
    ],
)
def test_a_chips_generation_is_nvidias(monkeypatch, capability, generation, is_full):
    """Unknown newer chips take the oldest generation's kernels; unsupported chips have none."""
    major, minor = capability
    properties = SimpleNamespace(major=major, minor=minor, multi_processor_count=40)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    device = torch.device("cuda", 0)
    assert triton_gemm.has_full_shared_memory.__wrapped__(device) == is_full
    if generation is not None:
        assert triton_gemm.chip.__wrapped__(device) == (generation, 40)
        monkeypatch.setattr(torch.version, "hip", "6.2")
        assert not triton_gemm.has_full_shared_memory.__wrapped__(device)
    with pytest.raises(backend.BackendUnavailableError, match=r"it takes a GPU|ROCm 6\.2"):
        triton_gemm.chip.__wrapped__(device)


class NoFloat64(TorchDispatchMode):
    """Raises for float64, as a device without it does."""

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        assert getattr(result, "dtype", None) != torch.float64, function
        return result


@pytest.mark.parametrize("device", ["mps", "xpu"])
def test_other_devices_take_eager_in_float32(monkeypatch, device):
    """Neither MPS nor some of Intel's GPUs have float64."""
    assert backend.select(torch.device(device), torch.float32) == "eager"
    assert "INTERPRET" not in backend.unavailable("triton", device)
    expected = random.normal(1, 30, 50)
    words = random.words

    def on_the_processor(*arguments, device, **options):
        return words(*arguments, **options)

    monkeypatch.setattr(random, "words", on_the_processor)
    with NoFloat64():
        actual = random.normal(1, 30, 50, device=torch.device(device))
    # The angle is rounded to float32: half of 2^-21 at up to 2 pi; the radius is below 6.7.
    torch.testing.assert_close(actual, expected, rtol=0, atol=6.7 * 2.0**-22 + 2.0**-21)
    with pytest.raises(AssertionError), NoFloat64():
        random.normal(1, 3, 5)


def test_sums_over_many_states_and_medians_need_no_float64(monkeypatch):
    machine, rows = RBM(5, 4), torch.rand(9, 5)
    model = TopKSparseAutoencoder(5, 8, 2)

    def median():
        model.start_from(rows)
        return model.decoder_bias.detach().clone()

    def annealed():
        return annealed_importance_sampling(machine, rows, chains=16, betas=9, seed=0).estimate

    expected = exact_log_partition(machine), annealed(), median()
    for module in (partition, dictionary):
        monkeypatch.setattr(module, "most_precise", lambda device: torch.float32)
    with NoFloat64(), aefast.use_backend("eager"):
        actual = exact_log_partition(machine), median()
    assert actual[0] == pytest.approx(expected[0], rel=1e-6)
    torch.testing.assert_close(actual[1], expected[2])
    assert annealed() == pytest.approx(expected[1], rel=1e-5)


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
    """The extension is hidden from the import system, as in a pure wheel."""
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
    assert result == str(corrupt(torch.ones(2, 4), "masking", 0.5, seed=0).tolist())


def test_importing_the_package_imports_neither_numba_nor_triton():
    code, printed, _ = run(
        "import sys, aefast; print([m for m in ('numba', 'triton') if m in sys.modules])"
    )
    assert (code, printed) == (0, "[]")


@pytest.mark.parametrize("name", ["cpp", "numba"])
def test_a_forked_child_of_a_process_with_threads_computes_the_same(name):
    """The child does not have OpenMP's threads, and waiting for them would hang it.

    The test compares bytes: torch.equal is parallel, and does hang there.
    """
    program = """
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
    """
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env=surroundings(AEFAST_BACKEND=name),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (process.returncode, process.stdout) == (0, "0\n"), process.stderr


def test_two_python_threads_at_once_compute_the_same(kernel_device):
    name = backend.select(kernel_device, torch.float32)
    if is_interpreted(kernel_device):
        pytest.skip("Triton's interpreter serves one thread")
    from concurrent.futures import ThreadPoolExecutor

    x = torch.randn(64, 200, device=kernel_device)

    def call(seed):
        with aefast.use_backend(name):
            return corrupt(x, "masking", 0.5, seed=seed)

    expected = [call(seed) for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        for actual, of_one_thread in zip(pool.map(call, range(8)), expected, strict=True):
            assert torch.equal(actual, of_one_thread)


@pytest.mark.parametrize(
    ("triton", "numpy", "fits"),
    [
        ("3.6.0", "2.3.5", True),
        ("3.6.0", "2.4.0", False),
        ("3.6.1+git", "3.0.0rc1", False),
        ("3.7.1", "2.4.6", True),
        ("3.10.0", "2.10.0", True),
    ],
)
def test_an_interpreter_that_its_numpy_breaks_says_what_to_install(triton, numpy, fits):
    reason = backend.interpreter_unfit(triton, numpy)
    if fits:
        assert reason is None
    else:
        assert f"Triton {triton} takes numpy older than 2.4, not {numpy}" in reason
        assert "pip install 'numpy<2.4'" in reason


@pytest.mark.skipif(bool(backend.unavailable("triton", "cpu")), reason="needs the interpreter")
def test_a_forced_interpreter_asks_which_numpy_it_has(monkeypatch):
    monkeypatch.setattr("triton.__version__", "3.6.0")
    monkeypatch.setattr("numpy.__version__", "2.4.6")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    backend._triton_unavailable.cache_clear()
    try:
        unavailable = pytest.raises(backend.BackendUnavailableError, match="takes numpy older")
        with unavailable, backend.use_backend("triton"):
            pass
    finally:
        backend._triton_unavailable.cache_clear()
