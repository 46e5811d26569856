"""Patched and original rbms agree: chains in distribution, gradients to rounding."""

import math

import pytest
import torch

pytest.importorskip("rbms", reason="rbms is not installed: pip install aefast[peers]")
from rbms.bernoulli_bernoulli.classes import BBRBM
from rbms.partition_function.ais import compute_partition_function_ais
from rbms.sampling.gibbs import sample_state
from rbms.sampling.pt import swap_configurations
from rbms.training.pcd import fit_batch_pcd

import aefast
from aefast.patching import rbms as peer

pytestmark = pytest.mark.slow
NAME = "rbms.bernoulli_bernoulli.BBRBM"


def machine(visible=4, hidden=3, scale=1.0, **options):
    torch.manual_seed(5)
    weight, b, c = (
        torch.randn(*size) * scale for size in ((visible, hidden), (visible,), (hidden,))
    )
    return BBRBM(weight, b, c, **options)


def calls():
    return aefast.patched()[NAME]


def frequencies(chains):
    """The number of times that each joint state of all units was sampled."""
    states = torch.cat([chains["visible"], chains["hidden"]], 1).long()
    codes = (states << torch.arange(states.shape[1])).sum(1)
    return torch.bincount(codes, minlength=1 << states.shape[1]).double()


@pytest.mark.parametrize(("n_steps", "beta"), [(1, 1.0), (2, 1), (3, 0.4), (1, 0), (2, 3.0)])
def test_chains_have_the_originals_distribution(n_steps, beta):
    """The counts of joint states: each within 4.5 standard errors, and all by a chi-square test."""
    model = machine()
    start = model.init_chains(200_000, start_v=torch.tensor([[1.0, 0, 0, 1]]).repeat(200_000, 1))
    expected = frequencies(model.sample_state(start, n_steps, beta))
    with aefast.patch("rbms"):
        actual = frequencies(model.sample_state(start, n_steps, beta))
        assert calls().calls == 1
    both = actual + expected
    deviations = ((actual - expected).square() / both)[both > 10]
    assert deviations.max() < 4.5**2
    assert deviations.sum() < len(deviations) + 4 * math.sqrt(2 * len(deviations))


def test_chains_hold_what_the_originals_hold():
    model = machine(70, 5)
    start = model.init_chains(30)
    before = {name: (value, value.clone()) for name, value in start.items()}
    expected = model.sample_state(start, 2, 0.7)
    with aefast.patch("rbms"):
        chains = sample_state(2, start, model, 0.7)
    assert list(chains) == list(expected)
    for name, value in expected.items():
        actual = chains[name]
        assert (actual.shape, actual.dtype, actual.stride()) == (
            value.shape,
            value.dtype,
            value.stride(),
        )
    assert all(start[name] is value for name, (value, _) in before.items())
    assert all(torch.equal(value, copy) for value, copy in before.values())
    means = torch.sigmoid(0.7 * (model.hbias + chains["visible"] @ model.weight_matrix))
    torch.testing.assert_close(chains["hidden_mag"], means)
    assert set(chains["visible"].unique().tolist()) == {0.0, 1.0}
    assert chains["weights"] is not start["weights"]


def test_new_chains():
    model = machine()
    data = torch.rand(50_000, 4).round()
    weights = torch.rand(50_000)
    theirs = [model.init_chains(50_000), model.init_chains(1, weights, data)]
    with aefast.patch("rbms"):
        ours = [model.init_chains(50_000), model.init_chains(1, weights, data)]
        assert calls().calls == 2
    assert ours[1]["visible"] is data
    assert ours[1]["weights"] is weights
    for actual, expected in zip(ours, theirs, strict=True):
        assert list(actual) == list(expected)
        torch.testing.assert_close(actual["visible_mag"], expected["visible_mag"])
        both = frequencies(actual) + frequencies(expected)
        difference = (frequencies(actual) - frequencies(expected)).square() / both
        assert difference[both > 10].max() < 4.5**2
    torch.testing.assert_close(ours[1]["hidden_mag"], theirs[1]["hidden_mag"])


@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize("penalties", [(0.0, 0.0), (0.1, 0.0), (0.1, 0.2)])
@pytest.mark.parametrize("kind", ["binary", "grey", "a unit that is always on"])
def test_gradient(centered, penalties, kind):
    model = machine(70, 9, 0.3)
    model.init_grad()
    rows = torch.rand(40, 70).round() if kind != "grey" else torch.rand(40, 70)
    if kind == "a unit that is always on":
        rows[:, 0] = 1
    data = model.init_chains(1, torch.rand(40) + 0.1, rows)
    chains = model.sample_state(model.init_chains(30), 2)
    chains["weights"] = torch.rand(30)
    exact = gradient_in_float64(model, data, chains, centered, penalties)
    errors = []
    for is_patched in (False, True):
        if is_patched:
            aefast.patch("rbms")
        before = [parameter.grad for parameter in model.parameters()]
        model.compute_gradient(data, chains, centered, *penalties)
        actual = [parameter.grad for parameter in model.parameters()]
        assert all(one is grad for one, grad in zip(before, actual, strict=True))
        assert actual[0].is_contiguous()
        errors.append([(a - b).norm() / b.norm() for a, b in zip(actual, exact, strict=True)])
    if kind == "grey":
        assert calls().original_calls == {"grey states, whose products are PyTorch's own": 1}
    else:
        assert calls().calls == 1
    for original_error, patched_error in zip(*errors, strict=True):
        assert patched_error < max(2 * original_error, 2e-7)


def gradient_in_float64(model, data, chains, centered, penalties):
    data, chains = ({name: part.double() for name, part in d.items()} for d in (data, chains))
    exact = model.clone(dtype=torch.float64)
    exact.init_grad()
    exact.compute_gradient(data, chains, centered, *penalties)
    return [parameter.grad for parameter in exact.parameters()]


def log_likelihood(model, rows):
    """The rows' exact mean log-likelihood, in nats, by enumerating all visible states."""
    width = model.num_visibles()
    states = (torch.arange(1 << width)[:, None] >> torch.arange(width) & 1).float()
    return (-model.compute_energy_visibles(rows)).mean() - (
        -model.compute_energy_visibles(states)
    ).logsumexp(0)


def test_pcd_with_k_100_learns_as_the_original():
    """The exact likelihoods after the same number of updates agree over seeds."""
    rows = (torch.arange(64)[:, None] % 8 >> torch.arange(3) & 1).float().repeat(1, 2)

    def trained(seed):
        torch.manual_seed(seed)
        model = BBRBM(torch.randn(6, 4) * 0.01, torch.zeros(6), torch.zeros(4))
        model.init_grad()
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0, maximize=True)
        chains = model.init_chains(64)
        for _ in range(30):
            optimizer.zero_grad(set_to_none=False)
            batch = rows, torch.ones(64)
            chains, _ = fit_batch_pcd(batch, chains, model, gibbs_steps=100, beta=1.0)
            optimizer.step()
        return log_likelihood(model, rows)

    expected = torch.stack([trained(seed) for seed in range(10)])
    with aefast.patch("rbms"):
        actual = torch.stack([trained(seed) for seed in range(10)])
        assert trained(3) == actual[3]  # by torch.manual_seed, as the original
        assert calls().calls == 11 * (1 + 3 * 30)
        assert calls().original_calls == {}
    assert expected.mean() > -3.5  # from -4.16: it has learned
    error = ((actual.var() + expected.var()) / 10).sqrt()
    assert (actual.mean() - expected.mean()).abs() < 4.5 * error


def test_annealed_and_tempered_chains():
    model = machine(8, 5, 0.8)
    exact = log_likelihood(model, torch.zeros(1, 8)) + model.compute_energy_visibles(
        torch.zeros(1, 8)
    )
    with aefast.patch("rbms"):
        estimate = compute_partition_function_ais(2000, 100, model)
        betas = torch.tensor([0.0, 0.5, 1.0])
        chains = [model.sample_state(model.init_chains(500), 5, beta.item()) for beta in betas]
        chains, acceptance, _ = swap_configurations(chains, model, betas)
        assert calls().original_calls == {}
    assert abs(estimate + exact) < 0.05
    assert ((acceptance > 0.2) & (acceptance < 1)).all()


@pytest.mark.parametrize(
    ("change", "arguments", "why"),
    [
        (lambda model: model.to(dtype=torch.float64), (2,), "not float32 on a CPU"),
        (lambda model: model, (0,), "n_steps below 1, or too many for one seed"),
        (lambda model: model, (2, -1.0), "beta is not a finite number of at least 0"),
        (lambda model: model.weight_matrix.requires_grad_(), (2,), "gradients by autograd"),
    ],
)
def test_chains_step_aside_and_draw_what_the_original_draws(change, arguments, why):
    model = machine()
    change(model)

    def run():
        torch.manual_seed(0)
        with torch.no_grad():
            start = model.init_chains(10)
        return model.sample_state(start, *arguments)

    expected = run()
    with aefast.patch("rbms"):
        actual = run()
        assert calls().original_calls[why] > 0
    assert expected.keys() == actual.keys()


def test_wrong_states_are_refused_as_the_original_does():
    model = machine()
    start = model.init_chains(3)
    start["visible"] = torch.zeros(3, 5)
    with pytest.raises(RuntimeError) as expected:
        model.sample_state(start, 2)
    with aefast.patch("rbms"):
        with pytest.raises(RuntimeError) as actual:
            model.sample_state(start, 2)
        assert calls().original_calls == {"states of other shapes than the model's": 1}
    assert str(actual.value) == str(expected.value)


def test_unpatch_leaves_no_trace():
    before = list(vars(BBRBM).items())
    with aefast.patch("rbms"):
        assert vars(BBRBM).keys() >= {"sample_state"}
    assert list(vars(BBRBM).items()) == before


def test_a_trial_of_this_version_finds_the_same_results(monkeypatch):
    monkeypatch.setattr(peer, "VERSIONS", ("0.1",))
    with pytest.warns(UserWarning, match="a trial of it gave the same results"):
        aefast.patch("rbms")
    assert calls().calls == 0
