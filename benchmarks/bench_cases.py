"""The self-test's cases of each op that has no ``bench_<op>.py``, against the op's definition."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from harness import Case
from torch import Tensor

import aefast
from aefast import backend, ops, selftest

SUITE = Path(__file__).parent
OPS = [op for op in ops.names_with("selftest") if not (SUITE / f"bench_{op}.py").exists()]
CASES = {f"{case.op}, {case.name}": case for case in selftest.cases() if case.op in OPS}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("name", CASES)
def test_case(compare: Callable[[Case], None], name: str, device: str) -> None:
    case = CASES[name]

    def definition(*inputs: Tensor) -> Tensor:
        with aefast.use_backend("eager"):
            return case.function(*inputs)

    compare(
        Case(
            op=case.op,
            name=f"{case.name} float32",
            device=device,
            dtype=torch.float32,
            make_inputs=lambda: tuple(tensor.to(device) for tensor in case.inputs),
            ours=case.function,
            eager=definition,
            check=lambda: check(case, device),
            compiles=False,
        )
    )


def check(case: selftest.Case, device: str) -> None:
    """Check that the kernel's error is within the self-test's limit."""
    target = selftest.Target(backend.select(torch.device(device), torch.float32), device)
    error = selftest.error(case, target, torch.float32)
    outcome = selftest.Outcome(case, target, torch.float32, error)
    assert outcome.passed, outcome
