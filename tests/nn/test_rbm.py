"""nn.RBM: training, sampling, and scores, against enumeration and the functions it stands on."""

import itertools
import math

import pytest
import torch

from aefast.functional import contrastive_divergence, gibbs
from aefast.nn import RBM, LossModule, exact_log_partition


def machine(visible=6, hidden=4, **options):
    model = RBM(visible, hidden, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) / 2)
    return model


def binary(rows, columns):
    return (torch.rand(rows, columns) < 0.5).float()


def every_state(units):
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=units)))


def bars_and_stripes(side):
    """Every pattern of whole rows and of whole columns; the full and the empty one count twice."""
    lines = every_state(side)
    rows = lines[:, :, None].expand(-1, side, side)
    return torch.cat([rows, rows.transpose(1, 2)]).reshape(-1, side * side)


def train(model, data, steps, **options):
    optimizer = torch.optim.SGD(model.parameters(), **options)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        model.loss(data).backward()
        optimizer.step()
        schedule.step()


def test_bars_and_stripes_are_learned_nearly_to_the_bound():
    """The best that any model can do is to hold the 32 patterns, two of them twice: -3.379093."""
    data = bars_and_stripes(4)
    model = RBM(16, 16, chains=500, k=5)
    train(model, data, 4000, lr=0.1, momentum=0.5)
    actual = model.log_likelihood(data, exact_log_partition(model)).mean().item()
    assert -3.379093 - 0.35 < actual < -3.379093


def test_contrastive_divergence_raises_the_likelihood():
    data = bars_and_stripes(3)
    model = RBM(9, 8)
    before = model.log_likelihood(data, exact_log_partition(model)).mean()
    train(model, data, 2000, lr=0.2, momentum=0.5)
    assert model.log_likelihood(data, exact_log_partition(model)).mean() > before + 1


def test_the_loss_is_the_functions():
    """To rounding, as sums in another order are; the states bit for bit."""
    model, data = machine(chains=20), binary(12, 6)
    start = model.chain.clone()
    loss = model.loss(data, seed=3)
    parameters = model.weight, model.visible_bias, model.hidden_bias
    expected, end = contrastive_divergence(data, *parameters, chain=start, seed=3)
    torch.testing.assert_close(loss, expected)
    assert torch.equal(model.chain, end)


def test_the_persistent_chains_move_in_training_only_and_are_saved():
    model, data = machine(chains=20), binary(12, 6)
    model.eval()
    before = model.chain.clone()
    model.loss(data)
    assert torch.equal(model.chain, before)
    other = machine(chains=20)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.chain, before)


def test_probabilities_and_the_reconstruction():
    model, data = machine(), binary(5, 6)
    hidden = torch.sigmoid(data @ model.weight.t() + model.hidden_bias)
    torch.testing.assert_close(model(data), hidden)
    visible = torch.sigmoid(hidden @ model.weight + model.visible_bias)
    torch.testing.assert_close(model.visible_mean(hidden), visible)
    torch.testing.assert_close(model.reconstruct(data), visible)


def test_gaussian_units_reconstruct_their_mean():
    model, data = machine(visible_kind="gaussian", learn_variance=True), torch.randn(5, 6)
    hidden = torch.sigmoid((data * (-model.log_var).exp()) @ model.weight.t() + model.hidden_bias)
    torch.testing.assert_close(model(data), hidden)
    torch.testing.assert_close(model.reconstruct(data), hidden @ model.weight + model.visible_bias)


def test_a_gaussian_machine_learns_mean_and_variance():
    """Data without structure: the likelihood's gradient leaves its own mean and variance."""
    data = torch.randn(4000, 3) * torch.tensor([0.5, 1.0, 2.0]) + torch.tensor([1.0, -1.0, 0.0])
    model = RBM(3, 2, visible_kind="gaussian", learn_variance=True)
    train(model, data, 400, lr=0.1, momentum=0.5)
    assert (model.reconstruct(data).mean(0) - data.mean(0)).abs().max() < 0.15
    torch.testing.assert_close(model.log_var.exp().sqrt(), data.std(0), rtol=0.15, atol=0)


@pytest.mark.parametrize("units", [None, 1, 3])
def test_the_pseudo_likelihood_is_the_enumerated_one(units):
    model, data = machine(), binary(8, 6)
    energies = model.free_energy(every_state(6)).double()
    index = (data @ torch.tensor([32.0, 16, 8, 4, 2, 1])).long()
    expected = torch.zeros(8, dtype=torch.float64)
    for unit in range(6):
        flipped = index ^ (1 << (5 - unit))
        expected += torch.nn.functional.logsigmoid(energies[flipped] - energies[index])
    if units is None:
        actual = model.pseudo_log_likelihood(data).double()
    else:  # an estimate: the mean of many
        actual = model.pseudo_log_likelihood(data.repeat(4000, 1), units=units).double()
        actual = actual.reshape(4000, 8).mean(0)
    tolerance = 1e-4 if units is None else 0.15
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


def test_the_likelihoods_of_all_states_add_up_to_one():
    model = machine()
    total = model.log_likelihood(every_state(6), exact_log_partition(model)).exp().sum().item()
    assert math.isclose(total, 1, rel_tol=1e-5)


def test_samples_are_long_chains_and_clamped_units_stay():
    model = machine()
    start = binary(7, 6)
    parameters = model.weight, model.visible_bias, model.hidden_bias
    expected = gibbs(start, *parameters, k=20, seed=2).visible
    assert torch.equal(model.sample(7, k=20, start=start, seed=2), expected)
    mask = torch.tensor([True, False, False, True, False, False])
    actual = model.sample(9, k=5, start=start[0], clamp_mask=mask)
    assert (actual[:, mask] == start[0, mask]).all()
    assert model.sample(4, k=2).shape == (4, 6)


def test_torch_manual_seed_governs():
    model = machine()
    torch.manual_seed(1)
    first, second = model.sample(50, k=3), model.sample(50, k=3)
    torch.manual_seed(1)
    assert torch.equal(model.sample(50, k=3), first)
    assert not torch.equal(first, second)


def test_a_sparsity_target_draws_the_mean_activity_to_it():
    data = bars_and_stripes(3)
    means = []
    for target in (None, 0.1):
        torch.manual_seed(0)
        model = RBM(9, 12, sparsity_target=target, sparsity_weight=0.5)
        train(model, data, 500, lr=0.1)
        means.append(model(data).mean().item())
    assert means[0] > 0.3
    assert 0.07 < means[1] < 0.17


def test_the_sparsity_penalty_is_zero_at_the_target():
    model = RBM(6, 4, sparsity_target=0.5)
    with torch.no_grad():
        model.weight.zero_()
    assert abs(model._sparsity_penalty(binary(5, 6)).item()) < 1e-6


@pytest.mark.parametrize("name", ["weight", "visible_bias", "hidden_bias"])
@pytest.mark.parametrize(("value", "kind"), [(math.nan, "NaN"), (math.inf, "an infinity")])
def test_a_parameter_that_is_not_finite_is_named_with_the_step_that_made_it(name, value, kind):
    model, data = machine(), binary(12, 6)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(1, 4):
        optimizer.zero_grad()
        model.loss(data).backward()
        if step == 3:
            getattr(model, name).grad.view(-1)[2] = value
        optimizer.step()
    with pytest.raises(FloatingPointError, match=f"^{name} holds {kind} after training step 3"):
        model.loss(data)


def test_large_finite_parameters_are_taken():
    model = machine()
    with torch.no_grad():
        model.weight.fill_(3e38)  # whose sum is not finite
    model.check_finite()


def test_compiled_training_is_the_same():
    """Many steps in one graph: the counter is no reason to compile again."""
    model, data = machine(chains=10), binary(12, 6)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    actual = []
    for compiles in (False, True):
        model.load_state_dict(state)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        loss = torch.compile(model.loss, fullgraph=True, backend="aot_eager")
        for _ in range(12):
            optimizer.zero_grad()
            (loss if compiles else model.loss)(data, seed=1).backward()
            optimizer.step()
        actual.append(model.state_dict())
        actual[-1] = {name: value.clone() for name, value in actual[-1].items()}
    for name in actual[0]:
        torch.testing.assert_close(actual[1][name], actual[0][name], rtol=1e-4, atol=1e-5)
    assert actual[1]["training_steps"] == 12


def test_under_autocast_training_is_the_same():
    model, data = machine(chains=10, sparsity_target=0.2), binary(12, 6)
    expected = model.eval().loss(data, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.loss(data, seed=1), expected)
        assert model.pseudo_log_likelihood(data).dtype == torch.float32


def test_a_seed_governs_the_random_start():
    for kind in ("bernoulli", "gaussian"):
        model = machine(visible_kind=kind)
        assert torch.equal(model.sample(50, k=1, seed=0), model.sample(50, k=1, seed=0))
        generators = [torch.Generator().manual_seed(2) for _ in range(2)]
        first, second = (model.sample(50, k=1, generator=g) for g in generators)
        assert torch.equal(first, second)
        assert not torch.equal(model.sample(50, k=1, seed=0), first)


def test_a_machine_without_memory():
    model = RBM(6, 4).to("meta")
    assert model.loss(torch.empty(3, 6, device="meta")).shape == ()


@pytest.mark.parametrize("chains", [0, 4])
def test_a_functional_gradient_is_of_a_model_in_evaluation(chains):
    machine, x = RBM(6, 4, chains=chains), torch.rand(5, 6).round()
    parameters = {name: parameter.detach() for name, parameter in machine.named_parameters()}

    def loss(parameters):
        named = {f"model.{name}": parameter for name, parameter in parameters.items()}
        return torch.func.functional_call(LossModule(machine), named, (x,), {"seed": 1})

    with pytest.raises(RuntimeError, match=r"cannot inside a transform of torch.func; it takes"):
        torch.func.grad(loss)(parameters)
    machine.eval()
    actual = torch.func.grad(loss)(parameters)
    expected = torch.autograd.grad(machine.loss(x, seed=1), [*machine.parameters()])
    for one, other in zip(actual.values(), expected, strict=True):
        torch.testing.assert_close(one, other)


def test_an_ensemble_by_functional_call():
    models = [machine() for _ in range(3)]
    parameters, buffers = torch.func.stack_module_state(models)
    data = binary(12, 6)

    def loss(parameters, buffers):
        return torch.func.functional_call(
            _Loss(models[0].eval()),
            (
                {f"model.{n}": p for n, p in parameters.items()},
                {f"model.{n}": b for n, b in buffers.items()},
            ),
            (data,),
        )

    actual = torch.vmap(loss)(parameters, buffers)
    expected = torch.stack([model.eval().loss(data, seed=1) for model in models])
    torch.testing.assert_close(actual, expected)


class _Loss(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, data):
        return self.model.loss(data, seed=1)


def test_the_training_steps_are_saved():
    model, data = machine(), binary(12, 6)
    for _ in range(3):
        model.loss(data)
    with torch.no_grad():
        model.loss(data)
    other = machine()
    other.load_state_dict(model.state_dict())
    assert other.training_steps == 3


def test_splitting_a_batch_over_ranks_changes_nothing():
    model, data = machine(), binary(12, 6)
    model.eval()
    whole = model.loss(data, seed=1)
    parts = [model.loss(data[:5], seed=1), model.loss(data[5:], seed=1, row_offset=5)]
    torch.testing.assert_close((5 * parts[0] + 7 * parts[1]) / 12, whole)


WRONG = [
    (lambda: RBM(6, 4, visible_kind="poisson"), ValueError, "visible_kind is 'poisson'"),
    (lambda: RBM(6, 4, k=0), ValueError, "k is 0"),
    (lambda: RBM(6.5, 4), TypeError, "visible is a float"),
    (lambda: RBM(6, -4), ValueError, "hidden is -4"),
    (lambda: RBM(0, 4), ValueError, r"visible is 0; it takes an int in \[1, "),
    (
        lambda: RBM(6, 4).sample(3, start=torch.ones(6).double()),
        TypeError,
        "start has dtype float64; it takes weight's, float32",
    ),
    (
        lambda: RBM(6, 4).pseudo_log_likelihood(5 * torch.ones(3, 6)),
        ValueError,
        "visible holds 5",
    ),
    (lambda: RBM(6, 4, chains=-1), ValueError, "chains is -1"),
    (lambda: RBM(6, 4, learn_variance=True), ValueError, "learn_variance is True"),
    (lambda: RBM(6, 4, sparsity_target=1.0), ValueError, r"sparsity_target is 1.0; .* in \(0, 1\)"),
    (lambda: RBM(6, 4, sparsity_target=2), ValueError, "sparsity_target is 2"),
    (lambda: RBM(6, 4, sparsity_weight=-1), ValueError, "sparsity_weight is -1"),
    (lambda: RBM(6, 4).loss(torch.ones(3, 5)), ValueError, r"visible has shape \[3, 5\]"),
    (lambda: RBM(6, 4).loss(torch.full((3, 6), 2.0)), ValueError, "visible holds 2"),
    (lambda: RBM(6, 4).loss(torch.ones(3, 6) * math.nan), ValueError, "visible holds nan"),
    (lambda: RBM(6, 4).loss(torch.ones(3, 6).double()), TypeError, "visible has dtype float64"),
    (
        lambda: RBM(6, 4).log_likelihood(torch.ones(3, 6), (1.0, 0.5)),
        TypeError,
        "log_partition is a tuple; it takes a real number",
    ),
    (lambda: RBM(6, 4).sample(3, k=0), ValueError, "k is 0"),
    (
        lambda: RBM(6, 4).sample(3, start=torch.ones(2, 6)),
        ValueError,
        r"start has shape \[2, 6\]; it takes \[3, 6\] or \[6\]",
    ),
    (
        lambda: RBM(6, 4).pseudo_log_likelihood(torch.ones(3, 12)),
        ValueError,
        r"visible has shape \[3, 12\]",
    ),
    (lambda: RBM(6, 4).sample(3, beta=-1.0), ValueError, "beta is -1"),
    (lambda: RBM(6, 4).sample(3, clamp_mask=torch.ones(6) > 0), ValueError, "clamp_mask is given"),
    (
        lambda: RBM(6, 4).pseudo_log_likelihood(torch.ones(3, 6), units=7),
        ValueError,
        r"units is 7; it takes an int in \[1, 6\]",
    ),
    (
        lambda: RBM(6, 4, visible_kind="gaussian").pseudo_log_likelihood(torch.ones(3, 6)),
        ValueError,
        "visible_kind is 'gaussian'",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), WRONG)
def test_wrong_arguments(call, error, message):
    with pytest.raises(error, match=f"^{message}"):
        call()


@pytest.mark.parametrize(
    ("name", "argument", "width", "call"),
    [
        ("__call__", "visible", 6, lambda machine, v: machine(v)),
        ("reconstruct", "visible", 6, lambda machine, v: machine.reconstruct(v)),
        ("visible_mean", "hidden", 4, lambda machine, h: machine.visible_mean(h)),
        ("loss", "visible", 6, lambda machine, v: machine.loss(v)),
        ("free_energy", "visible", 6, lambda machine, v: machine.free_energy(v)),
        ("sample", "visible", 6, lambda machine, v: machine.sample(1, 2, start=v)),
        ("pseudo", "visible", 6, lambda machine, v: machine.pseudo_log_likelihood(v)),
        ("log_likelihood", "visible", 6, lambda machine, v: machine.log_likelihood(v, 0.0)),
    ],
)
def test_each_method_takes_a_tensor_of_numbers_that_the_units_have(name, argument, width, call):
    for value, shown in ((255.0, "255"), (-0.5, "-0.5"), (math.nan, "nan")):
        states = torch.zeros(1, width)
        states[0, 1] = value
        with pytest.raises(ValueError, match=f"^{argument} holds {shown}; Bernoulli units take"):
            call(RBM(6, 4), states)
        if name not in ("visible_mean", "pseudo") and value == value:
            call(RBM(6, 4, visible_kind="gaussian"), states)
    wrong = "start" if name == "sample" else argument
    with pytest.raises(TypeError, match=f"^{wrong} is a list"):
        call(RBM(6, 4), [0.0])
