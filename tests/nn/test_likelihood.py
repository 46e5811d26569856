"""Likelihoods of rows far off are very low numbers, and of what is no probability errors."""

import math

import numpy as np
import pytest
import torch
from torch.nn.utils import prune

from aefast.nn import (
    RBM,
    Autoencoder,
    ContractiveAutoencoder,
    DenoisingAutoencoder,
    SparseAutoencoder,
    StochasticAutoencoder,
    VariationalAutoencoder,
    annealed_importance_sampling,
    exact_log_partition,
)
from aefast.ops.shared.checks import check_unit_interval


@pytest.fixture
def x():
    return torch.rand(6, 8, generator=torch.Generator().manual_seed(3))


def wide(model):
    """Weights with which an outlier's log variance overflows float32's exponential."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "weight" in name:
                parameter.mul_(5)
    return model


def set_apart(x, size):
    return torch.cat([x, torch.full_like(x[:1], size)])


@pytest.mark.parametrize("size", [1e2, 1e4, 1e8, 1e19, 1e30, -1e36, 1e38])
@pytest.mark.parametrize("layers", [[], [5]])
def test_a_variational_outlier_is_very_unlikely(layers, size, x):
    torch.manual_seed(0)
    model = wide(VariationalAutoencoder(8, 3, layers=layers, decoder_kind="gaussian"))
    rows = set_apart(x, size)
    with torch.no_grad():
        scores = [model.elbo(rows, seed=0), model.importance_bound(rows, 3, seed=0)]
    scores.append(model.log_likelihood(rows, samples=10, seed=0))
    for score in scores:
        assert score.isfinite().all()
        assert score.mean().isfinite()
        assert score[-1] < min(-1e3, score[:-1].min())


def test_the_bounds_change_no_likelihood_that_is_finite(x):
    """To float64, which has room for all of it: a log variance of 60 is within both."""
    torch.manual_seed(0)
    model = VariationalAutoencoder(8, 3, decoder_kind="gaussian")
    with torch.no_grad():
        model.encoder[-1].bias[3:] = 60.0
        expected = model.double().elbo(x.double(), seed=0)
        actual = model.float().elbo(x, seed=0)
    torch.testing.assert_close(actual.double(), expected, rtol=1e-4, atol=0)
    torch.testing.assert_close(model.elbo(x, seed=0).detach(), actual)


def test_a_code_far_from_zero_keeps_its_density(x):
    """At a mean of 1e6 z - mean holds one or two digits of noise whose deviation is 0.1."""
    torch.manual_seed(0)
    model = VariationalAutoencoder(8, 3, decoder_kind="gaussian")
    with torch.no_grad():
        model.encoder[-1].bias.copy_(torch.tensor([1e6] * 3 + [-4.6] * 3))
        model.decoder[-1].weight.zero_()
        mean, log_var = model.posterior(x)
        noise = model._draw(mean * 0, log_var * 0, 4, 0, None, 0)
        weights = model._log_weights(x, mean, log_var, 4, 0, None, 0).double()
    z = mean.double().unsqueeze(-2) + (log_var.double() / 2).exp().unsqueeze(-2) * noise.double()
    likelihood = model._log_likelihood(x, z.float()).double()
    density = -0.5 * (noise.double().square() + log_var.double().unsqueeze(-2)).sum(-1)
    expected = likelihood - 0.5 * z.square().sum(-1) - density
    torch.testing.assert_close(weights, expected, rtol=1e-6, atol=0)


def test_a_row_that_is_not_a_number_has_no_likelihood(x):
    x[2, 3] = float("nan")
    actual = VariationalAutoencoder(8, 3, decoder_kind="gaussian").log_likelihood(x, samples=3)
    assert actual.isnan().tolist() == [False, False, True, False, False, False]


def test_training_that_diverges_shows_it(x):
    """Only scores are bounded: a loss is what PyTorch's operations make it."""
    model = VariationalAutoencoder(8, 3, decoder_kind="gaussian")
    assert model.loss(set_apart(x, 1e30), seed=0) == torch.inf


def test_other_outliers_are_very_unlikely(x):
    rows = set_apart(x, 1e30)
    stochastic = StochasticAutoencoder(8, 3, decoder_kind="gaussian")
    machine = RBM(8, 3, visible_kind="gaussian")
    with torch.no_grad():
        actual = [stochastic.log_likelihood(rows, stochastic.encode(rows))]
    actual.append(machine.log_likelihood(rows, exact_log_partition(machine)))
    for score in actual:
        assert score.sum().isfinite()
        assert score[-1] < -1e30
        assert score[:-1].min() > -1e3


@pytest.mark.parametrize("kind", ["VariationalAutoencoder", "StochasticAutoencoder"])
def test_an_estimators_score_survives_an_outlier(kind, x):
    pytest.importorskip("sklearn")
    from aefast import estimators

    options = {"decoder_kind": "gaussian", "n_iter": 2, "random_state": 0}
    model = getattr(estimators, kind)(3, **options).fit(x.numpy())
    wide(model.module_)
    for size in (1e3, 1e5, 1e30):
        rows = set_apart(x, size).numpy()
        assert model.score(rows) < -1e3
        assert model.score(rows) > float("-inf")


def test_large_weights_have_a_partition_function_or_say_that_they_have_none():
    model = RBM(8, 4, visible_kind="gaussian")
    with torch.no_grad():
        model.weight.fill_(1e20)
    # ln of the largest term: all four hidden units on, |Wt h|^2 / 2 over 8 visible ones.
    assert abs(exact_log_partition(model) / (8 * (4e20) ** 2 / 2) - 1) < 1e-6
    with pytest.raises(FloatingPointError, match=r"past what the machine's dtype holds; .*double"):
        annealed_importance_sampling(model, torch.randn(5, 8), betas=5, seed=0)


SIGMOID = {"output_activation": "sigmoid", "reconstruction": "bce"}


@pytest.mark.parametrize("value", [255.0, -0.01, float("nan")])
@pytest.mark.parametrize(
    ("model", "reason"),
    [
        *((kind(8, 3, **SIGMOID), "the cross-entropy takes") for kind in (Autoencoder,
            ContractiveAutoencoder, DenoisingAutoencoder, SparseAutoencoder)),
        (Autoencoder(layers=[8, 5, 3], **SIGMOID), "the cross-entropy takes"),
        (StochasticAutoencoder(8, 3), "Bernoulli units take"),
        (VariationalAutoencoder(8, 3), "Bernoulli units take"),
        (VariationalAutoencoder(8, 3, bound="importance"), "Bernoulli units take"),
        (RBM(8, 3), "Bernoulli units take"),
    ],
)  # fmt: skip
def test_a_cross_entropy_of_targets_outside_the_unit_interval_is_refused(model, reason, value, x):
    model.loss(x.round())
    x[1, 2] = value
    number = f"{value:g}".replace(".", r"\.")
    with pytest.raises(ValueError, match=rf"holds {number}; {reason} numbers in \[0, 1\]"):
        model.loss(x)


@pytest.mark.parametrize("value", [math.nextafter(1, 2), -1e-45, math.inf, math.nan])
@pytest.mark.parametrize("count", [1, 3, 16, 17, 67, 1 << 15, (1 << 15) + 1])
def test_one_number_outside_the_unit_interval_is_found_wherever_it_stands(count, value):
    value = float(np.nextafter(np.float32(1), np.float32(2))) if 1 < value < 2 else value
    inside = torch.rand(count)
    inside[0], inside[-1] = 1.0, -0.0
    check_unit_interval(inside, "x", "Bernoulli units take")
    for place in {0, count // 2, count - 1}:
        x = inside.clone()
        x[place] = value
        for outside in (x, x.flip(0), x.expand(2, count).t()):
            with pytest.raises(ValueError, match="x holds"):
                check_unit_interval(outside, "x", "Bernoulli units take")


@pytest.mark.parametrize(("value", "shown"), [(1.5, "1.5"), (-0.5, "-0.5")])
def test_a_kl_penalty_of_activations_outside_the_unit_interval_is_refused(value, shown):
    code = torch.full((4, 3), 0.5)
    code[2, 1] = value
    model = SparseAutoencoder(6, 3)
    with pytest.raises(ValueError, match=f"^code holds {shown}; the KL penalty takes"):
        model.penalty(code)
    model.penalty_kind = "l1"
    model.penalty(code)


def test_other_losses_and_other_scores_are_checked_as_they_should(x):
    Autoencoder(8, 3).loss(x * 255)
    VariationalAutoencoder(8, 3, decoder_kind="gaussian").loss(x * 255)
    model = VariationalAutoencoder(8, 3)
    for call in (model.elbo, model.importance_bound, model.log_likelihood):
        with pytest.raises(ValueError, match=r"x holds 2.*; Bernoulli units take"):
            call(x * 255)


@pytest.mark.parametrize("change", ["nothing", "pruned", "hook"])
@pytest.mark.parametrize("kind", [Autoencoder, SparseAutoencoder])
def test_a_model_that_diverged_has_a_loss_that_is_not_a_number(device, kind, change, x):
    """On every road: op by op, too, where pruning or a hook keeps the kernels from the layers."""
    model = kind(8, 3, **SIGMOID).to(device)
    with torch.no_grad():
        model.encoder[0].weight[1, 2] = math.nan
    if change == "pruned":
        prune.identity(model.encoder[0], "weight")
    elif change == "hook":
        model.decoder[-1].register_forward_hook(lambda module, inputs, output: output.clone())
    loss = model.loss(x.to(device))
    loss.backward()
    assert loss.isnan()
    assert all(parameter.grad.isnan().any() for parameter in model.parameters())
