"""Batch normalization and dropout in the fused training step, against torch's own modules."""

import copy
import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import aefast
from aefast import backend
from aefast.nn.step_plan import fits_together
from aefast.step import eager
from aefast.step.loss import step_loss
from aefast.step.plan import Plan, PlannedLayer, PlannedNorm
from aefast.training.plain_model import PlainModel
from tests.accuracy import assert_as_accurate_as_torch

pytestmark = pytest.mark.skipif(
    backend.unavailable("cpp", "cpu") is not None, reason="the C++ extension is not here"
)


def stack(*sizes, order="norm activation dropout", level=0.3, activation=nn.GELU, **options):
    """Linear layers; after each but the last come the modules that ``order`` names."""

    def block(inputs, outputs):
        parts = {
            "norm": nn.BatchNorm1d(outputs, **options),
            "activation": activation(),
            "dropout": nn.Dropout(level),
        }
        return nn.Linear(inputs, outputs), *(parts[name] for name in order.split())

    *inner, last = pairwise(sizes)
    layers = [module for sides in inner for module in block(*sides)]
    model = nn.Sequential(*layers, nn.Linear(*last))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model


ORDERS = (
    *("norm activation dropout", "activation norm dropout", "activation norm", "norm activation"),
    *("norm dropout", "norm", "activation dropout", "dropout"),
)


def planned(model):
    step = PlainModel(model, F.mse_loss).planned_step()
    assert not isinstance(step, str), step
    return step


def results(step, x, dtype=None):
    """The loss and the parameters' gradients, by the kernel or by the definition."""
    plan, parameters, _ = step
    if dtype is not None:
        parameters = [p.detach().to(dtype).requires_grad_(p.requires_grad) for p in parameters]
        loss = eager.loss(plan, parameters, x.to(dtype), 12345, 3)
    else:
        loss = step_loss(plan, parameters, x, 12345, 3)
    return [loss, *torch.autograd.grad(loss, [p for p in parameters if p.requires_grad])]


def assert_right(step, x):
    exact, same_dtype = results(step, x, torch.float64), results(step, x, torch.float32)
    for actual, expected, reference in zip(results(step, x), same_dtype, exact, strict=True):
        assert_as_accurate_as_torch(actual, expected, reference)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("activation", [nn.GELU, nn.LeakyReLU])
def test_loss_and_gradients_are_as_accurate_as_the_definition(order, activation):
    assert_right(
        planned(stack(20, 9, 5, 20, order=order, activation=activation)), torch.rand(37, 20)
    )


@pytest.mark.parametrize("options", [{}, {"affine": False}, {"eps": 0.1}])
@pytest.mark.parametrize("order", ["norm activation", "activation norm"])
def test_the_definition_is_torchs(order, options):
    model = stack(20, 9, 5, 20, order=order, **options).double()
    x = torch.rand(37, 20, dtype=torch.float64)
    loss = F.mse_loss(model(x), x)
    expected = [loss, *torch.autograd.grad(loss, [*model.parameters()])]
    plan, parameters, _ = planned(model)
    named = [next(i for i, p in enumerate(parameters) if p is q) for q in model.parameters()]
    loss = eager.loss(plan, parameters, x, 0, 0)
    actual = [loss, *torch.autograd.grad(loss, [parameters[number] for number in named])]
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("rows", "sizes"), [(2, (1, 1, 1)), (3, (2, 1, 2)), (4, (3, 4, 3))])
def test_small_sizes(rows, sizes):
    assert_right(planned(stack(*sizes)), torch.rand(rows, sizes[0]))


def test_a_batch_of_many_rows_has_one_mean():
    assert_right(planned(stack(200, 50, 200)), torch.rand(6000, 200))


def test_the_bits_do_not_depend_on_the_threads(threads):
    step, x = planned(stack(200, 90, 200)), torch.rand(300, 200)
    threads(1)
    one = results(step, x)
    threads(2)
    assert all(map(torch.equal, one, results(step, x)))


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set(isa, instruction_set):
    instruction_set(isa)
    assert_right(planned(stack(20, 70, 5, 20)), torch.rand(37, 20))


def test_without_gradients_the_loss_is_the_same():
    plan, parameters, _ = planned(stack(20, 9, 20))
    x = torch.rand(37, 20)
    with_gradients = step_loss(plan, parameters, x, 1)
    with torch.no_grad():
        assert torch.equal(step_loss(plan, parameters, x, 1), with_gradients.detach())


def still(model, x, batch_size):
    """Updates that change no parameter."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    history = aefast.fit(model, x, optimizer, batch_size=batch_size, shuffle=False, loss="mse")
    assert history.engine == "step", history.reason


@pytest.mark.parametrize("momentum", [0.1, 0.7, None])
@pytest.mark.parametrize("order", ["norm activation", "activation norm"])
def test_running_statistics_are_as_accurate_as_torchs(order, momentum):
    model, x = stack(20, 9, 5, 20, order=order, momentum=momentum), 5 + torch.rand(37, 20)
    expected, exact = copy.deepcopy(model), copy.deepcopy(model).double()
    still(model, x, 15)
    for rows in x.split(15):
        expected(rows)
        exact(rows.double())
    for name, actual in model.state_dict().items():
        if "running" in name:
            same_dtype, reference = expected.state_dict()[name], exact.state_dict()[name]
            assert_as_accurate_as_torch(actual, same_dtype, reference)
        if "tracked" in name:
            assert actual.item() == 3


def test_without_running_statistics_none_are_kept():
    model = stack(20, 9, 20, track_running_stats=False)
    still(model, torch.rand(8, 20), 4)
    assert model[1].running_mean is None


def test_a_statistic_that_is_shown_to_autograd_is_known_to_have_moved():
    model, x = stack(20, 9, 20), torch.rand(8, 20)
    scale = torch.ones(9, requires_grad=True)
    shown = (scale * model[1].running_mean).sum()
    still(model, x, 4)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        shown.backward()


@pytest.mark.parametrize("rows", [1, 9])
def test_a_batch_of_one_row_is_torchs_error(rows):
    model, x = stack(20, 6, 20, level=0.0), torch.rand(rows, 20)
    twin = copy.deepcopy(model)
    with pytest.raises(ValueError, match="more than 1 value per channel") as expected:
        twin(x[-1:])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="more than 1 value per channel") as actual:
        aefast.fit(model, x, optimizer, batch_size=4, shuffle=False, loss="mse")
    assert str(actual.value) == str(expected.value)
    assert model[1].num_batches_tracked == rows // 4


def test_a_loss_that_is_not_finite_moves_no_statistic():
    model = stack(20, 6, 20)
    before = copy.deepcopy(model.state_dict())
    x = torch.rand(8, 20)
    x[0, 0] = math.inf
    optimizer = torch.optim.Adam(model.parameters())
    with pytest.raises(ArithmeticError, match="loss of step 1"):
        aefast.fit(model, x, optimizer, batch_size=8, loss="mse")
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_each_layer_draws_its_own_dropout_unbiased():
    layer = PlannedLayer(8, 400, "relu", 0, -1, dropout=0.3)
    ones = torch.ones(300, 400)
    first, second = (eager.dropped(layer, ones, 7, number, 0) for number in (0, 1))
    assert first.unique().tolist() == pytest.approx([0, 1 / 0.7])
    for noise in (first, second):
        assert abs(noise.mean() - 1) < 5 * math.sqrt(0.3 / 0.7 / noise.numel())
    both = ((first > 0) & (second > 0)).float().mean()
    assert abs(both - 0.49) < 5 * math.sqrt(0.49 * 0.51 / first.numel())


def test_dropout_is_drawn_by_the_seed():
    def trained(seed):
        model = copy.deepcopy(begun)
        optimizer = torch.optim.Adam(model.parameters())
        history = aefast.fit(model, x, optimizer, batch_size=8, seed=seed, shuffle=False)
        assert history.engine == "step", history.reason
        return history.losses

    begun, x = stack(20, 9, 20), torch.rand(32, 20)
    state = torch.get_rng_state()
    assert torch.equal(trained(3), trained(3))
    assert not torch.equal(trained(3), trained(4))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("limit", [0.0, 0.5, 1e3, math.inf])
@pytest.mark.parametrize("bounds", [(-math.inf, math.inf), (-0.2, 0.3)])
def test_a_posterior_of_two_layers_with_limits(limit, bounds):
    sizes = (54, 9, 18, 2, 18, 2, 40, 20, 9, 9, 9, 9)
    norm = PlannedNorm(8, 9, 10, 11, 1e-5)
    plan = Plan(
        (
            PlannedLayer(6, 9, "relu", 0, 1, norm=norm, dropout=0.2),
            PlannedLayer(9, 4, "identity", 2, 3, log_var_weight=4, log_var_bias=5),
        ),
        (PlannedLayer(2, 20, "tanh", 6, 7), PlannedLayer(20, 6, "sigmoid", 12, -1)),
        (*sizes, 120),
        code_stage="posterior",
        divergence_weight=0.7,
        divergence_limit=limit,
        log_var_bounds=bounds,
    )
    assert fits_together(plan)
    assert not fits_together(plan._replace(sizes=(*sizes[:4], 17, *sizes[5:], 120)))
    assert not fits_together(plan._replace(sizes=(*sizes[:11], 8, 120)))
    shapes = [(9, 6), (9,), (2, 9), (2,), (2, 9), (2,), (20, 2), (20,), *[(9,)] * 4, (6, 20)]
    parameters = [
        torch.randn(shape).requires_grad_(n not in (10, 11)) for n, shape in enumerate(shapes)
    ]
    assert_right((plan, parameters, ()), torch.rand(13, 6))


def test_micro_batches_with_dropout_are_torchs_own():
    """Micro-batches with dropout take torch's own operators: each rank draws its own numbers."""
    model = stack(20, 9, 20, order="activation dropout")
    optimizer = torch.optim.Adam(model.parameters())
    history = aefast.fit(
        model, torch.rand(16, 20), optimizer, batch_size=8, micro_batch_size=4, loss="mse"
    )
    assert history.engine == "loop"
    assert "batch normalization and dropout" in history.reason
