"""What a model draws from torch's own generator: the same bits, drawn in vectors.

torch draws word by word: at 784-512 on 1024 rows dropout takes as long as a layer's products.
"""

from functools import cache
from time import perf_counter

import torch
import torch.nn.functional as F
from torch import Tensor

from aefast import backend
from aefast.acceleration.tally import Tally
from aefast.ops.shared import contract

# Fewer are drawn before the generator's state is copied.
FEWEST = 256
TOO_FEW = "so few numbers torch draws as fast"


class Draw:
    """``F.dropout(x, level)`` or ``torch.rand_like(x)``.

    Attributes:
        kind: ``"dropout"`` or ``"rand_like"``.
        level: of dropout, the probability.
    """

    def __init__(self, kind: str, level: float) -> None:
        self.__name__ = kind  # in a graph's code
        self.kind = kind
        self.level = level
        self.tally = Tally()

    def __str__(self) -> str:
        return f"dropout {self.level:g}" if self.kind == "dropout" else "torch.rand_like"

    def __call__(self, x: Tensor) -> Tensor:
        start = perf_counter()
        reason = self.refusal(x)
        output = self._plain(x) if reason is not None else self._drawn(x)
        self.tally.count(reason, start)
        return output

    def _plain(self, x: Tensor) -> Tensor:
        return torch.rand_like(x) if self.kind == "rand_like" else F.dropout(x, self.level)

    def _drawn(self, x: Tensor) -> Tensor:
        if self.kind == "rand_like":
            return drawn(x, None)
        noise = drawn(x, 1 - self.level)
        return x * noise if torch.is_grad_enabled() and x.requires_grad else noise.mul_(x)

    def refusal(self, x: Tensor) -> str | None:
        """Why torch draws itself; None where it need not."""
        if contract.is_traced(x) or contract.is_transformed(x) or contract.is_in_functorch():
            return "the call is traced or transformed"
        if x.dtype != torch.float32 or not x.is_cpu:
            return f"it takes float32 on a CPU, not {contract.dtype_name(x)} on {x.device.type}"
        if backend.select(x.device, x.dtype) != "cpp":
            return "the C++ kernels do not serve here"
        if not x.is_contiguous():
            return "x is not contiguous"
        return TOO_FEW if x.numel() < FEWEST else None


def drawn(like: Tensor, kept: float | None) -> Tensor:
    """Numbers from torch's default generator, of a contiguous tensor's shape: uniform ones, or what
    dropout multiplies with."""
    numbers = torch.empty(like.shape, dtype=torch.float32, device="cpu")
    _draw(torch.default_generator, numbers, kept)
    return numbers


def _draw(generator: torch.Generator, numbers: Tensor, kept: float | None) -> None:
    kernels, state = backend.extension(), generator.get_state()
    place = state.data_ptr(), numbers.data_ptr(), numbers.numel()
    if kept is None:
        kernels.mersenne_uniform(*place)
    else:
        kernels.dropout_noise(*place, kept)
    generator.set_state(state)


@cache
def draws_as_torch() -> bool:
    """Whether torch draws by its own generator here; on Intel's processors MKL's serves dropout."""
    ours, theirs = (torch.Generator().manual_seed(0) for _ in range(2))
    noise, uniform = torch.empty(2, 1000, dtype=torch.float32, device="cpu")
    if ours.get_state().shape != (5056,):
        return False
    _draw(ours, noise, 0.7)
    _draw(ours, uniform, None)
    wanted = torch.empty_like(noise).bernoulli_(0.7, generator=theirs).div_(0.7)
    also = torch.empty_like(uniform).uniform_(generator=theirs)
    is_same = torch.equal(noise, wanted) and torch.equal(uniform, also)
    return is_same and torch.equal(ours.get_state(), theirs.get_state())
