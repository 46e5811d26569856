"""``aefast.fit`` in a process group: one process's numbers, for each kind of model."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.distributed import training, worlds

STATES = ("idle", "chain", "training_steps")


def check_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Parameters and losses to rounding, states to the bit.

    The parameters are taken as one vector: contrastive divergence's gradients are differences, so
    that a small bias has few of its digits. So are its losses.
    """
    assert one.keys() == other.keys()
    for name in one:
        if name.split(".")[-1] in STATES:
            # A Gaussian unit's state is its mean, a function of the parameters, plus its noise.
            is_continuous = "log_var" in one
            tolerance = 1e-5 if is_continuous else 0.0
            assert torch.allclose(other[name], one[name], rtol=0, atol=tolerance), name
    assert (other["losses"] - one["losses"]).abs().max() < 1e-6 * one["losses"].abs().max().clamp(
        min=1
    )
    expected, got = _parameters(one), _parameters(other)
    assert (got - expected).norm() < 1e-6 * expected.norm()


def _parameters(state: dict[str, Any]) -> Tensor:
    names = [name for name in state if name.split(".")[-1] not in (*STATES, "losses", "engine")]
    return torch.cat([state[name].double().flatten() for name in names])


def test_two_ranks_are_one_process_of_every_model():
    names = list(training.MODELS)
    first, second = worlds.run(2, training.trained_of_all, 12, names)
    for name in names:
        assert first[name]["engine"] == "group"
        check_same(training.trained(name, 12), first[name])
        for key, value in first[name].items():
            assert key == "engine" or torch.equal(value, second[name][key]), (name, key)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3, 4])
def test_fifty_steps_are_one_process_s(size):
    names = list(training.MODELS)
    states = worlds.run(size, training.trained_of_all, 50, names)
    for name in names:
        check_same(training.trained(name, 50), states[-1][name])
