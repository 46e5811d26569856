"""Whether the kernels of this installation compute what the definitions do: ``aefast selftest``.

Every case of :func:`cases` runs forward and backward, on every backend and device that is here. The
truth is the eager definition in float64 on the same inputs and the same seed. Errors are root mean
squares, in units of the one that the eager definition makes in the kernel's dtype and a quarter of
the last place of the largest element: at most two of them pass, as in the package's own tests.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module

import torch
from torch import Tensor

from aefast import backend, ops
from aefast.ops.shared.selftest_case import Case

LIMIT = 2.0
FEW = 100


@dataclass(frozen=True)
class Target:
    """A backend on a device."""

    backend: str
    device: str

    def __str__(self) -> str:
        return f"{self.backend} ({self.device})"


@dataclass(frozen=True)
class Outcome:
    """How one case went in one dtype."""

    case: Case
    target: Target
    dtype: torch.dtype
    error: float  # in units of eager's; 0 where all bits are eager's
    raised: str = ""  # what the kernel ended with instead

    @property
    def passed(self) -> bool:
        return self.error <= (0.0 if self.case.same_bits else LIMIT)

    def __str__(self) -> str:
        result = "other bits" if self.case.same_bits else f"error {self.error:.3g}"
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.case.op}, {self.case.name}, {self.target}, {dtype}: {self.raised or result}"


def cases() -> list[Case]:
    """The cases of every op: ``cases()`` in the ``selftest.py`` of its folder."""
    modules = (import_module(f"aefast.ops.{op}.selftest") for op in ops.names_with("selftest"))
    return [case for module in modules for case in module.cases()]


def targets() -> list[Target]:
    """Every backend but the definition itself, on every device that it serves here."""
    return [
        Target(name, device)
        for device in ("cpu", *backend.cuda_devices())
        for name in backend.BACKENDS
        if name != "eager" and backend.unavailable(name, device) is None
    ]


def run(targets: Sequence[Target], cases: Sequence[Case]) -> Iterator[Outcome]:
    """Each case at each target, in each of its dtypes."""
    for case in cases:
        for target in targets:
            for dtype in case.dtypes:
                try:
                    yield Outcome(case, target, dtype, error(case, target, dtype))
                except Exception as raised:  # one kernel's failure must not hide another's
                    yield Outcome(case, target, dtype, math.inf, repr(raised))


def error(case: Case, target: Target, dtype: torch.dtype) -> float:
    """The largest among the outputs' and the gradients' errors, in units of eager's."""
    computed = results(case, target, dtype, dtype)
    definition = Target("eager", target.device)
    same_dtype = results(case, definition, dtype, dtype)
    truth = results(case, definition, dtype, torch.float64)
    ratios = [
        _in_units(*triple)
        for triple in zip(computed, same_dtype, truth, strict=True)
        if not torch.equal(triple[0], triple[1])
    ]
    return torch.stack(ratios).max().item() if ratios else 0.0  # a NaN stays one


def results(case: Case, target: Target, rounding: torch.dtype, dtype: torch.dtype) -> list[Tensor]:
    """Outputs and gradients in `dtype` of inputs and incoming gradients rounded to `rounding`."""

    def rounded(tensor: Tensor) -> Tensor:
        return tensor.to(rounding).to(target.device, dtype)

    leaves = [rounded(tensor).requires_grad_() for tensor in case.inputs]
    with backend.use_backend(target.backend):
        outputs = case.function(*leaves)
        outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
        outputs = [output for output in outputs if output is not None]
        smooth = [output for output in outputs if output.requires_grad]
        if smooth:
            incoming = [
                rounded(
                    torch.linspace(0.5, 2, output.numel(), dtype=torch.float32, device="cpu")
                ).reshape(output.shape)
                for output in smooth
            ]
            outputs += torch.autograd.grad(smooth, leaves, incoming)
    return [output.detach() for output in outputs]


def _in_units(kernel: Tensor, same_dtype: Tensor, truth: Tensor) -> Tensor:
    last_place = torch.finfo(kernel.dtype).eps * truth.abs().max()
    # Of a few elements, as of a loss, eager may be exact by luck.
    allowance = 2.0 if truth.numel() < FEW else 0.25
    unit = _root_mean_square(same_dtype - truth) + allowance * last_place
    return _root_mean_square(kernel - truth) / unit


def _root_mean_square(tensor: Tensor) -> Tensor:
    return tensor.square().mean().sqrt()
