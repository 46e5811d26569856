"""The selftest: that its cases cover every op, and that a wrong kernel does not pass."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from aefast import backend, ops, random, selftest
from aefast.functional import gibbs
from aefast.ops.shared.selftest_case import SEED, Case
from aefast.selftest import LIMIT, Target

CASES = {(case.op, case.name): case for case in selftest.cases()}
FLOAT32 = (torch.float32,)
KERNEL = Target("numba", "cpu")

needs_numba = pytest.mark.skipif(
    backend.unavailable("numba", "cpu") is not None, reason="needs numba"
)


def outcomes(*cases, target=KERNEL):
    return list(selftest.run([target], cases))


def test_every_op_has_a_case():
    assert [op for op, _ in itertools.groupby(op for op, _ in CASES)] == ops.names()


def test_the_cases_of_an_op_follow_each_other():
    runs = [op for op, _ in itertools.groupby(case.op for case in selftest.cases())]
    assert len(runs) == len(set(runs))


@pytest.mark.parametrize("op", ops.names())
def test_every_kernel_of_this_machine_passes(op):
    targets = [
        target
        for target in selftest.targets()
        if target.backend != "triton" or "cuda" in target.device
    ]
    outcomes_of_op = list(selftest.run(targets, [case for case in CASES.values() if case.op == op]))
    assert {outcome.target for outcome in outcomes_of_op} == set(targets)
    assert [str(outcome) for outcome in outcomes_of_op if not outcome.passed] == []


def test_no_draw_is_so_near_its_probability_that_rounding_decides():
    """The states are then the same ones on every machine: float32 rounds a sum of 47 terms, a few
    in size, by less than 1e-5."""
    machine = [tensor.double() for tensor in CASES["rbm", "chain"].inputs]
    for k in (1, 2):
        sample = gibbs(*machine, k=k, return_probs=True, **SEED)
        probabilities = sample.hidden_prob, sample.visible_prob
        for step, probability in zip((2 * k - 2, 2 * k - 1), probabilities, strict=True):
            drawn = random.uniform(SEED["seed"], *probability.shape, step=step, row_offset=11)
            assert (drawn - probability).abs().min() > 1e-5


def off_by(factor):
    """A kernel whose error is so many times what half a unit in the last place makes."""

    def function(x):
        if backend.select(x.device, x.dtype) == "eager":
            return x.clone()
        return x + factor * torch.finfo(x.dtype).eps / 4

    return Case("corrupt", "off", function, (torch.linspace(0.5, 1, 256),), dtypes=FLOAT32)


@needs_numba
def test_an_error_is_told_in_units():
    within, beyond = outcomes(off_by(1.5), off_by(16.0))
    assert within.passed
    assert not beyond.passed
    assert beyond.error == pytest.approx(16.0, abs=2.0)


@needs_numba
def test_a_case_of_bits_takes_nothing_but_the_definitions():
    within = off_by(4.0 / LIMIT)
    (lenient, strict) = outcomes(within, replace(within, same_bits=True))
    assert lenient.passed
    assert lenient.error > 0
    assert not strict.passed
    assert "other bits" in str(strict)


@needs_numba
@pytest.mark.parametrize("wrong", [math.nan, math.inf, 1e-3])
def test_one_wrong_element_of_a_kernel_fails(monkeypatch, wrong):
    kernels = backend.implementation("variational", "numba")
    right = kernels.gaussian_kl

    def gaussian_kl(*arguments):
        output = right(*arguments)
        output[3] += wrong
        return output

    monkeypatch.setattr(kernels, "gaussian_kl", gaussian_kl)
    actual = outcomes(CASES["variational", "divergence"], CASES["variational", "sample"])
    assert not actual[0].passed
    assert [outcome.passed for outcome in actual if outcome.case.name == "sample"] == [True] * 3


@needs_numba
def test_a_wrong_gradient_fails(monkeypatch):
    kernels = backend.implementation("variational", "numba")
    right = kernels.gaussian_kl_backward
    monkeypatch.setattr(
        kernels, "gaussian_kl_backward", lambda *arguments: tuple(-x for x in right(*arguments))
    )
    assert not any(outcome.passed for outcome in outcomes(CASES["variational", "divergence"]))


@needs_numba
def test_a_kernel_that_raises_is_told_and_hides_no_other(monkeypatch):
    kernels = backend.implementation("variational", "numba")

    def broken(*arguments):
        raise RuntimeError("no such binary")

    monkeypatch.setattr(kernels, "gaussian_kl", broken)
    actual = outcomes(CASES["variational", "divergence"], CASES["sparsity", "magnitude"])
    assert "no such binary" in str(actual[0])
    assert [outcome.passed for outcome in actual] == [False] * 3 + [True] * 3
