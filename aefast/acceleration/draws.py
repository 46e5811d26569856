"""Draws from torch's default generator with vector instructions: the same numbers as torch's.

torch's Mersenne Twister yields one word at a time. In a 784-512 layer on 1024 rows, dropout takes
it as long as the matrix product.
"""

import threading
from functools import cache
from time import perf_counter

import torch
import torch.nn.functional as F
from torch import Tensor

from aefast import backend
from aefast.acceleration.call_counter import CallCounter
from aefast.acceleration.locks import free_after_fork
from aefast.ops.shared import checks, dispatch

# Fewer numbers are left to torch. Our kernel copies the generator's state first, which takes 7 us,
# and a graph adds 20 us to a call. On a Xeon 4096 numbers save 18 us of dropout's 59, and none of
# the others' 13; 8192 save 40 us and 3 to 9 us.
FEWEST = 8192
CPU = torch.device("cpu")
# Between the default generator's state and the next no other thread of ours draws the same numbers.
_DRAWING = free_after_fork(threading.RLock())
TOO_FEW = "so few numbers torch draws as fast"


class Draw:
    """``F.dropout(x, level)``, ``torch.rand_like(x)``, ``torch.randn_like(x)``, or
    ``torch.rand(x.shape)``, ``torch.randn(x.shape)``.

    Attributes:
        kind: ``"dropout"``, or the name of torch's function.
        level: the probability that dropout drops an element; 0 for other kinds.
        counter: counts the calls.
    """

    def __init__(self, kind: str, level: float) -> None:
        self.__name__ = kind  # torch.fx writes it into the graph's code
        self.kind = kind
        self.level = level
        self.counter = CallCounter()

    def __str__(self) -> str:
        return f"dropout {self.level:g}" if self.kind == "dropout" else f"torch.{self.kind}"

    def __call__(self, x: Tensor) -> Tensor:
        start = perf_counter()
        reason = self.refusal(x)
        output = self._plain(x) if reason is not None else self._drawn(x)
        self.counter.count(reason, start)
        return output

    def _plain(self, x: Tensor) -> Tensor:
        if self.kind == "dropout":
            return F.dropout(x, self.level)
        draw = getattr(torch, self.kind)
        drawn: Tensor = draw(x) if self.kind.endswith("like") else draw(x.shape)
        return drawn

    def _drawn(self, x: Tensor) -> Tensor:
        numbers = drawn(x, self.kind, 1 - self.level)
        if self.kind != "dropout":
            return numbers
        return x * numbers if torch.is_grad_enabled() and x.requires_grad else numbers.mul_(x)

    def refusal(self, x: Tensor) -> str | None:
        """Why torch draws the numbers of a call; None where our kernel draws them."""
        if dispatch.is_intercepted(x):
            return "the call is traced or transformed"
        if x.dtype != torch.float32 or not x.is_cpu:
            return f"it takes float32 on a CPU, not {checks.dtype_name(x)} on {x.device.type}"
        if backend.select(x.device, x.dtype) != "cpp":
            return "the C++ kernels do not serve here"
        if self.kind in ("rand", "randn"):
            if torch.get_default_dtype() != torch.float32 or torch.get_default_device() != CPU:
                return "torch's default dtype or device is another one"
        elif not (x.is_contiguous() or _is_of_rows(x)):
            return "x has neither its rows nor itself in one piece"
        return TOO_FEW if x.numel() < FEWEST else None


def _is_of_rows(x: Tensor) -> bool:
    """Whether x is a slice of a matrix's columns. torch draws a contiguous tensor for it."""
    return x.dim() == 2 and x.stride(1) == 1 and x.stride(0) > x.shape[1] > 1


def drawn(like: Tensor, kind: str, keep_probability: float = 1.0) -> Tensor:
    """Random numbers from torch's default generator, as torch draws them for a contiguous tensor.

    For dropout these are its factors: 0 or 1 / keep_probability.
    """
    numbers = torch.FloatTensor(*like.shape)
    with _DRAWING:
        _draw(torch.default_generator, numbers, kind, keep_probability)
    return numbers


def _draw(generator: torch.Generator, numbers: Tensor, kind: str, keep_probability: float) -> None:
    kernels, state = backend.extension(), generator.get_state()
    pointers = state.data_ptr(), numbers.data_ptr(), numbers.numel()
    if kind == "dropout":
        kernels.dropout_noise(*pointers, keep_probability)
    elif kind in ("rand", "rand_like"):
        kernels.mersenne_uniform(*pointers)
    else:
        kernels.mersenne_normal(*pointers)
    generator.set_state(state)


@cache
def draws_as_torch() -> bool:
    """Whether our kernels draw the same numbers as torch on this processor, found by trying.

    On Intel processors they do not: MKL draws torch's dropout there.
    """
    ours, theirs = (torch.Generator().manual_seed(0) for _ in range(2))
    if ours.get_state().shape != (5056,):
        return False
    noise, uniform, normal = torch.empty(3, 1000, dtype=torch.float32, device="cpu")
    for numbers, kind in ((noise, "dropout"), (uniform, "rand_like"), (normal, "randn_like")):
        _draw(ours, numbers, kind, 0.7)
    torch_noise = torch.empty_like(noise).bernoulli_(0.7, generator=theirs).div_(0.7)
    torch_uniform = torch.empty_like(uniform).uniform_(generator=theirs)
    torch_normal = torch.empty_like(normal).normal_(generator=theirs)
    is_same = torch.equal(noise, torch_noise) and torch.equal(uniform, torch_uniform)
    is_same = is_same and torch.allclose(normal, torch_normal, rtol=1e-5, atol=1e-6)
    return is_same and torch.equal(ours.get_state(), theirs.get_state())
