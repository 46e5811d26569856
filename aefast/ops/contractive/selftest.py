"""Self-test cases of the contractive penalty and the Jacobian."""

from functools import partial

from aefast.ops.contractive import contractive_penalty, jacobian
from aefast.ops.shared.selftest_case import SEED, Case, generators, stacked, two_layers


def cases() -> list[Case]:
    deep = two_layers(*generators())
    estimated = partial(contractive_penalty, method="hutchinson", probes=3, **SEED)
    return [
        Case("contractive", "Jacobian", jacobian, deep[:3]),
        Case("contractive", "penalty", contractive_penalty, deep[:3]),
        Case("contractive", "penalty, two layers", stacked(contractive_penalty), deep),
        Case("contractive", "estimated penalty", stacked(estimated), deep),
    ]
