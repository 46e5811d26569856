"""Sparsity penalties, forward and backward, against what a user would write."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from harness import Case
from torch import Tensor

import aefast
from aefast.functional import kl_sparsity, l1_sparsity

TARGET = 0.05


def eager_kl(code: Tensor) -> Tensor:
    mean = code.mean(0)
    target = torch.full_like(mean, TARGET)
    return F.kl_div(mean.log(), target, reduction="sum") + F.kl_div(
        (1 - mean).log(), 1 - target, reduction="sum"
    )


def eager_l1(code: Tensor) -> Tensor:
    return code.abs().sum(-1).mean()


def forward_backward(penalty: Callable[[Tensor], Tensor], code: Tensor) -> tuple[Tensor, ...]:
    loss = penalty(code)
    return loss, *torch.autograd.grad(loss, code)


PENALTIES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "kl": (lambda code: kl_sparsity(code, TARGET), eager_kl),
    "l1": (l1_sparsity, eager_l1),
}


@pytest.mark.parametrize("name", PENALTIES)
@pytest.mark.parametrize(
    ("device", "rows", "hidden"),
    [
        *(("cpu", 128, 32), ("cpu", 128, 256), ("cpu", 1024, 512), ("cpu", 4096, 1024)),
        ("cuda", 16384, 4096),
    ],
)
def test_sparsity(
    compare: Callable[[Case], None], name: str, device: str, rows: int, hidden: int
) -> None:
    ours, eager = PENALTIES[name]
    compare(
        Case(
            op="sparsity",
            name=f"{name} {rows}x{hidden} float32 forward and backward",
            device=device,
            dtype=torch.float32,
            make_inputs=lambda: (torch.rand(rows, hidden, device=device).requires_grad_(),),
            ours=ours,
            eager=eager,
            run=forward_backward,
            check=lambda: check(ours, torch.rand(rows, hidden, device=device).requires_grad_()),
        )
    )


def check(penalty: Callable[[Tensor], Tensor], code: Tensor) -> None:
    """Check the penalty and its gradient against the definition."""
    actual = penalty(code), *torch.autograd.grad(penalty(code), code)
    with aefast.use_backend("eager"):
        expected = penalty(code), *torch.autograd.grad(penalty(code), code)
    torch.testing.assert_close(actual, expected)
