"""Which backend runs an op, and why.

CPU tensors take ``cpp``, else ``numba``, else ``eager``; tensors on NVIDIA's GPUs of compute
capability 8.0 and up take ``triton``, else ``eager``; any other device (AMD's and older GPUs, MPS,
XPU), and float64, take ``eager``, the definition in plain PyTorch.
``use_backend`` and the environment variable ``AEFAST_BACKEND`` force one.
"""

import importlib
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from types import ModuleType

import torch

from aefast import cubins

BACKENDS = ("cpp", "numba", "triton", "eager")
INSTRUCTION_SETS = ("baseline", "avx2", "avx512", "amx")
KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

# What the Triton kernels take: tensor cores that multiply bfloat16.
LEAST_CAPABILITY = (8, 0)

_PREFERENCE = {"cpu": ("cpp", "numba"), "cuda": ("triton",)}

# Which process imported the package. A child that loads the extension itself has none of the
# threads that OpenMP began before the fork, and would wait for them for ever.
_PROCESS = os.getpid()

# Torch's own operations wait for those threads, too, once they are large enough for two: in a child
# they run on the thread that calls them.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))

_forced: ContextVar[str | None] = ContextVar("aefast_backend", default=None)

# The name of the backend whose block runs; None outside.
chosen = _forced.get


class BackendUnavailableError(RuntimeError):
    """A backend was forced that cannot run here; the message says why."""


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run every op inside the block on one backend.

    Args:
        name: ``"cpp"``, ``"numba"``, ``"triton"`` or ``"eager"``.

    Raises:
        ValueError: ``name`` is none of these.
        BackendUnavailableError: the backend cannot run on this machine. An op inside the block
            raises it too, for a tensor on a device that the backend does not serve.

    >>> import torch, aefast
    >>> with aefast.use_backend("eager"):
    ...     aefast.functional.linear_act(torch.ones(1, 2), torch.ones(1, 2), activation="relu")
    tensor([[2.]])
    """
    _check_name(name, "name")
    reasons = [unavailable(name, device) for device in ("cpu", *(cuda_devices() or ["cuda"]))]
    if all(reasons):
        raise BackendUnavailableError(f"backend {name!r} cannot run: {reasons[0]}")
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)


def select(device: torch.device, dtype: torch.dtype) -> str:
    """The name of the backend that runs an op on tensors of this device and dtype."""
    return _select(_forced.get() or environment_choice(), device, dtype)


def is_forced(name: str | None = None) -> bool:
    """True if a backend, or this one, was chosen by name: it runs even where another is quicker."""
    forced = _forced.get() or environment_choice()
    return forced is not None if name is None else forced == name


@cache
def environment_choice() -> str | None:
    """The backend that ``AEFAST_BACKEND`` forces outside blocks of :func:`use_backend`, if any."""
    name = os.environ.get("AEFAST_BACKEND") or None
    if name is not None:
        _check_name(name, "AEFAST_BACKEND")
    return name


def unavailable(name: str, device: str) -> str | None:
    """Why backend ``name`` cannot run on a device, ``"cpu"`` or ``"cuda:1"``; None where it can.

    Of ``"cuda"`` without a number it is what keeps it from one of the GPUs.
    """
    if name == "eager":
        return None
    if name == "triton":
        return _triton_unavailable(device)
    if device != "cpu":
        return f"it serves CPU tensors, not {device}"
    return _extension_unavailable() if name == "cpp" else _numba_unavailable()


def cuda_devices() -> list[str]:
    """The GPUs that torch sees under this name: NVIDIA's, or AMD's where it was built for them."""
    return [f"cuda:{index}" for index in range(torch.cuda.device_count())]


def unfit(capability: tuple[int, int]) -> str | None:
    """Why the Triton kernels do not run on a GPU of this compute capability; None where they do."""
    if torch.version.hip is not None:
        return f"it serves NVIDIA's GPUs, and torch was built for AMD's (ROCm {torch.version.hip})"
    if capability < LEAST_CAPABILITY:
        least, actual = (".".join(map(str, pair)) for pair in (LEAST_CAPABILITY, capability))
        return f"it takes a GPU of compute capability {least} or more, for bfloat16, not {actual}"
    return None


def interpreter_unfit(triton: str, numpy: str) -> str | None:
    """Why Triton's interpreter does not run with this numpy; None where it does."""
    versions = [tuple(map(int, version.split(".")[:2])) for version in (triton, numpy)]
    if versions[0] < (3, 7) and versions[1] >= (2, 4):
        return (
            f"the interpreter of Triton {triton} takes numpy older than 2.4, not {numpy}: "
            "pip install 'numpy<2.4', or 'triton>=3.7'"
        )
    return None


@cache
def implementation(op: str, backend: str) -> ModuleType:
    """The module ``aefast.ops.<op>.<backend>``, imported on first use."""
    return importlib.import_module(f"aefast.ops.{op}.{backend}")


def extension() -> ModuleType:
    """The compiled module ``aefast._C``, capped to ``AEFAST_CPU_ISA``."""
    return _extension()


def cpu_isa() -> str:
    """The instruction set that the C++ kernels use; ``"none"`` where there is no extension."""
    return "none" if _extension_unavailable() else extension().instruction_set()


def cpu_features() -> list[str]:
    """The instruction sets that this processor and operating system offer to the C++ kernels."""
    return [] if _extension_unavailable() else extension().detected_features()


@cache
def reads_tensors() -> bool:
    """Whether the extension is there, and reads torch's tensors itself.

    This torch then offers the table of C functions that the extension knows; elsewhere it is given
    addresses.
    """
    return not _extension_unavailable() and bool(extension().reads_tensors())


@cache
def _select(forced: str | None, device: torch.device, dtype: torch.dtype) -> str:
    where = str(device)
    if forced is None:
        if dtype not in KERNEL_DTYPES:
            return "eager"
        candidates = _PREFERENCE.get(device.type, ())
        return next((name for name in candidates if not unavailable(name, where)), "eager")
    reason = unavailable(forced, where)
    if reason is None and forced != "eager" and dtype not in KERNEL_DTYPES:
        reason = f"it takes float32, bfloat16 or float16, not {str(dtype).removeprefix('torch.')}"
    if reason is not None:
        raise BackendUnavailableError(f"backend {forced!r} cannot run: {reason}")
    return forced


def _check_name(name: str, argument: str) -> None:
    if name not in BACKENDS:
        raise ValueError(f"{argument} is {name!r}; it takes one of {', '.join(BACKENDS)}")


@cache
def _extension() -> ModuleType:
    module = importlib.import_module("aefast._C")
    if os.getpid() != _PROCESS:
        module.enter_forked_child()
    cap = os.environ.get("AEFAST_CPU_ISA") or None
    if cap is not None:
        if cap not in INSTRUCTION_SETS:
            raise ValueError(
                f"AEFAST_CPU_ISA is {cap!r}; it takes one of {', '.join(INSTRUCTION_SETS)}"
            )
        module.cap_instruction_set(cap)
    return module


@cache
def _extension_unavailable() -> str | None:
    if importlib.util.find_spec("aefast._C") is None:
        return "the C++ extension is not in this installation (a pure wheel, or not built yet)"
    try:
        _extension()
    except ImportError as error:
        return f"the C++ extension does not load: {error}"
    return None


@cache
def _numba_unavailable() -> str | None:
    try:
        importlib.import_module("numba")
    except ImportError as error:
        return f"numba does not import: {error}"
    return None


@cache
def _triton_unavailable(device: str) -> str | None:
    if device.startswith("cuda:"):
        capability = torch.cuda.get_device_capability(int(device.removeprefix("cuda:")))
        reason = unfit(capability)
        return reason if reason or cubins.serves(capability) else _triton_missing()
    if device == "cuda" and cuda_devices():
        return next(filter(None, map(_triton_unavailable, cuda_devices())), None)
    reason = _triton_missing()
    if reason is not None:
        return reason
    if device == "cpu" and os.environ.get("TRITON_INTERPRET") == "1":
        triton, numpy = (importlib.import_module(name) for name in ("triton", "numpy"))
        return interpreter_unfit(triton.__version__, numpy.__version__)
    if device != "cuda":
        hint = " (TRITON_INTERPRET=1 interprets it there)" if device == "cpu" else ""
        return f"it serves CUDA tensors, not {device}{hint}"
    return None if torch.cuda.is_available() else "torch sees no CUDA device"


def _triton_missing() -> str | None:
    try:
        importlib.import_module("triton")
    except ImportError as error:
        return f"triton does not import: {error}"
    return None
