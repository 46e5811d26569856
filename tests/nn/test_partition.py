"""ln Z: enumeration against brute force and integration, annealing against enumeration."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from aefast.nn import RBM, annealed_importance_sampling, exact_log_partition


def machine(visible, hidden, **options):
    model = RBM(visible, hidden, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) / 2)
    return model


def every_state(units):
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=units)), dtype=torch.float64)


@pytest.fixture(scope="module")
def upscaled_digits():
    datasets = pytest.importorskip("sklearn.datasets")
    images = torch.tensor(datasets.load_digits().images, dtype=torch.float32) / 16
    large = F.interpolate(images[:, None], (28, 28), mode="bilinear")
    return (large.reshape(-1, 784) > 0.5).float()


def trained(data, hidden, epochs=10):
    torch.manual_seed(0)
    model = RBM(784, hidden, chains=100)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.5)
    for _ in range(epochs):
        for rows in torch.randperm(len(data)).split(100):
            optimizer.zero_grad()
            model.loss(data[rows]).backward()
            optimizer.step()
    return model


@pytest.mark.parametrize(("visible", "hidden"), [(5, 3), (3, 5), (4, 4), (1, 1)])
def test_enumeration_is_the_sum_over_all_states(visible, hidden):
    model = machine(visible, hidden)
    v, h = every_state(visible), every_state(hidden)
    weight, b, c = (part.detach().double() for part in model.parameters())
    energy = -((v @ b)[:, None] + (h @ c)[None] + v @ weight.t() @ h.t())
    expected = (-energy).flatten().logsumexp(0).item()
    assert math.isclose(exact_log_partition(model), expected, rel_tol=1e-6)


def test_both_sides_give_the_same():
    """16 visible and 15 hidden units take the hidden ones, the turned machine its visible ones."""
    model, turned = machine(16, 15), RBM(15, 16)
    with torch.no_grad():
        turned.weight.copy_(model.weight.t())
        turned.visible_bias.copy_(model.hidden_bias)
        turned.hidden_bias.copy_(model.visible_bias)
    assert math.isclose(exact_log_partition(model), exact_log_partition(turned), rel_tol=1e-6)


@pytest.mark.parametrize("learn_variance", [False, True])
def test_gaussian_units_are_integrated(learn_variance):
    """By the trapezoidal rule over [-30, 30]^2, which a sum of Gaussians makes exact."""
    model = machine(2, 3, visible_kind="gaussian", learn_variance=learn_variance)
    line = torch.linspace(-30, 30, 601)
    grid = torch.cartesian_prod(line, line)
    expected = (-model.free_energy(grid).double()).logsumexp(0).item() + 2 * math.log(0.1)
    assert math.isclose(exact_log_partition(model), expected, rel_tol=1e-5)


@pytest.mark.parametrize(
    "hidden", [10, *(pytest.param(hidden, marks=pytest.mark.slow) for hidden in (15, 20))]
)
def test_annealing_is_within_a_tenth_of_a_nat_of_enumeration(upscaled_digits, hidden):
    model = trained(upscaled_digits, hidden)
    exact = exact_log_partition(model)
    actual = annealed_importance_sampling(model, upscaled_digits, 500, 2000, seed=1)
    assert abs(actual.estimate - exact) < 0.1
    assert actual.low < actual.estimate < actual.high
    assert actual.low - 0.05 < exact < actual.high + 0.05


def test_reverse_annealing_encloses_ln_z_from_above():
    """From exact samples and with few chains and temperatures, so that both sides show."""
    model = machine(8, 6)
    with torch.no_grad():
        model.weight *= 3
    exact, states = exact_log_partition(model), every_state(8).float()
    probability = model.log_likelihood(states, exact).exp()
    up, down = [], []
    for seed in range(40):
        torch.manual_seed(seed)
        samples = states[torch.multinomial(probability, 4, replacement=True)]
        options = {"betas": 3, "seed": seed}
        up.append(annealed_importance_sampling(model, states, 4, **options).estimate)
        options["reverse_from"] = samples
        down.append(annealed_importance_sampling(model, states, **options).estimate)
    assert sum(up) / 40 < exact - 0.1
    assert sum(down) / 40 > exact + 0.1


@pytest.mark.parametrize("learn_variance", [False, True])
def test_annealing_gaussian_units(learn_variance):
    model = machine(4, 5, visible_kind="gaussian", learn_variance=learn_variance)
    exact = exact_log_partition(model)
    data = model.sample(500, k=50, seed=0)
    actual = annealed_importance_sampling(model, data, 400, 300, seed=1)
    assert abs(actual.estimate - exact) < 0.1
    down = annealed_importance_sampling(model, data, betas=300, reverse_from=data, seed=1)
    assert abs(down.estimate - exact) < 0.1


def test_the_interval_covers_as_often_as_it_says():
    model, covered = machine(6, 5), 0
    exact, data = exact_log_partition(model), model.sample(200, k=50, seed=0)
    for seed in range(60):
        actual = annealed_importance_sampling(model, data, 50, 20, seed=seed, confidence=0.8)
        covered += actual.low <= exact <= actual.high
    # 48 of 60 are expected, with a standard deviation of 3.1.
    assert 38 <= covered <= 58


def test_the_same_seed_gives_the_same_estimate():
    model = machine(6, 5)
    data = model.sample(20, k=5, seed=0)
    first = annealed_importance_sampling(model, data, 10, 20, seed=4)
    assert annealed_importance_sampling(model, data, 10, 20, seed=4) == first
    assert annealed_importance_sampling(model, data, 10, 20, seed=5) != first


def test_temperatures_of_ones_own():
    model = machine(6, 5)
    data = model.sample(20, k=5, seed=0)
    even = annealed_importance_sampling(model, data, 10, 20, seed=4)
    betas = torch.linspace(0, 1, 20, dtype=torch.float64)
    assert annealed_importance_sampling(model, data, 10, betas, seed=4) == even
    assert annealed_importance_sampling(model, data, 10, betas**2, seed=4) != even


DATA = torch.ones(3, 6)
WRONG = [
    (lambda m: exact_log_partition(RBM(40, 26)), "the machine has 40 bernoulli visible and 26"),
    (
        lambda m: exact_log_partition(RBM(4, 26, visible_kind="gaussian")),
        "the machine has 4 gaussian visible and 26 hidden units; .* annealed_importance_sampling",
    ),
    (lambda m: annealed_importance_sampling(m, DATA, 1), "chains is 1"),
    (lambda m: annealed_importance_sampling(m, DATA, betas=1), "betas is 1"),
    (lambda m: annealed_importance_sampling(m, DATA, betas=torch.ones(3)), "betas do not rise"),
    (lambda m: annealed_importance_sampling(m, DATA, betas=torch.ones(3, 1)), "betas has shape"),
    (lambda m: annealed_importance_sampling(m, torch.ones(3, 5)), r"data has shape \[3, 5\]"),
    (
        lambda m: annealed_importance_sampling(m, DATA, reverse_from=torch.ones(6)),
        r"reverse_from has shape \[6\]",
    ),
    (lambda m: annealed_importance_sampling(m, DATA, confidence=2), "confidence is 2"),
    (lambda m: annealed_importance_sampling(m, DATA, confidence=1), "confidence is 1"),
    (lambda m: annealed_importance_sampling(m, DATA * 5), "data holds 5"),
    (lambda m: annealed_importance_sampling(m, DATA * math.nan), "data holds nan"),
    (lambda m: annealed_importance_sampling(m, DATA, reverse_from=-DATA), "reverse_from holds -1"),
    (
        lambda m: annealed_importance_sampling(m, DATA, betas=torch.tensor([0, 1e-20, 1])),
        r"betas\[1\] is 1e-20",
    ),
]


@pytest.mark.parametrize(("call", "message"), WRONG)
def test_wrong_arguments(call, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        call(RBM(6, 5))


def test_wrong_dtypes():
    with pytest.raises(
        TypeError, match=r"^data has dtype float64; it takes the machine's, float32"
    ):
        annealed_importance_sampling(RBM(6, 5), DATA.double())
    for function in (exact_log_partition, lambda m: annealed_importance_sampling(m, DATA.half())):
        with pytest.raises(TypeError, match=r"^the machine has dtype float16"):
            function(RBM(6, 5).half())


def test_what_is_not_finite_is_named():
    model = RBM(6, 5, visible_kind="gaussian")
    with pytest.raises(ValueError, match=r"^data holds NaN or an infinity"):
        annealed_importance_sampling(model, DATA * math.nan)
    with torch.no_grad():
        model.weight[1, 2] = math.nan
    for function in (exact_log_partition, lambda m: annealed_importance_sampling(m, DATA)):
        with pytest.raises(FloatingPointError, match=r"^weight holds NaN"):
            function(model)


def test_autocast_changes_nothing():
    for kind in ("bernoulli", "gaussian"):
        model = machine(6, 5, visible_kind=kind)
        data = model.sample(20, k=5, seed=0)
        exact = exact_log_partition(model)
        estimate = annealed_importance_sampling(model, data, 10, 20, seed=4)
        with torch.autocast("cpu", torch.bfloat16):
            assert exact_log_partition(model) == exact
            assert annealed_importance_sampling(model, data, 10, 20, seed=4) == estimate
