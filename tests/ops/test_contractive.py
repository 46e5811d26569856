"""The contractive penalty, the Jacobian and its tangents, against the definition in float64."""

import contextlib
import math
from itertools import pairwise

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.func import jacrev, vmap
from torch.utils.flop_counter import FlopCounterMode

from aefast import capture, use_backend
from aefast.functional import contractive_penalty, jacobian, tangents
from aefast.ops.contractive import eager, passes, primitives, rows, singular_vectors, triton
from aefast.ops.contractive.settings import EncoderLayer
from aefast.ops.linear_act.op import ACTIVATIONS
from aefast.ops.shared import triton_gemm
from tests.accuracy import assert_as_accurate_as_torch_on_average
from tests.backends import is_interpreted, not_interpreted

# The widths of x and of every layer: narrowing, widening, and both; one to four layers.
ENCODERS = [
    (1, 1),
    (13, 7),
    (7, 31),
    (20, 13, 7),
    (5, 20, 30),
    (30, 41, 4),
    (3, 9, 40, 50),
    (33, 20, 11, 5),
    (8, 40, 6, 7, 5),
]
OPTIONS = {
    "exact": {},
    "hutchinson": {"method": "hutchinson", "probes": 3},
    "hessian": {"hessian_noise": 0.3, "hessian_weight": 0.7},
    "both": {"method": "hutchinson", "probes": 2, "hessian_noise": 0.3},
}
SOME_OPTIONS = [
    pytest.param(options, id=name, marks=[pytest.mark.slow] * (name in ("hutchinson", "hessian")))
    for name, options in OPTIONS.items()
]

# For what looks at an op from outside: two layers have a list of weights, and one is a case of it.
ONE_LAYER_OR_TWO = [pytest.param((9, 7), marks=pytest.mark.slow), (9, 7, 6)]


@pytest.fixture(autouse=True)
def gram_at_any_size(monkeypatch):
    """Small cases take the way of large ones: test_sizes.py and others take their own."""
    monkeypatch.setattr(rows, "LEAST_SAVED", -(2**62))


@pytest.fixture
def small_panels(monkeypatch):
    """Panels of 16 samples, so that small batches have several."""

    def panels(self, batch):
        return [slice(start, start + 16) for start in range(0, batch, 16)]

    monkeypatch.setattr(rows.Norms, "_panels", panels)


def encoder(device, widths, batch=64, dtype=torch.float32, bias=True):
    """x, weights and biases: leaves. Few units are saturated, where a slope is all rounding."""

    def leaf(*shape, scale=1.0):
        return (torch.randn(*shape, device=device) * scale).to(dtype).requires_grad_()

    pairs = list(pairwise(widths))
    weights = [leaf(high, low, scale=0.7 / low**0.5) for low, high in pairs]
    biases = [leaf(high, scale=0.3) if bias else None for _, high in pairs]
    return leaf(batch, widths[0]), weights, biases


def doubled(inputs):
    def leaf(tensor):
        return None if tensor is None else tensor.detach().double().requires_grad_()

    x, weights, biases = inputs
    return leaf(x), [leaf(w) for w in weights], [leaf(b) for b in biases]


def leaves(inputs):
    x, weights, biases = inputs
    return [tensor for tensor in (x, *weights, *biases) if tensor is not None]


def results(inputs, activation="sigmoid", code_weight=0.3, **options):
    """Penalty, code and every gradient of a sum that weighs each sample differently."""
    x, weights, biases = inputs
    penalty, code = contractive_penalty(
        x, weights, biases, activation, return_code=True, seed=7, row_offset=3, **options
    )
    share = torch.linspace(0.5, 2, max(len(x), 1), dtype=x.dtype, device=x.device)[: len(x)]
    total = (share * penalty).sum() + code_weight * code.square().sum()
    return penalty, code, *torch.autograd.grad(total, leaves(inputs))


def assert_right(inputs, *arguments, **options):
    actual = results(inputs, *arguments, **options)
    with use_backend("eager"):
        same_dtype = results(inputs, *arguments, **options)
        reference = results(doubled(inputs), *arguments, **options)
    for kernel, torch_result, exact in zip(actual, same_dtype, reference, strict=True):
        assert_as_accurate_as_torch_on_average(kernel, torch_result, exact)


def skip_when_interpreted(device, skipped):
    if is_interpreted(device) and skipped:
        pytest.skip("the interpreter is slow, and the case is the other tests'")


@pytest.mark.parametrize("widths", ENCODERS, ids=str)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.interpreted(widths=[(13, 7)], options=[OPTIONS["exact"]])
@pytest.mark.interpreted(widths=[(20, 13, 7)], options=[OPTIONS["exact"], OPTIONS["both"]])
def test_penalty_code_and_gradients_are_as_accurate_as_torchs(
    kernel_device, small_panels, widths, options
):
    some = widths in ((13, 7), (20, 13, 7), (5, 20, 30)) or (len(widths) == 4 and not options)
    skip_when_interpreted(kernel_device, not some)
    batch = 32 if is_interpreted(kernel_device) else 64
    assert_right(encoder(kernel_device, widths, batch), "tanh", **options)


@not_interpreted
@pytest.mark.parametrize("seed", [0, 1])
def test_the_gradients_of_many_samples_lose_nothing_to_what_they_share(kernel_device, seed):
    """Errors of single rows average out. Those of W Wt, which all rows share, do not."""
    torch.manual_seed(seed)
    x = torch.rand(512, 128, device=kernel_device)
    _, weights, biases = encoder(kernel_device, (128, 96, 48))

    def gradients(dtype):
        leaves = [tensor.detach().to(dtype).requires_grad_() for tensor in (*weights, *biases)]
        options = {"method": "hutchinson", "probes": 8, "seed": 3}
        contractive_penalty(x.to(dtype), leaves[:2], leaves[2:], **options).mean().backward()
        return [leaf.grad.double() for leaf in leaves]

    actual = gradients(torch.float32)
    with use_backend("eager"):
        same_dtype, exact = gradients(torch.float32), gradients(torch.float64)
    for kernel, torchs, reference in zip(actual, same_dtype, exact, strict=True):
        assert (kernel - reference).norm() <= 2 * (torchs - reference).norm()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("widths", [(9, 7), (9, 7, 6)], ids=str)
@pytest.mark.interpreted(activation=["sigmoid", "gelu"])
def test_every_activation(kernel_device, activation, widths):
    skip_when_interpreted(kernel_device, len(widths) > 2)
    assert_right(encoder(kernel_device, widths), activation)


@not_interpreted
def test_an_activation_for_each_layer(kernel_device):
    assert_right(encoder(kernel_device, (9, 7, 6)), ["gelu", "identity"])


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512", "amx"])
@pytest.mark.parametrize("widths", [(70, 90), (90, 150, 40), (9, 60, 130)], ids=str)
@pytest.mark.parametrize("activation", ["sigmoid", "silu"])
def test_every_instruction_set(instruction_set, small_panels, isa, widths, activation):
    instruction_set(isa)
    assert_right(encoder("cpu", widths, batch=37), activation)


@pytest.mark.parametrize("batch", [1, 31, 33, 70])
def test_a_wide_first_layer_takes_its_gram_matrix_in_parts(batch):
    with use_backend("cpp"):
        assert rows.Gram(primitives.PenaltyPrimitives(), torch.randn(300, 5)).blocks[-1] == slice(
            256, 300
        )
        assert_right(encoder("cpu", (310, 300, 6), batch))


@pytest.mark.parametrize("method", ["exact", "hutchinson"])
@pytest.mark.interpreted(method=["exact"])
def test_rows_that_the_first_weight_cancels_keep_their_accuracy(kernel_device, method):
    """One direction of W_1 is 1,000 times the others, and W_2 is orthogonal to it: through the Gram
    matrix three digits would be left."""
    hidden, visible = (64, 80) if is_interpreted(kernel_device) else (512, 784)
    x = torch.randn(8, visible, device=kernel_device) / 100
    direction = torch.ones(hidden, 1, device=kernel_device) / hidden**0.5
    first = torch.randn(hidden, visible, device=kernel_device) / visible**0.5
    first += 1000 * direction * torch.randn(visible, device=kernel_device) / visible**0.5
    second = torch.randn(16, hidden, device=kernel_device) / hidden**0.5
    second -= second.mean(1, keepdim=True)
    weights = [(first / 20).requires_grad_(), second.requires_grad_()]
    inputs = x.requires_grad_(), weights, [None, None]
    options = {} if method == "exact" else {"method": method, "probes": 2}
    assert_right(inputs, "identity", **options)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.interpreted(dtype=[torch.bfloat16])
def test_half_precisions(kernel_device, dtype):
    assert_right(encoder(kernel_device, (31, 27), 40, dtype))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("widths", [w for w in ENCODERS if w != (1, 1)], ids=str)
def test_it_is_the_norm_of_what_jacrev_makes(activation, widths):
    x, weights, biases = doubled(encoder("cpu", widths))

    def encode(row):
        for weight, bias in zip(weights, biases, strict=True):
            row = eager.ACTIVATIONS[activation](weight @ row + bias)
        return row

    expected = vmap(jacrev(encode))(x)
    torch.testing.assert_close(jacobian(x, weights, biases, activation), expected)
    norms = expected.square().sum((1, 2))
    torch.testing.assert_close(contractive_penalty(x, weights, biases, activation), norms)


@pytest.mark.parametrize(
    "widths", [(3, 4), (3, 4, 2), pytest.param((2, 3, 4), marks=pytest.mark.slow)], ids=str
)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize(
    "activation", ["sigmoid", pytest.param("softplus", marks=pytest.mark.slow)]
)
def test_gradcheck_and_gradgradcheck_in_float64(widths, options, activation):
    inputs = doubled(encoder("cpu", widths, batch=2))
    count = len(widths) - 1

    def penalty_and_code(x, *parameters):
        weights, biases = parameters[:count], parameters[count:]
        return contractive_penalty(
            x, weights, biases, activation, return_code=True, seed=1, **options
        )

    assert gradcheck(penalty_and_code, leaves(inputs))
    assert gradgradcheck(penalty_and_code, leaves(inputs))


@pytest.mark.parametrize("widths", [(9, 7), (9, 7, 6)], ids=str)
@not_interpreted
def test_gradients_of_gradients_are_the_definitions(kernel_device, widths):
    inputs = encoder(kernel_device, widths)

    def twice(inputs):
        x, weights, biases = inputs
        penalty = contractive_penalty(x, weights, biases)
        first = torch.autograd.grad(penalty.sum(), leaves(inputs), create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), leaves(inputs))

    actual = twice(inputs)
    with use_backend("eager"):
        exact = twice(doubled(inputs))
    for kernel, reference in zip(actual, exact, strict=True):
        torch.testing.assert_close(kernel, reference.float(), rtol=1e-4, atol=1e-5)


def dependent(x, weight):
    """x is made from a weight, and the weight serves twice."""
    return contractive_penalty(torch.tanh(x @ weight), [weight, weight], None).sum()


@pytest.mark.parametrize("traced", [False, True])
def test_tensors_that_depend_on_each_other_are_counted_once(traced):
    x, weight = torch.randn(5, 6), torch.randn(6, 6).requires_grad_()

    def gradients(x, weight):
        total = dependent(x, weight)
        (first,) = torch.autograd.grad(total, weight, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), weight)
        return first, second

    with FlopCounterMode(display=False) if traced else contextlib.nullcontext():
        actual = gradients(x, weight)
    (plain,) = torch.autograd.grad(dependent(x, weight), weight)
    exact = gradients(x.double(), weight.detach().double().requires_grad_())
    torch.testing.assert_close(plain, exact[0].float())
    for kernel, reference in zip(actual, exact, strict=True):
        torch.testing.assert_close(kernel, reference.float(), rtol=1e-4, atol=1e-5)
    functional = torch.func.grad(lambda weight: dependent(x, weight))(weight.detach())
    torch.testing.assert_close(functional, exact[0].float())


def test_a_hook_on_an_input_runs_once():
    gradients = []
    for create_graph in (False, True):
        x = torch.linspace(-1, 1, 35).reshape(7, 5).requires_grad_()
        hooked = x * 1.0
        hooked.register_hook(lambda gradient: 2 * gradient)
        penalty = contractive_penalty(hooked, torch.ones(4, 5), torch.zeros(4)).sum()
        gradients += torch.autograd.grad(penalty, x, create_graph=create_graph)
    torch.testing.assert_close(gradients[1], gradients[0])


@pytest.mark.parametrize("magnitude", [1e3, 2e19, 1e30])
@pytest.mark.interpreted(magnitude=[2e19])
def test_far_from_zero_gelu_is_straight(device, magnitude):
    x = torch.full((2, 1), magnitude, device=device, requires_grad=True)
    penalty = contractive_penalty(x, torch.ones(1, 1, device=device), None, "gelu")
    (gradient,) = torch.autograd.grad(penalty.sum(), x)
    assert (penalty == 1).all()
    assert not gradient.any()


def test_relu_at_zero_is_flat_as_torchs_is(device):
    weight = torch.eye(3, device=device)
    x = torch.tensor([[-1.0, 0.0, 2.0]], device=device)
    assert contractive_penalty(x, weight, None, "relu").item() == 1
    assert contractive_penalty(x, [weight, weight], None, "relu").item() == 1


def test_relu_has_no_gradient_by_x(device):
    x, weights, biases = encoder(device, (5, 4))
    frozen = [w.detach() for w in weights]
    penalty = contractive_penalty(x, frozen, [b.detach() for b in biases], "relu")
    if penalty.requires_grad:
        (gradient,) = torch.autograd.grad(penalty.sum(), x)
        assert not gradient.any()


@pytest.mark.parametrize("widths", [(6, 5), (6, 8, 5)], ids=str)
@not_interpreted
def test_the_estimate_is_unbiased_and_its_error_is_honest(device, widths):
    """1,000 estimates of one sample: their mean within four of its own standard errors."""
    skip_when_interpreted(device, skipped=len(widths) > 2)
    _, weights, biases = encoder(device, widths)
    x = torch.randn(1, 6, device=device).expand(1000, 6)
    with torch.no_grad():
        exact = contractive_penalty(x[:1], weights, biases)
        estimate, error = contractive_penalty(
            x, weights, biases, method="hutchinson", probes=8, return_error=True, seed=5
        )
    spread = estimate.std()
    assert abs(estimate.mean() - exact) < 4 * spread / math.sqrt(1000)
    assert 0.9 < error.square().mean().sqrt() / spread < 1.1


def test_more_probes_shrink_the_error(device):
    skip_when_interpreted(device, skipped=True)
    x, weights, biases = encoder(device, (6, 5), batch=200)
    errors = [
        contractive_penalty(
            x, weights, biases, method="hutchinson", probes=n, return_error=True, seed=2
        )[1].mean()
        for n in (4, 64)
    ]
    assert 3 < errors[0] / errors[1] < 5


@pytest.mark.parametrize("options", list(OPTIONS.values())[1:], ids=list(OPTIONS)[1:])
@not_interpreted
def test_a_split_batch_draws_what_the_whole_one_does(device, options):
    x, weights, biases = encoder(device, (6, 5, 4), batch=7)

    def penalty(part, row_offset):
        return contractive_penalty(part, weights, biases, seed=9, row_offset=row_offset, **options)

    whole = penalty(x, 0)
    inputs = torch.cat([penalty(x[:3], 0), penalty(x[3:], 3)])
    torch.testing.assert_close(inputs, whole)
    assert not torch.equal(penalty(x, 1), whole)


@not_interpreted
def test_torchs_seed_governs(device):
    x, weights, biases = encoder(device, (6, 5), batch=7)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(contractive_penalty(x, weights, biases, method="hutchinson", probes=4))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_backends_draw_the_same_probes_and_noise(kernel_device):
    inputs = encoder(kernel_device, (12, 9, 8))
    options = {"method": "hutchinson", "probes": 2, "hessian_noise": 0.5, "seed": 3}
    actual = contractive_penalty(*inputs, **options)
    with use_backend("eager"):
        torch.testing.assert_close(actual, contractive_penalty(*inputs, **options))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_same_bits_again_and_for_any_number_of_threads(threads, our_product, options):
    inputs = encoder("cpu", (90, 150, 40), batch=70)
    actual = []
    with use_backend("cpp"):
        for count in (1, 2, 3, 2):
            threads(count)
            actual.append(results(inputs, **options))
    for other in actual[1:]:
        assert all(torch.equal(a, b) for a, b in zip(actual[0], other, strict=True))


def test_any_strides(kernel_device):
    wide = torch.randn(40, 26, device=kernel_device)
    x = wide.t()[::2, 3:16].detach().requires_grad_()
    weights = [
        (torch.randn(13, 22, device=kernel_device).t()[::2] / 3).detach().requires_grad_(),
        (torch.randn(11, 14, device=kernel_device).t()[::2] / 3).detach().requires_grad_(),
    ]
    biases = [
        torch.randn(22, device=kernel_device)[::2].detach().requires_grad_(),
        torch.randn(1, device=kernel_device).expand(7).detach().requires_grad_(),
    ]
    assert_right((x, weights, biases))
    assert_right((x, weights[:1], biases[:1]))


@pytest.mark.parametrize("leading", [(), (3,), (2, 1, 3)], ids=str)
@pytest.mark.parametrize("widths", [(5, 4), (5, 4, 3)], ids=str)
@not_interpreted
def test_any_leading_dimensions(device, leading, widths):
    skip_when_interpreted(device, leading != (2, 1, 3) or len(widths) > 2)
    _, weights, biases = encoder(device, widths)
    x = torch.randn(*leading, 5, device=device)
    penalty, code, error = contractive_penalty(
        x, weights, biases, method="hutchinson", probes=2, return_code=True, return_error=True
    )
    assert penalty.shape == error.shape == leading
    assert code.shape == (*leading, widths[-1])
    assert contractive_penalty(x, weights, biases).shape == leading
    assert jacobian(x, weights, biases).shape == (*leading, widths[-1], 5)
    assert tangents(x, weights, biases, n=2).vectors.shape == (*leading, 2, 5)


@pytest.mark.parametrize("widths", [(5, 4), (5, 4, 3), (0, 3), (4, 0)], ids=str)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.interpreted(options=[{}])
def test_no_rows_and_no_columns(device, widths, options):
    for batch in (0, 3):
        inputs = encoder(device, [max(w, 0) for w in widths], batch) if 0 not in widths else None
        if inputs is None:
            low, high = widths
            x = torch.zeros(batch, low, device=device, requires_grad=True)
            weight = torch.zeros(high, low, device=device, requires_grad=True)
            inputs = x, [weight], [torch.zeros(high, device=device, requires_grad=True)]
        if batch == 0 or 0 in widths:
            penalty, *rest = results(inputs, **options)
            assert penalty.shape == (batch,)
            assert not penalty.any()
            assert all(torch.isfinite(t).all() for t in rest)


@pytest.mark.parametrize("widths", [(6, 5), (6, 5, 4)], ids=str)
@not_interpreted
def test_only_the_gradients_asked_for_are_made(device, widths):
    skip_when_interpreted(device, len(widths) > 2)
    inputs = encoder(device, widths)
    expected = results(inputs, code_weight=0.0)[2:]
    for chosen in range(len(leaves(inputs))):
        x, *parameters = (leaf.detach().clone() for leaf in leaves(inputs))
        tensors = [x, *parameters]
        tensors[chosen].requires_grad_()
        count = len(widths) - 1
        penalty = contractive_penalty(tensors[0], tensors[1 : 1 + count], tensors[1 + count :])
        share = torch.linspace(0.5, 2, len(x), device=x.device)
        (share * penalty).sum().backward()
        for index, tensor in enumerate(tensors):
            assert (tensor.grad is not None) == (index == chosen)
        torch.testing.assert_close(tensors[chosen].grad, expected[chosen])


def test_parameter_lists_and_iterators():
    x, weights, biases = encoder("cpu", (9, 7, 6))
    expected = contractive_penalty(x, weights, biases)
    lists = torch.nn.ParameterList(weights), torch.nn.ParameterList(biases)
    assert torch.equal(contractive_penalty(x, *lists), expected)
    assert torch.equal(contractive_penalty(x, iter(weights), iter(biases)), expected)
    without = contractive_penalty(x, weights, [None, None])
    assert torch.equal(contractive_penalty(x, lists[0], None), without)


def test_without_biases(kernel_device):
    assert_right(encoder(kernel_device, (9, 7, 6), bias=False))
    x, weights, _ = encoder(kernel_device, (9, 7))
    actual = contractive_penalty(x, weights[0], None)
    torch.testing.assert_close(actual, contractive_penalty(x, weights, None))


@not_interpreted
def test_the_incoming_gradient_may_come_twice(device):
    inputs = encoder(device, (9, 7, 6))
    penalty = contractive_penalty(*inputs)
    first = torch.autograd.grad(penalty.sum(), leaves(inputs), retain_graph=True)
    second = torch.autograd.grad(-3 * penalty.sum(), leaves(inputs))
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(b, -3 * a)


@not_interpreted
def test_a_code_changed_in_place_is_noticed(kernel_device):
    inputs = encoder(kernel_device, (9, 7))
    penalty, code = contractive_penalty(*inputs, return_code=True)
    with torch.no_grad():
        code.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        penalty.sum().backward()


@not_interpreted
def test_the_codes_gradient_alone(device):
    inputs = encoder(device, (9, 7, 6))
    _, code = contractive_penalty(*inputs, return_code=True)
    actual = torch.autograd.grad(code.sum(), leaves(inputs))
    exact = doubled(inputs)
    with use_backend("eager"):
        _, code = contractive_penalty(*exact, return_code=True)
    for a, b in zip(actual, torch.autograd.grad(code.sum(), leaves(exact)), strict=True):
        torch.testing.assert_close(a, b.float())


def test_backward_runs_where_forward_did():
    inputs = encoder("cpu", (9, 7, 6))
    with use_backend("cpp"):
        penalty = contractive_penalty(*inputs).sum()
    with use_backend("eager"):
        first = torch.autograd.grad(penalty, leaves(inputs), retain_graph=True)
        second = torch.autograd.grad(penalty, leaves(inputs))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("widths", ONE_LAYER_OR_TWO, ids=str)
@pytest.mark.parametrize("options", SOME_OPTIONS)
@pytest.mark.parametrize("bias", ["all", "the first", pytest.param("none", marks=pytest.mark.slow)])
def test_compiled_in_one_graph(widths, options, bias):
    inputs = encoder("cpu", widths)
    if bias == "none":
        inputs = (*inputs[:2], [None] * len(inputs[2]))
    elif bias == "the first":
        inputs = (*inputs[:2], [inputs[2][0], *[None] * len(inputs[2][1:])])

    def penalty(x, weights, biases):
        penalty, code = contractive_penalty(x, weights, biases, return_code=True, seed=3, **options)
        return penalty.sum() + code.square().sum()

    torch.compiler.reset()
    compiled = torch.compile(penalty, fullgraph=True, backend="aot_eager")
    actual, expected = compiled(*inputs), penalty(*inputs)
    torch.testing.assert_close(actual, expected)
    pairs = zip(
        torch.autograd.grad(actual, leaves(inputs)),
        torch.autograd.grad(expected, leaves(inputs)),
        strict=True,
    )
    for a, b in pairs:
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", ["cpp", "eager"])
@pytest.mark.parametrize("widths", ONE_LAYER_OR_TWO, ids=str)
@pytest.mark.parametrize("options", SOME_OPTIONS)
def test_opcheck(name, widths, options):
    x, weights, biases = encoder("cpu", widths)
    probes = options.get("probes", 0)
    noise = options.get("hessian_noise", 0.0)
    settings = (",".join(["tanh"] * len(weights)), probes, noise, 0.7, torch.tensor(3), 2)
    with use_backend(name):
        forward = torch.ops.aefast.contractive_penalty
        torch.library.opcheck(forward, (x, weights, biases, *settings, None))
        detached = [x.detach()], [w.detach() for w in weights], [b.detach() for b in biases]
        (x,), weights, biases = detached
        needs_grad = [True] * (1 + 2 * len(weights))
        grads = torch.randn(len(x)), torch.randn(len(x), weights[-1].shape[0])
        torch.library.opcheck(
            torch.ops.aefast.contractive_penalty_backward,
            (*grads, x, weights, biases, *settings, needs_grad, None),
        )


def test_the_registered_op_is_differentiated_twice_under_a_dispatch_mode():
    inputs = encoder("cpu", (9, 7, 6))

    def gradients():
        penalty = contractive_penalty(*inputs).sum()
        first = torch.autograd.grad(penalty, leaves(inputs), create_graph=True)
        total = penalty + sum(gradient.square().sum() for gradient in first)
        return torch.autograd.grad(total, leaves(inputs))

    with FlopCounterMode(display=False):
        traced = gradients()
    for actual, expected in zip(traced, gradients(), strict=True):
        torch.testing.assert_close(actual, expected)


@not_interpreted
def test_under_torch_func_and_batched_gradients(kernel_device):
    x, weights, biases = (part for part in encoder(kernel_device, (6, 5)))
    weight, bias = weights[0].detach(), biases[0].detach()
    x = x.detach()
    one = torch.func.grad(lambda v: contractive_penalty(v, weight, bias).sum())(x)
    each = vmap(torch.func.grad(lambda v: contractive_penalty(v, weight, bias)))(x)
    torch.testing.assert_close(each, one)
    leaf = x.clone().requires_grad_()
    penalty = contractive_penalty(leaf, weight, bias)
    identity = torch.eye(len(x), device=kernel_device)
    (batched,) = torch.autograd.grad(penalty, leaf, identity, is_grads_batched=True)
    torch.testing.assert_close(batched.sum(0), one)


def test_autocast_computes_as_the_definition_does():
    inputs = encoder("cpu", (16, 8))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = contractive_penalty(*inputs)
    torch.testing.assert_close(actual.float(), contractive_penalty(*inputs), rtol=5e-2, atol=5e-2)


@pytest.mark.parametrize("widths", [(12, 9), (9, 12), (12, 20, 8)], ids=str)
@pytest.mark.parametrize("widest", [0, 128], ids=["by iteration", "by Gram matrix"])
@not_interpreted
def test_tangents_are_the_leading_singular_vectors(device, widths, widest, monkeypatch):
    skip_when_interpreted(device, widths != (12, 9))
    monkeypatch.setattr(singular_vectors, "WIDEST_GRAM", widest)
    monkeypatch.setattr(singular_vectors, "PANEL_BYTES", 8 * 3 * 9 * 20)
    x, weights, biases = encoder(device, widths, batch=4)
    vectors, values = tangents(x, weights, biases, "tanh", 3)
    with use_backend("eager"):
        _, exact, right = torch.linalg.svd(jacobian(*doubled((x, weights, biases)), "tanh"))
    torch.testing.assert_close(values.double(), exact[:, :3], rtol=1e-4, atol=1e-5)
    overlap = (vectors.double() * right[:, :3]).sum(2).abs()
    torch.testing.assert_close(overlap, torch.ones_like(overlap), rtol=0, atol=1e-4)
    largest = vectors.gather(2, vectors.abs().argmax(2, keepdim=True))
    assert (largest > 0).all()


@pytest.mark.parametrize("widths", [(12, 9), (9, 12), (9, 20, 12)], ids=str)
def test_a_gram_matrix_is_where_the_weights_are(widths):
    x, *_ = inputs = encoder("cpu", widths, batch=2)
    with torch.device("meta"):
        actual = singular_vectors.leading_directions(x, layers_of(inputs), 1, 100)
    assert all(map(torch.equal, actual, tangents(*inputs, activation="tanh")))


def test_other_devices_take_the_iteration(monkeypatch):
    """Some have no float64."""
    taken = []

    def iteration(layers, slopes, n, *_):
        taken.append(n)
        return slopes[0].new_zeros(4, n, 12), slopes[0].new_zeros(4, n)

    monkeypatch.setattr(singular_vectors, "_by_iteration", iteration)
    tangents(*encoder("meta", (12, 9), batch=4))
    assert taken == [1]
    tangents(*encoder("cpu", (12, 9), batch=4))
    assert taken == [1]


def test_small_values_are_as_exact_as_the_largest():
    """Singular values that fall by ten orders of magnitude."""
    exact = torch.logspace(0, -10, 8, dtype=torch.float64)
    left, right = (torch.linalg.qr(torch.randn(n, 8, dtype=torch.float64)).Q for n in (8, 20))
    weight = (left * exact @ right.t()).float()
    _, values = tangents(torch.zeros(1, 20), weight, None, "identity", 8)
    torch.testing.assert_close(values[0].double(), exact, rtol=0, atol=1e-7)


def test_tangents_of_no_rows(device):
    vectors, values = tangents(
        torch.zeros(0, 6, device=device), torch.ones(4, 6, device=device), None
    )
    assert vectors.shape == (0, 1, 6)
    assert values.shape == (0, 1)


def test_tangents_of_a_flat_encoder_are_orthonormal_all_the_same(device):
    """Every unit saturated: the Jacobian is 0."""
    x = torch.full((2, 6), 100.0, device=device)
    vectors, values = tangents(x, torch.ones(4, 6, device=device), None, "sigmoid", 2)
    assert not values.any()
    identity = torch.eye(2, device=device).expand(2, 2, 2)
    torch.testing.assert_close(vectors @ vectors.transpose(1, 2), identity)


WRONG = [
    (lambda x, w, b: contractive_penalty(x.numpy(), w, b), TypeError, "x is a ndarray"),
    (lambda x, w, b: contractive_penalty(x.long(), w, b), TypeError, "x has dtype int64"),
    (lambda x, w, b: contractive_penalty(x, [w, w], [b, b]), ValueError,
     r"weights\[1\] has shape \[3, 4\]; with weights\[0\]'s shape \[3, 4\] it takes \[H, 3\]"),
    (lambda x, w, b: contractive_penalty(x, w.double(), b), TypeError, r"weights\[0\] has dtype"),
    (lambda x, w, b: contractive_penalty(x, w, b[:2]), ValueError, r"biases\[0\] has shape \[2\]"),
    (lambda x, w, b: contractive_penalty(x, [w], [b, b]), ValueError, "have 1, 2 and 1 entries"),
    (lambda x, w, b: contractive_penalty(x, [w], [b], ["tanh", "relu"]), ValueError,
     "activation has 2 entries; with 1 weights it takes a name, or 1 of them"),
    (lambda x, w, b: jacobian(x, [w], [b], torch.tensor(0.5)), TypeError, "activation is a Tensor"),
    (lambda x, w, b: contractive_penalty(x, w, b, 3), TypeError, "activation is a int"),
    (lambda x, w, b: contractive_penalty(x, 3, b), TypeError, "weights is a int"),
    (lambda x, w, b: contractive_penalty(x, [], []), ValueError, "at least one layer"),
    (lambda x, w, b: contractive_penalty(x, w, b, "swish"), ValueError, "one of identity, relu"),
    (lambda x, w, b: contractive_penalty(x, w, b, method="exakt"), ValueError, "exact, hutchinson"),
    (lambda x, w, b: contractive_penalty(x, w, b, probes=4), ValueError, "takes 'hutchinson'"),
    (lambda x, w, b: contractive_penalty(x, w, b, method="hutchinson", probes=0), ValueError,
     "probes is 0"),
    (lambda x, w, b: contractive_penalty(x, w, b, method="hutchinson", probes=2.5), TypeError,
     "probes is a float"),
    (lambda x, w, b: contractive_penalty(x, w, b, return_error=True), ValueError,
     "at least 2 probes"),
    (lambda x, w, b: contractive_penalty(x, w, b, hessian_noise=-1), ValueError,
     "hessian_noise is -1"),
    (lambda x, w, b: contractive_penalty(x, w, b, hessian_weight=math.nan), ValueError,
     "hessian_weight is nan"),
    (lambda x, w, b: contractive_penalty(x, w, b, seed=-1), ValueError, "seed is -1"),
    (lambda x, w, b: contractive_penalty(x, w, b, row_offset=2**46), ValueError, "row_offset is"),
    (lambda x, w, b: jacobian(x[:, :3], w, b), ValueError, "with x's shape"),
    (lambda x, w, b: tangents(x, w, b, n=4), ValueError, r"n is 4; .* an int in \[1, 3\]"),
    (lambda x, w, b: tangents(x, w, b, n=0), ValueError, "n is 0"),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "error", "message"), WRONG)
def test_bad_input_is_named(wrong, error, message):
    with pytest.raises(error, match=message):
        wrong(torch.zeros(2, 4), torch.zeros(3, 4), torch.zeros(3))


def test_the_way_of_the_fewest_products():
    def route(*widths, probes=0):
        layers = [
            EncoderLayer(torch.empty(high, low), None, "tanh") for low, high in pairwise(widths)
        ]
        actual = rows.route_of(layers, probes)
        return actual.from_code, actual.has_gram

    assert route(784, 512, 256) == (True, True)
    assert route(20, 512, 64, 256) == (False, False)
    assert route(100, 512, 10) == (True, False)
    assert route(784, 512, probes=4) == (True, True)
    assert route(20, 512, 256, probes=4) == (True, False)


def test_few_products_take_no_gram_matrix(monkeypatch):
    monkeypatch.undo()
    layers = layers_of(encoder("cpu", (64, 32, 16), batch=1))
    assert not rows.gram_pays(layers, 0, samples=32)
    assert rows.gram_pays(layers, 0, samples=128)
    assert not rows.gram_pays(layers, 4, samples=128)


def test_memory_stays_far_below_the_jacobians():
    """A batch's Jacobians would take 210 MB here; a panel's rows take 8."""
    layers = layers_of(encoder("cpu", (784, 512, 256), batch=256))
    route = rows.route_of(layers, 0)
    norms = rows.Norms(primitives.PenaltyPrimitives(), layers, 0, None, 1.0, route)
    samples = next(iter(norms._panels(256)))
    assert (samples.stop - samples.start) * 256 * 784 * 4 <= 8 << 20


def test_a_gpu_is_given_few_panels(monkeypatch):
    """Each of them some 30 launches: of 205 panels the GPU would wait for the host."""
    layers = layers_of(encoder("cpu", (784, 512, 256), batch=1))
    route = rows.route_of(layers, 0, may_take_gram=False)
    norms = rows.Norms(triton.primitives(), layers, 0, None, 1.0, route)
    monkeypatch.setattr(triton_gemm, "panel_bytes", lambda device: 80 * 10**9 // 128)
    assert len(list(norms._panels(4096))) == 6


def layers_of(inputs):
    _, weights, biases = inputs
    return [
        EncoderLayer(w.detach(), b.detach(), "tanh") for w, b in zip(weights, biases, strict=True)
    ]


def begin_capture(monkeypatch):
    """From here on as while a CUDA graph is captured, in which no answer can be waited for."""
    for module in (capture, passes):
        monkeypatch.setattr(module, "is_captured", lambda device: True)


@pytest.mark.parametrize("is_cancelled", [False, True], ids=["gram", "definition"])
@pytest.mark.parametrize("options", [OPTIONS["exact"], OPTIONS["both"]], ids=["exact", "both"])
def test_a_captured_penalty_has_the_bits_of_an_eager_one(is_cancelled, options, monkeypatch):
    """Whichever way the weights make the eager one take: a graph holds both."""
    x, weights, biases = encoder("cpu", (80, 64, 16), batch=8)
    if is_cancelled:  # one direction of W_1 is 1,000 times the others, and W_2 orthogonal to it
        with torch.no_grad():
            weights[0] += 1000 * torch.ones(64, 1) * torch.randn(80) / 80
            weights[1] -= weights[1].mean(1, keepdim=True)
    has_gram = []
    begin = rows.Norms.__init__

    def watched(norms, *arguments):
        has_gram.append(arguments[-1].has_gram)
        begin(norms, *arguments)

    monkeypatch.setattr(rows.Norms, "__init__", watched)
    with use_backend("cpp"):
        expected = results((x, weights, biases), "identity", **options)
        assert has_gram[-1] == (not is_cancelled)
        begin_capture(monkeypatch)
        actual = results((x, weights, biases), "identity", **options)
    assert set(has_gram[-2:]) == {True, False}
    assert all(map(torch.equal, actual, expected))


def test_tangents_cannot_be_captured(monkeypatch):
    x, weights, biases = encoder("cpu", (7, 5))
    begin_capture(monkeypatch)
    with pytest.raises(RuntimeError, match=r"^tangents waits for the GPU .* outside the capture$"):
        tangents(x, weights, biases, "tanh")
