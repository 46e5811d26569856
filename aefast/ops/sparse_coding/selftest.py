"""Self-test cases of sparse coding."""

from functools import partial

import torch

from aefast.ops.shared.selftest_case import Case, generators
from aefast.ops.sparse_coding import soft_threshold, sparse_encode


def cases() -> list[Case]:
    normal, _ = generators()
    sparse = normal(33, 47), torch.nn.functional.normalize(normal(19, 47))
    codes = partial(sparse_encode, penalty=0.1, tolerance=0.0)
    shrink = partial(soft_threshold, threshold=0.3)
    return [
        Case("sparse_coding", "codes", codes, sparse),
        Case("sparse_coding", "threshold", shrink, (normal(37, 129),), same_bits=True),
    ]
