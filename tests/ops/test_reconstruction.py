"""An autoencoder from its input to the loss: every backend against the definition in float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck
from torch.utils.flop_counter import FlopCounterMode

from aefast import backend, use_backend
from aefast.functional import autoencode, contractive_penalty, corrupt, reconstruction_loss
from aefast.ops.linear_act.op import ACTIVATIONS
from aefast.ops.reconstruction import eager, panels
from aefast.ops.reconstruction import op as reconstruction_op
from aefast.ops.reconstruction.settings import LossSettings, PerInput
from tests.accuracy import assert_as_accurate_as_torch
from tests.backends import is_interpreted, not_interpreted, same_on_numba

# (batch, visible, hidden): ones, primes, wide and narrow codes.
SHAPES = [(1, 1, 1), (5, 3, 7), (33, 47, 31), (70, 36, 40), (131, 5, 67)]
KINDS = [None, "masking", "salt_and_pepper", "gaussian"]
OUTPUTS = [("mse", activation) for activation in ACTIVATIONS] + [("bce", "sigmoid")]


@pytest.fixture
def small_panels(monkeypatch):
    """Panels of 32 rows, so that small batches have several."""
    whole = panels.panels_of
    monkeypatch.setattr(panels, "FEWEST_ROWS", 32)
    monkeypatch.setattr(panels, "panels_of", lambda x, hidden, _: whole(x, hidden, 0))


def autoencoder(device, batch, visible, hidden, dtype=torch.float32, tied=False, target=False):
    """The inputs: leaves, or None where tied or not used."""

    def leaf(*shape, scale=1.0):
        return (torch.randn(*shape, device=device) * scale).to(dtype).requires_grad_()

    return PerInput(
        torch.rand(batch, visible, device=device).to(dtype).requires_grad_(),
        leaf(hidden, visible, scale=2 / max(visible, 1) ** 0.5),
        leaf(hidden),
        None if tied else leaf(visible, hidden, scale=2 / max(hidden, 1) ** 0.5),
        leaf(visible),
        torch.rand(batch, visible, device=device).to(dtype).requires_grad_() if target else None,
    )


def call(inputs, **options):
    *tensors, target = inputs
    return reconstruction_loss(*tensors, target=target, **options)


def definition(
    inputs,
    *,
    activation="sigmoid",
    output_activation="identity",
    reconstruction="mse",
    corruption=None,
    corruption_level=0.0,
    reduction="mean",
    seed=0,
    row_offset=0,
    contraction=0.0,
):
    settings = LossSettings(
        activation,
        output_activation,
        reconstruction,
        corruption,
        corruption_level,
        seed,
        row_offset,
        contraction * inputs.x.shape[-1] if reduction == "mean" else contraction,
    )
    return eager.reconstruction_loss(inputs, settings, reduction)


def results(function, inputs, gradient=1.7, **options):
    """The loss and every gradient."""
    loss = function(inputs, **options)
    leaves = [tensor for tensor in inputs if tensor is not None]
    incoming = torch.full_like(loss, gradient)
    return loss, *torch.autograd.grad(loss, leaves, incoming)


def doubled(inputs):
    return PerInput(*(None if t is None else t.detach().double().requires_grad_() for t in inputs))


def assert_right(inputs, **options):
    actual = results(call, inputs, **options)
    same_dtype = results(definition, inputs, **options)
    reference = results(definition, doubled(inputs), **options)
    for kernel, torch_result, exact in zip(actual, same_dtype, reference, strict=True):
        assert_as_accurate_as_torch(kernel, torch_result, exact)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("reconstruction", ["mse", "bce"])
@pytest.mark.interpreted(shape=[(5, 3, 7)])
@pytest.mark.interpreted(shape=[(33, 47, 31)], tied=[True], reconstruction=["bce"])
def test_loss_and_gradients_are_as_accurate_as_torchs(
    kernel_device, small_panels, shape, tied, reconstruction
):
    inputs = autoencoder(kernel_device, *shape, tied=tied)
    assert_right(inputs, reconstruction=reconstruction, output_activation="sigmoid")


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("reconstruction", "output_activation"), OUTPUTS, ids="-".join)
@pytest.mark.interpreted(activation=["sigmoid"], output_activation=["identity", "gelu", "sigmoid"])
def test_every_activation(device, activation, reconstruction, output_activation):
    if is_interpreted(device) and activation not in ("sigmoid", "gelu"):
        pytest.skip("the interpreter is slow, and the activation is the other tests'")
    inputs = autoencoder(device, 9, 7, 6)
    assert_right(
        inputs,
        activation=activation,
        reconstruction=reconstruction,
        output_activation=output_activation,
    )


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512", "amx"])
@pytest.mark.parametrize(("reconstruction", "output_activation"), OUTPUTS, ids="-".join)
def test_every_instruction_set(
    instruction_set, small_panels, isa, reconstruction, output_activation
):
    instruction_set(isa)
    assert_right(
        autoencoder("cpu", 70, 130, 90),
        reconstruction=reconstruction,
        output_activation=output_activation,
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("target", [False, True], ids=["itself", "target"])
@pytest.mark.interpreted(kind=["masking"], tied=[True])
def test_corruption_is_what_corrupt_makes_of_the_whole_batch(
    kernel_device, small_panels, kind, tied, target
):
    """Loss and gradients, those of x and of the target among them."""
    if is_interpreted(kernel_device) and tied != target:
        pytest.skip("the interpreter is slow, and the case is the other backends'")
    inputs = autoencoder(kernel_device, 70, 13, 9, tied=tied, target=target)
    level = 0.0 if kind is None else 0.4
    assert_right(
        inputs, corruption=kind, corruption_level=level, seed=5, row_offset=3, activation="tanh"
    )
    if kind is not None:
        noisy = corrupt(inputs.x, kind, level, seed=5, row_offset=3)
        clean = inputs.x if inputs.target is None else inputs.target
        expected = call(inputs._replace(x=noisy, target=clean))
        actual = call(inputs, corruption=kind, corruption_level=level, seed=5, row_offset=3)
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("activation", ["sigmoid", "gelu", "relu", "identity"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_contraction_adds_the_penalty_of_what_the_encoder_sees(
    device, small_panels, activation, tied, reduction
):
    if is_interpreted(device) and (activation, tied, reduction) != ("gelu", True, "mean"):
        pytest.skip("the interpreter is slow, and the case is the other backends'")
    inputs = autoencoder(device, 70, 13, 9, tied=tied)
    options = {"activation": activation, "reduction": reduction, "seed": 4}
    options |= {"corruption": "masking", "corruption_level": 0.2}
    assert_right(inputs, contraction=0.4, **options)
    corrupted = corrupt(inputs.x, "masking", 0.2, seed=4)
    penalty = contractive_penalty(corrupted, *inputs[1:3], activation)
    penalty = penalty.mean() if reduction == "mean" else penalty.sum()
    actual = call(inputs, contraction=0.4, **options)
    torch.testing.assert_close(actual, call(inputs, **options) + 0.4 * penalty)


@pytest.mark.parametrize("name", ["cpp", "numba", "eager"])
def test_contraction_of_many_rows_is_as_near_to_float64_as_the_closed_form(name):
    """The squared slopes of 1024 rows are a sum of positive numbers, in which rounding adds up."""
    inputs = autoencoder("cpu", 1024, 60, 40)

    def closed_form(inputs):
        x, weight, bias, decoder_weight, decoder_bias, _ = inputs
        code = torch.sigmoid(F.linear(x, weight, bias))
        penalty = ((code * (1 - code)).square() * weight.square().sum(1)).sum(1)
        return F.mse_loss(F.linear(code, decoder_weight, decoder_bias), x) + penalty.mean()

    def gradient(function, inputs):
        return torch.autograd.grad(function(inputs), inputs.encoder_weight)[0]

    exact = gradient(closed_form, doubled(inputs))
    with use_backend(name):
        actual = gradient(lambda inputs: call(inputs, contraction=1.0), inputs)
    errors = [(g.double() - exact).norm() for g in (actual, gradient(closed_form, inputs))]
    assert errors[0] < 1.3 * errors[1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.interpreted(dtype=[torch.bfloat16])
def test_contraction_in_half_precisions(kernel_device, dtype):
    inputs = autoencoder(kernel_device, 40, 31, 27, dtype)
    assert_right(inputs, contraction=0.1, activation="tanh")


@pytest.mark.parametrize("name", PerInput._fields[:5])
@not_interpreted
def test_contraction_of_the_gradients_asked_for_alone(device, name):
    detached = PerInput(*(t.detach() for t in autoencoder(device, 40, 7, 6)[:5]), None)
    leaf = getattr(detached, name).clone().requires_grad_()
    call(detached._replace(**{name: leaf}), contraction=0.5).backward()
    exact = doubled(detached)
    (expected,) = torch.autograd.grad(definition(exact, contraction=0.5), getattr(exact, name))
    torch.testing.assert_close(leaf.grad, expected.float())


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(
    ("reconstruction", "output_activation"), [("mse", "tanh"), ("bce", "sigmoid")]
)
@pytest.mark.interpreted(reduction=["none"])
def test_reductions(device, reduction, reconstruction, output_activation):
    inputs = autoencoder(device, 12, 7, 5)
    assert_right(
        inputs,
        reduction=reduction,
        reconstruction=reconstruction,
        output_activation=output_activation,
    )


@not_interpreted
def test_cross_entropy_of_another_output_than_a_sigmoids_is_torchs(device):
    inputs = autoencoder(device, 6, 4, 5)
    inputs = inputs._replace(
        decoder_weight=inputs.decoder_weight.detach().abs().mul(0.1).requires_grad_(),
        decoder_bias=inputs.decoder_bias.detach().sigmoid().mul(0.2).requires_grad_(),
    )
    assert_right(inputs, reconstruction="bce", output_activation="relu")
    with pytest.raises(RuntimeError, match="between 0 and 1"):
        call(autoencoder(device, 6, 4, 5), reconstruction="bce", output_activation="identity")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("reconstruction", "output_activation"), [("mse", "gelu"), ("bce", "sigmoid")]
)
@pytest.mark.interpreted(dtype=[torch.bfloat16])
def test_half_precisions(kernel_device, small_panels, dtype, reconstruction, output_activation):
    inputs = autoencoder(kernel_device, 40, 31, 27, dtype)
    assert_right(inputs, reconstruction=reconstruction, output_activation=output_activation)


@not_interpreted
def test_a_half_precisions_gradients_do_not_vanish_before_they_are_scaled(device):
    """A mean over many elements makes gradients below float16's range; a loss scale lifts them."""
    inputs = autoencoder(device, 64, 40, 8, torch.float16)
    actual = results(call, inputs, gradient=2.0**12)
    reference = results(definition, doubled(inputs), gradient=2.0**12)
    for kernel, exact in zip(actual, reference, strict=True):
        assert (kernel.double() - exact).norm() <= 5e-3 * exact.norm()


def test_without_biases(kernel_device):
    inputs = autoencoder(kernel_device, 9, 7, 6)._replace(encoder_bias=None, decoder_bias=None)
    assert_right(inputs)


@pytest.mark.parametrize("name", PerInput._fields)
@not_interpreted
def test_only_the_gradients_asked_for_are_made(device, name):
    detached = PerInput(*(tensor.detach() for tensor in autoencoder(device, 40, 7, 6, target=True)))
    leaf = getattr(detached, name).clone().requires_grad_()
    inputs = detached._replace(**{name: leaf})
    call(inputs).backward()
    assert [t.grad is not None for t in inputs] == [field == name for field in inputs._fields]
    exact = doubled(detached)
    (expected,) = torch.autograd.grad(definition(exact), getattr(exact, name))
    torch.testing.assert_close(leaf.grad, expected.float())


def test_nothing_but_the_loss_without_grad(device):
    inputs = autoencoder(device, 70, 13, 9)
    with torch.no_grad():
        loss = call(inputs)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, call(inputs).detach())


@pytest.mark.parametrize(
    ("dtype", "precision", "rounding"),
    [
        (torch.float32, "highest", 2**-23),
        (torch.float32, "high", 2**-10),
        (torch.bfloat16, "highest", 2**-7),
        (torch.float16, "highest", 2**-10),
    ],
)
@pytest.mark.parametrize("hidden", [30, 257], ids=["narrow", "wide"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.interpreted(dtype=[torch.float32, torch.bfloat16], hidden=[30], tied=[True])
def test_the_loss_alone(kernel_device, matmul_precision, dtype, precision, rounding, hidden, tied):
    """Where no gradient is wanted a GPU has a kernel of its own, for codes of any width."""
    matmul_precision(precision)
    inputs = autoencoder(kernel_device, 130, 37, hidden, dtype, tied=tied, target=True)
    for reconstruction, output_activation in (("mse", "gelu"), ("bce", "sigmoid")):
        options = {
            "reconstruction": reconstruction,
            "output_activation": output_activation,
            "reduction": "sum",
        }
        with torch.no_grad():
            actual, same_dtype = call(inputs, **options), definition(inputs, **options)
        exact = definition(doubled(inputs), **options)
        error, torchs = (abs(value.item() - exact.item()) for value in (actual, same_dtype))
        assert error <= max(2 * torchs, rounding * exact.item())


def test_small_losses_are_eagers_unless_a_backend_is_forced():
    inputs = autoencoder("cpu", 30, 8, 6)
    actual, expected = results(call, inputs), results(definition, inputs)
    for a, b in zip(actual, expected, strict=True):
        assert torch.equal(a, b)
    noise = {"corruption": "masking", "corruption_level": 0.3, "seed": 1}
    torch.testing.assert_close(call(inputs, **noise), definition(inputs, **noise))


def test_any_strides(kernel_device, small_panels):
    wide = torch.rand(90, 120, device=kernel_device)
    inputs = PerInput(
        wide.t()[::2, 5:31],
        torch.randn(26, 22, device=kernel_device).t()[::2] / 5,
        torch.randn(22, device=kernel_device)[::2],
        torch.randn(22, 26, device=kernel_device).t()[:, ::2] / 5,
        torch.randn(1, device=kernel_device).expand(26),
        wide[:60, :52][:, ::2],
    )
    inputs = PerInput(*(tensor.detach().requires_grad_() for tensor in inputs))
    assert_right(inputs)
    assert_right(
        inputs._replace(
            target=torch.rand(1, 26, device=kernel_device).expand(60, 26).detach().requires_grad_()
        )
    )


@pytest.mark.parametrize("leading", [(), (3,), (2, 1, 3)])
@not_interpreted
def test_any_leading_dimensions(device, leading):
    inputs = autoencoder(device, 1, 5, 4, target=True)
    x, target = torch.rand(2, *leading, 5, device=device)
    inputs = inputs._replace(x=x.requires_grad_(), target=target.requires_grad_())
    options = {"corruption": "masking", "corruption_level": 0.3, "seed": 2}
    actual = results(call, inputs, **options)
    for a, b in zip(actual, results(definition, inputs, **options), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("shape", [(0, 4, 3), (4, 0, 3), (4, 3, 0)], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.interpreted(reduction=["mean"])
def test_empty_tensors(device, shape, reduction):
    inputs = autoencoder(device, *shape)
    actual = results(call, inputs, reduction=reduction)
    expected = results(definition, inputs, reduction=reduction)
    for a, b in zip(actual, expected, strict=True):
        assert torch.equal(a, b) or (a.isnan().all() and b.isnan().all())


def test_a_confident_and_right_prediction_keeps_its_small_loss(kernel_device):
    """From logits: ln(1 + e^-30) is not rounded away, nor is anything infinite at 200."""
    for logit in (30.0, 200.0):
        inputs = PerInput(
            torch.ones(1, 2, device=kernel_device),
            torch.eye(2, device=kernel_device),
            None,
            None,
            torch.tensor([logit, -logit], device=kernel_device) - torch.tensor(1.0),
            torch.tensor([[1.0, 0.0]], device=kernel_device),
        )
        options = {
            "activation": "identity",
            "output_activation": "sigmoid",
            "reconstruction": "bce",
        }
        inputs = inputs._replace(
            encoder_bias=torch.zeros(2, device=kernel_device),
            encoder_weight=torch.zeros(2, 2, device=kernel_device),
            decoder_bias=torch.tensor([logit, -logit], device=kernel_device),
        )
        exact = math.log1p(math.exp(-logit))
        assert call(inputs, **options).item() == pytest.approx(exact, rel=1e-5, abs=1e-37)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    ("reconstruction", "output_activation"), [("mse", "identity"), ("bce", "sigmoid")]
)
@pytest.mark.interpreted(value=[math.nan])
def test_nan_and_infinity_reach_the_loss(kernel_device, value, reconstruction, output_activation):
    inputs = autoencoder(kernel_device, 40, 6, 5)
    with torch.no_grad():
        inputs.decoder_bias[3] = value
    options = {"reconstruction": reconstruction, "output_activation": output_activation}
    assert str(call(inputs, **options).item()) == str(definition(inputs, **options).item())


@not_interpreted
def test_the_incoming_gradient_may_be_anything_and_come_twice(device):
    inputs = autoencoder(device, 40, 7, 6)
    leaves = [tensor for tensor in inputs if tensor is not None]
    loss = call(inputs)
    first = torch.autograd.grad(loss, leaves, retain_graph=True)
    copies = [gradient.clone() for gradient in first]
    for gradient in first:
        gradient.zero_()  # what was handed out is the caller's
    second = torch.autograd.grad(loss, leaves, torch.tensor(-3.0, device=device), retain_graph=True)
    third = torch.autograd.grad(loss, leaves)
    for a, b, c in zip(copies, second, third, strict=True):
        torch.testing.assert_close(b, -3 * a)
        torch.testing.assert_close(c, a)


@not_interpreted
def test_a_tensor_that_is_input_and_target_at_once(device):
    inputs = autoencoder(device, 12, 7, 6)
    twice = inputs._replace(target=inputs.x)
    (actual,) = torch.autograd.grad(call(twice), inputs.x)
    (expected,) = torch.autograd.grad(call(inputs), inputs.x)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize(
    ("tied", "target"),
    [
        pytest.param(False, False, id="untied-itself", marks=pytest.mark.slow),
        pytest.param(True, False, id="tied-itself"),
        pytest.param(False, True, id="untied-target"),
        pytest.param(True, True, id="tied-target", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(
    ("reconstruction", "output_activation"), [("mse", "tanh"), ("bce", "sigmoid")]
)
def test_gradcheck_and_gradgradcheck_in_float64(tied, target, reconstruction, output_activation):
    inputs = doubled(autoencoder("cpu", 4, 3, 5, tied=tied, target=target))
    options = {
        "corruption": "masking",
        "corruption_level": 0.3,
        "seed": 2,
        "reconstruction": reconstruction,
    }
    options["contraction"] = 0.2

    def function(*tensors):
        present = iter(tensors)
        filled = PerInput(*(None if t is None else next(present) for t in inputs))
        return call(filled, output_activation=output_activation, **options)

    leaves = [tensor for tensor in inputs if tensor is not None]
    assert gradcheck(function, leaves)
    assert gradgradcheck(function, leaves)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("reconstruction", "output_activation"), OUTPUTS, ids="-".join)
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_the_definitions_gradients_are_its_losss(
    activation, reconstruction, output_activation, tied
):
    inputs = doubled(autoencoder("cpu", 6, 4, 5, tied=tied))
    settings = LossSettings(activation, output_activation, reconstruction, "masking", 0.3, 7, 0)
    summed = eager.reconstruction_loss(inputs, settings, "sum")
    leaves = [tensor for tensor in inputs if tensor is not None]
    expected = torch.autograd.grad(summed, leaves)
    gradients = eager.gradients(inputs, settings)
    actual = [g for g, tensor in zip(gradients, inputs, strict=True) if tensor is not None]
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("reconstruction", "output_activation"), [("mse", "gelu"), ("bce", "sigmoid")]
)
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@not_interpreted
def test_second_order_gradients(kernel_device, reconstruction, output_activation, tied):
    """A score-matching loss: the squared gradient by x, differentiated again."""
    options = {
        "reconstruction": reconstruction,
        "output_activation": output_activation,
        "reduction": "sum",
    }

    def twice(function, inputs):
        (grad,) = torch.autograd.grad(function(inputs, **options), inputs.x, create_graph=True)
        leaves = [tensor for tensor in inputs if tensor is not None]
        return torch.autograd.grad((grad**2).sum(), leaves)

    inputs = autoencoder(kernel_device, 9, 6, 5, tied=tied)
    actual, same_dtype = twice(call, inputs), twice(definition, inputs)
    for kernel, torch_result, exact in zip(
        actual, same_dtype, twice(definition, doubled(inputs)), strict=True
    ):
        assert_as_accurate_as_torch(kernel, torch_result, exact)


@pytest.mark.parametrize("kind", [None, "masking"])
@pytest.mark.usefixtures("our_product")
@not_interpreted
def test_one_and_two_threads_give_the_same_bits(kernel_device, threads, kind):
    if backend.select(kernel_device, torch.float32) == "numba":
        pytest.skip("torch's product serves numba: its sums may depend on the threads")
    shape = (40, 30, 20) if is_interpreted(kernel_device) else (1500, 130, 190)
    inputs = autoencoder(kernel_device, *shape)
    options = {"corruption": kind, "corruption_level": 0.3 if kind else 0.0, "seed": 1}
    threads(1)
    serial = results(call, inputs, **options)
    threads(2)
    for _ in range(2):
        for a, b in zip(results(call, inputs, **options), serial, strict=True):
            assert torch.equal(a, b)


@not_interpreted
def test_torchs_seed_and_a_generator_govern_the_corruption(device):
    inputs = autoencoder(device, 40, 7, 6)
    options = {"corruption": "gaussian", "corruption_level": 0.5}

    def drawn(**more):
        torch.manual_seed(3)
        return [call(inputs, **options, **more).item() for _ in range(2)]

    first, second = drawn()
    assert first != second
    assert [first, second] == drawn()
    generator = torch.Generator().manual_seed(4)
    assert call(inputs, **options, generator=generator).item() != first
    assert call(inputs, **options, seed=9).item() == call(inputs, **options, seed=9).item()


@not_interpreted
def test_a_batch_split_over_ranks_sums_to_the_whole(device):
    inputs = autoencoder(device, 30, 7, 6)
    options = {"corruption": "masking", "corruption_level": 0.4, "seed": 1, "reduction": "sum"}
    parts = [
        call(inputs._replace(x=inputs.x[start : start + 10]), row_offset=start, **options)
        for start in (0, 10, 20)
    ]
    torch.testing.assert_close(sum(parts), call(inputs, **options))


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize(
    "dtype",
    [
        torch.float32,
        pytest.param(torch.float64, marks=pytest.mark.slow),
        pytest.param(torch.bfloat16, marks=pytest.mark.slow),
    ],
)
@same_on_numba
@not_interpreted
def test_opcheck(device, tied, dtype):
    if device.type == "cpu" and dtype == torch.float64:
        pytest.skip("a forced kernel takes no float64")
    inputs = autoencoder(device, 6, 4, 5, dtype, tied=tied)
    needs_grad = [tensor is not None for tensor in inputs]
    arguments = (
        "sigmoid",
        "tanh",
        "mse",
        "masking",
        0.3,
        torch.tensor([5]),
        0,
        0.3,
        "mean",
        needs_grad,
    )
    torch.library.opcheck(torch.ops.aefast.reconstruction_loss, (*inputs, *arguments))


@pytest.mark.parametrize(
    ("reconstruction", "output_activation"), [("mse", "gelu"), ("bce", "sigmoid")]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@same_on_numba
@not_interpreted
def test_torch_compile_in_one_graph_gives_the_same(
    kernel_device, reconstruction, output_activation, dtype
):
    inputs = autoencoder(kernel_device, 6, 4, 5, dtype)
    options = {"reconstruction": reconstruction, "output_activation": output_activation, "seed": 3}
    options |= {"corruption": "masking", "corruption_level": 0.3}
    if is_interpreted(kernel_device) and dtype == torch.bfloat16:
        pytest.skip("a graph for a CPU takes the kernels of the parts in half precisions")
    torch.compiler.reset()
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    actual = results(compiled, inputs, **options)
    for a, b in zip(actual, results(call, inputs, **options), strict=True):
        torch.testing.assert_close(a, b)


def test_compiled_losses_without_a_fused_kernel():
    inputs = autoencoder("cpu", 6, 4, 5)
    for options in (
        {"reduction": "none", "corruption": "masking", "corruption_level": 0.3},
        {"reconstruction": "bce", "output_activation": "softplus", "reduction": "none"},
    ):
        torch.compiler.reset()
        if options.get("reconstruction") == "bce":
            inputs = inputs._replace(decoder_bias=torch.full((4,), -9.0))
        compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
        assert compiled(inputs, **options).shape == (6, 4)


def test_one_compiled_graph_serves_every_batch_size():
    inputs = autoencoder("cpu", 3, 4, 5)
    torch.compiler.reset()
    compiled = torch.compile(call, fullgraph=True, dynamic=True, backend="aot_eager")
    for batch in (3, 5, 8):
        batched = inputs._replace(x=torch.rand(batch, 4))
        torch.testing.assert_close(compiled(batched), call(batched))


def test_torch_compile_with_inductor():
    inputs = autoencoder("cpu", 6, 4, 5)
    torch.compiler.reset()
    compiled = torch.compile(lambda inputs: call(inputs) * 2, fullgraph=True)
    actual = results(lambda inputs: compiled(inputs), inputs)
    for a, b in zip(actual, results(lambda inputs: call(inputs) * 2, inputs), strict=True):
        torch.testing.assert_close(a, b)


def test_torch_export():
    class Autoencoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.decoder = torch.nn.Linear(4, 3), torch.nn.Linear(3, 4)

        def forward(self, x):
            return reconstruction_loss(
                x, self.encoder.weight, self.encoder.bias, self.decoder.weight, self.decoder.bias
            )

    x, module = torch.randn(6, 4), Autoencoder()
    exported = torch.export.export(module, (x,))
    torch.testing.assert_close(exported.module()(x), module(x))


@not_interpreted
def test_autocast_gives_what_the_definition_does_under_it(device):
    inputs = autoencoder(device, 6, 4, 5)
    with torch.autocast(device.type, torch.bfloat16):
        actual, expected = results(call, inputs), results(definition, inputs)
    for a, b in zip(actual, expected, strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, atol=1e-2, rtol=1e-2)


@not_interpreted
def test_torch_func_transforms(device):
    x, *parameters = (t.detach() for t in autoencoder(device, 6, 4, 5) if t is not None)

    def loss(weight, x, function):
        return function(PerInput(x, weight, *parameters[1:], None))

    for transform in (
        lambda f: torch.func.grad(lambda w: loss(w, x, f))(parameters[0]),
        lambda f: torch.func.vmap(lambda row: loss(parameters[0], row[None], f))(x),
        lambda f: torch.func.vmap(torch.func.grad(lambda w, r: loss(w, r[None], f)), (None, 0))(
            parameters[0], x
        ),
        lambda f: torch.func.jvp(lambda w: loss(w, x, f), (parameters[0],), (parameters[0],))[1],
        lambda f: torch.func.hessian(lambda r: loss(parameters[0], r[None], f))(x[0]),
    ):
        torch.testing.assert_close(transform(call), transform(definition))


@not_interpreted
def test_batched_gradients(kernel_device):
    inputs = autoencoder(kernel_device, 6, 4, 5)
    leaves = [tensor for tensor in inputs if tensor is not None]
    loss = call(inputs)
    incoming = torch.tensor([1.0, -2.0, 0.5], device=kernel_device)
    batched = torch.autograd.grad(loss, leaves, incoming, is_grads_batched=True)
    for actual, exact in zip(batched, results(definition, inputs, gradient=1.0)[1:], strict=True):
        torch.testing.assert_close(actual, torch.stack([i * exact for i in incoming]))


@pytest.mark.parametrize("fused", [False, True])
@not_interpreted
def test_a_torch_optimizer_steps_on_it_as_on_the_definition(kernel_device, fused):
    start = [t.detach() for t in autoencoder(kernel_device, 40, 12, 5) if t is not None]
    trained = []
    for function in (call, definition):
        x, *parameters = (t.clone() for t in start)
        optimizer = torch.optim.Adam([p.requires_grad_() for p in parameters], fused=fused)
        for step in range(4):
            optimizer.zero_grad()
            function(
                PerInput(x, *parameters, None),
                corruption="masking",
                corruption_level=0.3,
                seed=step,
            ).backward()
            optimizer.step()
        trained.append(parameters)
    for a, b in zip(*trained, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("output_activation", ["identity", "gelu"])
@not_interpreted
def test_autoencode_gives_reconstruction_and_code(device, tied, output_activation):
    *tensors, _ = autoencoder(device, 9, 7, 6, tied=tied)
    actual = autoencode(*tensors, activation="tanh", output_activation=output_activation)
    exact = eager.autoencode(*tensors, "tanh", output_activation)
    leaves = [tensor for tensor in tensors if tensor is not None]
    for a, b in zip(actual, exact, strict=True):
        torch.testing.assert_close(a, b)
    gradients = [
        torch.autograd.grad(r.sum() + c.square().sum(), leaves) for r, c in (actual, exact)
    ]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_autoencode_and_the_loss_agree(device):
    inputs = autoencoder(device, 9, 7, 6)
    reconstruction, _ = autoencode(*inputs[:5])
    torch.testing.assert_close(F.mse_loss(reconstruction, inputs.x), call(inputs))


BAD_SHAPES = [
    (
        {"x": torch.ones(6, 3)},
        r"x has shape \[6, 3\]; with encoder_weight's shape \[5, 4\] it takes",
    ),
    ({"encoder_weight": torch.ones(4)}, r"encoder_weight has shape \[4\]; it takes \[H, D\]"),
    ({"encoder_bias": torch.ones(4)}, r"encoder_bias has shape \[4\]; .* it takes \[5\]"),
    (
        {"decoder_weight": torch.ones(5, 4)},
        r"decoder_weight has shape \[5, 4\]; with encoder_weight's .* \[5, 4\] it takes \[4, 5\]",
    ),
    ({"decoder_bias": torch.ones(5)}, r"decoder_bias has shape \[5\]; .* it takes \[4\]"),
]


@pytest.mark.parametrize(("change", "message"), BAD_SHAPES)
def test_shapes_that_do_not_fit_name_both(change, message):
    arguments = dict(zip(PerInput._fields[:5], autoencoder("cpu", 6, 4, 5)[:5], strict=True))
    for function in (autoencode, reconstruction_loss):
        with pytest.raises(ValueError, match=message):
            function(**arguments | change)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": None}, TypeError, "x is a NoneType; it takes a torch.Tensor"),
        ({"encoder_weight": None}, TypeError, "encoder_weight is a NoneType"),
        ({"decoder_weight": 1.0}, TypeError, "decoder_weight is a float"),
        ({"x": torch.ones(6, 4).long()}, TypeError, "x has dtype int64; it takes float32"),
        ({"decoder_bias": torch.ones(4).half()}, TypeError, "decoder_bias has dtype float16"),
        ({"target": torch.ones(6, 4).double()}, TypeError, "target has dtype float64"),
        (
            {"target": torch.ones(6, 5)},
            ValueError,
            r"target has shape \[6, 5\]; it takes x's shape, \[6, 4\]",
        ),
        (
            {"encoder_bias": torch.ones(5, device="meta")},
            ValueError,
            "encoder_bias is on meta; it takes x's device, cpu",
        ),
        ({"activation": "swish"}, ValueError, "activation is 'swish'; it takes one of identity"),
        ({"output_activation": None}, ValueError, "output_activation is None"),
        (
            {"reconstruction": "mae"},
            ValueError,
            "reconstruction is 'mae'; it takes one of mse, bce",
        ),
        ({"reduction": "max"}, ValueError, "reduction is 'max'; it takes one of mean, sum, none"),
        ({"corruption": "dropout"}, ValueError, "corruption is 'dropout'; it takes one of masking"),
        (
            {"corruption": "masking", "corruption_level": 1.5},
            ValueError,
            r"corruption_level is 1.5; it takes a number in \[0, 1\]",
        ),
        (
            {"corruption_level": 0.3},
            ValueError,
            "corruption_level is 0.3 and corruption None; corruption takes one of masking",
        ),
        ({"corruption_level": "much"}, TypeError, "corruption_level is a str"),
        ({"corruption": "masking", "seed": -1}, ValueError, "seed is -1"),
        ({"corruption": "masking", "seed": 1.5}, TypeError, "seed is a float"),
        ({"corruption": "masking", "generator": 3}, TypeError, "generator is a int"),
        ({"row_offset": -1}, ValueError, "row_offset is -1"),
    ],
)
def test_bad_input_is_named_at_the_door(change, error, message):
    inputs = autoencoder("cpu", 6, 4, 5)._asdict()
    with pytest.raises(error, match=message):
        reconstruction_loss(**inputs | change)


def registered_arguments():
    """Of the registered op, whose gradients are needed by no input."""
    settings = ["sigmoid", "tanh", "mse", None, 0.0, torch.tensor([5]), 0, 0.0]
    return [*autoencoder("cpu", 6, 4, 5), *settings, "mean", [False] * 6]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({8: "mae"}, "reconstruction is 'mae'"),
        (
            {8: "bce"},
            "output_activation is 'tanh'; with reconstruction 'bce' the registered op takes",
        ),
        ({11: torch.tensor(1.5)}, "seed is"),
        ({14: "none"}, "reduction is 'none'"),
        ({15: [True]}, "needs_grad has 1 flags; it takes 6"),
        ({0: torch.ones(4)}, r"x has shape \[4\]; the registered op takes \[B, D\]"),
    ],
)
def test_the_registered_op_checks_what_it_gets(change, message):
    arguments = registered_arguments()
    arguments[:6] = [None if t is None else t.detach() for t in arguments[:6]]
    for index, value in change.items():
        arguments[index] = value
    with pytest.raises(ValueError, match=message):
        torch.ops.aefast.reconstruction_loss(*arguments)


def test_the_registered_op_refuses_a_gradient_that_was_not_asked_for():
    loss = torch.ops.aefast.reconstruction_loss(*registered_arguments())[0]
    with pytest.raises(ValueError, match="needs_grad names fewer inputs than require a gradient"):
        loss.backward()


def test_the_registered_op_is_differentiated_twice_under_a_dispatch_mode():
    inputs = autoencoder("cpu", 40, 13, 9)

    def gradients():
        loss = call(inputs)
        first = torch.autograd.grad(loss, inputs[:5], create_graph=True)
        total = loss + sum(gradient.square().sum() for gradient in first)
        return torch.autograd.grad(total, inputs[:5])

    with FlopCounterMode(display=False):
        traced = gradients()
    for actual, expected in zip(traced, gradients(), strict=True):
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("name", ["cpp", "eager"])
def test_the_registered_op_keeps_its_word_about_strides(name):
    inputs = autoencoder("cpu", 40, 13, 9, target=True)
    transposed = [
        t.detach().t().contiguous().t().requires_grad_() for t in (inputs.x, inputs.target)
    ]
    settings = (
        "sigmoid",
        "identity",
        "mse",
        None,
        0.0,
        torch.tensor(0),
        0,
        0.0,
        "mean",
        [True] * 6,
    )
    with use_backend(name):
        torch.library.opcheck(
            torch.ops.aefast.reconstruction_loss,
            (transposed[0], *inputs[1:5], transposed[1], *settings),
        )


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_no_rows_under_a_dispatch_mode(reduction):
    inputs = autoencoder("cpu", 0, 13, 9)
    with FlopCounterMode(display=False):
        loss = call(inputs, reduction=reduction)
        gradients = torch.autograd.grad(loss, inputs[:5])
    assert loss.isnan() if reduction == "mean" else loss == 0
    assert all(not gradient.any() for gradient in gradients)


def test_half_precision_gradients_to_be_differentiated_again_do_not_overflow():
    inputs = autoencoder("cpu", 512, 64, 16)
    x = (inputs.x.detach() * 100 + 150).half().requires_grad_()
    inputs = PerInput(x, *(t.detach().half().requires_grad_() for t in inputs[1:5]), None)
    settings = LossSettings("sigmoid", "identity", "mse", None, 0.0, 0, 0)
    actual = reconstruction_op._definition_gradients(
        inputs, settings, torch.tensor(1.0).half(), "mean"
    )
    loss = definition(doubled(inputs))
    for gradient, exact in zip(actual[:5], gradients_of_definition(inputs), strict=True):
        torch.testing.assert_close(gradient.double(), exact, rtol=2e-2, atol=2e-3)
    assert loss > 0


def gradients_of_definition(inputs):
    exact = doubled(inputs)
    return torch.autograd.grad(definition(exact), exact[:5])


def test_backward_runs_where_forward_did():
    """Whatever backend is forced meanwhile; a second backward makes the gradients anew."""
    inputs = autoencoder("cpu", 40, 13, 9)
    with use_backend("cpp"):
        loss = call(inputs)
    with use_backend("eager"):
        first = torch.autograd.grad(loss, inputs[:5], retain_graph=True)
        second = torch.autograd.grad(loss, inputs[:5])
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)


def test_seed_and_generator_are_checked_without_corruption_too():
    inputs = autoencoder("cpu", 3, 4, 2)
    with pytest.raises(TypeError, match="generator is a int"):
        call(inputs, generator=3)
    with pytest.raises(ValueError, match="seed and generator are both given"):
        call(inputs, seed=1, generator=torch.Generator())


def test_contraction_has_no_elements():
    inputs = autoencoder("cpu", 3, 4, 2)
    with pytest.raises(ValueError, match="reduction takes 'mean' or 'sum'"):
        call(inputs, contraction=0.1, reduction="none")
    with pytest.raises(ValueError, match="contraction is -1; it takes a finite number, at least 0"):
        call(inputs, contraction=-1)
