"""Sparsity penalties: every backend against the definition, the definition against torch's own."""

import math

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import aefast
from aefast.functional import kl_sparsity, l1_sparsity
from aefast.ops.shared import checks
from aefast.ops.sparsity import eager
from tests.accuracy import assert_as_accurate_as_torch
from tests.backends import is_interpreted, not_interpreted, same_on_numba

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(1, 1), (7,), (5, 3), (3, 5, 7), (257, 131), (1, 300), (1000, 2)]
PENALTIES = {"kl": lambda code: kl_sparsity(code, 0.07), "l1": l1_sparsity}


def activities(*shape, device, dtype=torch.float32):
    return (0.02 + 0.9 * torch.rand(shape, device=device)).to(dtype)


def in_torch(name, code):
    """The penalty as a user writes it, in the code's own arithmetic."""
    if name == "l1":
        return code.abs().sum(-1).mean()
    mean = code.reshape(-1, code.shape[-1]).mean(0)
    target = torch.full_like(mean, 0.07)
    return (target * (target / mean).log() + (1 - target) * ((1 - target) / (1 - mean)).log()).sum()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", PENALTIES)
@pytest.mark.interpreted(shape=SHAPES[:3], dtype=[torch.float32])
@pytest.mark.interpreted(shape=[(3, 5, 7)])
def test_penalties_and_gradients_are_as_accurate_as_torchs(kernel_device, name, shape, dtype):
    code = activities(*shape, device=kernel_device, dtype=dtype)
    if name == "l1":
        code = code - 0.5
    results = []
    wide = torch.promote_types(dtype, torch.float32)
    for function, kind in (
        (PENALTIES[name], dtype),
        (lambda code: in_torch(name, code), wide),
        (lambda code: in_torch(name, code), torch.float64),
    ):
        leaf = code.to(kind).requires_grad_()
        penalty = function(leaf)
        (gradient,) = torch.autograd.grad(3 * penalty, leaf)
        assert penalty.dtype == gradient.dtype == kind
        results.append((penalty.detach(), gradient))
    (actual, our_gradient), (plain, plain_gradient), (exact, exact_gradient) = results
    assert_as_accurate_as_torch(actual, plain.to(dtype), exact)
    assert_as_accurate_as_torch(our_gradient, plain_gradient.to(dtype), exact_gradient)


@pytest.mark.parametrize("name", PENALTIES)
def test_any_strides_give_the_same_result(kernel_device, name):
    base = activities(24, 37, device=kernel_device)
    for code in (base.t(), base[::2, 3:20], base[:, ::3], base[:1].expand(5, 37), base.t()[None]):
        leaf = code.detach().requires_grad_()
        copy = code.contiguous().detach().clone().requires_grad_()
        assert torch.equal(PENALTIES[name](leaf), PENALTIES[name](copy))
        actual = torch.autograd.grad(PENALTIES[name](leaf), leaf)[0]
        assert torch.equal(actual, torch.autograd.grad(PENALTIES[name](copy), copy)[0])


def test_the_kl_penalty_is_zero_and_flat_at_its_target(device):
    code = torch.tensor([[0.25, 0.5], [0.75, 0.5]], device=device, requires_grad=True)
    penalty = kl_sparsity(code, 0.5)
    assert penalty.item() == 0
    assert torch.equal(torch.autograd.grad(penalty, code)[0], torch.zeros_like(code))


def test_the_kl_penalty_is_that_of_torch_distributions(device):
    code = activities(50, 6, device=device)
    target = torch.distributions.Bernoulli(torch.full((6,), 0.07, device=device))
    mean = torch.distributions.Bernoulli(code.mean(0))
    expected = torch.distributions.kl_divergence(target, mean).sum()
    torch.testing.assert_close(kl_sparsity(code, 0.07), expected)


def exact_at(*means):
    """The penalty with a target of 0.1 of these means in float64, and its slope by each."""
    means = torch.tensor(means, dtype=torch.float64, requires_grad=True)
    target, mean = (torch.distributions.Bernoulli(p) for p in (torch.full_like(means, 0.1), means))
    penalty = torch.distributions.kl_divergence(target, mean).sum()
    return penalty.detach(), torch.autograd.grad(penalty, means)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_saturated_unit_is_as_dear_as_at_the_bound_and_its_slope_points_back(device, dtype):
    values = torch.tensor([0.0, 1.0, 0.5], device=device)
    code = values.to(dtype).expand(4, 3).clone().requires_grad_()
    expected, slope = exact_at(2.0**-23, 1 - 2.0**-23, 0.5)
    penalty = kl_sparsity(code, 0.1)
    # A logarithm's, a product's and the sums' roundings in float32, and the result's own.
    tolerance = {"rtol": 4 * 2.0**-23 + torch.finfo(dtype).eps / 2, "atol": 0.0}
    torch.testing.assert_close(penalty.detach().cpu().double(), expected, **tolerance)
    for create_graph in (False, True):
        (gradient,) = torch.autograd.grad(
            penalty, code, retain_graph=True, create_graph=create_graph
        )
        for row in gradient.detach().cpu().double():
            torch.testing.assert_close(row, slope / 4, **tolerance)
    (second,) = torch.autograd.grad(gradient.sum(), code)
    assert second.isfinite().all()


@pytest.mark.parametrize("wrong", [-0.25, 1.5, 1 + 2.0**-22, math.inf, -math.inf])
def test_a_unit_whose_mean_is_no_probability_is_refused(device, wrong):
    code = torch.full((4, 3), 0.5, device=device)
    code[:, 1] = wrong
    if device.type == "cuda" or is_interpreted(device):  # which is not asked: it is bounded
        bounded = code.clamp(0, 1)
        assert torch.equal(kl_sparsity(code, 0.1), kl_sparsity(bounded, 0.1))
        return
    for rows in (code, code.clone().requires_grad_()):
        with pytest.raises(ValueError, match=r"^code has a unit of mean activity .*; the KL pen"):
            kl_sparsity(rows, 0.1)
    with pytest.raises(ValueError, match=f"of mean activity {checks.shown_outside(wrong)}; "):
        torch.compile(lambda c: kl_sparsity(c, 0.1), backend="eager", fullgraph=True)(code)


def test_a_nan_stays(device):
    code = torch.tensor([[math.nan, 0.0, 0.5]], device=device, requires_grad=True)
    (gradient,) = torch.autograd.grad(kl_sparsity(code, 0.1), code)
    assert gradient.isnan().tolist() == [[True, False, False]]


@pytest.mark.parametrize(("bias", "autocast"), [(8.0, True), (-120.0, False), (8.0, False)])
@not_interpreted
def test_a_sparse_autoencoder_with_a_saturated_code_trains_on(device, bias, autocast):
    model = aefast.nn.SparseAutoencoder(6, 4).to(device)
    torch.nn.init.constant_(model.encoder[-1].bias, bias)
    with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
        loss = model.loss(torch.rand(5, 6, device=device))
    loss.backward()
    assert loss.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_a_sum_beyond_float32_is_infinite(device):
    code = torch.full((4, 8), 3e38, device=device)
    assert l1_sparsity(code).item() == math.inf
    assert l1_sparsity(code.requires_grad_()).item() == math.inf


def test_nan_and_infinity_pass(device):
    code = torch.tensor([[math.nan, 0.5], [0.3, 0.2]], device=device)
    assert kl_sparsity(code, 0.1).isnan()
    assert l1_sparsity(code).isnan()
    assert l1_sparsity(torch.tensor([[-math.inf, 0.5]], device=device)).item() == math.inf


def test_the_l1_gradient_is_torchs_at_zero_and_nan(device):
    values = torch.tensor([[math.nan, 0.0, -0.0, 2.0, -3.0, math.inf]], device=device)
    actual, plain = (values.clone().requires_grad_() for _ in range(2))
    l1_sparsity(actual).backward()
    plain.abs().sum(-1).mean().backward()
    assert torch.equal(actual.grad, plain.grad)


@pytest.mark.parametrize("name", PENALTIES)
@not_interpreted
def test_one_and_two_threads_give_the_same_bits(kernel_device, name, threads):
    code = activities(700, 65, device=kernel_device).requires_grad_()
    actual = []
    for count in (1, 2, 2):
        threads(count)
        penalty = PENALTIES[name](code)
        actual.append((penalty, torch.autograd.grad(penalty, code)[0]))
    for penalty, gradient in actual[1:]:
        assert torch.equal(penalty, actual[0][0])
        assert torch.equal(gradient, actual[0][1])


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
@pytest.mark.parametrize("name", PENALTIES)
def test_every_instruction_set_gives_the_same_numbers(name, isa, instruction_set):
    code = activities(300, 131, device="cpu")
    expected = PENALTIES[name](code)
    instruction_set(isa)
    assert torch.equal(PENALTIES[name](code), expected)


@pytest.mark.parametrize("name", PENALTIES)
def test_no_rows_give_what_torch_gives(device, name):
    code = torch.empty(0, 4, device=device)
    assert PENALTIES[name](code).isnan()


@pytest.mark.parametrize("shape", [(5, 0), (0,), (3, 5, 0)])
@pytest.mark.parametrize("name", PENALTIES)
@not_interpreted
def test_no_units_cost_nothing(device, name, shape):
    code = torch.empty(shape, device=device, requires_grad=True)
    for penalty in (PENALTIES[name](code), torch.compile(PENALTIES[name], backend="eager")(code)):
        assert penalty.item() == 0
        assert torch.autograd.grad(penalty, code)[0].shape == shape


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", PENALTIES)
@not_interpreted
def test_under_autocast_a_penalty_is_a_float32_as_torchs_losses_are(device, name, dtype):
    code = activities(9, 5, device=device, dtype=dtype).requires_grad_()
    with torch.autocast(device.type, torch.bfloat16):
        penalty = PENALTIES[name](code)
        compiled = torch.compile(PENALTIES[name], fullgraph=True, backend="eager")(code)
    assert penalty.dtype == compiled.dtype == torch.float32
    torch.testing.assert_close(penalty, PENALTIES[name](code.float()))
    torch.testing.assert_close(compiled, penalty)
    (gradient,) = torch.autograd.grad(penalty, code)
    torch.testing.assert_close(gradient, torch.autograd.grad(PENALTIES[name](code), code)[0])


@pytest.mark.parametrize("name", PENALTIES)
def test_gradcheck_and_gradgradcheck_in_float64(name):
    code = activities(4, 3, device="cpu").double().requires_grad_()
    assert gradcheck(PENALTIES[name], code)
    assert gradgradcheck(PENALTIES[name], code)


@pytest.mark.parametrize("name", PENALTIES)
@not_interpreted
def test_the_second_order_gradient_is_the_definitions(kernel_device, name):
    seconds = []
    for backend in (None, "eager"):
        leaf = activities(9, 5, device=kernel_device).requires_grad_()
        torch.manual_seed(0)
        with torch.no_grad():
            leaf.copy_(activities(9, 5, device=kernel_device))
        with aefast.use_backend(backend) if backend else torch.enable_grad():
            penalty = PENALTIES[name](leaf.square())
            (first,) = torch.autograd.grad(penalty, leaf, create_graph=True)
            seconds.append(torch.autograd.grad(first.square().sum(), leaf)[0])
    torch.testing.assert_close(seconds[0], seconds[1])


@same_on_numba
@not_interpreted
def test_opcheck(device):
    code = activities(4, 9, device=device).requires_grad_()
    torch.library.opcheck(torch.ops.aefast.kl_sparsity, (code, 0.1))
    torch.library.opcheck(torch.ops.aefast.l1_sparsity, (code,))


@pytest.mark.parametrize("name", PENALTIES)
@same_on_numba
@not_interpreted
def test_torch_compile_in_one_graph_gives_the_same(kernel_device, name):
    torch.compiler.reset()  # one function has eight graphs at most
    code = activities(6, 9, device=kernel_device).requires_grad_()
    compiled = torch.compile(PENALTIES[name], fullgraph=True, backend="aot_eager")
    penalty, expected = compiled(code), PENALTIES[name](code)
    torch.testing.assert_close(penalty, expected)
    gradients = (torch.autograd.grad(loss, code)[0] for loss in (penalty, expected))
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("name", PENALTIES)
@not_interpreted
def test_torch_func_grad_and_vmap(device, name):
    code = activities(3, 4, 6, device=device)
    leaf = code[0].clone().requires_grad_()
    (expected,) = torch.autograd.grad(PENALTIES[name](leaf), leaf)
    torch.testing.assert_close(torch.func.grad(PENALTIES[name])(code[0]), expected)
    batched = torch.func.vmap(PENALTIES[name])(code)
    torch.testing.assert_close(batched, torch.stack([PENALTIES[name](part) for part in code]))


def test_the_kl_gradient_is_not_written_for_every_row(kernel_device):
    code = activities(50, 6, device=kernel_device).requires_grad_()
    (gradient,) = torch.autograd.grad(kl_sparsity(code, 0.1), code)
    assert gradient.stride(0) == 0


@not_interpreted
def test_a_graph_that_was_retained_gives_its_gradient_twice(kernel_device):
    code = activities(5, 6, device=kernel_device).requires_grad_()
    for name in PENALTIES:
        penalty = PENALTIES[name](code)
        first, second = (torch.autograd.grad(penalty, code, retain_graph=True)[0] for _ in "12")
        assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: kl_sparsity([0.1], 0.1), TypeError, "code is a list; it takes a torch.Tensor"),
        (lambda: l1_sparsity(torch.ones(2, dtype=torch.int32)), TypeError, "code has dtype int32"),
        (lambda: l1_sparsity(torch.tensor(1.0)), ValueError, r"code has shape \[\]"),
        (lambda: kl_sparsity(torch.rand(2, 2), 0), ValueError, r"target is 0.*; .* \(0, 1\)"),
        (lambda: kl_sparsity(torch.rand(2, 2), 1.0), ValueError, r"target is 1.0; .* \(0, 1\)"),
        (lambda: kl_sparsity(torch.rand(2, 2), "a"), TypeError, "target is a str"),
    ],
)
def test_wrong_arguments_are_named(call, error, message):
    with pytest.raises(error, match=f"^{message}"):
        call()


def test_the_definition_is_the_equation():
    code = activities(8, 3, device="cpu").double()
    torch.testing.assert_close(eager.kl_sparsity(code, 0.07), in_torch("kl", code))
    torch.testing.assert_close(eager.l1_sparsity(code), in_torch("l1", code))
