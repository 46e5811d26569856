"""The sparse autoencoder over many latents, against its dense definition."""

import copy

import pytest
import torch

import aefast
from aefast.nn import TopKSparseAutoencoder
from aefast.nn.dictionary import geometric_median
from tests.backends import not_interpreted

D, L, K = 6, 40, 4


def trained(device="cpu", **options):
    """A model whose parameters are no start's."""
    model = TopKSparseAutoencoder(D, L, K, **options).to(device)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def dense_code(model, x):
    """[B, L], as PyTorch's own operators make it."""
    dense = (x - model.decoder_bias) @ model.encoder_weight.t() + model.encoder_bias
    values, indices = dense.topk(model.k)
    return torch.zeros_like(dense).scatter(1, indices, values.relu())


def dense_loss(model, x):
    output = dense_code(model, x) @ model.decoder_weight + model.decoder_bias
    return (output - x).square().mean()


@not_interpreted
def test_reconstruction_loss_and_gradients_are_the_dense_ones(device):
    model, x = trained(device), torch.randn(30, D, device=device)
    expected = dense_code(model, x) @ model.decoder_weight + model.decoder_bias
    torch.testing.assert_close(model(x), expected)
    torch.testing.assert_close(model(x.reshape(5, 6, D)), expected.reshape(5, 6, D))
    losses = model.loss(x), dense_loss(model, x)
    torch.testing.assert_close(*losses)
    actual, expected = (torch.autograd.grad(loss, [*model.parameters()]) for loss in losses)
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b)


@not_interpreted
@pytest.mark.parametrize("aux_k", [0, 5])
def test_selected_by_norm_a_code_does_not_depend_on_how_a_latent_is_scaled(device, aux_k):
    """Its reconstruction is that of the same model with directions of unit norm."""
    options = {"aux_k": aux_k, "dead_after": 10, "rescale_acts_by_decoder_norm": True}
    model, x = trained(device, **options), torch.randn(30, D, device=device)
    unit = copy.deepcopy(model)
    scale = torch.rand(L, 1, device=device) + 0.2
    with torch.no_grad():
        model.decoder_weight *= scale
        model.encoder_weight /= scale
        model.encoder_bias /= scale[:, 0]
        unit.idle[::2] = model.idle[::2] = 1000
        norms = unit.decoder_weight.norm(dim=1, keepdim=True)
        unit.decoder_weight /= norms
        unit.encoder_weight *= norms
        unit.encoder_bias *= norms[:, 0]
    unit.rescale_acts_by_decoder_norm = False
    torch.testing.assert_close(model(x), unit(x))
    torch.testing.assert_close(
        model.encode_dense(x) * norms[:, 0] * scale[:, 0], unit.encode_dense(x)
    )
    losses = model.loss(x), unit.loss(x)
    torch.testing.assert_close(*losses)
    of_model, of_unit = (
        torch.autograd.grad(loss, one.encoder_weight)[0]
        for loss, one in zip(losses, (model, unit), strict=True)
    )
    torch.testing.assert_close(of_model / (norms * scale), of_unit)
    model.rescale_acts_by_decoder_norm = False
    assert not torch.equal(model.encode(x).indices, unit.encode(x).indices)
    assert "rescale" not in repr(model)


def test_a_direction_of_zeros_has_no_part_in_a_code():
    model = trained(rescale_acts_by_decoder_norm=True)
    with torch.no_grad():
        model.decoder_weight[7] = 0
        model.encoder_bias[7] = 1e10
    x = torch.randn(9, D)
    assert not (model.encode(x).indices == 7).any()
    assert model(x).isfinite().all()


def test_a_latent_below_zero_is_not_active():
    model = trained()
    with torch.no_grad():
        model.encoder_bias.fill_(-100)
        model.encoder_bias[7] = 100
    x = torch.randn(3, D)
    assert (model.encode(x).values > 0).sum(1).tolist() == [1, 1, 1]
    model.loss(x)
    assert model.idle.tolist() == [0 if latent == 7 else 3 for latent in range(L)]


def test_the_start_is_tied_of_unit_norm_and_at_the_median():
    model = TopKSparseAutoencoder(D, L, K)
    torch.testing.assert_close(model.decoder_weight.norm(dim=1), torch.ones(L))
    assert torch.equal(model.encoder_weight, model.decoder_weight)
    assert not any(t.any() for t in (model.encoder_bias, model.decoder_bias, model.idle))
    x = torch.randn(4, 9, D) + 3
    model.start_from(x)
    assert torch.equal(model.decoder_bias, geometric_median(x.reshape(-1, D)))


def test_the_geometric_median_has_the_least_sum_of_distances():
    points = torch.randn(50, 3)
    points[0] = 1e4

    def total(point):
        return (points - point).double().norm(dim=1).sum()

    median = geometric_median(points)
    assert median.norm() < 1
    assert all(total(median) <= total(median + 1e-2 * torch.randn(3)) for _ in range(50))
    same = torch.full((5, 3), 2.0)
    assert torch.equal(geometric_median(same), same[0])


def test_rows_without_activity_are_counted_in_training_alone():
    model, x = trained(dead_after=9), torch.randn(5, D)
    model.eval()
    model.loss(x)
    assert not model.idle.any()
    model.train()
    active = (dense_code(model, x) > 0).any(0)
    for step in (1, 2):
        model.loss(x)
        assert torch.equal(model.idle, torch.where(active, 0, 5 * step))
        assert torch.equal(model.dead, ~active & (step == 2))
    reloaded = TopKSparseAutoencoder(D, L, K)
    reloaded.load_state_dict(model.state_dict())
    assert torch.equal(reloaded.idle, model.idle)


def test_dead_latents_reconstruct_the_residual():
    model, x = trained(aux_k=3, aux_weight=0.5, dead_after=0), torch.randn(8, D)
    plain = copy.deepcopy(model)
    plain.aux_k = 0
    model.eval()
    assert torch.equal(model.loss(x), plain.eval().loss(x))  # none is dead yet
    model.train()
    model.idle[10:20] = 100
    model.eval()
    residual = (x - model(x)).detach()
    dead = slice(10, 20)
    dense = (x - model.decoder_bias) @ model.encoder_weight[dead].t() + model.encoder_bias[dead]
    values, indices = dense.topk(3)
    actual = torch.zeros_like(dense).scatter(1, indices, values.relu()) @ model.decoder_weight[dead]
    expected = dense_loss(model, x) + 0.5 * (actual - residual).square().mean()
    losses = model.loss(x), expected
    torch.testing.assert_close(*losses)
    gradients = (torch.autograd.grad(loss, [*model.parameters()]) for loss in losses)
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_a_projected_gradient_keeps_the_norm_and_a_step_restores_it():
    model, x = trained(), torch.randn(9, D)
    model.project_decoder_gradient()  # of none
    model.loss(x).backward()
    before = model.decoder_weight.grad.clone()
    model.project_decoder_gradient()
    along = (model.decoder_weight.grad * model.decoder_weight).sum(1)
    torch.testing.assert_close(along, torch.zeros(L), atol=1e-6, rtol=0)
    assert not torch.equal(before, model.decoder_weight.grad)
    model.normalize_decoder()
    torch.testing.assert_close(model.decoder_weight.norm(dim=1), torch.ones(L))


def run(steps, count, threads):
    threads(count)
    torch.manual_seed(0)
    model = TopKSparseAutoencoder(32, 256, 8, aux_k=4, dead_after=200)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    data = torch.randn(64, 32).relu() @ torch.randn(32, 32)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model.loss(data)
        loss.backward()
        model.project_decoder_gradient()
        optimizer.step()
        model.normalize_decoder()
        losses.append(loss.item())
    return model, losses


def test_training_lowers_the_loss_with_the_same_bits_on_one_and_two_threads(threads):
    model, losses = run(20, 1, threads)
    assert losses[-1] < losses[0] / 2
    other, others = run(20, 2, threads)
    assert losses == others
    for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_fit_takes_the_steps_of_the_ordinary_loop():
    data, models = torch.randn(24, D), [trained(), trained()]
    models[1].load_state_dict(models[0].state_dict())
    optimizers = [torch.optim.Adam(model.parameters(), 1e-2) for model in models]
    aefast.fit(models[0], data, optimizers[0], epochs=2, batch_size=8, shuffle=False)
    for _ in range(2):
        for x in data.split(8):
            optimizers[1].zero_grad()
            models[1].loss(x, seed=1).backward()
            optimizers[1].step()
    for a, b in zip(models[0].state_dict().values(), models[1].state_dict().values(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes(dtype):
    model = trained(dtype=dtype)
    loss = model.loss(torch.randn(5, D, dtype=dtype))
    loss.backward()
    assert loss.dtype == dtype
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"k": L + 1}, ValueError, r"k is 41; of 40 latents it takes an int in \[1, 40\]"),
        ({"k": 0}, ValueError, r"k is 0; of 40 latents it takes an int in \[1, 40\]"),
        ({"k": 1.5}, TypeError, "k is a float; it takes an int"),
        ({"aux_k": L + 1}, ValueError, r"aux_k is 41; of 40 latents it takes an int in \[0, 40\]"),
        ({"latents": 0}, ValueError, "latents is 0"),
        ({"visible": 0}, ValueError, "visible is 0"),
        ({"aux_weight": -1}, ValueError, "aux_weight is -1"),
        ({"dead_after": -1}, ValueError, "dead_after is -1"),
    ],
)
def test_bad_arguments_are_named(change, error, message):
    with pytest.raises(error, match=f"^{message}"):
        TopKSparseAutoencoder(**{"visible": D, "latents": L, "k": K} | change)


@pytest.mark.parametrize(
    ("x", "inputs", "message"),
    [
        (torch.zeros(0, 4), None, r"x has shape \[0, 4\]; it takes one row or more"),
        (torch.tensor([[0, 1, torch.nan, 3]]), None, "x holds nan; it takes finite numbers"),
        (torch.ones(3, 4), torch.ones(3, 4), r"inputs has shape \[3, 4\]; it takes \[..., 6\]"),
        (torch.ones(3, 4), torch.full((1, 6), -torch.inf), "inputs holds -inf; it takes finite"),
    ],
)
def test_rows_that_give_no_start_are_named(x, inputs, message):
    model = TopKSparseAutoencoder(6, 40, 3, outputs=4)
    with pytest.raises(ValueError, match=f"^{message}"):
        model.start_from(x, inputs)
    assert not model.decoder_bias.any()


def test_rows_of_another_width_are_named():
    model = trained()
    for call in (model, model.encode, model.loss, model.start_from):
        with pytest.raises(ValueError, match=r"^x has shape \[5, 7\]; it takes \[..., 6\]"):
            call(torch.ones(5, 7))
