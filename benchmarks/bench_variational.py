"""A Gaussian code's sample and divergence against what a user would write."""

from collections.abc import Callable

import pytest
import torch
from harness import Case, Layer, Limit, as_tuple, forward
from torch import Tensor

import aefast
from aefast.functional import gaussian_kl, reparameterize

CHECKED_ROWS = 64


def eager_reparameterize(mean: Tensor, log_var: Tensor) -> Tensor:
    return mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)


def eager_gaussian_kl(mean: Tensor, log_var: Tensor) -> Tensor:
    return -0.5 * (1 + log_var - mean**2 - log_var.exp()).sum(-1)


OURS: dict[str, Layer] = {"reparameterize": reparameterize, "gaussian_kl": gaussian_kl}
EAGER: dict[str, Layer] = {
    "reparameterize": eager_reparameterize,
    "gaussian_kl": eager_gaussian_kl,
}


def forward_backward(layer: Layer, mean: Tensor, log_var: Tensor) -> tuple[Tensor, ...]:
    output = layer(mean, log_var)
    return output, *torch.autograd.grad(output, (mean, log_var), torch.ones_like(output))


RUNS = {"fwd": forward, "fwd+bwd": forward_backward}


@pytest.mark.parametrize("function", OURS)
@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize(
    ("device", "rows", "columns"),
    [
        *(("cpu", 128, 32), ("cpu", 1024, 64), ("cpu", 4096, 512), ("cpu", 64 * 1024, 32)),
        *(("cuda", 65536, 512), ("cuda", 64 * 65536, 32)),
    ],
)
def test_gaussian(
    compare: Callable[[Case], None], function: str, run: str, device: str, rows: int, columns: int
) -> None:
    result = torch.empty(rows, columns, device=device)
    compare(
        Case(
            op="variational",
            name=f"{function} {rows}x{columns} float32 {run}",
            device=device,
            dtype=torch.float32,
            make_inputs=lambda: make_inputs(rows, columns, device, run),
            ours=OURS[function],
            eager=EAGER[function],
            check=lambda: check(function, run, *make_inputs(rows, columns, device, run)),
            run=RUNS[run],
            limit=Limit(
                "copy", lambda mean, _: result.copy_(mean), work=2 * result.nbytes, unit="GB/s"
            ),
        )
    )


@pytest.mark.parametrize("function", OURS)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_call_overhead(compare: Callable[[Case], None], function: str, device: str) -> None:
    compare(
        Case(
            op="variational",
            name=f"{function} 8x8 float32",
            device=device,
            dtype=torch.float32,
            make_inputs=lambda: make_inputs(8, 8, device, "fwd"),
            ours=OURS[function],
            eager=EAGER[function],
            check=lambda: check(function, "fwd", *make_inputs(8, 8, device, "fwd")),
            calls_in_round=500,
        )
    )


def make_inputs(rows: int, columns: int, device: str, run: str) -> tuple[Tensor, Tensor]:
    mean, log_var = (
        torch.randn(rows, columns, device=device, requires_grad=run != "fwd") for _ in range(2)
    )
    return mean, log_var


def check(function: str, run: str, mean: Tensor, log_var: Tensor) -> None:
    """Check the first and last rows, and their gradients, against the definition."""
    actual = as_tuple(RUNS[run](with_seed(function), mean, log_var))
    for start in (0, max(0, len(mean) - CHECKED_ROWS)):
        block = slice(start, start + CHECKED_ROWS)
        inputs = (x[block].detach().requires_grad_(x.requires_grad) for x in (mean, log_var))
        with aefast.use_backend("eager"):
            expected = as_tuple(RUNS[run](with_seed(function, start), *inputs))
        for ours, definition in zip(actual, expected, strict=True):
            torch.testing.assert_close(ours[block], definition)


def with_seed(function: str, row_offset: int = 0) -> Layer:
    if function == "gaussian_kl":
        return gaussian_kl
    return lambda mean, log_var: reparameterize(mean, log_var, seed=7, row_offset=row_offset)
