"""Noise injection against what a user would write, and against the copy bandwidth."""

from collections.abc import Callable

import pytest
import torch
from harness import Case, Limit
from samples import samples
from torch import Tensor

import aefast
from aefast.functional import corrupt

LEVEL = 0.3
CHECKED_ROWS = 64


def eager_masking(x: Tensor) -> Tensor:
    return x * (torch.rand_like(x) > LEVEL)


def eager_salt_and_pepper(x: Tensor) -> Tensor:
    u = torch.rand_like(x)
    return torch.where(u < LEVEL / 2, 0.0, torch.where(u < LEVEL, 1.0, x))


def eager_gaussian(x: Tensor) -> Tensor:
    return x + LEVEL * torch.randn_like(x)


EAGER = {
    "masking": eager_masking,
    "salt_and_pepper": eager_salt_and_pepper,
    "gaussian": eager_gaussian,
}


@pytest.mark.parametrize("kind", EAGER)
@pytest.mark.parametrize(
    ("device", "rows", "columns"),
    [
        *(("cpu", 4096, 784), ("cpu", 16384, 4096), ("cuda", 8192, 8192)),
        *(("cpu", 128, columns) for columns in (64, 784, 2000)),
    ],
)
def test_corrupt(
    compare: Callable[[Case], None], kind: str, device: str, rows: int, columns: int
) -> None:
    compare(case(kind, device, rows, columns))


def case(kind: str, device: str, rows: int, columns: int) -> Case:
    result = torch.empty(rows, columns, device=device)
    return Case(
        op="corrupt",
        name=f"{kind} {rows}x{columns} float32",
        device=device,
        dtype=torch.float32,
        make_inputs=lambda: (samples(rows, columns, device=device),),
        ours=lambda x: corrupt(x, kind, LEVEL),
        eager=EAGER[kind],
        check=lambda: check(torch.rand(rows, columns, device=device), kind),
        limit=Limit("copy", result.copy_, work=2 * result.nbytes, unit="GB/s"),
    )


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_call_overhead(compare: Callable[[Case], None], device: str) -> None:
    compare(
        Case(
            op="corrupt",
            name="masking 8x8 float32",
            device=device,
            dtype=torch.float32,
            make_inputs=lambda: (torch.rand(8, 8, device=device),),
            ours=lambda x: corrupt(x, "masking", LEVEL),
            eager=eager_masking,
            check=lambda: check(torch.rand(8, 8, device=device), "masking"),
            calls_in_round=500,
        )
    )


def check(x: Tensor, kind: str) -> None:
    """Check the first and last rows against the definition, and the share of noise in all rows."""
    actual = corrupt(x, kind, LEVEL, seed=7)
    rows = len(x)
    for start in (0, max(0, rows - CHECKED_ROWS)):
        block = slice(start, start + CHECKED_ROWS)
        with aefast.use_backend("eager"):
            expected = corrupt(x[block], kind, LEVEL, seed=7, row_offset=start)
        exact = {} if kind == "gaussian" else {"rtol": 0.0, "atol": 0.0}
        torch.testing.assert_close(actual[block], expected, **exact)

    noised = (actual != x).double().mean().item()
    share = 1.0 if kind == "gaussian" else LEVEL
    five_sigma = 5 * (0.25 / x.numel()) ** 0.5
    assert abs(noised - share) < five_sigma, f"{noised:.4%} of x is noised, not {share:.0%}"
