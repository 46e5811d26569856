"""The variational autoencoder: its bounds, and the likelihoods that they are known to reach."""

import math

import pytest
import torch
from torch.distributions import Bernoulli, MultivariateNormal, Normal, kl_divergence

from aefast import random
from aefast.nn import LossModule, VariationalAutoencoder


@pytest.fixture
def x():
    return torch.rand(9, 12, generator=torch.Generator().manual_seed(3)).round()


def new_model(**options):
    torch.manual_seed(0)
    return VariationalAutoencoder(12, 2, layers=[7], **options)


def noise(model, rows, samples, seed):
    drawn = random.normal(seed, rows * samples, model.latent, step=random.DrawStep.REPARAMETERIZE)
    return drawn.reshape(rows, samples, model.latent)


def densities(model, x, z):
    """ln p(x | z), ln p(z) and ln q(z | x) of rows [B, D] and samples [B, K, latent]."""
    mean, log_var = model.posterior(x)
    output = model.decode(z)
    if model.decoder_kind == "bernoulli":
        visible = Bernoulli(output).log_prob(x[:, None]).sum(-1)
    else:
        visible = Normal(output, (0.5 * model.log_var).exp()).log_prob(x[:, None]).sum(-1)
    prior = Normal(0, 1).log_prob(z).sum(-1)
    encoder = Normal(mean, (0.5 * log_var).exp())
    return visible, prior, encoder.log_prob(z.movedim(1, 0)).sum(-1).t()


@pytest.mark.parametrize("kl_weight", [0.0, 0.3, 1.0, 4.0])
@pytest.mark.parametrize("decoder_kind", ["bernoulli", "gaussian"])
def test_the_loss_weighs_the_divergence(kl_weight, decoder_kind, x):
    """Its gradient too; and the bounds are still bounds."""
    model = new_model(decoder_kind=decoder_kind, kl_weight=kl_weight)
    mean, log_var = model.posterior(x)
    divergence = kl_divergence(Normal(mean, (0.5 * log_var).exp()), Normal(0, 1)).sum(-1)
    expected = -(model.elbo(x, seed=5) + (1 - kl_weight) * divergence).mean()
    loss = model.loss(x, seed=5)
    torch.testing.assert_close(loss, expected)
    actual = torch.autograd.grad(loss, list(model.parameters()))
    expected_gradients = torch.autograd.grad(expected, list(model.parameters()))
    for first, second in zip(actual, expected_gradients, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-6)
    plain = new_model(decoder_kind=decoder_kind)
    torch.testing.assert_close(model.elbo(x, seed=5), plain.elbo(x, seed=5))


def test_a_kl_weight_may_warm_up_and_takes_the_elbo(x):
    model = new_model(kl_weight=0.0)
    without = model.loss(x, seed=5)
    model.kl_weight = 1.0
    torch.testing.assert_close(model.loss(x, seed=5), new_model().loss(x, seed=5))
    assert model.loss(x, seed=5) > without
    with pytest.raises(ValueError, match=r"^kl_weight is 2; with bound 'importance' it takes 1"):
        new_model(bound="importance", kl_weight=2)
    with pytest.raises(ValueError, match=r"^kl_weight is -1"):
        new_model(kl_weight=-1)


@pytest.mark.parametrize(
    "options",
    [{}, {"decoder_kind": "gaussian"}, {"decoder_kind": "gaussian", "variance": "units"}],
)
def test_the_bounds_are_those_of_torch_distributions(options, x):
    model = new_model(**options)
    if model.log_var is not None:
        with torch.no_grad():
            model.log_var.add_(torch.linspace(-1, 1, 12) if len(model.log_var) > 1 else 0.3)
    mean, log_var = model.posterior(x)
    deviation = (0.5 * log_var).exp()
    z = mean[:, None] + deviation[:, None] * noise(model, 9, 4, seed=5)
    visible, prior, encoder = densities(model, x, z)
    divergence = kl_divergence(Normal(mean, deviation), Normal(0, 1)).sum(-1)
    torch.testing.assert_close(model.elbo(x, 4, seed=5), visible.mean(1) - divergence)
    weights = visible + prior - encoder
    expected = weights.logsumexp(1) - math.log(4)
    torch.testing.assert_close(model.importance_bound(x, 4, seed=5), expected)


def test_the_loss_is_the_negative_bound_it_was_made_for(x):
    torch.testing.assert_close(new_model().loss(x, seed=1), -new_model().elbo(x, seed=1).mean())
    model = new_model(bound="importance", samples=6)
    expected = -model.importance_bound(x, 6, seed=1).mean()
    torch.testing.assert_close(model.loss(x, seed=1), expected)


def test_a_batch_split_by_row_offset_gives_the_same_bounds(x):
    model = new_model()
    whole = model.importance_bound(x, 3, seed=1)
    parts = [model.importance_bound(x[:4], 3, seed=1),
             model.importance_bound(x[4:], 3, seed=1, row_offset=4)]  # fmt: skip
    torch.testing.assert_close(torch.cat(parts), whole)


def test_the_importance_bound_grows_with_its_samples(x):
    """Towards ln p(x), here by quadrature over the one latent unit."""
    torch.manual_seed(0)
    model = VariationalAutoencoder(12, 1, layers=[7])
    grid = torch.linspace(-8, 8, 4001)[:, None]
    visible = Bernoulli(model.decode(grid)).log_prob(x[:, None]).sum(-1)
    exact = torch.logsumexp(visible + Normal(0, 1).log_prob(grid[:, 0]), 1) + math.log(16 / 4000)
    bounds = [
        torch.stack([model.importance_bound(x, k, seed=seed) for seed in range(200)]).mean()
        for k in (1, 5, 50)
    ]
    assert bounds[0] < bounds[1] < bounds[2] < exact.mean() + 0.01
    estimate = model.log_likelihood(x, samples=5000, seed=0)
    torch.testing.assert_close(estimate, exact, rtol=0, atol=0.05)


def test_the_likelihood_does_not_depend_on_the_pieces_it_is_made_in(x, monkeypatch):
    model = new_model()
    whole = model.log_likelihood(x, samples=3000, seed=0)
    monkeypatch.setattr("aefast.nn.variational.ELEMENTS_AT_ONCE", 12 * 700)
    pieces = model.log_likelihood(x, samples=3000, seed=0)
    torch.testing.assert_close(pieces, whole, rtol=0, atol=0.1)
    assert not torch.equal(pieces, whole)  # another draw: the pieces did come apart


def test_a_rows_likelihood_does_not_depend_on_the_rows_beside_it(x, monkeypatch):
    monkeypatch.setattr("aefast.nn.variational.ELEMENTS_AT_ONCE", 12 * 700)
    model = new_model()
    whole = model.log_likelihood(x, samples=300, seed=0)
    parts = [
        model.log_likelihood(x[:2], samples=300, seed=0),
        model.log_likelihood(x[2:], samples=300, seed=0, row_offset=2),
    ]
    torch.testing.assert_close(torch.cat(parts), whole)
    assert model.log_likelihood(x[:0]).shape == (0,)


# A shared variance's is the figure's as well: tests/figures/test_variational.py.
@pytest.mark.parametrize("variance", [pytest.param("shared", marks=pytest.mark.slow), "units"])
def test_a_linear_one_reaches_the_likelihood_of_probabilistic_pca_or_factor_analysis(variance):
    estimators = pytest.importorskip("aefast.estimators")
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(2, 6, generator=generator)
    deviation = 0.3 if variance == "shared" else torch.linspace(0.2, 0.8, 6)
    data = torch.randn(2000, 2, generator=generator) @ mixing + 1
    data = data + deviation * torch.randn(2000, 6, generator=generator)
    torch.manual_seed(0)
    model = VariationalAutoencoder(6, 2, decoder_kind="gaussian", variance=variance)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1500)
    for step in range(1500):
        optimizer.zero_grad()
        model.loss(data, seed=step).backward()
        optimizer.step()
        schedule.step()
    closed = estimators.ProbabilisticPCA if variance == "shared" else estimators.FactorAnalysis
    best = closed(n_components=2).fit(data.numpy()).score(data.numpy())
    weight = model.decoder[-1].weight.detach().double()
    noise_covariance = model.log_var.detach().double().exp() * torch.eye(6)
    density = MultivariateNormal(model.decoder[-1].bias.detach().double(),
                                 weight @ weight.t() + noise_covariance)  # fmt: skip
    reached = density.log_prob(data.double()).mean().item()
    assert best - 0.02 < reached < best + 1e-3
    # The exact posterior is Gaussian with a diagonal covariance there, up to a rotation: no gap.
    assert abs(model.elbo(data, 200, seed=0).mean().item() - reached) < 0.02


@pytest.mark.parametrize("kind", ["bernoulli", "gaussian"])
def test_samples_are_a_function_of_the_seed(kind):
    model = new_model(decoder_kind=kind)
    first, again, other = (model.sample(500, seed=seed) for seed in (1, 1, 2))
    assert first.shape == (500, 12)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    drawn = model.sample(500, draw=True, seed=1)
    if kind == "bernoulli":
        assert set(drawn.unique().tolist()) == {0, 1}
        five_sigma = 5 * (0.25 / 500) ** 0.5
        assert ((drawn - first).mean(0).abs() < five_sigma).all()
    else:
        assert abs((drawn - first).std().item() - 1) < 0.05


def test_a_compiled_loss_is_the_same(x):
    model = new_model()
    compiled = torch.compile(lambda x: model.loss(x, seed=3), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), model.loss(x, seed=3))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: VariationalAutoencoder(4, 0), ValueError, "latent is 0"),
        (lambda: VariationalAutoencoder(4, 2, layers=[3.5]), TypeError, r"layers\[0\] is a float"),
        (lambda: VariationalAutoencoder(4, 2, layers=5), TypeError, "layers is a int"),
        (lambda: VariationalAutoencoder(4, 2, activation="x"), ValueError, "activation is 'x'"),
        (lambda: new_model().log_likelihood(torch.rand(12)), ValueError, r"x has shape \[12\]"),
        (lambda: VariationalAutoencoder(4, 2, bound="x"), ValueError, "bound is 'x'"),
        (lambda: VariationalAutoencoder(4, 2, variance="x"), ValueError, "variance is 'x'"),
        (lambda: VariationalAutoencoder(4, 2, samples=0), ValueError, "samples is 0"),
        (lambda: VariationalAutoencoder(4, 2, decoder_kind="x"), ValueError, "decoder_kind is 'x'"),
        (lambda: new_model().elbo(torch.rand(3, 12), 0), ValueError, "samples is 0"),
        (lambda: new_model().log_likelihood(torch.rand(3, 12), 0), ValueError, "samples is 0"),
        (lambda: new_model().sample(-1), ValueError, "samples is -1"),
    ],
)
def test_wrong_arguments_are_named(call, error, message):
    with pytest.raises(error, match=f"^{message}"):
        call()


@pytest.mark.parametrize("layers", [[], [5], [6, 5]])
def test_a_state_dict_with_the_old_names_of_layers_is_loaded(layers):
    """As they were written before the encoder held the posterior's layer, and the decoder the
    output's."""
    model = VariationalAutoencoder(8, 3, layers=layers, decoder_kind="gaussian")
    old = {}
    for name, tensor in model.state_dict().items():
        for part, old_name in (("encoder", "posterior_layer"), ("decoder", "output")):
            name = name.replace(f"{part}.{len(layers)}.", f"{old_name}.")
        old[name] = tensor
    assert {"posterior_layer.weight", "posterior_layer.bias", "output.weight"} <= old.keys()
    other = VariationalAutoencoder(8, 3, layers=layers, decoder_kind="gaussian")
    other.load_state_dict(old)
    assert_same_parameters(other, model)
    with torch.no_grad():
        other.encoder[-1].weight.zero_()
    LossModule(other).load_state_dict({f"model.{name}": tensor for name, tensor in old.items()})
    assert_same_parameters(other, model)
    with pytest.warns(DeprecationWarning, match=r"use encoder\[-1\]"):
        assert model.posterior_layer is model.encoder[-1]
    with pytest.warns(DeprecationWarning, match=r"use decoder\[-1\]"):
        assert model.output is model.decoder[-1]


def assert_same_parameters(model, other):
    for actual, expected in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(actual, expected)
