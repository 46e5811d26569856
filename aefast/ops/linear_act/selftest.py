"""Self-test cases of a linear layer with its activation."""

from functools import partial

from aefast.ops.linear_act import linear_act
from aefast.ops.shared.selftest_case import Case, generators, layer


def cases() -> list[Case]:
    inputs = layer(*generators())
    sigmoid, gelu = (partial(linear_act, activation=name) for name in ("sigmoid", "gelu"))
    return [
        Case("linear_act", "sigmoid", sigmoid, inputs),
        Case("linear_act", "gelu", gelu, inputs),
    ]
