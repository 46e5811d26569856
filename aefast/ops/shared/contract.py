"""What the doors of all ops check, and how a call finds its way to a kernel."""

import contextlib
import sys
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor
from torch._C import _dispatch_tls_is_dispatch_key_included as _is_included
from torch._C import _is_tracing, _len_torch_dispatch_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from aefast import backend, random

_PRE_DISPATCH = torch._C.DispatchKey.PreDispatch
_PLAIN = (Tensor, torch.nn.Parameter, type(None))

LARGEST = sys.float_info.max

# Asked once: torch.compile traces no call that asks, in torch before 2.12.
_AUTOCAST_DEVICES = frozenset(
    name for name in ("cpu", "cuda", "mps", "xpu") if torch.amp.is_autocast_available(name)
)

FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def check_tensor(value: Any, argument: str) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{argument} is a {type(value).__name__}; it takes a torch.Tensor")
    if value.dtype not in FLOATING:
        raise TypeError(
            f"{argument} has dtype {dtype_name(value)}; "
            "it takes float32, float64, bfloat16 or float16"
        )
    if value.layout is not torch.strided:
        raise TypeError(f"{argument} has layout {value.layout}; it takes a strided tensor")


def check_like(value: Any, argument: str, reference: Tensor, reference_argument: str) -> None:
    """The same dtype and device as another argument."""
    check_tensor(value, argument)
    if value.dtype != reference.dtype:
        raise TypeError(
            f"{argument} has dtype {dtype_name(value)}; "
            f"it takes {reference_argument}'s, {dtype_name(reference)}"
        )
    _check_device(value, argument, reference, reference_argument)


def check_castable(value: Any, argument: str, reference: Tensor, reference_argument: str) -> None:
    """As ``check_like``, of any dtype: autocast casts."""
    check_tensor(value, argument)
    _check_device(value, argument, reference, reference_argument)


def _check_device(value: Tensor, argument: str, reference: Tensor, reference_argument: str) -> None:
    if value.device != reference.device:
        raise ValueError(
            f"{argument} is on {value.device}; it takes {reference_argument}'s device, "
            f"{reference.device}"
        )


def check_number(value: Any, argument: str, low: float = -LARGEST, high: float = LARGEST) -> float:
    """A finite real number in [low, high], as a float."""
    if isinstance(value, bool) or not isinstance(value, int | float | Real):
        raise TypeError(f"{argument} is a {type(value).__name__}; it takes a real number")
    value = value if isinstance(value, int | float) else float(value)
    # Comparisons alone: a number that torch.compile traces knows no isfinite.
    if not low <= value <= high:
        if high < LARGEST:
            domain = f"a number in [{low:g}, {high:g}]"
        else:
            domain = "a finite number" if low == -LARGEST else f"a finite number, at least {low:g}"
        raise ValueError(f"{argument} is {value}; it takes {domain}")
    return value if isinstance(value, float) else float(value)


def check_positive(value: Any, argument: str) -> float:
    """A finite real number above 0, as a float."""
    value = check_number(value, argument, 0)
    if value == 0:
        raise ValueError(f"{argument} is 0; it takes a number above 0")
    return value


def check_integer(value: Any, argument: str, limit: int, low: int = 0) -> int:
    """An integer in [low, limit)."""
    if isinstance(value, bool | Tensor) or not isinstance(value, int | Integral):
        raise TypeError(f"{argument} is a {type(value).__name__}; it takes an int")
    value = value if isinstance(value, int) else int(value)
    if not low <= value < limit:
        domain = f"[{low}, 2**{limit.bit_length() - 1})"
        raise ValueError(f"{argument} is {value}; it takes an int in {domain}")
    return value


def check_seed_arguments(seed: int | None, generator: torch.Generator | None) -> None:
    """Before anything is drawn: both are right, and not both are given."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(
            f"generator is a {type(generator).__name__}; it takes a torch.Generator or None"
        )
    if seed is None:
        return
    if generator is not None:
        raise ValueError("seed and generator are both given; it takes one of them")
    check_integer(seed, "seed", random.SEED_LIMIT)


def draw_seed(
    seed: int | None, generator: torch.Generator | None, device: torch.device, traced: bool
) -> int | Tensor:
    """The seed given, or one drawn from ``generator`` or from torch's default one.

    Under vmap it is a tensor, which torch draws, or refuses to, as ``randomness`` says.

    Raises:
        RuntimeError: the generator is the caller's own and ``torch.utils.checkpoint`` at work,
            which sets back torch's alone: other noise would be drawn again.
    """
    if generator is not None and is_checkpointed():
        raise RuntimeError(
            "generator is given under torch.utils.checkpoint, which would draw from it twice; "
            "it takes seed, or torch's default generator"
        )
    if seed is None:
        return random.draw_seed(generator, device, as_tensor=traced or is_vmapped())
    return seed if isinstance(seed, int) else int(seed)


def check_seed_tensor(seed: Tensor) -> None:
    """What the registered ops take for a seed."""
    if seed.numel() != 1 or seed.dtype != torch.int64:
        raise ValueError(f"seed is {seed}; it takes one int64 number")


def check_unit_interval(value: Tensor, argument: str, takers: str) -> None:
    """Its elements lie in [0, 1]. A GPU is not asked: it would be waited for; nor under a trace.

    ``takers`` says what takes such numbers: "Bernoulli units take".
    """
    if value.device.type != "cpu" or value.numel() == 0:
        return
    if is_traced(value) or is_transformed(value):
        return
    low, high = (bound.item() for bound in torch.aminmax(value.detach()))
    check_bounds(low, high, argument, takers)


def check_bounds(low: float, high: float, argument: str, takers: str) -> None:
    """The smallest and the largest of its elements lie in [0, 1]."""
    if not (low >= 0 and high <= 1):  # NaN is neither
        wrong = high if low >= 0 else low
        raise ValueError(f"{argument} holds {wrong:g}; {takers} numbers in [0, 1]")


def check_choice(value: Any, argument: str, choices: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{argument} is {value!r}; it takes one of {', '.join(choices)}")


def dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """What autocast casts the operands of a product to; None where it is off."""
    if not torch._C._is_any_autocast_enabled():
        return None
    if device.type not in _AUTOCAST_DEVICES or not torch.is_autocast_enabled(device.type):
        return None
    return torch.get_autocast_dtype(device.type)


def autocast(*tensors: Any) -> tuple[Any, ...]:
    """Under autocast the same casts as torch.nn.functional.linear's."""
    dtype = autocast_dtype(tensors[0].device)
    if dtype is None:
        return tensors
    return tuple(
        tensor.to(dtype)
        if isinstance(tensor, Tensor) and tensor.dtype in backend.KERNEL_DTYPES
        else tensor
        for tensor in tensors
    )


def without_autocast(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """For ops that keep their inputs' dtype: states, and energies, whose differences count."""
    if autocast_dtype(device) is None:
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)


def is_traced(*tensors: Tensor | None) -> bool:
    """Whether something looks on that must see a registered op instead of a pointer.

    torch.compile, torch.export, torch.jit.trace, fake tensors and other subclasses, dispatch modes,
    also those before autograd (make_fx's ``pre_dispatch``). Elsewhere the kernel is called
    directly: a registered op costs 10 to 17 us a call.
    """
    if torch.compiler.is_compiling():
        return True
    for tensor in tensors:
        if type(tensor) not in _PLAIN:
            return True
    return _len_torch_dispatch_stack() > 0 or _is_included(_PRE_DISPATCH) or _is_tracing()


def is_defined_in_trace(
    dtype: torch.dtype, registered: tuple[torch.dtype, ...] = backend.KERNEL_DTYPES
) -> bool:
    """Whether who looks on is shown PyTorch's own operators, those of the definition.

    Where no op is registered for the dtype; in torch.func's transforms, which registered ops do not
    serve under a trace; and where nothing else would be understood: by ONNX, by a FLOP counter, and
    by whoever asked for ``use_backend("eager")``. A graph of torch.compile's asks that as it runs.
    """
    if dtype not in registered or is_in_functorch():
        return True
    if torch.compiler.is_dynamo_compiling():
        return False
    return backend.is_forced("eager") or _exports_to_onnx() or counts_flops()


def _exports_to_onnx() -> bool:
    return "torch.onnx" in sys.modules and torch.onnx.is_in_onnx_export()


def counts_flops() -> bool:
    """Whether torch.utils.flop_counter looks on, which is not imported to ask: it loads Triton."""
    if torch.compiler.is_compiling():
        return False
    modes = _get_current_dispatch_mode_stack()
    return any(type(mode).__module__ == "torch.utils.flop_counter" for mode in modes)


def is_checkpointed() -> bool:
    """Whether ``torch.utils.checkpoint`` will compute this again, or does."""
    return _checkpoint_hook() != ""


def is_recomputed() -> bool:
    """Whether ``torch.utils.checkpoint`` has computed this before."""
    return _checkpoint_hook().startswith("_recomputation")


def _checkpoint_hook() -> str:
    """The name of its hook on saved tensors, in the form without re-entry; the other form computes
    without gradients at first."""
    if torch.compiler.is_compiling():
        return ""
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
    if hooks is None or hooks[0].__module__ != "torch.utils.checkpoint":
        return ""
    return str(hooks[0].__qualname__)


def readable(tensor: Tensor, argument: str) -> Tensor:
    """The tensor as memory holds it, for a kernel that reads it through its pointer.

    Raises:
        ValueError: the storage was freed.
    """
    if tensor._is_zerotensor():
        tensor = tensor.clone()
    if tensor.layout is not torch.strided:  # an incoming gradient may be sparse
        tensor = tensor.to_dense()
    if tensor.data_ptr() == 0:
        raise ValueError(f"{argument} has no memory: its storage was freed; it takes one that has")
    return tensor.resolve_neg()


def is_transformed(tensor: Tensor) -> bool:
    """Whether vmap or forward-mode differentiation is at work, which only the definition serves."""
    if torch._C._functorch.is_legacy_batchedtensor(tensor):  # autograd.grad(is_grads_batched=True)
        return True
    if torch.autograd.forward_ad._current_level >= 0:
        return True
    return is_under(lambda kind: kind != torch._C._functorch.TransformType.Grad)


def is_vmapped() -> bool:
    """Whether vmap is at work."""
    return is_under(lambda kind: kind == torch._C._functorch.TransformType.Vmap)


def is_under(is_meant: Callable[[Any], bool]) -> bool:
    """Whether a torch.func transform of a kind that is meant is at work."""
    if not is_in_functorch():
        return False
    interpreters = torch._C._functorch.get_interpreter_stack() or ()
    return any(is_meant(interpreter.key()) for interpreter in interpreters)


def is_in_functorch() -> bool:
    """Whether any torch.func transform is at work."""
    return torch._C._are_functorch_transforms_active()
