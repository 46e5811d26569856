"""Rows that a dictionary normalizes before it encodes them, by the other packages' formulas."""

import pickle

import pytest
import torch

import aefast
from aefast.nn import (
    BatchTopKSparseAutoencoder,
    GatedSparseAutoencoder,
    JumpReLUSparseAutoencoder,
    MatryoshkaSparseAutoencoder,
    TopKSparseAutoencoder,
)
from aefast.nn.step_plan import plan_of
from aefast.ops.jumprelu.op import jumprelu

D, L, K, ROWS = 6, 40, 3, 30

MODELS = {
    "topk": lambda **options: TopKSparseAutoencoder(D, L, K, **options),
    "batchtopk": lambda **options: BatchTopKSparseAutoencoder(D, L, K, **options),
    "matryoshka": lambda **options: MatryoshkaSparseAutoencoder(D, L, K, **options),
    "jumprelu": lambda **options: JumpReLUSparseAutoencoder(D, L, **options),
    "gated": lambda **options: GatedSparseAutoencoder(D, L, **options),
}
BY_ROW = ["constant_norm_rescale", "layer_norm"]
MEASURED = ["expected_average_only_in", "unit_mean_squared_norm"]


def rows(*shape):
    return 5 * torch.rand(*(shape or (ROWS,)), 1) * torch.randn(*(shape or (ROWS,)), D) + 1


def model_of(name, normalization, **options):
    torch.manual_seed(0)
    model = MODELS[name](normalize_activations=normalization, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    if name == "jumprelu":
        model._raise_thresholds()
    return model


def normalized(x, normalization):
    """SAELens' formulas, and dictionary_learning's: rows, and what brings a reconstruction back."""
    if normalization == "constant_norm_rescale":
        coefficient = D**0.5 / x.norm(dim=-1, keepdim=True)
        return x * coefficient, lambda r: r / coefficient
    if normalization == "layer_norm":
        mean = x.mean(-1, keepdim=True)
        deviation = (x - mean).std(-1, keepdim=True)
        return (x - mean) / (deviation + 1e-5), lambda r: r * deviation + mean
    factor = D**0.5 / x.norm(dim=-1).mean()
    if normalization == "unit_mean_squared_norm":
        factor = 1 / x.square().sum(-1).mean().sqrt()
    return x * factor, lambda r: r / factor


@pytest.mark.parametrize("normalization", BY_ROW + MEASURED)
@pytest.mark.parametrize("name", MODELS)
def test_it_encodes_normalized_rows_and_reconstructs_the_rows(name, normalization):
    x = rows()
    model = model_of(name, normalization)
    if normalization in MEASURED:
        bias = model.decoder_bias.detach().clone()
        model.start_from(x)
        model.decoder_bias.data.copy_(bias)
    plain = model_of(name, "none")
    inner, back = normalized(x, normalization)
    torch.testing.assert_close(model.encode_dense(x), plain.encode_dense(inner))
    torch.testing.assert_close(model(x), back(plain(inner)))
    code = model.encode(x)
    torch.testing.assert_close(model.restore(model.decode(code), x), model(x))


@pytest.mark.parametrize("shape", [(ROWS,), (5, 6)])
@pytest.mark.parametrize("normalization", BY_ROW)
@pytest.mark.parametrize("name", MODELS)
def test_the_error_of_rows_with_scales_of_their_own_is_on_theirs(name, normalization, shape):
    """SAELens' loss: it compares the rows with what comes back."""
    x = rows(*shape)
    model, plain = model_of(name, normalization), model_of(name, "none")
    actual = model.loss(x)
    actual.backward()
    inner, back = normalized(x, normalization)
    code = plain.encode(inner)
    error = (back(plain.decode(code)) - x).square().mean()
    if name == "matryoshka":
        errors = []
        for end in plain.prefixes:
            values = torch.where(code.indices < end, code.values, 0)
            errors.append((back(plain.decode((values, code.indices))) - x).square().mean())
        error = torch.stack(errors).mean()
    if name == "jumprelu":
        active = jumprelu(*plain._operands(plain._preactivation(inner))).active
        error = error + plain.sparsity_weight * active.sum(-1).mean()
    if name == "gated":
        opened = plain._gated(plain._product(inner))[1]
        by_gates = opened @ plain.decoder_weight.detach() + plain.decoder_bias.detach()
        error = error + plain.sparsity_weight * opened.sum(-1).mean()
        error = error + (back(by_gates) - x).square().mean()
    torch.testing.assert_close(actual, error)
    error.backward()
    for (label, a), b in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=lambda text, label=label: label + text)


@pytest.mark.parametrize("normalization", MEASURED)
@pytest.mark.parametrize("name", MODELS)
def test_the_error_of_rows_with_one_scale_is_on_it(name, normalization):
    """As in the other packages' loops, which train on the scaled rows."""
    x = rows()
    model = model_of(name, normalization)
    model.start_from(x)
    inner, _ = normalized(x, normalization)
    plain = model_of(name, "none")
    plain.start_from(inner)
    torch.testing.assert_close(model.decoder_bias, plain.decoder_bias)
    torch.testing.assert_close(model.loss(x), plain.loss(inner))


@pytest.mark.parametrize("normalization", BY_ROW)
def test_dead_latents_learn_the_residual_on_the_rows_scale(normalization):
    """SAELens refuses them: it would compare scales."""
    x = rows()
    options = {"aux_k": 5, "aux_weight": 0.5, "dead_after": 0}
    model, without = model_of("topk", normalization, **options), model_of("topk", normalization)
    model.idle.fill_(1)
    inner, _ = normalized(x, normalization)
    scale = x.std(-1, keepdim=True)
    if normalization == "constant_norm_rescale":
        scale = x.norm(dim=-1, keepdim=True) / D**0.5
    residual = (x - without(x)).detach()
    loss = model.loss(x)
    dead = model.dead
    z = (inner - model.decoder_bias) @ model.encoder_weight.t() + model.encoder_bias
    largest = z.masked_fill(~dead, -torch.inf).topk(5)
    recovered = (largest.values.relu()[..., None] * model.decoder_weight[largest.indices]).sum(1)
    expected = without.loss(x) + 0.5 * (scale * recovered - residual).square().mean()
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("normalization", BY_ROW + MEASURED)
def test_a_transcoders_input_alone_is_normalized(normalization):
    x, y = rows(), torch.randn(ROWS, 4)
    model = model_of("topk", normalization, outputs=4)
    plain = model_of("topk", "none", outputs=4)
    if normalization in MEASURED:
        with pytest.raises(ValueError, match=r"^inputs is None; normalize_activations="):
            model.start_from(y)
    model.start_from(y, x)
    plain.start_from(y)
    inner, _ = normalized(x, normalization)
    torch.testing.assert_close(model(x), plain(inner))
    torch.testing.assert_close(model.loss(x, target=y), plain.loss(inner, target=y))


@pytest.mark.parametrize("normalization", BY_ROW)
def test_a_row_of_zeros_stays_finite(normalization):
    x = torch.cat([torch.zeros(1, D), rows()]).requires_grad_()
    model = model_of("topk", normalization)
    model.loss(x).backward()
    assert model(x).isfinite().all()
    assert x.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("shape", [(0, D), (2, 0, D)])
@pytest.mark.parametrize("normalization", BY_ROW)
@pytest.mark.parametrize("name", MODELS)
def test_no_rows_have_the_loss_that_they_have_without(name, normalization, shape):
    """A rank of a process group has none of a last minibatch smaller than the group."""
    x = torch.zeros(shape)
    for model in (model_of(name, normalization), model_of(name, "none")):
        loss = model.loss(x)
        loss.backward()
        assert loss.isnan()
        assert model(x).shape == shape
        assert all((parameter.grad == 0).all() for parameter in model.parameters())


@pytest.mark.parametrize("normalization", MEASURED)
def test_a_scale_is_kept_and_one_that_was_not_measured_is_an_error(normalization):
    model, x = model_of("topk", normalization), rows()
    for call in (model.encode, model, model.loss):
        with pytest.raises(RuntimeError, match="the rows' scale was not measured"):
            call(x)
    with pytest.raises(ValueError, match="the rows' norms give a factor of inf"):
        model.start_from(torch.zeros(3, D))
    model.start_from(x)
    other = model_of("topk", normalization)
    other.load_state_dict(model.state_dict())
    for one in (other, pickle.loads(pickle.dumps(model))):
        assert torch.equal(one(x), model(x))


@pytest.mark.parametrize("normalization", BY_ROW + MEASURED)
@pytest.mark.parametrize("name", MODELS)
def test_fit_trains_it(name, normalization):
    model, x = model_of(name, normalization), rows(300)
    model.start_from(x)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = aefast.fit(model, x, optimizer, epochs=20, batch_size=50, seed=0).losses
    assert losses[-6:].mean() < 0.9 * losses[:6].mean()


@pytest.mark.parametrize("normalization", BY_ROW + MEASURED)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_and_compiled_losses(normalization, dtype):
    x = rows()
    model = model_of("topk", normalization, dtype=dtype)
    model.start_from(x.to(dtype))
    if normalization in MEASURED:
        assert model.input_factor.dtype == torch.promote_types(dtype, torch.float32)
    assert model.encode(x.to(dtype)).values.dtype == model(x.to(dtype)).dtype == dtype
    loss = model.loss(x.to(dtype))
    torch.compiler.reset()  # each case has a model of its own, and the compiler a limit of them
    compiled = torch.compile(model.loss, backend="aot_eager", fullgraph=True)(x.to(dtype))
    torch.testing.assert_close(compiled, loss, rtol=1e-2, atol=0)


def test_wrong_normalizations_are_named():
    with pytest.raises(
        ValueError, match="normalize_activations is 'batch'; it takes one of none, exp"
    ):
        TopKSparseAutoencoder(D, L, K, normalize_activations="batch")
    with pytest.raises(ValueError, match="visible is 1; normalize_activations='layer_norm' takes"):
        TopKSparseAutoencoder(1, L, K, normalize_activations="layer_norm")
    model = model_of("topk", "layer_norm")
    with pytest.raises(ValueError, match="x is None; with normalize_activations='layer_norm' each"):
        model.restore(torch.zeros(3, D))
    with pytest.raises(ValueError, match="normalize_activations is 'none'; the model was made"):
        model.normalize_activations = "none"
    assert plan_of(model) == "its rows are normalized"
    assert "normalize_activations='layer_norm'" in repr(model)
