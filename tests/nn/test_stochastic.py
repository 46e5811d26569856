"""The stochastic autoencoder: its two distributions, and the chain that they make."""

import math

import pytest
import torch
import torch.nn.functional as F

from aefast import random
from aefast.nn import StochasticAutoencoder


@pytest.fixture
def x():
    return torch.rand(9, 12, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("kind", ["bernoulli", "gaussian"])
def test_the_likelihood_is_that_of_the_decoders_distribution(kind, x):
    model = StochasticAutoencoder(layers=[12, 7, 3], decoder_kind=kind)
    if kind == "gaussian":
        with torch.no_grad():
            model.log_var.fill_(0.7)
    else:
        x = x.round()
    code = model.encode_distribution(x).sample()
    expected = model.decode_distribution(code).log_prob(x)
    torch.testing.assert_close(model.log_likelihood(x, code), expected)


@pytest.mark.parametrize("kind", ["bernoulli", "gaussian"])
def test_the_loss_is_the_likelihood_at_a_code_with_noise(kind, x):
    model = StochasticAutoencoder(12, 5, decoder_kind=kind, code_noise=0.4)
    mean = model.encode(x)
    code = mean + 0.4 * random.normal(5, *mean.shape, step=random.DrawStep.CODE_NOISE)
    if kind == "bernoulli":
        expected = 12 * F.binary_cross_entropy(model.decode(code), x)
    else:
        expected = 6 * (F.mse_loss(model.decode(code), x) + math.log(2 * math.pi))
    torch.testing.assert_close(model.loss(x, seed=5), expected)
    assert model.loss(x, seed=6) != model.loss(x, seed=5)


def test_the_encoder_is_a_normal_distribution_around_the_code(x):
    model = StochasticAutoencoder(12, 5, code_noise=0.4)
    actual = model.encode_distribution(x)
    torch.testing.assert_close(actual.mean, model.encode(x))
    torch.testing.assert_close(actual.variance, torch.full((9, 5), 0.16))


def test_a_gaussian_decoder_learns_the_variance_of_what_it_cannot_explain():
    x = 3 + 0.5 * torch.randn(2000, 4, generator=torch.Generator().manual_seed(0))
    model = StochasticAutoencoder(4, 1, decoder_kind="gaussian", code_noise=3.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for step in range(500):
        optimizer.zero_grad()
        model.loss(x, seed=step).backward()
        optimizer.step()
    assert abs(model.log_var.exp().item() - 0.25) < 0.02


def test_the_chain_leaves_a_bad_start_for_the_data():
    data = torch.tensor([[1.0, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]]).repeat(50, 1)
    model = StochasticAutoencoder(6, 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for step in range(300):
        optimizer.zero_grad()
        model.loss(data, seed=step).backward()
        optimizer.step()
    samples = model.sample(40, steps=20, seed=1, start=torch.full((6,), 0.5))
    distance = torch.cdist(samples, data[:2], p=1)
    assert distance.amin(1).mean() < 0.5
    assert set(distance.argmin(1).tolist()) == {0, 1}  # and reaches both patterns


def test_the_chain_begins_at_its_start(x):
    model = StochasticAutoencoder(12, 5, code_noise=0.0, decoder_kind="gaussian")
    expected = model.decode(model.encode(x))
    torch.testing.assert_close(model.sample(9, steps=1, start=x, seed=0), expected)


def test_the_likelihood_of_a_saturated_unit_is_the_distributions():
    model = StochasticAutoencoder(2, 1)
    with torch.no_grad():
        model.decoder[0].bias.fill_(300.0)
    code, x = torch.zeros(1, 1), torch.zeros(1, 2)
    distribution = model.decode_distribution(code)
    torch.testing.assert_close(distribution.log_prob(x), model.log_likelihood(x, code))


@pytest.mark.parametrize("kind", ["bernoulli", "gaussian"])
def test_samples_are_a_function_of_the_seed(kind):
    model = StochasticAutoencoder(12, 5, decoder_kind=kind)
    first, again, other = (model.sample(4, steps=3, seed=seed) for seed in (1, 1, 2))
    assert first.shape == (4, 12)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: StochasticAutoencoder(4, 2, decoder_kind="x"), ValueError, "decoder_kind is 'x'"),
        (lambda: StochasticAutoencoder(4, 2, code_noise=-1), ValueError, "code_noise is -1"),
        (lambda: StochasticAutoencoder(4, 2).sample(-1), ValueError, "samples is -1"),
        (lambda: StochasticAutoencoder(4, 2).sample(1, 0), ValueError, "steps is 0"),
        (
            lambda: StochasticAutoencoder(4, 2).sample(2, start=torch.rand(3, 4)),
            ValueError,
            r"start has shape \[3, 4\]; it takes \[2, 4\] or \[4\]",
        ),
    ],
)
def test_wrong_arguments_are_named(call, error, message):
    with pytest.raises(error, match=f"^{message}"):
        call()
