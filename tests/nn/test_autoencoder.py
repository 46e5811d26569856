"""The autoencoders: their equations, their parameters' names, and what each refuses."""

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from aefast.functional import contractive_penalty, corrupt, kl_sparsity, l1_sparsity
from aefast.nn import (
    RBM,
    Autoencoder,
    ContractiveAutoencoder,
    DenoisingAutoencoder,
    SparseAutoencoder,
)
from aefast.nn.compression import dequantize, quantize

EVERY_KIND = [Autoencoder, DenoisingAutoencoder, ContractiveAutoencoder, SparseAutoencoder]


@pytest.fixture
def x():
    return torch.rand(9, 12, generator=torch.Generator().manual_seed(3))


def gradients(loss, model):
    return torch.autograd.grad(loss, list(model.parameters()))


def test_a_deep_one_and_a_plain_sequential_load_each_other(x):
    plain = nn.Sequential(
        nn.Linear(12, 7), nn.Tanh(), nn.Linear(7, 3), nn.Tanh(),
        nn.Linear(3, 7), nn.Tanh(), nn.Linear(7, 12), nn.Sigmoid(),
    )  # fmt: skip
    model = Autoencoder(layers=[12, 7, 3], activation="tanh", output_activation="sigmoid")
    model.load_state_dict(plain.state_dict())
    torch.testing.assert_close(model(x), plain(x))
    torch.testing.assert_close(model.encode(x), plain[:4](x))
    torch.testing.assert_close(model.loss(x), F.mse_loss(plain(x), x))
    plain.load_state_dict(model.state_dict())


def test_the_code_may_have_an_activation_of_its_own(x):
    model = Autoencoder(layers=[12, 7, 3], activation="relu", code_activation="identity")
    assert [layer.activation for layer in model.encoder] == ["relu", "identity"]
    assert [layer.activation for layer in model.decoder] == ["relu", "identity"]
    assert model.encode(x).min() < 0


@pytest.mark.parametrize("layers", [[12, 5], [12, 7, 3]])
def test_a_tied_one_decodes_with_the_encoders_weights(layers, x):
    model = Autoencoder(layers=layers, tied=True)
    plain = Autoencoder(layers=layers)
    with torch.no_grad():
        for actual, mirror in zip(reversed(plain.decoder), model.encoder, strict=True):
            actual.weight.copy_(mirror.weight.t())
        for actual, expected in zip(plain.decoder, model.decoder, strict=True):
            actual.bias.copy_(expected.bias)
        for actual, expected in zip(plain.encoder, model.encoder, strict=True):
            actual.load_state_dict(expected.state_dict())
    torch.testing.assert_close(model(x), plain(x))
    torch.testing.assert_close(model.loss(x), plain.loss(x))
    assert sum(p.numel() for p in model.parameters()) == sum(
        weight.numel() + len(weight) + weight.shape[1]
        for weight in (layer.weight for layer in model.encoder)
    )


def test_a_tied_weight_gets_both_gradients(x):
    model = Autoencoder(12, 5, tied=True)
    weight, bias, decoder_bias = model.parameters()
    reconstruction = torch.sigmoid(x @ weight.t() + bias) @ weight + decoder_bias
    expected = torch.autograd.grad(F.mse_loss(reconstruction, x), weight)[0]
    torch.testing.assert_close(gradients(model.loss(x), model)[0], expected)


def test_a_copy_of_a_tied_one_is_tied_to_its_own_weight(x):
    model = copy.deepcopy(Autoencoder(12, 5, tied=True))
    before = model(x)
    with torch.no_grad():
        model.encoder[0].weight.zero_()
    assert torch.equal(model.decoder[0].weight, torch.zeros(12, 5))
    assert not torch.equal(model(x), before)


@pytest.mark.parametrize("layers", [[12, 5], [12, 7, 3]])
def test_cross_entropy_is_torchs(layers, x):
    model = Autoencoder(layers=layers, output_activation="sigmoid", reconstruction="bce")
    torch.testing.assert_close(model.loss(x), F.binary_cross_entropy(model(x), x))


def test_code_dropout_is_unbiased_and_absent_in_evaluation(x):
    model = Autoencoder(12, 5, activation="relu", code_dropout=0.3)
    code = model.encode(x)
    draws = torch.stack([model._drop(code, seed, None, 0) for seed in range(4000)])
    # Each element is 0 or code / 0.7: a mean's deviation is code sqrt(0.3 / 0.7 / 4000).
    six_sigma = 6 * code * (0.3 / 0.7 / 4000) ** 0.5
    assert ((draws.mean(0) - code).abs() <= six_sigma).all()
    torch.testing.assert_close(draws[draws != 0], (code / 0.7).expand_as(draws)[draws != 0])
    model.eval()
    assert torch.equal(model(x), model.decode(code))
    torch.testing.assert_close(model.loss(x), F.mse_loss(model.decode(code), x))


def test_what_is_drawn_is_the_same_when_x_requires_a_gradient(x):
    """Which takes the ops one by one, and no call of all."""
    model = DenoisingAutoencoder(layers=[12, 7, 3], code_dropout=0.5)
    losses = []
    for rows in (x, x.clone().requires_grad_()):
        torch.manual_seed(0)
        losses.append((model.loss(rows).detach(), torch.rand(1)))
    torch.testing.assert_close(*losses)


def test_code_dropout_and_corruption_draw_different_masks(x):
    """Of one seed: else a unit would be dropped where its input was masked."""
    model = DenoisingAutoencoder(12, 12, activation="identity", code_dropout=0.5)
    ones = torch.ones(200, 12)
    dropped = model._drop(ones, 7, None, 0) == 0
    masked = corrupt(ones, "masking", 0.5, seed=7) == 0
    agreement = (dropped == masked).double().mean()
    assert abs(agreement - 0.5) < 6 * 0.5 / ones.numel() ** 0.5


@pytest.mark.parametrize("kind", EVERY_KIND)
@pytest.mark.parametrize("options", [{}, {"layers": [12, 7, 3], "code_dropout": 0.2}])
def test_a_loss_is_a_function_of_its_seed(kind, options, x):
    sizes = () if options else (12, 5)
    model = kind(*sizes, **options)
    first, again, other = (model.loss(x, seed=seed).item() for seed in (1, 1, 2))
    assert first == again
    draws = kind is DenoisingAutoencoder or bool(options)
    assert (first != other) == draws
    torch.manual_seed(0)
    one = model.loss(x).item()
    torch.manual_seed(0)
    assert model.loss(x).item() == one


def test_the_loss_of_a_deep_denoising_one_compares_with_the_clean_input(x):
    model = DenoisingAutoencoder(layers=[12, 7, 3], corruption_level=1.0)
    reconstruction = model.decode(model.encode(torch.zeros_like(x)))
    torch.testing.assert_close(model.loss(x), F.mse_loss(reconstruction, x))
    model.eval()
    torch.testing.assert_close(model.loss(x), F.mse_loss(model(x), x))


@pytest.mark.parametrize("layers", [[12, 5], [12, 7, 3]])
def test_a_contractive_loss_adds_the_jacobians_norm(layers, x):
    model = ContractiveAutoencoder(layers=layers, contraction=0.3)
    jacobian = torch.func.vmap(torch.func.jacrev(model.encode))(x)
    penalty = jacobian.square().sum((1, 2))
    torch.testing.assert_close(model.penalty(x), penalty)
    expected = F.mse_loss(model(x), x) + 0.3 * penalty.mean()
    torch.testing.assert_close(model.loss(x), expected)
    torch.testing.assert_close(gradients(model.loss(x), model), gradients(expected, model))


def test_a_contractive_ones_tangents_are_the_jacobians_first_singular_vectors(x):
    model = ContractiveAutoencoder(layers=[12, 7, 3])
    vectors, values = model.tangents(x, n=2)
    jacobian = torch.func.vmap(torch.func.jacrev(model.encode))(x)
    _, singular, right = torch.linalg.svd(jacobian, full_matrices=False)
    torch.testing.assert_close(values, singular[:, :2], rtol=1e-4, atol=1e-6)
    alignment = (vectors * right[:, :2]).sum(-1).abs()
    torch.testing.assert_close(alignment, torch.ones_like(alignment), rtol=1e-4, atol=0)
    weights, biases, activations = model._layers(x)
    assert torch.equal(model.penalty(x), contractive_penalty(x, weights, biases, activations))


@pytest.mark.parametrize("penalty", ["kl", "l1"])
def test_a_sparse_loss_adds_its_penalty(penalty, x):
    model = SparseAutoencoder(12, 20, penalty=penalty, sparsity_weight=0.2, sparsity_target=0.1)
    code = model.encode(x)
    term = kl_sparsity(code, 0.1) if penalty == "kl" else l1_sparsity(code)
    torch.testing.assert_close(model.loss(x), F.mse_loss(model(x), x) + 0.2 * term)


@pytest.mark.parametrize("bias", [-200.0, 200.0])
def test_a_unit_that_is_never_or_always_on_has_a_finite_penalty_and_gradient(bias, x, device):
    model = SparseAutoencoder(12, 20).to(device)
    torch.nn.init.constant_(model.encoder[0].bias, bias)
    loss = model.loss(x.to(device))
    loss.backward()
    assert loss.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("bits", [1, 3, 8, 13])
def test_decompressing_gives_the_code_to_half_a_step(bits, x):
    model = Autoencoder(12, 5, activation="identity")
    compressed = model.compress(x, bits)
    code = model.encode(x)
    step = (code.amax(0) - code.amin(0)) / (2**bits - 1)
    decoded = torch.linalg.lstsq(  # the decoder is linear: its input, from its output
        model.decoder[0].weight.double(),
        (model.decompress(compressed) - model.decoder[0].bias).double().t(),
    ).solution.t()
    assert ((decoded - code).abs() <= step / 2 + 1e-5).all()
    assert len(compressed.payload) == -(-9 * 5 * bits // 8)
    assert compressed.bits_per_element == 8 * (len(compressed.payload) + 40) / (9 * 12)


def test_compression_takes_constant_codes_and_no_rows(x):
    model = Autoencoder(12, 5, activation="identity")
    with torch.no_grad():
        model.encoder[0].weight.zero_()
    torch.testing.assert_close(model.decompress(model.compress(x, 4)), model(x))
    assert model.decompress(model.compress(x[:0], 4)).shape == (0, 12)


def test_compression_refuses_codes_that_are_not_finite(x):
    model = Autoencoder(12, 5)
    x[0, 0] = float("nan")
    with pytest.raises(ValueError, match="the code of x is not finite"):
        model.compress(x)


def test_compression_takes_the_range_of_two_huge_numbers():
    code = torch.tensor([[3e38], [-3e38], [0.0]])
    decoded = dequantize(quantize(code, 16, visible=1))
    # Half a step, and float32's rounding of the step times the levels.
    bound = 6e38 / (2**16 - 1) / 2 + 6e38 * 2**-24
    assert (decoded.double() - code.double()).abs().max() <= bound


def test_a_payload_cut_short_is_refused(x):
    model = Autoencoder(12, 5)
    compressed = model.compress(x, 4)
    cut = dataclasses.replace(compressed, payload=compressed.payload[:-1])
    with pytest.raises(ValueError, match=r"payload has 22 bytes; .* take 23"):
        model.decompress(cut)


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_float64_and_leading_dimensions(kind, x):
    model = kind(12, 5).double()
    batch = x.double().reshape(3, 3, 12)
    torch.testing.assert_close(model.loss(batch, seed=1), model.loss(x.double(), seed=1))


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_a_compiled_loss_is_the_same(kind, x):
    model = kind(12, 5)
    compiled = torch.compile(lambda x: model.loss(x, seed=3), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), model.loss(x, seed=3))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Autoencoder(), ValueError, "it takes either visible and hidden, or layers"),
        (lambda: Autoencoder(4, 2, layers=[4, 2]), ValueError, "it takes either"),
        (lambda: Autoencoder(4), TypeError, "hidden is a NoneType"),
        (lambda: Autoencoder(4, 0), ValueError, "hidden is 0"),
        (lambda: Autoencoder(layers=5), TypeError, "layers is a int"),
        (lambda: Autoencoder(layers=torch.tensor(5)), TypeError, "layers is a Tensor"),
        (
            lambda: Autoencoder(4, 2, reconstruction=torch.ones(2)),
            ValueError,
            "reconstruction is tensor",
        ),
        (lambda: Autoencoder(4, 2).loss(torch.rand(3, 4), seed=-1), ValueError, "seed is -1"),
        (
            lambda: ContractiveAutoencoder(4, 2).loss(torch.rand(3, 4), row_offset=-1),
            ValueError,
            "row_offset is -1",
        ),
        (lambda: Autoencoder(4, 2).compress([[0.5] * 4]), TypeError, "x is a list"),
        (lambda: Autoencoder(layers=[4]), ValueError, r"layers is \[4\]"),
        (lambda: Autoencoder(layers=[4, 2.5]), TypeError, r"layers\[1\] is a float"),
        (lambda: Autoencoder(4, 2, activation="swish"), ValueError, "activation is 'swish'"),
        (lambda: Autoencoder(4, 2, code_activation="s"), ValueError, "code_activation is 's'"),
        (lambda: Autoencoder(4, 2, reconstruction="mae"), ValueError, "reconstruction is 'mae'"),
        (
            lambda: Autoencoder(4, 2, reconstruction="bce"),
            ValueError,
            "output_activation is 'identity'",
        ),
        (lambda: Autoencoder(4, 2, code_dropout=1), ValueError, "code_dropout is 1"),
        (lambda: ContractiveAutoencoder(4, 2, contraction=-1), ValueError, "contraction is -1"),
        (lambda: SparseAutoencoder(4, 2, penalty="l2"), ValueError, "penalty is 'l2'"),
        (
            lambda: SparseAutoencoder(4, 2, activation="relu"),
            ValueError,
            "code_activation is 'relu'",
        ),
        (lambda: SparseAutoencoder(4, 2, sparsity_target=1), ValueError, "sparsity_target is 1"),
        (lambda: Autoencoder(4, 2).compress(torch.rand(4)), ValueError, r"x has shape \[4\]"),
        (lambda: Autoencoder(4, 2).compress(torch.rand(2, 4), 17), ValueError, "bits is 17"),
    ],
)
def test_wrong_arguments_are_named(make, error, message):
    with pytest.raises(error, match=f"^{message}"):
        make()


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda value: Autoencoder(4, 2, tied=value), "tied"),
        (lambda value: RBM(4, 2, visible_kind="gaussian", learn_variance=value), "learn_variance"),
    ],
)
def test_a_flag_takes_true_or_false(make, name):
    with pytest.raises(TypeError, match=f"^{name} is 'no'; it takes True or False"):
        make("no")
    make(True)
