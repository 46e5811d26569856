"""The self-test's kernels under compute-sanitizer, which ends the process at an invalid access."""

import torch

from aefast import selftest
from gpu_check.correctness import TARGET
from gpu_check.worker import Record, attempt


def work(op: str, record: Record) -> None:
    """Each case, forward and backward, in the first of its dtypes."""
    for case in selftest.cases():
        if case.op == op:
            attempt(record, case.name, lambda c=case: run(c))


def run(case: selftest.Case) -> dict[str, object]:
    dtype = case.dtypes[0]
    results = selftest.results(case, TARGET, dtype, dtype)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return {"results": len(results)}
