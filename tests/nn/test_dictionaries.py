"""The kin of the top-k sparse autoencoder, each against its equations in plain operators."""

import copy
import sys

import pytest
import torch
from torch.nn.functional import linear, mse_loss
from torch.nn.utils import prune, spectral_norm

import aefast
from aefast.nn import (
    BatchTopKSparseAutoencoder,
    GatedSparseAutoencoder,
    JumpReLUSparseAutoencoder,
    MatryoshkaSparseAutoencoder,
    TopKSparseAutoencoder,
    candidates,
)
from aefast.nn.dictionary import geometric_median
from aefast.nn.input_normalization import Target
from aefast.ops.topk.op import SparseCode
from tests.backends import not_interpreted

D, L, K = 6, 40, 3

MODELS = {
    "topk": lambda **options: TopKSparseAutoencoder(D, L, K, **options),
    "batchtopk": lambda **options: BatchTopKSparseAutoencoder(D, L, K, **options),
    "matryoshka": lambda **options: MatryoshkaSparseAutoencoder(
        D, L, K, prefixes=[7, 20, L], **options
    ),
    "jumprelu": lambda **options: JumpReLUSparseAutoencoder(
        D, L, sparsity_weight=0.1, bandwidth=0.5, initial_threshold=0.3, **options
    ),
    "gated": lambda **options: GatedSparseAutoencoder(D, L, sparsity_weight=0.1, **options),
}


def trained(name, device="cpu", **options):
    """A model whose parameters are no start's."""
    model = MODELS[name](**options).to(device)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def scattered(largest, dense):
    """The elements of dense that are among the largest, ReLU of them; 0 elsewhere."""
    mask = torch.zeros_like(dense).flatten().index_fill(0, largest.indices, 1).view_as(dense)
    return mask * dense.relu()


def definition(name, model, x, target=None):
    """The code, and the loss, of training."""
    centered = x - model.decoder_bias if target is None else x
    target = x if target is None else target
    z = linear(centered, model.encoder_weight, model.encoder_bias)

    def decoded(code):
        return code @ model.decoder_weight + model.decoder_bias

    if name == "jumprelu":
        # Through z alone; the thresholds' gradients are tested with the op.
        active = (z > model.threshold).to(z)
        code = z * active
        return code, mse_loss(decoded(code), target) + 0.1 * active.sum(1).mean()
    if name == "gated":
        weight = model.encoder_weight * model.magnitude_scale.exp()[:, None]
        code = linear(centered, weight, model.magnitude_bias).relu() * (z > 0)
        by_gates = z.relu() @ model.decoder_weight.detach() + model.decoder_bias.detach()
        penalty = 0.1 * z.relu().sum(1).mean()
        return code, mse_loss(decoded(code), target) + penalty + mse_loss(by_gates, target)
    if name == "topk":
        largest = z.topk(K)
        code = torch.zeros_like(z).scatter(1, largest.indices, largest.values.relu())
    else:
        code = scattered(z.flatten().topk(K * len(x)), z)
    if name != "matryoshka":
        return code, mse_loss(decoded(code), target)
    first = [torch.where(torch.arange(L, device=x.device) < n, code, 0) for n in (7, 20, L)]
    return code, torch.stack([mse_loss(decoded(part), target) for part in first]).mean()


@not_interpreted
@pytest.mark.parametrize("name", MODELS)
def test_code_loss_and_gradients_are_the_equations(name, device):
    model, x = trained(name, device), torch.randn(30, D, device=device)
    code, expected = definition(name, model, x)
    torch.testing.assert_close(model.encode_dense(x), code)
    loss = model.loss(x)
    torch.testing.assert_close(loss, expected)
    parameters = [p for n, p in model.named_parameters() if n != "threshold"]
    actual, expected_gradients = (torch.autograd.grad(one, parameters) for one in (loss, expected))
    for a, b in zip(actual, expected_gradients, strict=True):
        torch.testing.assert_close(a, b)
    assert torch.equal(model.idle > 0, ~(code > 0).any(0))


def gradients(model, loss):
    return torch.autograd.grad(loss, list(model.parameters()))


@not_interpreted
@pytest.mark.parametrize("name", ["jumprelu", "gated"])
@pytest.mark.parametrize("outputs", [None, 4])
def test_a_loss_of_the_few_candidates_is_that_of_all_latents(name, outputs, device, monkeypatch):
    torch.manual_seed(0)
    model = trained(name, device, outputs=outputs, aux_k=2, dead_after=0)
    x = torch.randn(3, 10, D, device=device)
    target = None if outputs is None else torch.randn(3, 10, outputs, device=device)
    model.idle[:4] = 50
    start = copy.deepcopy(model.state_dict())
    losses = {}
    for share in (0, 1):
        monkeypatch.setattr(candidates, "MOST_CANDIDATES", share)
        model.load_state_dict(start)
        loss = model.loss(x, target=target)
        losses[share] = loss, *gradients(model, loss), model.idle.clone()
    for dense, sparse in zip(*losses.values(), strict=True):
        torch.testing.assert_close(sparse, dense)
    objective = model._objective(x, model._checked_target(x, target))
    is_kernel = x.device.type == "cpu" and aefast.backend.select(x.device, x.dtype) != "eager"
    assert isinstance(objective[1], SparseCode) == is_kernel
    x.requires_grad_()
    for share in (0, 1):
        monkeypatch.setattr(candidates, "MOST_CANDIDATES", share)
        loss = model.loss(x, target=target)
        (first,) = torch.autograd.grad(loss, x, create_graph=True)
        losses[share] = first, *torch.autograd.grad(first.square().sum(), x)
    for dense, sparse in zip(*losses.values(), strict=True):
        torch.testing.assert_close(sparse, dense)


@pytest.mark.parametrize("name", ["jumprelu", "gated"])
def test_candidates_are_not_asked_where_a_code_is_another(name, monkeypatch):
    monkeypatch.setattr(candidates, "MOST_CANDIDATES", 1)
    model, x = trained(name), torch.randn(9, D)
    assert isinstance(model._objective(x, Target(x))[1], SparseCode)
    x[0, 0] = torch.nan
    assert model.loss(x).isnan()
    for changed in (
        {"encode": lambda self, x: 2 * type(self).__base__.encode(self, x)},
        {"decode": lambda self, code: 2 * type(self).__base__.decode(self, code)},
    ):
        other = trained(name)
        other.__class__ = type("Changed", (type(other),), changed)
        assert isinstance(other._objective(x, Target(x))[1], torch.Tensor)
    with torch.autocast("cpu", torch.bfloat16):
        assert isinstance(model._objective(x, Target(x))[1], torch.Tensor)
    if name == "jumprelu":
        model.estimator = "tanh"
        assert isinstance(model._objective(x, Target(x))[1], torch.Tensor)


@pytest.mark.parametrize("name", MODELS)
def test_a_transcoder_reconstructs_its_target_from_an_input_that_is_not_centered(name):
    model, x, target = trained(name, outputs=4, aux_k=3), torch.randn(30, D), torch.randn(30, 4)
    assert "outputs=4" in repr(model)
    model.start_from(target)
    assert torch.equal(model.decoder_bias, geometric_median(target))
    code, expected = definition(name, model, x, target)
    torch.testing.assert_close(model.encode_dense(x), code)
    torch.testing.assert_close(model.loss(x, target=target), expected)
    assert model(x).shape == (30, 4)
    model.idle += model.dead_after + 1
    model.loss(x, target=target).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    for wrong, message in (
        (None, r"target is None; a transcoder takes \[..., 4\]"),
        (x, r"target has shape \[30, 6\]; it takes \[..., 4\]"),
        (target[:1], r"target has shape \[1, 4\]; with x's shape \[30, 6\] it takes \[30, 4\]"),
    ):
        with pytest.raises(ValueError, match=message):
            model.loss(x, target=wrong)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(ValueError, match="target is None"):
        aefast.fit(model, x, optimizer)
    with pytest.raises(ValueError, match="model is a transcoder"):
        aefast.save_saelens(model, "not written")


def test_an_autoencoder_takes_a_target_of_its_width():
    model, x, target = trained("topk"), torch.randn(30, D), torch.randn(30, D)
    torch.testing.assert_close(model.loss(x, target=target), mse_loss(model(x), target))


@pytest.mark.parametrize("name", MODELS)
def test_start_shapes_state_and_reconstruction(name):
    torch.manual_seed(0)
    model, x = MODELS[name](), torch.randn(5, 6, D) + 3
    torch.testing.assert_close(model.decoder_weight.norm(dim=1), torch.ones(L))
    start = 0.1 if name in ("jumprelu", "gated") else 1
    assert torch.equal(model.encoder_weight, start * model.decoder_weight)
    model.start_from(x)
    assert torch.equal(model.decoder_bias, geometric_median(x.reshape(-1, D)))
    for mode in (True, False):
        model.train(mode)
        dense = model.encode_dense(x)
        assert dense.shape == (5, 6, L)
        assert (dense >= 0).all()
        torch.testing.assert_close(model(x), model.decode(dense))
    model.train().loss(x)
    other = MODELS[name]()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.eval()(x), model.eval()(x))
    assert name[:4] in repr(model).lower()


@pytest.mark.parametrize(
    ("name", "share"), [*((name, 0) for name in MODELS), ("jumprelu", 1), ("gated", 1)]
)
def test_training_lowers_the_loss_to_the_same_bits_on_one_and_two_threads(
    name, share, threads, our_product, monkeypatch
):
    monkeypatch.setattr(candidates, "MOST_CANDIDATES", share)

    def train(count):
        threads(count)
        torch.manual_seed(0)
        model = trained(name, aux_k=4, dead_after=100)
        data = torch.randn(64, D).relu() @ torch.randn(D, D)
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        model.keep_unit_norm(optimizer)
        losses = []
        for _ in range(100):
            optimizer.zero_grad()
            loss = model.loss(data)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        torch.testing.assert_close(model.decoder_weight.norm(dim=1), torch.ones(L))
        return losses, model

    losses, model = train(1)
    assert losses[-1] < losses[0]
    again, other = train(2)
    assert again == losses
    for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_and_autocast(name, dtype):
    model, x = trained(name, dtype=dtype, aux_k=2, dead_after=0), torch.randn(9, D, dtype=dtype)
    model.idle += 1
    loss = model.loss(x)
    loss.backward()
    assert loss.dtype == dtype
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    plain = trained(name)
    with torch.autocast("cpu", torch.bfloat16):
        assert plain.encode_dense(x.float()).isfinite().all()
        plain.loss(x.float()).backward()
    assert plain.decoder_weight.grad.isfinite().all()


@pytest.mark.parametrize("name", MODELS)
def test_losses_may_be_summed_before_one_backward_pass(name):
    torch.manual_seed(0)
    model, rows = trained(name), torch.randn(2, 9, D)
    model.idle.zero_()
    twin = copy.deepcopy(model)
    sum(model.loss(x) for x in rows).backward()
    for x in rows:
        twin.loss(x).backward()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_model_that_was_cast_trains(name, dtype):
    torch.manual_seed(0)
    model, x = MODELS[name](dtype=dtype), torch.randn(9, D, dtype=dtype)
    cast = MODELS[name]().to(dtype)
    cast.load_state_dict(model.state_dict())
    for _ in range(3):
        loss = cast.loss(x)
        loss.backward()
        torch.testing.assert_close(loss, model.loss(x))
    for actual, expected in zip(cast.buffers(), model.buffers(), strict=True):
        torch.testing.assert_close(actual, expected.to(actual.dtype), rtol=1e-2, atol=0)


def test_the_dead_latents_loss_without_a_count_of_them_is_the_same():
    """On a GPU all latents are multiplied, and those that are alive are left out."""
    model, x = trained("topk", aux_k=5, dead_after=10), torch.randn(8, D)
    residual = torch.randn(8, D)
    parameters = [model.encoder_weight, model.encoder_bias, model.decoder_weight]
    for dead in ([], [3], list(range(10, 30))):
        model.idle.zero_()[dead] = 100

        cpu_loss = model._auxiliary_loss(x, residual)
        other_device_loss = model._auxiliary_loss(x, _OnAnotherDevice(residual))
        torch.testing.assert_close(other_device_loss, cpu_loss)
        if dead:
            pairs = (
                torch.autograd.grad(loss, parameters) for loss in (cpu_loss, other_device_loss)
            )
            for a, b in zip(*pairs, strict=True):
                torch.testing.assert_close(a, b)


class _OnAnotherDevice(torch.Tensor):
    """A tensor that says it lies on a GPU, to the one line that asks."""

    @property
    def device(self):
        frame = sys._getframe(1)
        is_auxiliary = frame.f_code.co_name == "_auxiliary_loss"
        return torch.device("cuda") if is_auxiliary else torch.device("cpu")


def test_the_threshold_follows_the_smallest_active_value_and_serves_each_row_alone():
    model, x = trained("batchtopk"), torch.randn(50, D)
    code = definition("batchtopk", model, x)[0]
    model.loss(x)
    least = code[code > 0].min()
    torch.testing.assert_close(model.threshold, 0.01 * least)
    model.eval()
    model.threshold.copy_(least)
    z = linear(x - model.decoder_bias, model.encoder_weight, model.encoder_bias)
    torch.testing.assert_close(model.encode_dense(x), torch.where(z > least, z, 0))
    torch.testing.assert_close(model.encode_dense(x[:1]), model.encode_dense(x)[:1])


def test_the_tanh_estimator_reaches_thresholds_that_no_pre_activation_is_near():
    model = trained("jumprelu")
    with torch.no_grad():
        model.threshold.fill_(2)
    for estimator, is_reached in (("rectangle", False), ("tanh", True)):
        model.estimator = estimator
        (gradient,) = torch.autograd.grad(model.loss(torch.zeros(5, D)), model.threshold)
        assert bool(gradient.all()) == bool(gradient.any()) == is_reached


def test_thresholds_below_zero_are_set_to_zero():
    model = trained("jumprelu")
    with torch.no_grad():
        model.threshold.fill_(-1)
    model.eval().loss(torch.randn(3, D))
    assert (model.threshold == -1).all()
    model.train().loss(torch.randn(3, D))
    assert not model.threshold.any()


@pytest.mark.parametrize("method", ["encode", "decode"])
def test_a_subclass_may_encode_to_a_dense_code_and_decode_by_itself(method):
    class Own(TopKSparseAutoencoder):
        pass

    def encode(self, x):
        return linear(x, self.encoder_weight).relu()

    def decode(self, code):
        return 2 * TopKSparseAutoencoder.decode(self, code)

    setattr(Own, method, locals()[method])
    model, x = Own(D, L, K), torch.randn(9, D)
    torch.testing.assert_close(model.loss(x), mse_loss(model(x), x))


@pytest.mark.parametrize("mode", [True, False])
def test_a_threshold_that_the_last_step_left_below_zero_counts_as_zero(mode):
    """It has no gradient then: a loss sets it to 0 before it asks for one."""
    model, x = trained("jumprelu").train(mode), torch.randn(30, D)
    expected = copy.deepcopy(model)
    with torch.no_grad():
        model.threshold.fill_(-0.5)
        expected.threshold.zero_()
    code = model.encode(x)
    assert torch.equal(code, expected.encode(x))
    assert (code >= 0).all()
    assert torch.equal(model(x), expected(x))
    loaded = MODELS["jumprelu"]()
    loaded.load_state_dict(model.state_dict())
    assert torch.equal(loaded.train(mode).encode(x), code)


@pytest.mark.parametrize("name", MODELS)
def test_after_each_step_that_an_optimizer_takes_the_constraints_hold(name):
    model = trained(name)
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    model.keep_unit_norm(optimizer)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    torch.testing.assert_close(model.decoder_weight.norm(dim=1), torch.ones(L))
    if name == "jumprelu":
        assert not model.threshold.any()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: BatchTopKSparseAutoencoder(D, L, L + 1), ValueError, "k is 41; of 40 latents"),
        (lambda: BatchTopKSparseAutoencoder(D, L, 0), ValueError, "k is 0; of 40 latents it"),
        (
            lambda: MatryoshkaSparseAutoencoder(D, L, K, prefixes=[7, 20]),
            ValueError,
            r"prefixes is \[7, 20\]; it takes rising numbers, the last of them 40",
        ),
        (
            lambda: MatryoshkaSparseAutoencoder(D, L, K, prefixes=[]),
            ValueError,
            r"prefixes is \[\]",
        ),
        (lambda: MatryoshkaSparseAutoencoder(D, L, K, prefixes=7), TypeError, "prefixes is a int"),
        (lambda: JumpReLUSparseAutoencoder(D, L, bandwidth=0), ValueError, "bandwidth is 0"),
        (lambda: JumpReLUSparseAutoencoder(D, L, estimator=1), ValueError, "estimator is 1"),
        (
            lambda: JumpReLUSparseAutoencoder(D, L, sparsity_weight=-1),
            ValueError,
            "sparsity_weight",
        ),
        (
            lambda: JumpReLUSparseAutoencoder(D, L, initial_threshold=-1),
            ValueError,
            "initial_threshold is -1",
        ),
        (
            lambda: GatedSparseAutoencoder(D, L, sparsity_weight="1"),
            TypeError,
            "sparsity_weight is",
        ),
        (lambda: GatedSparseAutoencoder(D, L, aux_k=L + 1), ValueError, "aux_k is 41"),
    ],
)
def test_bad_arguments_are_named(make, error, message):
    with pytest.raises(error, match=f"^{message}"):
        make()


def test_prefixes_change_only_where_they_are_checked():
    prefixes = [7, L]
    model = MatryoshkaSparseAutoencoder(D, L, K, prefixes=prefixes)
    prefixes[0] = L + 1
    assert model.prefixes == (7, L)


@pytest.mark.parametrize("reparametrize", [spectral_norm, prune.identity])
@pytest.mark.parametrize("name", MODELS)
def test_a_weight_that_a_hook_makes_is_made_for_each_loss(name, reparametrize):
    """The loss is no forward, before which PyTorch runs the hook."""
    torch.manual_seed(0)
    model = trained(name)
    for weight in ("encoder_weight", "decoder_weight"):
        reparametrize(model, weight)
    x = torch.randn(9, D)
    start = {key: parameter.detach().clone() for key, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    for _ in range(2):
        optimizer.zero_grad()
        model.loss(x).backward()
        optimizer.step()
    moved = {key for key, parameter in model.named_parameters() if not parameter.equal(start[key])}
    assert {"encoder_weight_orig", "decoder_weight_orig"} <= moved
    model.eval()
    code = model.encode(x)
    assert torch.equal(model.decode(code), model(x))
    with pytest.raises(RuntimeError, match="decoder_weight is made anew from other parameters"):
        model.keep_unit_norm(optimizer)


@pytest.mark.parametrize("name", ["topk", "jumprelu", "gated"])
def test_the_parts_hold_the_model_s_parameters_and_are_not_in_its_state_dict(name):
    model = trained(name)
    keys = list(model.state_dict())
    parts = [("encoder_", model.encoder), ("decoder_", model.decoder)]
    actual = dict(model.named_parameters())
    for prefix, part in parts:
        for key, parameter in part.named_parameters():
            assert parameter is actual.pop(key if key in actual else prefix + key)
    assert not actual
    assert list(model.named_children()) == []
    assert keys == [*dict(model.named_parameters()), "idle"]
    replica = model._replicate_for_data_parallel()
    replica._parameters["encoder_weight"] = weight = torch.zeros(L, D)
    assert replica.encoder.weight is weight
    assert model.encoder.weight is model.encoder_weight
    prune.identity(model, "encoder_weight")
    assert "weight_orig" in dict(model.encoder.named_parameters())
    with pytest.raises(AttributeError, match="encoder is made of the model's parameters"):
        model.encoder = torch.nn.Linear(D, L)


@pytest.mark.parametrize("name", MODELS)
def test_a_compiled_loss_trains(name):
    """What it writes to its parameters and counts takes no gradient away."""
    torch.manual_seed(0)
    model, x = trained(name), torch.randn(8, D)
    twin = copy.deepcopy(model)
    compiled = torch.compile(twin.loss, backend="aot_eager", fullgraph=True)
    for loss in (model.loss, compiled):
        loss(x).backward()
    for actual, expected in zip(twin.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(actual, expected)
        torch.testing.assert_close(actual.grad, expected.grad)
    assert torch.equal(twin.idle, model.idle)


def test_dead_latents_learn_in_a_compiled_loss():
    """Which they are is not known to the graph."""
    torch.manual_seed(0)
    model, x = trained("topk", aux_k=5, dead_after=10), torch.randn(8, D)
    model.idle[::2] = 11
    model.eval()
    loss = model.loss(x)
    gradient = torch.autograd.grad(loss, model.decoder_weight)[0]
    compiled = torch.compile(model.loss, backend="aot_eager", fullgraph=True)(x)
    torch.testing.assert_close(compiled, loss)
    actual = torch.autograd.grad(compiled, model.decoder_weight)[0]
    torch.testing.assert_close(actual, gradient)


IN_TRANSFORMS = r"cannot inside a transform of torch\.func; it takes model\.eval\(\)"


def gradient(model, x):
    """Of the loss, by the rows."""
    x = x.clone().requires_grad_()
    return torch.autograd.grad(model.loss(x), x)[0]


@pytest.mark.parametrize("name", MODELS)
def test_under_vmap_the_loss_is_that_of_each_or_a_refusal(name):
    torch.manual_seed(0)
    model, x = MODELS[name](), torch.randn(3, 4, D)
    with pytest.raises(RuntimeError, match=IN_TRANSFORMS):
        torch.vmap(model.loss)(x)
    with pytest.raises(RuntimeError, match=IN_TRANSFORMS):
        torch.func.grad(model.loss)(x[0])
    model.eval()
    torch.testing.assert_close(torch.func.grad(model.loss)(x[0]), gradient(model, x[0]))
    if isinstance(model, BatchTopKSparseAutoencoder):
        with pytest.raises(RuntimeError, match="it takes neither a meta tensor"):
            torch.vmap(model.loss)(x)
        with pytest.raises(RuntimeError, match="it takes neither a meta tensor"):
            copy.deepcopy(model).to("meta")(x.to("meta"))
    else:
        each = torch.stack([model.loss(rows) for rows in x])
        torch.testing.assert_close(torch.vmap(model.loss)(x), each)
