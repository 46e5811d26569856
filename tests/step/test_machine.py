"""A Boltzmann machine's training step in one call, against its definition in float64."""

import copy
from types import SimpleNamespace

import pytest
import torch

import aefast
from aefast import backend, nn
from aefast.functional import contrastive_divergence
from aefast.ops.shared import product_routes
from aefast.step import machine_eager
from aefast.step.machine_loss import machine_loss, refusal
from aefast.step.machine_plan import MachinePlan
from tests.accuracy import assert_as_accurate_as_torch

pytestmark = pytest.mark.skipif(
    backend.unavailable("cpp", "cpu") is not None, reason="the C++ extension is not here"
)

SEED, OFFSET = 12345, 3
SPARSE = {"sparsity_weight": 0.5, "sparsity_target": 0.1}
GAUSSIAN = {"visible_kind": "gaussian"}
LEARNED = {**GAUSSIAN, "has_log_var": True}


def parameters_of(plan):
    weight = torch.randn(plan.hidden, plan.visible) / plan.visible**0.5
    parameters = [weight, torch.randn(plan.visible), torch.randn(plan.hidden)]
    if plan.has_log_var:
        parameters.append(torch.randn(plan.visible) / 2)
    return [parameter.requires_grad_() for parameter in parameters]


def rows_of(plan, count, is_grey):
    if plan.visible_kind == "gaussian":
        return torch.randn(count, plan.visible)
    uniform = torch.rand(count, plan.visible)
    # Half of a grey image's numbers are 0, and many are 1.
    return (2 * uniform - 0.5).clamp(0, 1) if is_grey else (uniform < 0.4).float()


def definition(plan, parameters, x, chain, dtype):
    parameters = [p.detach().to(dtype).requires_grad_() for p in parameters]
    chain = None if chain is None else chain.to(dtype)
    loss, end = machine_eager.loss(plan, parameters, x.to(dtype), chain, SEED, OFFSET)
    return [loss, *torch.autograd.grad(loss, parameters)], end


def with_end(plan, parameters, x, chain, *draws):
    """The loss, and where the chains end."""
    end = torch.empty_like(x if chain is None else chain)
    return machine_loss(plan, parameters, x, chain, end, *draws), end


def kernel(plan, parameters, x, chain):
    assert refusal(plan, parameters, x) is None
    loss, end = with_end(plan, parameters, x, chain, SEED, OFFSET)
    return [loss, *torch.autograd.grad(loss, parameters)], end


def assert_right(plan, rows, chains=0, is_grey=False):
    parameters, x = parameters_of(plan), rows_of(plan, rows, is_grey)
    chain = rows_of(plan, chains, False) if chains else None
    results, end = kernel(plan, parameters, x, chain)
    reference, end_reference = definition(plan, parameters, x, chain, torch.float64)
    same_dtype, end_same = definition(plan, parameters, x, chain, torch.float32)
    if plan.visible_kind == "bernoulli":
        assert torch.equal(end.double(), end_reference)
    else:
        assert_as_accurate_as_torch(end, end_same, end_reference)
    for actual, expected, exact in zip(results, same_dtype, reference, strict=True):
        assert_as_accurate_as_torch(actual, expected, exact)


@pytest.mark.parametrize("rows", [10, 100])  # the kernels that select row by row, and by tables
@pytest.mark.parametrize("is_grey", [False, True])
@pytest.mark.parametrize("chains", [0, 7, 70])
@pytest.mark.parametrize("k", [1, 3])
def test_binary_and_grey_rows(rows, is_grey, chains, k):
    assert_right(MachinePlan(37, 23, k=k), rows, chains, is_grey)


@pytest.mark.parametrize("rows", [10, 100])
@pytest.mark.parametrize("chains", [0, 7])
@pytest.mark.parametrize("options", [GAUSSIAN, LEARNED, {**LEARNED, **SPARSE}])
def test_gaussian_visible_units(rows, chains, options):
    assert_right(MachinePlan(37, 23, k=2, **options), rows, chains)


@pytest.mark.parametrize("rows", [10, 100])
def test_gaussian_units_whose_rows_are_zeros_and_ones(rows):
    """They are multiplied as bits, but their squares count, too."""
    plan = MachinePlan(37, 23, **LEARNED)
    parameters, x = parameters_of(plan), rows_of(MachinePlan(37, 23), rows, False)
    with torch.no_grad():
        parameters[3].zero_()  # a variance of 1 leaves them zeros and ones
    results, _ = kernel(plan, parameters, x, None)
    exact, _ = definition(plan, parameters, x, None, torch.float64)
    same, _ = definition(plan, parameters, x, None, torch.float32)
    for actual, expected, reference in zip(results, same, exact, strict=True):
        assert_as_accurate_as_torch(actual, expected, reference)


@pytest.mark.parametrize("rows", [10, 100])
@pytest.mark.parametrize("is_grey", [False, True])
def test_units_drawn_to_a_mean_activity(rows, is_grey):
    assert_right(MachinePlan(37, 23, **SPARSE), rows, is_grey=is_grey)


@pytest.mark.parametrize("options", [{}, LEARNED])
@pytest.mark.parametrize(
    ("rows", "visible", "hidden"), [(1, 1, 1), (2, 3, 1), (3, 1, 2), (2, 2, 3), (65, 64, 1)]
)
def test_sizes_of_one_to_three(options, rows, visible, hidden):
    assert_right(MachinePlan(visible, hidden, **options), rows)


@pytest.mark.parametrize("rows", [10, 64, 65])
def test_more_units_than_a_panel_and_a_word_hold(rows):
    assert_right(MachinePlan(211, 139), rows, chains=11)


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
@pytest.mark.parametrize("rows", [10, 100])
@pytest.mark.parametrize("options", [{}, LEARNED])
def test_every_instruction_set(isa, rows, options, instruction_set):
    instruction_set(isa)
    assert_right(MachinePlan(70, 150, **options), rows, chains=10, is_grey=not options)


@pytest.mark.parametrize("rows", [150, 300])
@pytest.mark.parametrize("is_grey", [False, True])
@pytest.mark.parametrize("options", [{}, LEARNED])
def test_the_bits_do_not_depend_on_the_threads(rows, is_grey, options, threads):
    plan = MachinePlan(200, 150, **options)
    parameters, x = parameters_of(plan), rows_of(plan, rows, is_grey)
    chain = rows_of(plan, rows, False)
    actual = []
    for count in (1, 2):
        threads(count)
        results, end = kernel(plan, parameters, x, chain)
        actual.append([*results, end])
    assert all(map(torch.equal, *actual))


@pytest.mark.parametrize("chains", [0, 20])
@pytest.mark.parametrize("options", [{}, GAUSSIAN])
def test_it_is_what_the_functions_compute_one_by_one(chains, options):
    """The same states, bit for bit, and gradients to rounding."""
    plan = MachinePlan(64, 32, k=2, **options)
    parameters, x = parameters_of(plan), rows_of(plan, 20, True)
    chain = rows_of(plan, chains, False) if chains else None
    results, end = kernel(plan, parameters, x, chain)
    loss, expected = contrastive_divergence(
        x, *parameters, 2, chain=chain, seed=SEED, row_offset=OFFSET, **options
    )
    torch.testing.assert_close(end, expected, rtol=1e-5 if options else 0, atol=1e-5 * len(options))
    for actual, expected_result in zip(
        results, [loss, *torch.autograd.grad(loss, parameters)], strict=True
    ):
        torch.testing.assert_close(actual, expected_result, rtol=1e-4, atol=1e-5)


def test_without_gradients_loss_and_chains_are_the_same():
    plan = MachinePlan(37, 23)
    parameters, x, chain = parameters_of(plan), rows_of(plan, 9, True), rows_of(plan, 5, False)
    loss, end = with_end(plan, parameters, x, chain, SEED)
    with torch.no_grad():
        alone, end_alone = with_end(plan, parameters, x, chain, SEED)
    assert torch.equal(alone, loss.detach())
    assert torch.equal(end_alone, end)


def test_what_is_not_finite_shows_in_the_loss():
    """Also a NaN weight of a unit that is never on: such a model must not be trained further."""
    for number in range(3):
        plan = MachinePlan(37, 23)
        parameters, x = parameters_of(plan), rows_of(plan, 9, True)
        x[:, 0] = 0
        with torch.no_grad():
            parameters[number][0 if parameters[number].dim() == 1 else (0, 0)] = -torch.inf
        assert not machine_loss(plan, parameters, x, None, None, SEED).isfinite()
    x[0, 0] = torch.nan
    assert not machine_loss(plan, parameters_of(plan), x, None, None, SEED).isfinite()


def test_a_loss_beyond_float32_is_infinite():
    plan = MachinePlan(6, 4, visible_kind="gaussian")
    parameters = parameters_of(plan)
    for sign in (1, -1):
        x = torch.full((3, 6), 1e20)
        with torch.no_grad():
            parameters[1].fill_(0 if sign == 1 else 1e25)
        loss, end = with_end(plan, parameters, x, None, SEED)
        assert loss.abs() == torch.inf
        assert loss == machine_eager.loss_between(plan, parameters, x, end)


@pytest.mark.parametrize("chains", [0, 5])
def test_a_second_backward_and_a_gradient_of_the_gradient(chains):
    plan = MachinePlan(6, 4, sparsity_weight=0.1, sparsity_target=0.2)
    parameters, x = parameters_of(plan), rows_of(plan, 9, True)
    chain = rows_of(plan, chains, False) if chains else None
    loss, end = with_end(plan, parameters, x, chain, SEED)
    once = torch.autograd.grad(loss, parameters, retain_graph=True)
    thrice = torch.autograd.grad(3 * loss, parameters, create_graph=True)
    for a, b in zip(thrice, once, strict=True):
        torch.testing.assert_close(a, 3 * b)
    second = torch.autograd.grad(thrice[0].square().sum(), parameters[::2])
    defined = machine_eager.loss_between(plan, parameters, x, end)
    (slope,) = torch.autograd.grad(3 * defined, parameters[:1], create_graph=True)
    for a, b in zip(
        second, torch.autograd.grad(slope.square().sum(), parameters[::2]), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_parameters_that_are_made_of_each_other_get_their_gradients_twice():
    plan = MachinePlan(6, 6)
    weight, bias, _ = parameters_of(plan)
    x = rows_of(plan, 9, True)
    parameters = [weight, bias, 2 * bias]
    loss, end = with_end(plan, parameters, x, None, SEED)
    once = torch.autograd.grad(loss, bias, retain_graph=True)
    again = torch.autograd.grad(loss, bias, create_graph=True)
    defined = machine_eager.loss_between(plan, parameters, x, end)
    expected = torch.autograd.grad(defined, bias, create_graph=True)
    torch.testing.assert_close([once, again], [expected, expected])
    torch.testing.assert_close(
        *(
            torch.autograd.grad(slope.square().sum(), bias, retain_graph=True)
            for (slope,) in (again, expected)
        )
    )


def test_negative_views_are_read_as_what_they_show():
    plan = MachinePlan(6, 4)
    parameters, x = parameters_of(plan), rows_of(plan, 9, True)
    negative = [torch._neg_view(-tensor) for tensor in (x, parameters[0])]
    assert "negative" in refusal(plan, parameters, negative[0])
    assert "negative" in refusal(plan, [negative[1], *parameters[1:]], x)
    assert "negative" in refusal(plan, parameters, x, torch._neg_view(x))
    machine = nn.RBM(6, 4)
    torch.testing.assert_close(machine.loss(negative[0], seed=1), machine.loss(x, seed=1))


def test_calls_that_the_kernels_do_not_take():
    plan = MachinePlan(6, 4)
    parameters, x = parameters_of(plan), torch.rand(3, 6)
    assert "float32" in refusal(plan, parameters, x.double())
    assert "matrix" in refusal(plan, parameters, x[:, :5])
    assert "gradient" in refusal(plan, parameters, x.clone().requires_grad_())
    assert "contiguous" in refusal(plan, [parameters[0].t(), *parameters[1:]], x)
    with backend.use_backend("eager"):
        assert "eager" in refusal(plan, parameters, x)
    with torch.autocast("cpu", torch.bfloat16):
        assert "autocast" in refusal(plan, parameters, x)


def trained(machine, optimizer=torch.optim.SGD, steps=100, **options):
    torch.manual_seed(1)
    uniform = torch.rand(100, machine.weight.shape[1])
    data = uniform if machine.visible_kind == "gaussian" else (2 * uniform - 0.5).clamp(0, 1)
    history = aefast.fit(
        machine, data, optimizer(machine.parameters(), lr=0.02, **options),
        epochs=steps // 10, batch_size=10, seed=3,
    )  # fmt: skip
    return history, data


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"chains": 7},
        {"sparsity_target": 0.1},
        {**GAUSSIAN, "learn_variance": True, "chains": 5},
    ],
)
def test_many_steps_in_one_call_are_the_loops(options):
    """Parameters agree to rounding, chains and their counter exactly. With more than 100 steps a
    probability that differs in its last place would cross its uniform."""
    torch.manual_seed(0)
    machine = nn.RBM(20, 13, **options)
    looped = copy.deepcopy(machine)
    looped.register_forward_hook(lambda *_: None)  # with a hook the ordinary loop runs
    history, data = trained(machine, momentum=0.5)
    by_loop, _ = trained(looped, momentum=0.5)
    assert (history.engine, by_loop.engine) == ("step", "loop")
    torch.testing.assert_close(history.losses, by_loop.losses, rtol=1e-4, atol=1e-4)
    for (name, actual), expected in zip(
        machine.state_dict().items(), looped.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5, msg=name)
    assert machine.training_steps == 100
    torch.testing.assert_close(machine.loss(data, seed=0), looped.loss(data, seed=0))


def test_a_module_takes_the_kernels_and_its_chains_move_on():
    machine = nn.RBM(20, 13, chains=7)
    assert not isinstance(machine.planned_step(), str)
    x, before = torch.rand(2, 5, 20), machine.chain.clone()
    loss = machine.loss(x, seed=0)
    assert type(loss.grad_fn).__name__ == "StepLossBackward"
    assert not torch.equal(machine.chain, before)
    assert machine.training_steps == 1
    moved = machine.chain.clone()
    with torch.no_grad():
        machine.loss(x, seed=1)
    machine.eval().loss(x, seed=1)
    assert torch.equal(machine.chain, moved)
    assert machine.training_steps == 1


def change_steps(machine):
    machine.k = 3


def change_sparsity(machine):
    machine.sparsity_target = 0.1


def change_data(machine):
    machine.weight.data = torch.rand(13, 20)


def change_shape(machine):
    machine.weight.data, machine.hidden_bias.data = torch.rand(7, 20), torch.rand(7)


def change_parameter(machine):
    machine.visible_bias = torch.nn.Parameter(torch.rand(20))


def change_hooks(machine):
    torch.nn.utils.prune.l1_unstructured(machine, "weight", 0.5)


def change_chains(machine):
    machine.chain = torch.rand(4, 20).round()


@pytest.mark.parametrize(
    "change",
    [
        change_steps,
        change_sparsity,
        change_data,
        change_shape,
        change_parameter,
        change_hooks,
        change_chains,
    ],
)
def test_a_kept_plan_is_made_anew_where_the_machine_changed(change):
    machine, x = nn.RBM(20, 13), torch.rand(9, 20).round()
    with torch.no_grad():
        machine.weight.normal_()
    fresh = copy.deepcopy(machine)
    before = machine.loss(x, seed=1)
    assert "_kept_step" in machine.__dict__
    for each in (machine, fresh):
        torch.manual_seed(2)
        change(each)
    loss = machine.loss(x, seed=1)
    assert loss != before
    with backend.use_backend("eager"):
        torch.testing.assert_close(loss, fresh.loss(x, seed=1))


def test_a_kept_plan_serves_no_call_for_which_matrix_units_are_faster(monkeypatch):
    """At another precision than that of its first loss."""
    monkeypatch.setattr(backend, "cpu_features", lambda: ["amx"])
    monkeypatch.setattr(
        product_routes, "extension", lambda: SimpleNamespace(instruction_set=lambda: "amx")
    )
    machine, x = nn.RBM(20, 13), torch.rand(9, 20).round()
    machine.loss(x)
    kept = machine.__dict__["_kept_step"]
    assert kept.serves(machine, x)
    torch.set_float32_matmul_precision("medium")
    try:
        assert not kept.serves(machine, x)
        assert "matrix units" in machine.planned_step().refusal(x)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert kept.serves(machine, x)


def test_losses_of_a_kept_plan_are_counted_as_others_are():
    machine, x = nn.RBM(20, 13), torch.rand(9, 20).round()
    for _ in range(3):
        machine.loss(x).backward()
    with torch.no_grad():
        machine.loss(x)
    machine.eval().loss(x)
    assert machine.training_steps == 3
    loss = torch.utils.checkpoint.checkpoint(machine.train().loss, x, use_reentrant=False)
    loss.backward()
    assert machine.training_steps == 4


def test_a_kept_plan_refuses_what_the_first_loss_refuses():
    machine, x = nn.RBM(20, 13), torch.rand(9, 20).round()
    machine.loss(x)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        machine.loss(2 * x + 1)
    with pytest.raises(TypeError, match="seed"):
        machine.loss(x, seed=0.5)
    with torch.no_grad():
        machine.weight[0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match="weight holds NaN after training step 1"):
        machine.loss(x)
    assert machine.training_steps == 1


def test_what_stands_on_a_module_is_left_to_the_ops():
    class Other(nn.RBM):
        pass

    assert "hook" in Other(4, 3).planned_step()
    machine = nn.RBM(4, 3)
    machine.register_forward_hook(lambda *_: None)
    assert "hook" in machine.planned_step()


def test_a_wrong_number_is_refused_before_a_step():
    machine = nn.RBM(20, 13)
    before = machine.weight.detach().clone()
    optimizer = torch.optim.SGD(machine.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"data holds 2; Bernoulli units take numbers in \[0, 1\]"):
        aefast.fit(machine, torch.full((5, 20), 2.0), optimizer)
    with pytest.raises(ValueError, match="visible holds 2"):
        machine.loss(torch.full((5, 20), 2.0))
    assert torch.equal(machine.weight, before)


def test_a_parameter_that_is_not_finite_is_named():
    machine = nn.RBM(20, 13)
    with torch.no_grad():
        machine.weight[3, 2] = torch.inf
    with pytest.raises(FloatingPointError, match="weight holds an infinity"):
        machine.loss(torch.zeros(5, 20))


def test_a_step_that_is_not_finite_moves_no_chain():
    machine = nn.RBM(20, 13, chains=7)
    with torch.no_grad():
        machine.visible_bias[3] = torch.nan
    chain = machine.chain.clone()
    optimizer = torch.optim.SGD(machine.parameters(), lr=0.1)
    with pytest.raises(ArithmeticError, match="the loss of step 1 is nan"):
        aefast.fit(machine, torch.rand(5, 20), optimizer)
    assert torch.equal(machine.chain, chain)
    assert machine.training_steps == 0
