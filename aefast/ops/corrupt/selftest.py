"""Self-test cases of noise injection."""

from functools import partial

from aefast.ops.corrupt import corrupt
from aefast.ops.shared.selftest_case import SEED, Case, generators


def cases() -> list[Case]:
    normal, _ = generators()
    x = normal(37, 129)
    masking = partial(corrupt, kind="masking", level=0.3, **SEED)
    salt = partial(corrupt, kind="salt_and_pepper", level=0.3, low=-0.3, **SEED)
    noise = partial(corrupt, kind="gaussian", level=0.7, **SEED)
    return [
        Case("corrupt", "masking", masking, (x,), same_bits=True),
        Case("corrupt", "salt and pepper", salt, (x,), same_bits=True),
        Case("corrupt", "Gaussian noise, transposed", noise, (x.t(),)),
    ]
