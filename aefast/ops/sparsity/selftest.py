"""Self-test cases of the sparsity penalties."""

from functools import partial

from aefast.ops.shared.selftest_case import Case, generators
from aefast.ops.sparsity import kl_sparsity, l1_sparsity


def cases() -> list[Case]:
    normal, uniform = generators()
    return [
        Case("sparsity", "divergence", partial(kl_sparsity, target=0.07), (uniform(257, 131),)),
        Case("sparsity", "magnitude", l1_sparsity, (normal(37, 129),)),
    ]
