"""Fixtures that every op's tests share."""

import os

import pytest
import torch

# Triton decides at import whether it interprets. Without a GPU its kernels run in the interpreter.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

from aefast import backend


def _places() -> list[tuple[str, str]]:
    """Every (backend, device) that can run here."""
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    return [
        (name, device)
        for device in devices
        for name in backend.BACKENDS
        if backend.unavailable(name, device) is None
    ]


PLACES = _places()


@pytest.fixture(params=PLACES, ids="-".join)
def place(request):
    """Forces one backend; the value is the device that it serves."""
    name, device = request.param
    with backend.use_backend(name):
        yield torch.device(device)


@pytest.fixture(params=[p for p in PLACES if p[0] != "eager"], ids="-".join)
def kernel_place(request):
    """As ``place``, without the definition itself."""
    name, device = request.param
    with backend.use_backend(name):
        yield torch.device(device)


@pytest.fixture(autouse=True)
def poisoned_memory():
    """torch.empty hands out NaN, so that an element that a kernel leaves out shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def same_start():
    torch.manual_seed(0)


@pytest.fixture
def threads():
    """Sets the thread count, and restores it."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def instruction_set():
    """Caps the C++ kernels to an instruction set, and restores it; skips where it is not there."""
    before = backend.cpu_isa()

    def cap(name: str) -> None:
        if name not in backend.cpu_features():
            pytest.skip(f"the C++ kernels have no {name} here")
        backend.extension().cap_instruction_set(name)

    with backend.use_backend("cpp"):
        yield cap
    backend.extension().cap_instruction_set(before)


@pytest.fixture
def matmul_precision():
    """Sets torch's float32 matmul precision, and restores it."""
    yield torch.set_float32_matmul_precision
    torch.set_float32_matmul_precision("highest")
