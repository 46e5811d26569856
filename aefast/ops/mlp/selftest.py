"""Self-test case of a stack of linear layers."""

from functools import partial

from aefast.ops.mlp import mlp
from aefast.ops.shared.selftest_case import Case, generators, stacked, two_layers


def cases() -> list[Case]:
    stack = stacked(partial(mlp, activations=["silu", "tanh"]))
    return [Case("mlp", "two layers", stack, two_layers(*generators()))]
