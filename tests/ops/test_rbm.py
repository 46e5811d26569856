"""Gibbs sampling, contrastive divergence, free energy: by enumeration and by the definition."""

import itertools
import math

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from aefast import use_backend
from aefast.backend import select, unavailable
from aefast.functional import contrastive_divergence, free_energy, gibbs
from aefast.ops.rbm import eager
from aefast.ops.rbm.settings import Machine
from tests.backends import is_interpreted, not_interpreted


def machine(device, visible, hidden, scale=1.0, log_var=False):
    """Weight, biases, and log variances."""

    def normal(*shape):
        return torch.randn(*shape, device=device) * scale

    parameters = normal(hidden, visible) / max(visible, 1) ** 0.5, normal(visible), normal(hidden)
    return (*parameters, normal(visible) / 2) if log_var else parameters


def states(batch, units, device="cpu"):
    return (torch.rand(batch, units, device=device) < 0.5).float()


@pytest.mark.parametrize("beta", [None, 0.7])
def test_steps_without_python_between_them_draw_what_single_steps_do(beta, monkeypatch):
    """Triton's kernels; the data are no binary numbers, so that only the first step splits them."""
    if unavailable("triton", "cpu") and not torch.cuda.is_available():
        pytest.skip("needs Triton")
    from aefast.ops.rbm.triton import _BernoulliPrimitives

    device = "cuda" if torch.cuda.is_available() else "cpu"
    parameters = machine(device, 21, 13)
    start = torch.rand(19, 21, device=device)
    for k in (3, 4, 6):
        options = {"k": k, "beta": beta, "seed": 5, "row_offset": 3, "return_probs": True}
        with use_backend("triton"):
            actual = gibbs(start, *parameters, **options)
            monkeypatch.setattr(_BernoulliPrimitives, "takes_bernoulli_steps", False)
            expected = gibbs(start, *parameters, **options)
            monkeypatch.undo()
        assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


def every_state(units):
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=units)), dtype=torch.float64)


def enumerated(weight, visible_bias, hidden_bias):
    """P(v, h) over all states, [2^D, 2^H], and ln Z."""
    weight, visible_bias, hidden_bias = (
        t.detach().double() for t in (weight, visible_bias, hidden_bias)
    )
    visible, hidden = every_state(len(visible_bias)), every_state(len(hidden_bias))
    negative_energy = (
        (visible @ visible_bias)[:, None]
        + (hidden @ hidden_bias)[None, :]
        + visible @ weight.t() @ hidden.t()
    )
    log_z = negative_energy.flatten().logsumexp(0)
    return (negative_energy - log_z).exp(), log_z


@pytest.mark.parametrize("beta", [None, 0.5])
def test_a_long_run_visits_every_state_as_often_as_its_probability_says(device, beta):
    """4,000 chains of an enumerated 4x4 machine after 40 steps: chi-square over the 16 x 16 joint
    states of (v, h), grouped where few are expected."""
    if is_interpreted(device):
        pytest.skip("the interpreter is slow, and the states are the other backends'")
    weight, visible_bias, hidden_bias = machine("cpu", 4, 4, scale=1.0)
    scale = 1.0 if beta is None else beta
    joint, _ = enumerated(scale * weight, scale * visible_bias, scale * hidden_bias)
    chains = 4000
    parameters = (parameter.to(device) for parameter in (weight, visible_bias, hidden_bias))
    sample = gibbs(states(chains, 4, device), *parameters, k=40, beta=beta, seed=3)
    powers = torch.tensor([8.0, 4.0, 2.0, 1.0], device=device)
    # The last visible state was drawn given the last hidden one: together they are a joint sample.
    index = (sample.visible @ powers) * 16 + sample.hidden @ powers
    counts = torch.bincount(index.long().cpu(), minlength=256).double()
    expected = joint.flatten() * chains
    order = expected.argsort(descending=True)
    counts, expected = counts[order], expected[order]
    many = int((expected >= 5).sum())
    counts = torch.cat([counts[:many], counts[many:].sum()[None]])
    expected = torch.cat([expected[:many], expected[many:].sum()[None]])
    statistic = ((counts - expected).square() / expected).sum().item()
    # The 99.9 % quantile of a chi-square with n degrees of freedom, by Wilson and Hilferty.
    n = len(counts) - 1
    assert statistic < n * (1 - 2 / (9 * n) + 3.09 * math.sqrt(2 / (9 * n))) ** 3


@pytest.mark.parametrize("shape", [(1, 1, 1), (7, 5, 3), (40, 33, 70), (65, 130, 47)], ids=str)
@pytest.mark.parametrize("kind", ["bernoulli", "gaussian"])
@pytest.mark.interpreted(shape=[(7, 5, 3)])
def test_every_backend_draws_the_definitions_states(kernel_device, shape, kind):
    batch, visible, hidden = shape
    if is_interpreted(kernel_device) and batch > 40:
        pytest.skip("the interpreter is slow, and the shape is the other tests'")
    parameters = machine(kernel_device, visible, hidden, log_var=kind == "gaussian")
    options = {"visible_kind": kind, "k": 2, "seed": 5, "row_offset": 3, "return_probs": True}
    if kind == "gaussian":
        *parameters, options["log_var"] = parameters
    start = states(batch, visible, kernel_device)
    actual = gibbs(start, *parameters, **options)
    with use_backend("eager"):
        expected = gibbs(start, *parameters, **options)
    assert torch.equal(actual.hidden, expected.hidden)
    for name in ("visible_prob", "hidden_prob", "visible"):
        torch.testing.assert_close(
            getattr(actual, name), getattr(expected, name), rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512", "amx"])
def test_every_instruction_set(instruction_set, isa):
    instruction_set(isa)
    test_every_backend_draws_the_definitions_states(torch.device("cpu"), (65, 130, 47), "bernoulli")
    test_every_backend_draws_the_definitions_states(torch.device("cpu"), (65, 130, 47), "gaussian")


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.interpreted(grey=[True])
def test_probabilities_are_as_accurate_as_torchs(kernel_device, grey):
    size = (20, 90, 70) if is_interpreted(kernel_device) else (100, 300, 200)
    batch, units, hidden = size
    parameters = machine(kernel_device, units, hidden)
    visible = states(batch, units, kernel_device)
    visible = visible * torch.rand_like(visible) if grey else visible
    sample = gibbs(visible, *parameters, return_probs=True)
    weight, visible_bias, hidden_bias = (parameter.double() for parameter in parameters)
    for start, matrix, bias, actual in (
        (visible, weight, hidden_bias, sample.hidden_prob),
        (sample.hidden, weight.t(), visible_bias, sample.visible_prob),
    ):
        exact = torch.sigmoid(start.double() @ matrix.t() + bias)
        torchs = torch.sigmoid(torch.nn.functional.linear(start, matrix.float(), bias.float()))
        error = (actual.double() - exact).abs().max()
        assert error <= 2 * (torchs.double() - exact).abs().max()


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_on_a_cpu_probabilities_are_more_accurate_than_torchs(instruction_set, isa):
    instruction_set(isa)
    weight, visible_bias, hidden_bias = machine("cpu", 784, 512)
    visible = states(128, 784)
    actual = gibbs(visible, weight, visible_bias, hidden_bias, return_probs=True).hidden_prob
    exact = torch.sigmoid(visible.double() @ weight.double().t() + hidden_bias.double())
    torchs = torch.sigmoid(torch.nn.functional.linear(visible, weight, hidden_bias)).double()
    assert (actual.double() - exact).abs().max() <= (torchs - exact).abs().max()


@pytest.mark.parametrize(("precision", "bits"), [("high", 16), ("medium", 8)])
@pytest.mark.interpreted(precision=["high"])
def test_lower_precisions_round_the_weight_alone(kernel_device, matmul_precision, precision, bits):
    """A binary state is exact at any of them."""
    matmul_precision(precision)
    parameters = machine(kernel_device, 90, 70)
    visible = states(20, 90, kernel_device)
    actual = gibbs(visible, *parameters, seed=1, return_probs=True).hidden_prob.double()
    weight, _, hidden_bias = (parameter.double() for parameter in parameters)
    exact = torch.sigmoid(visible.double() @ weight.t() + hidden_bias)
    # Half a unit in the weight's last place, a quarter of it through the sigmoid's slope.
    bound = (visible.double() @ weight.abs().t()).max() * 2.0**-bits / 2 / 4 + 1e-6
    assert (actual - exact).abs().max() <= bound


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # the interpreter's
@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("special", [math.nan, math.inf, -math.inf])
@pytest.mark.interpreted(special=[math.nan], grey=[True])
def test_weights_that_are_not_finite_give_the_definitions_probabilities(
    kernel_device, special, grey
):
    weight, visible_bias, hidden_bias = machine(kernel_device, 40, 30)
    weight[7, 11] = special
    visible = states(10, 40, kernel_device)
    if grey:
        visible[3:] *= 0.3
    options = {"seed": 1, "return_probs": True}
    actual = gibbs(visible, weight, visible_bias, hidden_bias, **options)
    with use_backend("eager"):
        expected = gibbs(visible, weight, visible_bias, hidden_bias, **options)
    torch.testing.assert_close(
        actual.hidden_prob, expected.hidden_prob, rtol=1e-5, atol=1e-5, equal_nan=True
    )


def test_the_states_belong_to_the_probabilities(device):
    """A state is 1 where its uniform, of step 2k - 2 or 2k - 1, is below the probability."""
    from aefast import random

    parameters = machine(device, 9, 7)
    sample = gibbs(
        states(20, 9, device), *parameters, k=3, seed=11, row_offset=2, return_probs=True
    )
    for step, state, probability in (
        (4, sample.hidden, sample.hidden_prob),
        (5, sample.visible, sample.visible_prob),
    ):
        drawn = random.uniform(11, *state.shape, step=step, row_offset=2, device=device)
        assert torch.equal(state, (drawn < probability).float())


@not_interpreted
def test_splitting_a_batch_changes_nothing(device):
    parameters = machine(device, 9, 7)
    start = states(11, 9, device)
    whole = gibbs(start, *parameters, k=3, seed=4).visible
    halves = [
        gibbs(start[:4], *parameters, k=3, seed=4),
        gibbs(start[4:], *parameters, k=3, seed=4, row_offset=4),
    ]
    assert torch.equal(torch.cat([half.visible for half in halves]), whole)


@not_interpreted
def test_splitting_a_batch_of_which_some_rows_are_grey_changes_nothing(device):
    """Binary rows and others take products of their own, each row by itself."""
    parameters = machine(device, 70, 40)
    start = states(11, 70, device)
    start[[1, 2, 6], 5] = 0.25
    whole = gibbs(start, *parameters, k=1, seed=4, return_probs=True)
    for size in (7,) if is_interpreted(device) else (1, 2, 7):
        pieces = [
            gibbs(start[i : i + size], *parameters, seed=4, row_offset=i, return_probs=True)
            for i in range(0, 11, size)
        ]
        assert torch.equal(torch.cat([piece.visible for piece in pieces]), whole.visible)
        probabilities = torch.cat([piece.hidden_prob for piece in pieces])
        if (
            device.type == "cpu" and select(device, torch.float32) == "cpp"
        ):  # to the last bit, by our own product
            assert torch.equal(probabilities, whole.hidden_prob)
    with use_backend("eager"):
        expected = gibbs(start, *parameters, k=1, seed=4, return_probs=True)
    torch.testing.assert_close(whole.hidden_prob, expected.hidden_prob, rtol=1e-5, atol=1e-5)


def test_a_clamped_grey_unit_stays_grey(device):
    parameters = machine(device, 12, 9)
    start = states(30, 12, device)
    start[:, 3] = 0.25
    mask = torch.arange(12, device=device) == 3
    sample = gibbs(start, *parameters, k=3, clamp_mask=mask, seed=1)
    assert torch.equal(sample.visible[:, 3], start[:, 3])
    with use_backend("eager"):
        expected = gibbs(start, *parameters, k=3, clamp_mask=mask, seed=1)
    assert torch.equal(sample.visible, expected.visible)


def test_the_same_states_for_any_number_of_threads(threads):
    parameters, start = machine("cpu", 130, 90), states(70, 130)
    actual = []
    with use_backend("cpp"):
        for count in (1, 2, 3):
            threads(count)
            actual.append(gibbs(start, *parameters, k=5, seed=1, return_probs=True))
    for other in actual[1:]:
        assert all(torch.equal(a, b) for a, b in zip(actual[0], other, strict=True))


def test_clamped_units_keep_their_state_and_steer_the_others(device):
    weight, visible_bias, hidden_bias = machine(device, 12, 9)
    start = states(30, 12, device)
    mask = torch.arange(12, device=device) < 5
    sample = gibbs(start, weight, visible_bias, hidden_bias, k=4, clamp_mask=mask, seed=1)
    assert torch.equal(sample.visible[:, :5], start[:, :5])
    free = gibbs(start, weight, visible_bias, hidden_bias, k=4, seed=1)
    assert not torch.equal(free.visible[:, :5], start[:, :5])


def test_an_inverse_temperature_for_each_row(device):
    parameters = machine(device, 12, 9)
    start = states(30, 12, device)
    beta = torch.linspace(0, 2, 30, device=device)
    cold = gibbs(start, *parameters, beta=beta, seed=1, return_probs=True)
    assert (cold.hidden_prob[0] == 0.5).all()
    one = gibbs(start, *parameters, beta=1.0, seed=1)
    assert torch.equal(one.visible, gibbs(start, *parameters, seed=1).visible)
    single = gibbs(start[7:8], *parameters, beta=beta[7].item(), seed=1, row_offset=7)
    assert torch.equal(single.visible, cold.visible[7:8])


@pytest.mark.parametrize("leading", [(), (6,), (2, 3)])
def test_one_beta_serves_rows_of_any_leading_dimensions(device, leading):
    parameters = machine(device, 5, 4)
    start = states(6, 5, device)[: math.prod(leading)]
    expected = gibbs(start, *parameters, beta=0.5, seed=1)
    actual = gibbs(start.reshape(*leading, 5), *parameters, beta=0.5, seed=1)
    assert torch.equal(actual.visible, expected.visible.reshape(*leading, 5))


def test_gaussian_units_have_their_mean_and_variance(device):
    """Beside no hidden influence, v is N(b, s^2 / beta)."""
    if is_interpreted(device):
        pytest.skip("the interpreter is slow, and the draw is the other backends'")
    bias = torch.tensor([1.0, -2.0, 0.5], device=device)
    log_var = torch.tensor([0.0, 1.0, -1.0], device=device)
    sample = gibbs(
        torch.zeros(20000, 3, device=device), torch.zeros(2, 3, device=device), bias, None,
        visible_kind="gaussian", log_var=log_var, beta=2.0, seed=8,
    ).visible.cpu().double()  # fmt: skip
    variance = log_var.cpu().double().exp() / 2
    assert ((sample.mean(0) - bias.cpu()).abs() < 4 * (variance / 20000).sqrt()).all()
    assert ((sample.var(0) / variance - 1).abs() < 4 * math.sqrt(2 / 20000)).all()


@not_interpreted
def test_the_arguments_are_left_as_they_were(device):
    parameters, start = machine(device, 9, 7), states(5, 9, device)
    before = [parameter.clone() for parameter in (start, *parameters)]
    gibbs(start, *parameters, k=2)
    assert all(torch.equal(a, b) for a, b in zip(before, (start, *parameters), strict=True))


@pytest.mark.parametrize("kind", ["bernoulli", "gaussian"])
def test_free_energy_is_what_enumeration_gives(device, kind):
    *parameters, log_var = machine(device, 5, 4, log_var=True)
    weight, visible_bias, hidden_bias = (parameter.cpu().double() for parameter in parameters)
    start = torch.randn(6, 5, device=device) if kind == "gaussian" else states(6, 5, device)
    options = {"visible_kind": kind, "log_var": log_var if kind == "gaussian" else None}
    v, hidden = start.cpu().double(), every_state(4)
    if kind == "gaussian":
        variance = log_var.cpu().double().exp()
        base = ((v - visible_bias).square() / variance).sum(1) / 2
        v = v / variance
    else:
        base = -(v @ visible_bias)
    interaction = v @ weight.t() @ hidden.t() + hidden @ hidden_bias
    expected = base - interaction.logsumexp(1)
    torch.testing.assert_close(
        free_energy(start, *parameters, **options).cpu().double(), expected, rtol=1e-5, atol=1e-5
    )
    defined = eager.free_energy(start, Machine(*parameters, options["log_var"]))
    torch.testing.assert_close(defined.cpu().double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["bernoulli", "gaussian"])
def test_free_energy_is_differentiated_twice(kind):
    parameters = [
        parameter.double().requires_grad_() for parameter in machine("cpu", 4, 3, log_var=True)
    ]
    start = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    if kind == "bernoulli":
        parameters = parameters[:3]

    def energy(start, *parameters):
        log_var = parameters[3] if kind == "gaussian" else None
        return free_energy(start, *parameters[:3], visible_kind=kind, log_var=log_var)

    assert gradcheck(energy, (start, *parameters))
    assert gradgradcheck(energy, (start, *parameters))


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.interpreted(persistent=[True])
def test_the_gradient_is_the_difference_of_both_phases(device, persistent):
    parameters = [parameter.requires_grad_() for parameter in machine(device, 9, 7)]
    weight, _, hidden_bias = parameters
    data = states(12, 9, device)
    chain = states(20, 9, device) if persistent else None
    loss, end = contrastive_divergence(data, *parameters, k=2, chain=chain, seed=6)
    expected_end = gibbs(data if chain is None else chain, *parameters, k=2, seed=6).visible
    assert torch.equal(end, expected_end)
    assert not end.requires_grad
    actual = torch.autograd.grad(loss, parameters)
    with torch.no_grad():
        positive = torch.sigmoid(data @ weight.t() + hidden_bias)
        negative = torch.sigmoid(end @ weight.t() + hidden_bias)
        expected = (
            negative.t() @ end / len(end) - positive.t() @ data / len(data),
            end.mean(0) - data.mean(0),
            negative.mean(0) - positive.mean(0),
        )
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.interpreted(grey=[True], biased=[True])
def test_the_fused_gradient_is_the_free_energies(kernel_device, grey, biased):
    """Over more than a word of bits a side; by autograd through the definition's free energy."""
    if is_interpreted(kernel_device) and not grey:
        pytest.skip("the interpreter is slow, and knows no bits")
    weight, *biases = [parameter.requires_grad_() for parameter in machine(kernel_device, 70, 67)]
    visible_bias, hidden_bias = biases if biased else (None, None)
    data = states(80, 70, kernel_device)
    if grey:
        data[::3] *= 0.5
    loss, end = contrastive_divergence(data, weight, visible_bias, hidden_bias, k=2, seed=6)
    parameters = [weight, *(biases if biased else ())]
    actual = torch.autograd.grad(3 * loss, parameters)
    model = Machine(weight, visible_bias, hidden_bias, None)
    expected = eager.free_energy(data, model).mean() - eager.free_energy(end, model).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-4)
    for a, b in zip(actual, torch.autograd.grad(3 * expected, parameters), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@not_interpreted
def test_a_second_backward_makes_the_gradients_anew(device):
    parameters = [parameter.requires_grad_() for parameter in machine(device, 9, 7)]
    loss, _ = contrastive_divergence(states(12, 9, device), *parameters, seed=6)
    first = torch.autograd.grad(loss, parameters, retain_graph=True)
    for a, b in zip(first, torch.autograd.grad(loss, parameters), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@not_interpreted
def test_only_what_needs_a_gradient_gets_one(device):
    weight, visible_bias, hidden_bias = machine(device, 9, 7)
    visible_bias.requires_grad_()
    data = states(12, 9, device)
    loss, end = contrastive_divergence(data, weight, visible_bias, hidden_bias, seed=6)
    loss.backward()
    torch.testing.assert_close(visible_bias.grad, end.mean(0) - data.mean(0))
    assert weight.grad is None
    with torch.no_grad():
        assert not contrastive_divergence(data, weight, visible_bias, None)[0].requires_grad


@not_interpreted
def test_contrastive_divergence_is_differentiated_twice(device):
    """With the chain's end held still, as the first derivative has it."""
    parameters = [parameter.requires_grad_() for parameter in machine(device, 5, 4)]
    data = states(6, 5, device)
    loss, end = contrastive_divergence(data, *parameters, seed=6)
    gradients = torch.autograd.grad(loss, parameters, create_graph=True)
    actual = torch.autograd.grad(
        sum(g.square().sum() for g in gradients), parameters, materialize_grads=True
    )
    model = Machine(*parameters, None)
    loss = eager.free_energy(data, model).mean() - eager.free_energy(end, model).mean()
    gradients = torch.autograd.grad(loss, parameters, create_graph=True)
    expected = torch.autograd.grad(
        sum(g.square().sum() for g in gradients), parameters, materialize_grads=True
    )
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_with_more_steps_the_gradient_becomes_the_likelihoods():
    """4x4, 50,000 chains from data that the machine does not like: the error falls with k, and at
    k = 30 it is the sampling's."""
    weight, visible_bias, hidden_bias = machine("cpu", 4, 4)
    parameters = [
        parameter.requires_grad_() for parameter in (5 * weight, visible_bias, hidden_bias)
    ]
    data = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]]).repeat(25000, 1)
    joint, log_z = enumerated(*parameters)
    probabilities, visible = joint.sum(1), every_state(4)
    exact_energy = eager.free_energy(
        visible, Machine(*(parameter.detach().double() for parameter in parameters), None)
    )
    torch.testing.assert_close(probabilities, (-exact_energy - log_z).exp())
    model = [parameter.detach().double().requires_grad_() for parameter in parameters]
    energy = eager.free_energy(data[:2].double(), Machine(*model, None)).mean()
    energy = energy - probabilities @ eager.free_energy(visible, Machine(*model, None))
    exact = torch.cat([g.flatten() for g in torch.autograd.grad(energy, model)])
    errors = []
    for k in (1, 3, 30):
        loss, _ = contrastive_divergence(data, *parameters, k=k, seed=k)
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])
        errors.append((gradient.double() - exact).norm().item())
    assert errors[0] > errors[1] > errors[2]
    # 24 means of numbers in [0, 1] over 50,000 samples: each within 0.5 / sqrt(50,000) or less.
    assert errors[2] < 3 * 0.5 * math.sqrt(24 / 50000)


@pytest.mark.parametrize("shape", [(0, 4, 3), (4, 3, 0), (4, 0, 3)], ids=str)
def test_empty_machines_and_batches(device, shape):
    batch, visible, hidden = shape
    parameters = machine(device, visible, hidden)
    sample = gibbs(states(batch, visible, device), *parameters, k=2, return_probs=True)
    assert sample.visible.shape == sample.visible_prob.shape == (batch, visible)
    assert sample.hidden.shape == (batch, hidden)


@pytest.mark.parametrize("leading", [(), (3,), (2, 3)], ids=str)
@pytest.mark.interpreted(leading=[(2, 3)])
def test_any_leading_dimensions(device, leading):
    parameters = machine(device, 6, 4)
    start = (torch.rand(*leading, 6, device=device) < 0.5).float()
    beta = torch.ones(leading, device=device)
    sample = gibbs(start, *parameters, beta=beta, clamp_mask=start > 2)
    assert sample.visible.shape == (*leading, 6)
    assert sample.hidden.shape == (*leading, 4)
    assert free_energy(start, *parameters).shape == leading


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_precisions_are_the_definitions(dtype):
    parameters = [parameter.to(dtype) for parameter in machine("cpu", 9, 7)]
    start = states(50, 9).to(dtype)
    sample = gibbs(start, *parameters, seed=1, return_probs=True)
    assert {parameter.dtype for parameter in sample} == {dtype}
    assert ((sample.visible == 0) | (sample.visible == 1)).all()
    weight, _, hidden_bias = (parameter.double() for parameter in parameters)
    exact = torch.sigmoid(start.double() @ weight.t() + hidden_bias)
    tolerance = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(sample.hidden_prob.double(), exact, rtol=0, atol=tolerance)


@pytest.mark.parametrize("kind", ["bernoulli", "gaussian"])
def test_any_strides(kernel_device, kind):
    if is_interpreted(kernel_device) and kind == "gaussian":
        pytest.skip("the interpreter is slow, and the strides are the other kind's")
    weight, visible_bias, hidden_bias = machine(kernel_device, 70, 40)
    start = states(12, 70, kernel_device)
    options = {"k": 2, "seed": 3, "visible_kind": kind, "beta": torch.ones(12) / 2}
    options["beta"] = options["beta"].to(kernel_device)
    expected = gibbs(start, weight, visible_bias, hidden_bias, **options)
    wide = torch.stack([start, start], 2)[:, :, 1]
    actual = gibbs(
        start.t().contiguous().t(),
        weight.t().contiguous().t(),
        torch.stack([visible_bias] * 3, 1)[:, 1],
        hidden_bias,
        **options,
    )
    assert torch.equal(actual.hidden, expected.hidden)
    torch.testing.assert_close(actual.visible, expected.visible)
    assert torch.equal(
        gibbs(wide, weight, visible_bias, hidden_bias, **options).hidden, expected.hidden
    )
    one = gibbs(start[:1].expand(12, -1), weight, visible_bias, hidden_bias, **options)
    same = gibbs(start[:1].repeat(12, 1), weight, visible_bias, hidden_bias, **options)
    assert torch.equal(one.visible, same.visible)


@pytest.mark.parametrize("kind", ["bernoulli", "gaussian"])
def test_opcheck(kind):
    *parameters, log_var = machine("cpu", 9, 7, log_var=True)
    parameters = [parameter.requires_grad_() for parameter in parameters]
    log_var = log_var if kind == "gaussian" else None
    beta, mask = torch.ones(5), torch.rand(5, 9) < 0.3
    seed = torch.tensor([3])
    for probs in (False, True):
        arguments = (states(5, 9), *parameters, log_var, 2, beta, mask, probs, seed, 1)
        torch.library.opcheck(torch.ops.aefast.gibbs.default, arguments)


def test_compiled_in_one_graph():
    parameters, start = machine("cpu", 9, 7), states(5, 9)

    def run(start, *parameters):
        return gibbs(start, *parameters, k=2, seed=3, return_probs=True)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    for a, b in zip(compiled(start, *parameters), run(start, *parameters), strict=True):
        torch.testing.assert_close(a, b)


WRONG = [
    (
        lambda v, w, b, c: gibbs(v * math.nan, w, b, c),
        ValueError,
        "visible holds nan; Bernoulli units take",
    ),
    (lambda v, w, b, c: gibbs(v, w, b, c, beta=v[:, 0] * math.nan), ValueError, "beta is nan"),
    (lambda v, w, b, c: gibbs(v, w, b, c, beta=v[:, 0] / 0 + 1), ValueError, "beta is "),
    (lambda v, w, b, c: gibbs(v, w, b, c, beta=1e39), ValueError, r"beta is 1e\+39"),
    (lambda v, w, b, c: gibbs(v * 3, w, b, c), ValueError, "visible holds 3; Bernoulli units take"),
    (lambda v, w, b, c: gibbs(v - 2, w, b, c), ValueError, "visible holds -1"),
    (lambda v, w, b, c: gibbs(v, w, b, c, k=0), ValueError, "k is 0"),
    (lambda v, w, b, c: gibbs(v, w, b, c, k=1.5), TypeError, "k is a float"),
    (lambda v, w, b, c: gibbs(v, w.t(), b, c), ValueError, r"visible has shape \[2, 4\]; with"),
    (lambda v, w, b, c: gibbs(v, w, c, c), ValueError, r"visible_bias has shape \[3\]; with"),
    (lambda v, w, b, c: gibbs(v, w, b, b), ValueError, r"hidden_bias has shape \[4\]; with"),
    (lambda v, w, b, c: gibbs(v, w.double(), b, c), TypeError, "weight has dtype float64"),
    (lambda v, w, b, c: gibbs(v, w, b, c, beta=-1), ValueError, "beta is -1"),
    (lambda v, w, b, c: gibbs(v, w, b, c, beta=torch.tensor([1.0, -2])), ValueError, "beta is -2"),
    (lambda v, w, b, c: gibbs(v, w, b, c, beta=torch.ones(3)), ValueError, r"beta has shape \[3\]"),
    (lambda v, w, b, c: gibbs(v, w, b, c, beta=0.0, visible_kind="gaussian"), ValueError,
     "above 0 for Gaussian units"),
    (lambda v, w, b, c: gibbs(v, w, b, c, clamp_mask=v), TypeError, "clamp_mask is torch.float32"),
    (lambda v, w, b, c: gibbs(v, w, b, c, clamp_mask=torch.ones(3).bool()), ValueError,
     r"clamp_mask has shape \[3\]"),
    (lambda v, w, b, c: gibbs(v, w, b, c, visible_kind="poisson"), ValueError, "one of bernoulli"),
    (lambda v, w, b, c: gibbs(v, w, b, c, log_var=b), ValueError, "it takes 'gaussian'"),
    (lambda v, w, b, c: gibbs(v, w, b, c, seed=-1), ValueError, "seed is -1"),
    (lambda v, w, b, c: contrastive_divergence(v, w, b, c, chain=torch.zeros(2, 3)), ValueError,
     r"chain has shape \[2, 3\]; with weight's shape \[3, 4\] it takes \[..., 4\]"),
    (lambda v, w, b, c: contrastive_divergence(v, w, b, c, chain=v + 2), ValueError, "chain holds"),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "error", "message"), WRONG)
def test_bad_input_is_named(wrong, error, message):
    with pytest.raises(error, match=message):
        wrong(torch.ones(2, 4), torch.zeros(3, 4), torch.zeros(4), torch.zeros(3))
