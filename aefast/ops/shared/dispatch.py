"""How a call finds its kernel: who is tracing it, autocast, torch.func's transforms, checkpoints.

A kernel reads memory through a pointer. A call that something traces or transforms takes the
registered op instead, or the definition in PyTorch's own operators.
"""

import contextlib
import sys
from collections.abc import Callable
from functools import cache, partial
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from aefast import backend, random
from aefast.torch_private import (
    PRE_DISPATCH,
    DeviceContext,
    TransformType,
    count_dispatch_modes,
    count_function_modes,
    current_graph_task,
    dispatch_modes,
    exports_to_onnx,
    forward_ad,
    function_modes,
    has_transforms,
    includes_dispatch_key,
    is_autocast_enabled_anywhere,
    is_exporting,
    is_jit_tracing,
    is_legacy_batchedtensor,
    is_zero_tensor,
    saved_tensors_hooks,
    transforms,
)

# The classes of tensors that the kernels read.
PLAIN = (Tensor, torch.nn.Parameter, type(None))

# Asked once: torch.compile traces no call that asks, in torch before 2.12.
_AUTOCAST_DEVICES = frozenset(
    name for name in ("cpu", "cuda", "mps", "xpu") if torch.amp.is_autocast_available(name)
)


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The dtype that autocast casts a product's operands to; None where autocast is off."""
    if not is_autocast_enabled_anywhere():
        return None
    if device.type not in _AUTOCAST_DEVICES or not torch.is_autocast_enabled(device.type):
        return None
    return torch.get_autocast_dtype(device.type)


def cast_operands(*tensors: Any) -> tuple[Any, ...]:
    """Under autocast the operands in its dtype, as torch.nn.functional.linear casts them."""
    dtype = autocast_dtype(tensors[0].device)
    if dtype is None:
        return tensors
    return tuple(
        tensor.to(dtype)
        if isinstance(tensor, Tensor) and tensor.dtype in backend.KERNEL_DTYPES
        else tensor
        for tensor in tensors
    )


def without_autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Turns autocast off: for states, and for energies, whose small differences matter."""
    if autocast_dtype(device) is None:
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)


def is_traced(*tensors: Tensor | None) -> bool:
    """True while torch.compile, torch.export, torch.jit.trace or a dispatch mode traces this call.

    True for fake tensors and other subclasses, too, and for modes that run before autograd, as
    make_fx with ``pre_dispatch``. A trace records operators, so the call goes to the registered op.
    Without a trace the kernel is called directly: a registered op costs 10 to 17 us a call.
    """
    if torch.compiler.is_compiling():
        return True
    for tensor in tensors:
        if type(tensor) not in PLAIN:
            return True
    return count_dispatch_modes() > 0 or includes_dispatch_key(PRE_DISPATCH) or is_jit_tracing()


def numbers_in_graph(device: torch.device, *numbers: float) -> Tensor | None:
    """Numbers that training anneals, a level of noise or a penalty's factor, as inputs of the graph
    that torch.compile makes, so that others compile nothing anew: a float64 tensor, which a
    registered op takes in the numbers' place.

    None outside torch.compile, and on a GPU: a CUDA graph holds no tensor of the host's.
    """
    if not torch.compiler.is_dynamo_compiling() or is_exporting():
        return None
    if device.type != "cpu":
        return None
    # torch.full would have torch.compile take a number for a constant.
    one = torch.ones((), dtype=torch.float64, device="cpu")
    return torch.stack([one * number for number in numbers])


def is_defined_in_trace(
    x: Tensor, registered: tuple[torch.dtype, ...] = backend.KERNEL_DTYPES
) -> bool:
    """Whether a trace records the definition's PyTorch operators instead of the registered op.

    It does where no op is registered for x's dtype, and in torch.func's transforms, which
    registered ops do not support under a trace. It does for ONNX export and FLOP counters, which
    know PyTorch's operators alone, for DTensors, and under ``use_backend("eager")``. A compiled
    graph checks the backend each time it runs, so torch.compile always records the registered op.
    """
    if x.dtype not in registered or is_in_functorch():
        return True
    if torch.compiler.is_dynamo_compiling():
        return exports_to_onnx()
    return backend.is_forced("eager") or is_sharded(x) or exports_to_onnx() or counts_flops()


def is_sharded(x: Tensor) -> bool:
    """Whether it is a DTensor: how results are sharded is known of PyTorch's operators alone."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(x, module.DTensor)


def refuse_onnx(fact: str) -> None:
    """Refuse what ONNX has no graph of.

    Raises:
        RuntimeError: a model is exported to ONNX, which cannot be because of ``fact``.
    """
    if exports_to_onnx():
        raise RuntimeError(f"{fact}: ONNX has no graph of it")


def counts_flops() -> bool:
    """Whether torch.utils.flop_counter is active. Importing it to ask would load Triton."""
    if torch.compiler.is_compiling():
        return False
    modes = dispatch_modes()
    return any(type(mode).__module__ == "torch.utils.flop_counter" for mode in modes)


def is_in_function_mode() -> bool:
    """Whether a ``torch.overrides.TorchFunctionMode`` sees the call's functions, and may change
    what they give. One that is a device says where new tensors are, and is none of these."""
    if not count_function_modes():
        return False
    return any(not isinstance(mode, DeviceContext) for mode in function_modes())


def is_checkpointed() -> bool:
    """Whether this call runs inside ``torch.utils.checkpoint``: its first or its second time."""
    return _checkpoint_hook() != ""


def is_recomputed() -> bool:
    """Whether ``torch.utils.checkpoint`` runs this call a second time, for the backward pass."""
    return _checkpoint_hook().startswith("_recomputation")


def is_run_ahead() -> bool:
    """True in the first of the two forward passes of reentrant ``torch.utils.checkpoint``. It runs
    without gradients; the second, in the backward pass, makes them."""
    checkpoint = sys.modules.get("torch.utils.checkpoint")
    if checkpoint is None or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    code = checkpoint.CheckpointFunction.forward.__code__
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code is not code:
        frame = frame.f_back
    return frame is not None


def is_in_backward() -> bool:
    """Whether autograd runs this call, in the midst of a backward pass."""
    return not torch.compiler.is_compiling() and current_graph_task() >= 0


def _checkpoint_hook() -> str:
    """The name of checkpoint's hook on saved tensors; "" outside checkpoint.

    Only the non-reentrant form sets one. The reentrant form runs its first time without gradients.
    """
    if torch.compiler.is_compiling():
        return ""
    hooks = saved_tensors_hooks(True)
    if hooks is None or hooks[0].__module__ != "torch.utils.checkpoint":
        return ""
    return str(hooks[0].__qualname__)


def materialize(tensor: Tensor, argument: str) -> Tensor:
    """The tensor as dense memory that a kernel can read through its pointer.

    A zero tensor has no memory, a sparse one another layout, and a negated view the wrong sign.

    Raises:
        ValueError: the storage was freed.
    """
    # The common case, asked first: only memory that there is has an address.
    if tensor.layout is torch.strided and tensor.data_ptr() and not tensor.is_neg():
        return tensor
    if is_zero_tensor(tensor):
        tensor = tensor.clone()
    if tensor.layout is not torch.strided:  # an incoming gradient may be sparse
        tensor = tensor.to_dense()
    if tensor.data_ptr() == 0:
        raise ValueError(f"{argument} has no memory: its storage was freed; it takes one that has")
    return tensor.resolve_neg()


def is_differentiated(*tensors: Tensor | None) -> bool:
    """Whether autograd records what is computed of these, or ``torch.func.grad`` may.

    There also memory that a kernel writes is wrapped, and has no address, unless an autograd
    function leaves the transform first.
    """
    if torch.is_grad_enabled():
        for tensor in tensors:
            if tensor is not None and tensor.requires_grad:
                return True
    return has_transforms()


def is_transformed(*tensors: Tensor) -> bool:
    """Whether vmap or forward-mode differentiation is active: only the definition supports them."""
    for tensor in tensors:
        if is_legacy_batchedtensor(tensor):  # autograd.grad(is_grads_batched=True)
            return True
    if forward_ad._current_level >= 0:
        return True
    return has_transforms() and is_under(lambda kind: kind != TransformType.Grad)


def is_intercepted(x: Tensor) -> bool:
    """Whether anything traces or transforms the call."""
    return is_traced(x) or has_transforms() or is_transformed(x)


# What is_traced and is_transformed ask but of a call's tensors, for C++ to ask it at once: each of
# these answers with nothing, and under this name is this value, where nothing is the matter.
QUESTIONS = (
    count_dispatch_modes,
    partial(includes_dispatch_key, PRE_DISPATCH),
    is_jit_tracing,
    has_transforms,
)
FORWARD_MODE = vars(forward_ad), "_current_level", -1
_BACKWARD = (torch.is_grad_enabled, *QUESTIONS), tuple((each,) for each in FORWARD_MODE)


def is_ordinary_one(grad: Tensor) -> bool:
    """Whether a loss's incoming gradient is 1, on the CPU, and nobody traces, transforms or
    differentiates the backward pass."""
    if torch.compiler.is_compiling():
        return False
    return bool(_asked_in_cpp(backend.reads_tensors())(grad, *_BACKWARD))


@cache
def _asked_in_cpp(reads_tensors: bool) -> Callable[..., bool]:
    """The question of C++; without it the answer is no, and others are asked one by one."""
    return backend.extension().is_one if reads_tensors else lambda *_: False


def is_vmapped() -> bool:
    """Whether vmap is active."""
    return has_transforms() and is_under(lambda kind: kind == TransformType.Vmap)


def is_functional_gradient() -> bool:
    """Whether torch.func.grad, vjp or jvp is active. No buffer is written in them."""
    differentiating = TransformType.Grad, TransformType.Jvp
    return has_transforms() and is_under(lambda kind: kind in differentiating)


def is_under(is_meant: Callable[[Any], bool]) -> bool:
    """Whether one of the active torch.func transforms satisfies ``is_meant``."""
    interpreters = transforms() or ()
    return any(is_meant(interpreter.key()) for interpreter in interpreters)


def is_in_functorch() -> bool:
    """Whether any torch.func transform is active."""
    return has_transforms()


def resolve_seed(
    seed: int | Tensor | None, generator: torch.Generator | None, device: torch.device, traced: bool
) -> int | Tensor:
    """The seed given, or one drawn from ``generator`` or from torch's default one.

    Under vmap it is a tensor, which torch draws, or refuses to, as ``randomness`` says.

    Raises:
        RuntimeError: the generator is the caller's own and ``torch.utils.checkpoint`` at work,
            which sets back torch's alone: other noise would be drawn again.
    """
    if generator is not None and (is_checkpointed() or is_run_ahead()):
        raise RuntimeError(
            "generator is given under torch.utils.checkpoint, which would draw from it twice; "
            "it takes seed, or torch's default generator"
        )
    if seed is None:
        if traced:
            refuse_onnx("seed is None, and is drawn at each call; it takes an int")
        return random.draw_seed(generator, device, as_tensor=traced or is_vmapped())
    if isinstance(seed, Tensor) and (traced or is_vmapped() or seed.device.type != "cpu"):
        return seed
    number = int(seed)
    if not 0 <= number < random.SEED_LIMIT:  # of a tensor, which the door has not read
        raise ValueError(f"seed is {number}; it takes an int in [0, 2**63)")
    return number
