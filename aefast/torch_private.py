"""The private names of torch that this package reads.

torch offers no public way to ask these questions, and may rename the answers in any release. A test
holds the names to the torch that is installed, and lists the few files that read one themselves.
"""

import sys
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, fx
from torch.autograd import forward_ad, profiler
from torch.nn.modules import module
from torch.nn.parallel import DistributedDataParallel
from torch.optim import optimizer

try:
    # How far a call is traced: torch.jit.trace, dispatch modes, make_fx before autograd.
    from torch._C import _dispatch_tls_is_dispatch_key_included as includes_dispatch_key
    from torch._C import _is_tracing as is_jit_tracing
    from torch._C import _len_torch_dispatch_stack as count_dispatch_modes
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._python_dispatch import _get_current_dispatch_mode_stack as dispatch_modes

    PRE_DISPATCH = torch._C.DispatchKey.PreDispatch

    # The operators of torch.ops, whose schemas tell what they write to.
    from torch._ops import OpOverload, OpOverloadPacket

    torch.ops.aten.relu_.default._schema.is_mutable  # noqa: B018

    # torch.func's transforms, and those of autograd.grad(is_grads_batched=True) and forward mode.
    from torch._C import _are_functorch_transforms_active as has_transforms

    # Modes that see functions as torch.nn.functional's, before autograd; torch.device is one.
    from torch._C import _len_torch_function_stack as count_function_modes
    from torch._C._functorch import TransformType, is_legacy_batchedtensor, unwrap_if_dead
    from torch._C._functorch import get_interpreter_stack as transforms
    from torch.overrides import _get_current_function_mode_stack as function_modes
    from torch.utils._device import DeviceContext

    forward_ad._current_level  # noqa: B018  (-1 outside forward-mode differentiation)

    # Which backward pass runs, -1 for none.
    from torch._C import _current_graph_task_id as current_graph_task

    # Both generations of the switches of float32 products.
    from torch._C import _get_fp32_precision_getter as fp32_precision

    # Whether autocast is on for any device: asked before a device's own, which takes longer.
    from torch._C import _is_any_autocast_enabled as is_autocast_enabled_anywhere

    # torch.utils.checkpoint is told by its hooks on saved tensors.
    from torch._C._autograd import _top_saved_tensors_default_hooks as saved_tensors_hooks

    # Whether torch.export traces. Under Dynamo, torch.compiler.is_exporting() is always True before
    # torch 2.12.
    torch.compiler._is_exporting_flag  # noqa: B018

    # The hooks of all modules, by their kind, and of all optimizers' steps.
    FORWARD_HOOKS = module._global_forward_hooks
    MODULE_HOOKS = (
        module._global_forward_pre_hooks,
        FORWARD_HOOKS,
        module._global_backward_pre_hooks,
        module._global_backward_hooks,
    )
    OPTIMIZER_HOOKS = (
        optimizer._global_optimizer_pre_hooks,
        optimizer._global_optimizer_post_hooks,
    )

    # The class of an autograd function's context in backward, outside torch.func.
    torch.autograd.Function._backward_cls  # noqa: B018

    # The wrapper whose forward is running.
    DistributedDataParallel._active_ddp_module  # noqa: B018

    has_avx512_bf16 = torch.cpu._is_avx512_bf16_supported
    is_zero_tensor = Tensor._is_zerotensor
    profiler._is_profiler_enabled  # noqa: B018

    # What torch.amp.GradScaler scales gradients with: it tells whether all were finite.
    torch._amp_foreach_non_finite_check_and_unscale_  # noqa: B018

    # Modules whose functions a tracer wraps for as long as it traces.
    fx.Tracer()._autowrap_search  # noqa: B018

    # torch.fx notes that it traces in a global, at which the compiled functions of all threads
    # look. This copy of its method has globals of its own.
    trace_apart = FunctionType(
        fx.Tracer.trace.__code__,
        dict(vars(fx._symbolic_trace)),
        argdefs=fx.Tracer.trace.__defaults__,
        closure=fx.Tracer.trace.__closure__,
    )
except (ImportError, AttributeError) as error:
    raise ImportError(
        f"torch {torch.__version__} lacks a name that aefast reads ({error}): "
        "install a version of torch that README names, or a newer aefast"
    ) from error

ONNX_FLAGS = "torch.onnx._internal.exporter._flags"

__all__ = [
    "FORWARD_HOOKS",
    "MODULE_HOOKS",
    "OPTIMIZER_HOOKS",
    "PRE_DISPATCH",
    "DeviceContext",
    "OpOverload",
    "OpOverloadPacket",
    "TorchDispatchMode",
    "TransformType",
    "active_data_parallel",
    "count_dispatch_modes",
    "count_function_modes",
    "cuda_stream",
    "current_graph_task",
    "dispatch_modes",
    "exports_to_onnx",
    "forward_ad",
    "fp32_precision",
    "function_modes",
    "has_avx512_bf16",
    "has_transforms",
    "includes_dispatch_key",
    "inductor",
    "is_autocast_enabled_anywhere",
    "is_exporting",
    "is_jit_tracing",
    "is_legacy_batchedtensor",
    "is_scheduled",
    "is_zero_tensor",
    "mutates",
    "profiler",
    "saved_tensors_hooks",
    "scale_finite",
    "search_when_tracing",
    "timeout",
    "trace_apart",
    "transforms",
    "unwrap_if_dead",
]


def is_scheduled(step: object) -> bool:
    """Whether an optimizer's step is a learning rate scheduler's wrapper of it, which counts."""
    return getattr(step, "_wrapped_by_lr_sched", False)


def active_data_parallel() -> DistributedDataParallel | None:
    """The DistributedDataParallel whose forward is running, if any."""
    active: DistributedDataParallel | None = DistributedDataParallel._active_ddp_module
    return active


def timeout(process_group: Any) -> float:
    """The seconds that a process group waits for a rank."""
    seconds: float = process_group._get_backend(
        torch.device("cpu")
    ).options._timeout.total_seconds()
    return seconds


def cuda_stream(device: int) -> int:
    """The current stream of a GPU, as a pointer. A torch that was built for CPUs has none."""
    stream: int = torch._C._cuda_getCurrentRawStream(device)
    return stream


def inductor(mode: str | None, options: dict[str, Any] | None) -> Callable[..., Any]:
    """torch.compile's own compiler, in one of its modes or with its options, which it checks."""
    compiler: Callable[..., Any] = torch._TorchCompileInductorWrapper(mode, options, None)
    return compiler


def scale_finite(gradients: list[Tensor], factor: Tensor) -> bool:
    """Multiply float32 gradients with a number, in place; whether all were finite before."""
    found_inf = torch.zeros(1, dtype=torch.float32, device=factor.device)
    torch._amp_foreach_non_finite_check_and_unscale_(gradients, found_inf, factor)
    return found_inf.item() == 0


def is_exporting() -> bool:
    """Whether torch.export traces."""
    exporting: bool = torch.compiler._is_exporting_flag
    return exporting


def exports_to_onnx() -> bool:
    """Whether a model is exported to ONNX. Where Dynamo traces, torch's public answer is a
    constant."""
    if not torch.compiler.is_dynamo_compiling():
        return "torch.onnx" in sys.modules and torch.onnx.is_in_onnx_export()
    exporting: bool = (
        is_exporting() and ONNX_FLAGS in sys.modules and sys.modules[ONNX_FLAGS]._is_onnx_exporting
    )
    return exporting


def search_when_tracing(tracer: fx.Tracer, module: ModuleType) -> None:
    """Have a tracer wrap the functions that it wraps in this module, too, while it traces."""
    tracer._autowrap_search.append(module)


def mutates(operator: OpOverload | OpOverloadPacket) -> bool:
    """Whether it writes to an argument; of a packet, whether one of its overloads does."""
    if isinstance(operator, OpOverload):
        return bool(operator._schema.is_mutable)
    return any(mutates(getattr(operator, name)) for name in operator.overloads())
