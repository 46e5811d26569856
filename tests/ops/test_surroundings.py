"""What surrounds a call: defaults, subclasses, freed memory, and what torch.compile makes of it."""

import pytest
import torch
from torch.testing._internal.two_tensor import TwoTensor

from aefast.functional import (
    contractive_penalty,
    contrastive_divergence,
    corrupt,
    free_energy,
    gaussian_kl,
    gibbs,
    linear_act,
    reconstruction_loss,
    reparameterize,
)
from aefast.nn import (
    RBM,
    BatchTopKSparseAutoencoder,
    DenoisingAutoencoder,
    JumpReLUSparseAutoencoder,
    TopKSparseAutoencoder,
    VariationalAutoencoder,
)
from aefast.ops.corrupt.noise import KINDS
from tests.backends import not_interpreted


def all_ops(x):
    """Every op of x [6, 4], and its gradient."""
    weight, bias = x.new_ones(5, 4), x.new_zeros(5)
    results = []
    for op in (
        lambda x: corrupt(x, "salt_and_pepper", 0.4, low=-1.0, seed=1),
        lambda x: reparameterize(x, x, seed=1),
        lambda x: gaussian_kl(x, x),
        lambda x: linear_act(x, weight, bias, "sigmoid"),
        lambda x: reconstruction_loss(
            x, weight, bias, corruption="masking", corruption_level=0.4, seed=1
        ),
        lambda x: contractive_penalty(x, weight, bias, hessian_noise=0.1, seed=1),
        lambda x: contractive_penalty(
            x, [weight, weight.new_ones(3, 5)], None, method="hutchinson", probes=2, seed=1
        ),
    ):
        leaf = x.detach().clone().requires_grad_()
        output = op(leaf)
        results += [output.detach(), *torch.autograd.grad(output.sum(), leaf)]
    return results + chains(x, weight, bias)


def chains(x, weight, bias):
    """Gibbs sampling from x [6, 4] made binary, and contrastive divergence."""
    states = (x > 0).to(x.dtype)
    sample = gibbs(states, weight, None, bias, k=2, seed=1, return_probs=True)
    leaf = weight.clone().requires_grad_()
    loss, end = contrastive_divergence(states, leaf, None, bias, seed=1)
    normal = gibbs(x, weight, None, bias, visible_kind="gaussian", seed=1)
    return [*sample, loss.detach(), end, normal.visible, *torch.autograd.grad(loss, leaf)]


MODELS = {
    "denoising": lambda: DenoisingAutoencoder(4, 3),
    "variational": lambda: VariationalAutoencoder(4, 2),
    "rbm": lambda: RBM(4, 3),
    "top-k": lambda: TopKSparseAutoencoder(4, 8, 2),
    "batch top-k": lambda: BatchTopKSparseAutoencoder(4, 8, 2),
    "jumprelu": lambda: JumpReLUSparseAutoencoder(4, 8),
}


@pytest.mark.parametrize("kind", MODELS)
def test_a_loss_takes_many_incoming_gradients_at_once(kind):
    model, x = MODELS[kind](), torch.rand(6, 4)
    loss, parameters = model.loss(x, seed=1), list(model.parameters())
    incoming = torch.tensor([1.0, -2.0, 0.0])
    options = {"retain_graph": True, "materialize_grads": True}
    batched = torch.autograd.grad(loss, parameters, incoming, is_grads_batched=True, **options)
    alone = torch.autograd.grad(loss, parameters, **options)
    for actual, expected in zip(batched, alone, strict=True):
        shape = (3, *(1 for _ in expected.shape))
        torch.testing.assert_close(actual, incoming.reshape(shape) * expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.interpreted(dtype=[torch.float64])
def test_the_default_dtype_changes_nothing(kernel_device, dtype):
    x = torch.randn(6, 4, device=kernel_device, dtype=torch.float32)
    expected = all_ops(x)
    torch.set_default_dtype(dtype)
    try:
        actual = all_ops(x)
    finally:
        torch.set_default_dtype(torch.float32)
    for a, b in zip(actual, expected, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


def test_the_default_device_changes_nothing(kernel_device):
    x = torch.randn(6, 4, device=kernel_device)
    expected = all_ops(x)
    with torch.device("meta"):
        actual = all_ops(x)
        corrupt(x, "masking", 0.5)
    for a, b in zip(actual, expected, strict=True):
        assert torch.equal(a, b)


@not_interpreted
def test_an_incoming_gradient_of_a_subclass(kernel_device):
    x = torch.randn(6, 4, device=kernel_device, requires_grad=True)
    weight = torch.randn(5, 4, device=kernel_device)
    for output in (
        linear_act(x, weight, None, "sigmoid"),
        corrupt(x, "masking", 0.5, seed=1),
        reconstruction_loss(x, weight, None),
        contractive_penalty(x, weight, None),
        reparameterize(x, x, seed=1),
        gaussian_kl(x, x),
    ):
        gradient = torch.randn_like(output)
        (expected,) = torch.autograd.grad(output, x, gradient, retain_graph=True)
        (actual,) = torch.autograd.grad(output, x, TwoTensor(gradient, gradient))
        torch.testing.assert_close(actual.a, expected)


@not_interpreted
def test_a_tensor_without_memory_is_zero_or_named(kernel_device):
    zeros = torch._efficientzerotensor((6, 4), device=kernel_device)
    weight = torch.randn(5, 4, device=kernel_device)
    assert torch.equal(corrupt(zeros, "masking", 0.5, seed=1), torch.zeros_like(zeros).clone())
    assert torch.equal(linear_act(zeros, weight), torch.zeros(6, 5, device=kernel_device))
    freed = torch.randn(6, 4, device=kernel_device)
    freed.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match="x has no memory: its storage was freed"):
        corrupt(freed, "masking", 0.5, seed=1)
    with pytest.raises(ValueError, match="x has no memory: its storage was freed"):
        linear_act(freed, weight)
    with pytest.raises(ValueError, match="mean has no memory: its storage was freed"):
        reparameterize(freed, zeros, seed=1)
    with pytest.raises(ValueError, match="log_var has no memory: its storage was freed"):
        gaussian_kl(zeros, freed)
    with pytest.raises(ValueError, match="target has no memory: its storage was freed"):
        reconstruction_loss(zeros, weight, None, target=freed)
    with pytest.raises(ValueError, match=r"weights\[0\] has no memory: its storage was freed"):
        contractive_penalty(zeros, freed, None)


@pytest.mark.parametrize("kind", KINDS)
def test_one_compiled_function_takes_many_seeds_and_offsets(kind):
    torch.compiler.reset()
    compiled = torch.compile(
        lambda x, seed, offset: corrupt(x, kind, 0.3, seed=seed, row_offset=offset),
        fullgraph=True,
        backend="aot_eager",
    )
    x = torch.randn(6, 4)
    for step in range(12):
        expected = corrupt(x, kind, 0.3, seed=step, row_offset=6 * step)
        assert torch.equal(compiled(x, step, 6 * step), expected)


def test_a_denoising_autoencoder_compiles_with_dynamic_shapes():
    torch.compiler.reset()
    model = DenoisingAutoencoder(4, 3)
    loss = torch.compile(model.loss, fullgraph=True, dynamic=True, backend="aot_eager")
    for batch in (5, 6, 7):
        loss(torch.rand(batch, 4)).backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_energies_and_states_keep_their_dtype_under_autocast(dtype):
    x, weight, bias = torch.randn(6, 4), torch.randn(5, 4), torch.randn(5)
    expected = [*chains(x, weight, bias), free_energy(x, weight, None, bias)]
    with torch.autocast("cpu", dtype):
        actual = [*chains(x, weight, bias), free_energy(x, weight, None, bias)]
    for a, b in zip(actual, expected, strict=True):
        assert a.dtype == torch.float32
        assert torch.equal(a, b)


@pytest.mark.parametrize("decoder_kind", ["bernoulli", "gaussian"])
def test_importance_weights_are_formed_in_float32_under_autocast(decoder_kind):
    """Of a bfloat16 posterior and its samples: differences of hundreds of nats decide."""
    model = VariationalAutoencoder(300, 8, layers=[16], decoder_kind=decoder_kind)
    x = torch.rand(20, 300).round()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        mean, log_var = model.posterior(x)
        assert mean.dtype == log_var.dtype == torch.bfloat16
        actual = model._log_weights(x, mean, log_var, 4, 1, None, 0)
        nothing = torch.zeros(20, 8)
        noise = model._draw(nothing, nothing, 4, 1, None, 0)
        mean, log_var = mean.float()[:, None], log_var.float()[:, None]
        z = mean + (0.5 * log_var).exp() * noise
        exact = model._log_likelihood(x.double(), z)
    noise, log_var, z = noise.double(), log_var.double(), z.double()
    exact = exact + 0.5 * (noise.square() + log_var - z.square()).sum(-1)
    # As many roundings as summands, of numbers of no more than the result's size.
    torch.testing.assert_close(actual.double(), exact, rtol=300 * 2.0**-24, atol=0.0)


@not_interpreted
def test_function_transforms_of_contrastive_divergence(kernel_device):
    data = (torch.rand(6, 4, device=kernel_device) > 0.5).float()
    weight, bias = torch.randn(5, 4, device=kernel_device), torch.randn(5, device=kernel_device)

    def loss(weight):
        return contrastive_divergence(data, weight, None, bias, seed=1)[0]

    leaf = weight.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(leaf), leaf)
    torch.testing.assert_close(torch.func.grad(loss)(weight), expected, rtol=1e-4, atol=1e-5)
    actual = torch.vmap(torch.func.grad(loss))(torch.stack([weight, weight]))
    torch.testing.assert_close(actual[1], expected, rtol=1e-4, atol=1e-5)


@not_interpreted
def test_gibbs_over_many_temperatures_by_vmap(kernel_device):
    data = (torch.rand(6, 4, device=kernel_device) > 0.5).float()
    weight = torch.randn(5, 4, device=kernel_device)
    betas = torch.tensor([0.5, 1.0], device=kernel_device)

    def sample(beta):
        return gibbs(data, weight, None, None, k=2, beta=beta, seed=1).visible

    assert torch.equal(torch.vmap(sample)(betas), torch.stack([sample(beta) for beta in betas]))


def test_compiled_function_transforms():
    x, weight = torch.randn(6, 4), torch.randn(5, 4)
    for function in (
        torch.func.grad(lambda x: linear_act(x, weight, None, "gelu").sum()),
        torch.vmap(lambda x: corrupt(x, "masking", 0.5, seed=1)),
    ):
        torch.compiler.reset()
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), function(x))


def test_compiled_layers_without_inputs():
    torch.compiler.reset()
    compiled = torch.compile(linear_act, fullgraph=True, backend="aot_eager")
    bias = torch.arange(5.0)
    for shape in ((4, 0), (2, 4, 0)):
        output = compiled(torch.ones(shape), torch.ones(5, 0), bias, "relu")
        assert torch.equal(output, bias.expand(*shape[:-1], 5))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((torch.ones(6, 4), torch.ones(5, 4), torch.ones(1), "relu"), ValueError, "bias has shape"),
        (
            (torch.ones(6, 4), torch.ones(5, 4).double(), None, "relu"),
            TypeError,
            "weight has dtype",
        ),
        ((torch.ones(4), torch.ones(5, 4), None, "relu"), ValueError, "x has shape"),
        ((torch.ones(6, 4), torch.ones(5, 4), None, "swish"), ValueError, "activation is 'swish'"),
    ],
)
def test_the_registered_op_checks_what_it_gets(arguments, error, message):
    with pytest.raises(error, match=message):
        torch.ops.aefast.linear_act(*arguments)
