"""A linear layer with its activation: every backend against the definition in float64."""

import itertools
import math

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from aefast.functional import linear_act
from aefast.ops.linear_act import eager
from aefast.ops.linear_act.op import ACTIVATIONS, FROM_PREACTIVATION
from tests.accuracy import assert_as_accurate_as_torch
from tests.backends import is_interpreted, not_interpreted, same_on_numba

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# (batch, inputs, outputs): ones, primes, multiples, long sums, wide and tall.
SHAPES = [(1, 1, 1), (5, 3, 7), (64, 64, 32), (33, 97, 31), (2, 1031, 3), (131, 5, 67)]


def layer(device, batch, inputs, outputs, dtype=torch.float32, bias=True):
    x = torch.randn(batch, inputs, device=device, dtype=dtype)
    weight = (torch.randn(outputs, inputs, device=device) * 2 / inputs**0.5).to(dtype)
    bias = torch.randn(outputs, device=device, dtype=dtype) if bias else None
    return [t.requires_grad_() if t is not None else None for t in (x, weight, bias)]


def results(function, tensors, activation, gradient):
    """The output and every gradient."""
    output = function(*tensors, activation)
    inputs = [tensor for tensor in tensors if tensor is not None]
    return output, *torch.autograd.grad(output, inputs, gradient.to(output))


def definition_in_float64(tensors, activation, gradient):
    doubles = [t.detach().double().requires_grad_() if t is not None else None for t in tensors]
    return results(eager.linear_act, doubles, activation, gradient)


def assert_right(tensors, activation, gradient):
    actual = results(linear_act, tensors, activation, gradient)
    same_dtype = results(eager.linear_act, tensors, activation, gradient)
    reference = definition_in_float64(tensors, activation, gradient)
    for kernel, torch_result, exact in zip(actual, same_dtype, reference, strict=True):
        assert_as_accurate_as_torch(kernel, torch_result, exact)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.interpreted(activation=["sigmoid"], shape=SHAPES[1:4])
@pytest.mark.interpreted(activation=ACTIVATIONS, shape=SHAPES[1:2])
def test_output_and_gradients_are_as_accurate_as_torchs(kernel_device, activation, shape):
    tensors = layer(kernel_device, *shape)
    assert_right(tensors, activation, torch.randn(shape[0], shape[2], device=kernel_device))


@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.interpreted(activation=["identity", "gelu"], dtype=[torch.bfloat16])
def test_half_precisions(kernel_device, activation, dtype):
    tensors = layer(kernel_device, 33, 47, 31, dtype)
    assert_right(tensors, activation, torch.randn(33, 31, device=kernel_device))


@pytest.mark.parametrize("activation", ["identity", "sigmoid", "gelu"])
@pytest.mark.interpreted(activation=["gelu"])
def test_without_bias(kernel_device, activation):
    tensors = layer(kernel_device, 9, 20, 11, bias=False)
    assert_right(tensors, activation, torch.randn(9, 11, device=kernel_device))


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512", "amx"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_instruction_set_is_as_accurate_as_torch(instruction_set, isa, activation):
    instruction_set(isa)
    assert_right(layer("cpu", 70, 130, 90), activation, torch.randn(70, 90))


@pytest.mark.parametrize(("level", "terms"), [("high", 2), ("medium", 1)])
@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512", "amx"])
def test_lower_precisions_stay_within_their_split(instruction_set, isa, level, terms):
    """Inputs split into t bf16 terms are off by 2^(-8 t) each, relatively, at the most."""
    instruction_set(isa)
    x, weight, bias = layer("cpu", 70, 130, 90)
    torch.set_float32_matmul_precision(level)
    try:
        output = linear_act(x, weight, bias)
    finally:
        torch.set_float32_matmul_precision("highest")
    exact = eager.linear_act(x.double(), weight.double(), bias.double(), "identity")
    bound = (x.double().abs() @ weight.double().abs().t()) * (2.5 * 2.0 ** (-8 * terms) + 1e-6)
    assert ((output - exact).abs() <= bound).all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_over_the_whole_range(kernel_device, activation):
    """Also far out, where an exponential under- or overflows."""
    points, powers = (21, 11) if is_interpreted(kernel_device) else (3001, 61)
    z = torch.cat([torch.linspace(-150, 150, points), torch.logspace(-30, 30, powers)])
    z = torch.cat([z, -z]).reshape(1, -1)
    x = z.to(kernel_device).t().contiguous().requires_grad_()
    weight = torch.ones(1, 1, device=kernel_device, requires_grad=True)
    assert_right([x, weight, None], activation, torch.ones(x.shape, device=kernel_device))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_nan_and_infinity_come_out_as_the_definitions_do_in_float64(kernel_device, activation):
    """In float64, because torch's vectorized float32 gelu makes NaN of infinity."""
    x = torch.tensor([[math.nan], [math.inf], [-math.inf], [1.0]], device=kernel_device)
    weight = torch.ones(1, 1, device=kernel_device)
    x.requires_grad_()
    gradient = torch.ones(4, 1, device=kernel_device)
    output = linear_act(x, weight, None, activation)
    (grad,) = torch.autograd.grad(output, x, gradient)
    exact, exact_grad, _ = definition_in_float64([x, weight, None], activation, gradient)
    torch.testing.assert_close(output, exact.float(), equal_nan=True)
    torch.testing.assert_close(grad, exact_grad.float(), equal_nan=True)


@pytest.mark.parametrize("activation", ["sigmoid", "gelu"])
@pytest.mark.parametrize("shape", [(0, 4, 3), (4, 0, 3), (4, 3, 0)], ids=str)
@pytest.mark.interpreted(activation=["gelu"])
def test_empty_tensors(device, activation, shape):
    tensors = layer(device, *shape)
    gradient = torch.randn(shape[0], shape[2], device=device)
    actual = results(linear_act, tensors, activation, gradient)
    expected = results(eager.linear_act, tensors, activation, gradient)
    for a, b in zip(actual, expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("leading", [(), (2, 3), (1, 2, 2)])
def test_any_leading_dimensions(device, leading):
    x, weight, bias = layer(device, 12, 5, 7)
    x = torch.randn(*leading, 5, device=device)
    output = linear_act(x, weight, bias, "tanh")
    torch.testing.assert_close(output, eager.linear_act(x, weight, bias, "tanh"))


@pytest.mark.parametrize("activation", ["identity", "sigmoid", "silu"])
@pytest.mark.interpreted(activation=["silu"])
def test_any_strides_of_inputs_and_gradient(kernel_device, activation):
    wide = torch.randn(40, 60, device=kernel_device)
    x = wide.t()[::2, 5:18].detach().requires_grad_()
    weight = torch.randn(13, 22, device=kernel_device).t()[:, :].detach()[::2].requires_grad_()
    bias = torch.randn(22, device=kernel_device)[::2].detach().requires_grad_()
    tensors = [x, weight, bias]
    dense = torch.randn(30, 11, device=kernel_device)
    transposed = torch.randn(11, 30, device=kernel_device).t()
    for gradient in (dense, transposed, dense[:1].expand(30, 11), dense[:, :1].expand(30, 11)):
        assert_right(tensors, activation, gradient)


def test_views_that_negate_lazily_are_read_negated(kernel_device):
    lazy = [
        torch.randn(shape, dtype=torch.complex64, device=kernel_device).conj().imag
        for shape in ((6, 4), (5, 4), (5,), (6, 5))
    ]
    plain = [tensor.clone().requires_grad_() for tensor in lazy]
    assert all(tensor.is_neg() for tensor in lazy)
    expected = results(linear_act, plain[:3], "sigmoid", plain[3].detach())
    output = linear_act(*lazy[:3], "sigmoid")
    torch.testing.assert_close(output, expected[0])
    x = plain[0]
    (grad,) = torch.autograd.grad(linear_act(x, *plain[1:3], "sigmoid"), x, lazy[3])
    torch.testing.assert_close(grad, expected[1])


@not_interpreted
def test_an_incoming_gradient_that_requires_a_gradient(kernel_device):
    tensors = layer(kernel_device, 6, 4, 5)
    gradient = torch.randn(6, 5, device=kernel_device, requires_grad=True)
    actual = torch.autograd.grad(linear_act(*tensors, "tanh"), tensors, gradient)
    expected = torch.autograd.grad(eager.linear_act(*tensors, "tanh"), tensors, gradient)
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@not_interpreted
def test_second_order_gradients(kernel_device, activation):
    """A contractive loss: the squared gradient by x, differentiated again by every input."""

    def twice(tensors, function):
        x, weight, bias = tensors
        output = function(x, weight, bias, activation)
        (grad,) = torch.autograd.grad(output.sum(), x, create_graph=True)
        return torch.autograd.grad((grad**2).sum(), tensors, allow_unused=True)

    tensors = layer(kernel_device, 9, 6, 5)
    doubles = [t.detach().double().requires_grad_() for t in tensors]
    actual, same_dtype = twice(tensors, linear_act), twice(tensors, eager.linear_act)
    for kernel, torch_result, exact in zip(
        actual, same_dtype, twice(doubles, eager.linear_act), strict=True
    ):
        if exact is None or not exact.abs().max():
            assert kernel is None or not kernel.abs().max()
        else:
            assert_as_accurate_as_torch(kernel, torch_result, exact)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_definitions_derivatives_are_its_activations(activation):
    z = torch.linspace(-6, 6, 241, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(eager.ACTIVATIONS[activation](z).sum(), z)
    torch.testing.assert_close(eager.DERIVATIVES[activation](z), grad)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradcheck_and_gradgradcheck_in_float64(activation):
    tensors = [t.detach().double().requires_grad_() for t in layer("cpu", 4, 3, 5)]
    assert gradcheck(lambda *t: linear_act(*t, activation), tensors)
    assert gradgradcheck(lambda *t: linear_act(*t, activation), tensors)


@pytest.mark.parametrize("activation", ["sigmoid", "gelu"])
@not_interpreted
def test_only_the_gradients_asked_for_are_made(device, activation):
    for needed in range(3):
        tensors = [t.detach() for t in layer(device, 6, 4, 5)]
        tensors[needed].requires_grad_()
        linear_act(*tensors, activation).sum().backward()
        assert [t.grad is not None for t in tensors] == [i == needed for i in range(3)]


@pytest.mark.parametrize("activation", ["sigmoid", "gelu"])
@not_interpreted
def test_one_and_two_threads_give_the_same_bits(kernel_device, activation, threads):
    shape = (40, 30, 20) if is_interpreted(kernel_device) else (500, 130, 190)
    tensors = layer(kernel_device, *shape)
    gradient = torch.randn(shape[0], shape[2], device=kernel_device)
    threads(1)
    serial = results(linear_act, tensors, activation, gradient)
    threads(2)
    for _ in range(2):
        for a, b in zip(results(linear_act, tensors, activation, gradient), serial, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("activation", ["sigmoid", "gelu"])
@same_on_numba
@not_interpreted
def test_opcheck(device, activation):
    tensors = layer(device, 6, 4, 5)
    torch.library.opcheck(torch.ops.aefast.linear_act, (*tensors, activation))


@pytest.mark.parametrize("activation", ["sigmoid", "gelu"])
@same_on_numba
@not_interpreted
def test_torch_compile_in_one_graph_gives_the_same(kernel_device, activation):
    tensors = layer(kernel_device, 6, 4, 5)
    gradient = torch.randn(6, 5, device=kernel_device)
    compiled = torch.compile(linear_act, fullgraph=True, backend="aot_eager")
    actual = results(compiled, tensors, activation, gradient)
    for a, b in zip(actual, results(linear_act, tensors, activation, gradient), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("activation", ["sigmoid", "gelu"])
@not_interpreted
def test_one_compiled_graph_serves_every_batch_size(kernel_device, activation):
    _, weight, bias = layer(kernel_device, 3, 4, 5)
    torch.compiler.reset()
    compiled = torch.compile(linear_act, fullgraph=True, backend="aot_eager")
    for batch in (3, 5, 8):
        x = torch.randn(batch, 4, device=kernel_device)
        expected = linear_act(x, weight, bias, activation)
        assert torch.equal(compiled(x, weight, bias, activation), expected)


def test_torch_compile_with_inductor():
    x, weight, bias = layer("cpu", 6, 4, 5)
    compiled = torch.compile(lambda x: linear_act(x, weight, bias, "tanh") * 2, fullgraph=True)
    torch.testing.assert_close(compiled(x), linear_act(x, weight, bias, "tanh") * 2)


def test_torch_export():
    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(4, 5)

        def forward(self, x):
            return linear_act(x, self.linear.weight, self.linear.bias, "sigmoid")

    x, module = torch.randn(6, 4), Layer()
    exported = torch.export.export(module, (x,))
    torch.testing.assert_close(exported.module()(x), module(x))


@not_interpreted
def test_autocast_casts_as_torchs_linear_does(device):
    x, weight, bias = layer(device, 6, 4, 5)
    with torch.autocast(device.type, torch.bfloat16):
        output = linear_act(x, weight, bias, "relu")
        expected = eager.linear_act(x, weight, bias, "relu")
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output, expected)
    output.sum().backward()
    assert weight.grad.dtype == torch.float32


@pytest.mark.parametrize("activation", ["sigmoid", "gelu"])
@not_interpreted
def test_torch_func_grad_and_vmap(device, activation):
    x, weight, bias = (t.detach() for t in layer(device, 6, 4, 5))

    def loss(weight, x, function):
        return function(x, weight, bias, activation).square().sum()

    for transform in (
        lambda f: torch.func.grad(lambda w: loss(w, x, f))(weight),
        lambda f: torch.func.vmap(lambda row: loss(weight, row[None], f))(x),
        lambda f: torch.func.vmap(torch.func.grad(lambda w, r: loss(w, r[None], f)), (None, 0))(
            weight, x
        ),
        lambda f: torch.func.jacrev(lambda w: f(x, w, bias, activation))(weight),
        lambda f: torch.func.jvp(lambda w: loss(w, x, f), (weight,), (weight,))[1],
        lambda f: torch.func.hessian(lambda r: loss(weight, r[None], f))(x[0]),
    ):
        torch.testing.assert_close(transform(linear_act), transform(eager.linear_act))


@not_interpreted
def test_forward_mode(device):
    x, weight, bias = (t.detach() for t in layer(device, 6, 4, 5))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        tangent = torch.autograd.forward_ad.unpack_dual(linear_act(dual, weight, bias, "tanh"))[1]
    torch.testing.assert_close(
        tangent, (1 - linear_act(x, weight, bias, "tanh") ** 2) * weight.sum(1)
    )


@not_interpreted
def test_batched_gradients(kernel_device):
    tensors = layer(kernel_device, 6, 4, 5)
    output = linear_act(*tensors, "sigmoid")
    gradients = torch.randn(3, 6, 5, device=kernel_device)
    batched = torch.autograd.grad(
        output, tensors, gradients, is_grads_batched=True, retain_graph=True
    )
    singles = [torch.autograd.grad(output, tensors, g, retain_graph=True) for g in gradients]
    for actual, expected in zip(batched, zip(*singles, strict=True), strict=True):
        torch.testing.assert_close(actual, torch.stack(expected))


def test_activations_that_keep_their_preactivation_are_those_whose_output_does_not_tell_it():
    """gelu and silu fall and rise again: two pre-activations give one output."""
    z = torch.linspace(-8, 8, 1001, dtype=torch.float64)
    falling = {a for a in ACTIVATIONS if (eager.ACTIVATIONS[a](z).diff() < 0).any()}
    assert falling == set(FROM_PREACTIVATION)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": None}, TypeError, "x is a NoneType; it takes a torch.Tensor"),
        ({"x": torch.ones(6, 4).long()}, TypeError, "x has dtype int64; it takes float32"),
        (
            {"weight": torch.ones(5, 4).double()},
            TypeError,
            "weight has dtype float64; it takes x's, float32",
        ),
        ({"bias": torch.ones(5).half()}, TypeError, "bias has dtype float16; it takes x's"),
        ({"bias": 1.0}, TypeError, "bias is a float; it takes a torch.Tensor"),
        ({"weight": torch.ones(4)}, ValueError, r"weight has shape \[4\]; it takes \[H, D\]"),
        (
            {"x": torch.ones(6, 3)},
            ValueError,
            r"x has shape \[6, 3\]; with weight's shape \[5, 4\] it takes \[..., 4\]",
        ),
        ({"x": torch.tensor(1.0)}, ValueError, r"x has shape \[\]"),
        (
            {"bias": torch.ones(4)},
            ValueError,
            r"bias has shape \[4\]; with weight's shape \[5, 4\] it takes \[5\]",
        ),
        ({"bias": torch.ones(5, 1)}, ValueError, r"bias has shape \[5, 1\]"),
        (
            {"weight": torch.ones(5, 4, device="meta")},
            ValueError,
            "weight is on meta; it takes x's device, cpu",
        ),
        ({"activation": "swish"}, ValueError, "activation is 'swish'; it takes one of identity"),
        ({"activation": torch.relu}, ValueError, "activation is <built-in"),
    ],
)
def test_bad_input_is_named_at_the_door(change, error, message):
    arguments = {"x": torch.ones(6, 4), "weight": torch.ones(5, 4), "bias": torch.ones(5)}
    with pytest.raises(error, match=message):
        linear_act(**arguments | {"activation": "relu"} | change)


def change_before_backward(function, needed, changed, activation, device, twice):
    """The gradients by those of x, weight and bias that need one, where one of the three is changed
    in place between the passes; or None where that is an error."""
    torch.manual_seed(0)
    leaves = layer(device, 4, 3, 5)
    tensors = [
        leaf * 1 if need else leaf.detach() for leaf, need in zip(leaves, needed, strict=True)
    ]
    output = function(*tensors, activation)
    with torch.no_grad():
        tensors[changed].mul_(2)
    wanted = [leaf for leaf, need in zip(leaves, needed, strict=True) if need]
    try:
        gradients = torch.autograd.grad(output.square().sum(), wanted, create_graph=twice)
        if twice:
            total = sum(gradient.square().sum() for gradient in gradients)
            gradients = torch.autograd.grad(total, wanted, materialize_grads=True)
    except RuntimeError as error:
        if "modified by an inplace operation" in str(error):
            return None
        raise
    return gradients


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("changed", [0, 1, 2], ids=["x", "weight", "bias"])
@pytest.mark.parametrize("needed", [n for n in itertools.product([0, 1], repeat=3) if any(n)])
@pytest.mark.parametrize("activation", ["sigmoid", "gelu"])
@not_interpreted
def test_what_pytorch_lets_change_between_the_passes_may(
    kernel_device, activation, needed, changed, twice
):
    """Of a layer with frozen parts; what backward reads is refused as PyTorch refuses it."""
    call = needed, changed, activation, kernel_device, twice
    actual = change_before_backward(linear_act, *call)
    expected = change_before_backward(eager.linear_act, *call)
    assert (actual is None) == (expected is None)
    for kernel, defined in zip(actual or (), expected or (), strict=True):
        torch.testing.assert_close(kernel, defined, rtol=1e-4, atol=1e-5)
