"""The stochastic and the variational autoencoder's estimators: scores in nats, and samples."""

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

pytest.importorskip("sklearn")
from sklearn.datasets import load_digits

from aefast import nn
from aefast.estimators import StochasticAutoencoder, VariationalAutoencoder
from aefast.estimators.generative import DRAWS_SCORED
from aefast.nn.likelihood import distribution

both = pytest.mark.parametrize("kind", [StochasticAutoencoder, VariationalAutoencoder])
decoders = pytest.mark.parametrize("decoder_kind", ["bernoulli", "gaussian"])

DRAWN = 4000


@pytest.fixture(scope="module")
def data():
    """Binary, so that torch's Bernoulli distribution has a density for them."""
    return (load_digits().data[:20] / 16 > 0.5).astype(np.float32)


def fitted(kind, data, **options):
    return kind((6, 3), n_iter=5, random_state=0, **options).fit(data)


def check_expectation(score, drawn):
    """A score of 64 draws against torch's own ``[DRAWN, rows]``: within five standard errors."""
    error = drawn.std(0).numpy() * (1 / DRAWN + 1 / DRAWS_SCORED) ** 0.5
    assert error.min() > 0
    assert (np.abs(score - drawn.mean(0).numpy()) < 5 * error).all()


@decoders
@torch.no_grad()
def test_the_stochastic_score_is_the_expected_log_likelihood(data, decoder_kind):
    model = fitted(StochasticAutoencoder, data, decoder_kind=decoder_kind)
    x = torch.from_numpy(data)
    codes = model.module_.encode_distribution(x).sample((DRAWN,))
    drawn = model.module_.decode_distribution(codes).log_prob(x)
    check_expectation(model.score_samples(data), drawn)


@decoders
@torch.no_grad()
def test_the_variational_score_is_the_evidence_lower_bound(data, decoder_kind):
    model = fitted(VariationalAutoencoder, data, decoder_kind=decoder_kind)
    module, x = model.module_, torch.from_numpy(data)
    mean, log_var = module.posterior(x)
    posterior = Independent(Normal(mean, (0.5 * log_var).exp()), 1)
    prior = Independent(Normal(torch.zeros_like(mean), torch.ones_like(mean)), 1)
    means = module.decode(posterior.sample((DRAWN,)))
    output = means.logit() if decoder_kind == "bernoulli" else means
    density = distribution(decoder_kind, output, module.log_var)
    drawn = density.log_prob(x) - kl_divergence(posterior, prior)
    check_expectation(model.score_samples(data), drawn)


def test_without_noise_the_stochastic_score_is_that_of_the_code(data):
    model = fitted(StochasticAutoencoder, data, code_noise=0.0)
    x = torch.from_numpy(data).double()
    with torch.no_grad():
        module = model.module_.double()
        expected = module.log_likelihood(x, module.encode(x))
    np.testing.assert_allclose(model.score_samples(data), expected, rtol=1e-12)


def test_the_score_is_the_same_bound_whichever_was_trained(data):
    """Of the same parameters: n_iter=0."""
    first, second = (
        VariationalAutoencoder(3, n_iter=0, random_state=0, bound=bound, samples=samples).fit(data)
        for bound, samples in (("elbo", 1), ("importance", 5))
    )
    assert np.array_equal(first.score_samples(data), second.score_samples(data))


@both
@decoders
def test_samples_are_the_modules_and_the_states_own(data, kind, decoder_kind):
    model = fitted(kind, data, decoder_kind=decoder_kind)
    drawn = model.sample(4, random_state=1)
    assert drawn.shape == (4, 64)
    assert drawn.dtype == np.float32
    seed = np.random.RandomState(1).randint(2**31 - 1)
    assert np.array_equal(drawn, model.module_.sample(4, seed=seed).numpy())
    assert not np.array_equal(drawn, model.sample(4, random_state=2))
    with pytest.raises(ValueError, match=r"^n_samples is 0"):
        model.sample(0)


def test_a_variational_one_of_an_int_is_linear(data):
    model = VariationalAutoencoder(3, n_iter=1, random_state=0, decoder_kind="gaussian").fit(data)
    layers = [layer for layer in model.module_.modules() if isinstance(layer, nn.LinearAct)]
    assert len(layers) == 2
    assert model.components_.shape == (6, 64)
    assert model.transform(data).shape == (20, 3)


@both
def test_auto_goes_by_the_sign_however_small_the_numbers_are(kind):
    X = (np.random.default_rng(0).random((20, 5)) - 0.5) * 1e-60
    model = kind(2, n_iter=1, random_state=0).fit(X)
    assert model.module_.decoder_kind == "gaussian"
    assert np.isfinite(model.score_samples(X)).all()


@both
def test_a_scalers_rounding_is_scored_as_1(kind):
    X = np.random.default_rng(0).random((20, 5))
    X[3, 2] = 1.0
    model = kind(2, n_iter=1, random_state=0).fit(X)
    expected = model.score_samples(X)
    X[3, 2] = np.nextafter(1.0, 2.0)
    np.testing.assert_array_equal(model.score_samples(X), expected)
    X[3, 2] = 1.0000002
    with pytest.raises(ValueError, match=r"^X holds 1\.0000002; Bernoulli units take"):
        model.score_samples(X)
