"""Checks of an op's arguments.

Each raises an error that names the argument, says what it was, and says what it takes.
"""

import math
import sys
from numbers import Integral, Real

import numpy as np
import torch
from torch import Tensor

from aefast import backend, random
from aefast.ops.shared import dispatch

# Up to so many numbers torch looks at them on one thread, as our kernel does.
FEW = 1 << 15

LARGEST = sys.float_info.max

FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def check_tensor(value: object, argument: str) -> None:
    if not isinstance(value, Tensor):
        if isinstance(value, torch.fx.Proxy):
            raise TypeError(
                f"{argument} is a Proxy of torch.fx.symbolic_trace, without a shape; it takes a "
                "torch.Tensor: torch.export and make_fx trace with one"
            )
        raise TypeError(f"{argument} is a {type(value).__name__}; it takes a torch.Tensor")
    if value.dtype not in FLOATING:
        raise TypeError(
            f"{argument} has dtype {dtype_name(value)}; "
            "it takes float32, float64, bfloat16 or float16"
        )
    if value.layout is not torch.strided:
        raise TypeError(f"{argument} has layout {value.layout}; it takes a strided tensor")


def check_like(value: Tensor, argument: str, reference: Tensor, reference_argument: str) -> None:
    """Check that a tensor has the dtype and device of another argument."""
    check_tensor(value, argument)
    if value.dtype != reference.dtype:
        raise TypeError(
            f"{argument} has dtype {dtype_name(value)}; "
            f"it takes {reference_argument}'s, {dtype_name(reference)}"
        )
    _check_device(value, argument, reference, reference_argument)


def check_castable(
    value: Tensor, argument: str, reference: Tensor, reference_argument: str
) -> None:
    """Check as ``check_like``, but in any dtype, since autocast casts."""
    check_tensor(value, argument)
    _check_device(value, argument, reference, reference_argument)


def _check_device(value: Tensor, argument: str, reference: Tensor, reference_argument: str) -> None:
    if value.device != reference.device:
        raise ValueError(
            f"{argument} is on {value.device}; it takes {reference_argument}'s device, "
            f"{reference.device}"
        )


def check_flag(value: object, argument: str) -> bool:
    """True or False, NumPy's too."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{argument} is {value!r}; it takes True or False")
    return bool(value)


def check_number(
    value: object, argument: str, low: float = -LARGEST, high: float = LARGEST
) -> float:
    """A finite real number in [low, high], as a float."""
    if type(value) is float and low <= value <= high:  # the common case, asked first
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | Real):
        raise TypeError(f"{argument} is a {type(value).__name__}; it takes a real number")
    value = value if isinstance(value, int | float) else float(value)
    # Only comparisons: torch.compile cannot trace isfinite of a symbolic number.
    if not low <= value <= high:
        if high < LARGEST:
            domain = f"a number in [{low:g}, {high:g}]"
        else:
            domain = "a finite number" if low == -LARGEST else f"a finite number, at least {low:g}"
        raise ValueError(f"{argument} is {value}; it takes {domain}")
    return value if isinstance(value, float) else float(value)


def check_positive(value: object, argument: str) -> float:
    """A finite real number above 0, as a float."""
    number = check_number(value, argument, 0)
    if number == 0:
        raise ValueError(f"{argument} is 0; it takes a number above 0")
    return number


def check_fraction(value: object, argument: str) -> float:
    """A real number in (0, 1), as a float."""
    number = check_number(value, argument)
    if not 0 < number < 1:
        raise ValueError(f"{argument} is {value}; it takes a number in (0, 1)")
    return number


def check_integer(value: object, argument: str, limit: int, low: int = 0) -> int:
    """An integer in [low, limit)."""
    if type(value) is int and low <= value < limit:  # the common case, asked first
        return value
    if isinstance(value, bool | Tensor) or not isinstance(value, int | Integral):
        raise TypeError(f"{argument} is a {type(value).__name__}; it takes an int")
    value = value if isinstance(value, int) else int(value)
    if not low <= value < limit:
        domain = f"[{low}, 2**{limit.bit_length() - 1})"
        raise ValueError(f"{argument} is {value}; it takes an int in {domain}")
    return value


def check_seed_arguments(seed: int | Tensor | None, generator: torch.Generator | None) -> None:
    """Check seed and generator before anything is drawn; only one of them may be given.

    A seed that is a tensor, as a CUDA graph takes it, is not read."""
    if generator is not None and not isinstance(generator, torch.Generator):
        if isinstance(generator, torch.fx.Proxy):
            raise TypeError(
                "generator is a Proxy of torch.fx.symbolic_trace; it takes a torch.Generator or "
                "None: torch.export and make_fx trace a loss"
            )
        raise TypeError(
            f"generator is a {type(generator).__name__}; it takes a torch.Generator or None"
        )
    if seed is None:
        return
    if generator is not None:
        raise ValueError("seed and generator are both given; it takes one of them")
    if isinstance(seed, Tensor):
        check_seed_tensor(seed)
    else:
        check_integer(seed, "seed", random.SEED_LIMIT)


def check_seed_tensor(seed: Tensor) -> None:
    """A seed as the registered ops take it: one int64 element."""
    if seed.numel() != 1 or seed.dtype != torch.int64:
        raise ValueError(f"seed is {seed}; it takes one int64 number")


def check_unit_interval(
    value: Tensor, argument: str, reason: str, is_computed: bool = False
) -> None:
    """The elements lie in [0, 1]. Not checked while a graph is traced, nor on a GPU, which would
    have to be waited for.

    ``reason`` says what takes such numbers: "Bernoulli units take". What a model computed may be
    NaN, too: then so is its loss, by which training shows that it diverges.
    """
    if value.device.type != "cpu" or value.numel() == 0:
        return
    if dispatch.is_traced(value) or dispatch.is_transformed(value):
        return
    if value.numel() <= FEW and _lie_in_unit_interval(value):
        return
    low, high = (bound.item() for bound in torch.aminmax(value.detach()))
    if not (is_computed and math.isnan(low)):
        check_bounds(low, high, argument, reason)


def _lie_in_unit_interval(value: Tensor) -> bool:
    """Whether the C++ kernels say so. They take a quarter of torch's time for few numbers."""
    if dispatch.is_in_functorch() or value.dtype != torch.float32:
        return False
    if backend.select(value.device, value.dtype) != "cpp":
        return False
    if not value.is_contiguous() or value.is_neg() or not value.data_ptr():
        return False
    return backend.extension().lie_in_unit_interval(value.data_ptr(), value.numel())


def check_bounds(low: float, high: float, argument: str, reason: str) -> None:
    """The smallest and the largest element lie in [0, 1]."""
    if not (low >= 0 and high <= 1):  # NaN is neither
        wrong = high if low >= 0 else low
        raise ValueError(f"{argument} holds {shown_outside(wrong)}; {reason} numbers in [0, 1]")


def shown_outside(number: float) -> str:
    """A number outside [0, 1] in few digits, in which it is still outside."""
    text = f"{number:g}"
    return repr(number) if 0 <= float(text) <= 1 else text


def check_choice(value: object, argument: str, choices: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{argument} is {value!r}; it takes one of {', '.join(choices)}")


def dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
