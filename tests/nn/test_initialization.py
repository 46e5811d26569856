"""nn.initialization: the first parameters are a function of the seed, and of nothing shared."""

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from aefast.nn import (
    RBM,
    Autoencoder,
    DeepBeliefStack,
    StochasticAutoencoder,
    VariationalAutoencoder,
)
from aefast.nn.initialization import initialized

MAKERS = {
    "deep": lambda: Autoencoder(layers=[9, 5, 3]),
    "tied": lambda: Autoencoder(9, 3, tied=True),
    "stochastic": lambda: StochasticAutoencoder(9, 3, decoder_kind="gaussian"),
    "variational": lambda: VariationalAutoencoder(9, 3, layers=[4], decoder_kind="gaussian"),
    "machine": lambda: RBM(9, 5, chains=4),
    "gaussian machine": lambda: RBM(9, 5, visible_kind="gaussian", learn_variance=True, chains=4),
    "stack": lambda: DeepBeliefStack([9, 5, 3], chains=2),
}

every_module = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def equal(module, other):
    first, second = module.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@every_module
def test_the_draws_are_those_of_torchs_own_generator_seeded(make):
    torch.manual_seed(3)
    assert equal(initialized(make, 3), make())
    assert not equal(initialized(make, 3), initialized(make, 4))


@every_module
def test_torchs_own_generator_is_neither_read_nor_written(make):
    before = torch.get_rng_state()
    initialized(make, 3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@every_module
def test_torchs_defaults_change_nothing(make, dtype):
    expected = initialized(make, 3)
    torch.set_default_dtype(dtype)
    torch.set_default_device("meta")
    try:
        actual = initialized(make, 3)
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    assert equal(actual, expected)
    assert {p.dtype for p in actual.parameters()} == {torch.float32}


def test_threads_that_build_at_once_disturb_neither_each_other_nor_a_third():
    make = MAKERS["deep"]
    expected = initialized(make, 3)
    torch.manual_seed(0)
    undisturbed = torch.rand(200).tolist()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        torch.manual_seed(0)
        with ThreadPoolExecutor(8) as pool:
            builds = [pool.submit(initialized, make, 3) for _ in range(100)]
            drawn = torch.cat([torch.rand(1) for _ in range(200)]).tolist()
        assert all(equal(build.result(), expected) for build in builds)
    finally:
        sys.setswitchinterval(interval)
    assert drawn == undisturbed
