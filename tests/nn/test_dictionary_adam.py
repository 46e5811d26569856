"""Adam that keeps directions at unit norm, against its equations in float64 and torch's Adam with
``keep_unit_norm``'s hooks."""

import copy
import io

import pytest
import torch

pytest.importorskip("aefast._C", reason="needs the C++ extension")

import aefast
from aefast import backend, nn
from aefast.backend import use_backend
from aefast.nn import DictionaryAdam, TopKSparseAutoencoder
from aefast.step import kernels

D, L, K = 24, 96, 4
SETTINGS = {
    "default": {},
    "other rates": {"lr": 3e-2, "betas": (0.5, 0.9), "eps": 1e-3},
    "tensors": {"lr": torch.tensor(1e-2), "betas": (torch.tensor(0.8), torch.tensor(0.99))},
    "maximize": {"maximize": True},
    "weight decay": {"weight_decay": 0.1},
    "decoupled": {"weight_decay": 0.1, "decoupled_weight_decay": True},
    "fused": {"fused": True},
}
MODELS = {
    "topk": lambda **options: TopKSparseAutoencoder(D, L, K, aux_k=4, dead_after=100, **options),
    "transcoder": lambda **options: TopKSparseAutoencoder(D, L, K, outputs=9, **options),
    "jumprelu": lambda **options: nn.JumpReLUSparseAutoencoder(D, L, bandwidth=0.5, **options),
    "gated": lambda **options: nn.GatedSparseAutoencoder(D, L, **options),
    "matryoshka": lambda **options: nn.MatryoshkaSparseAutoencoder(D, L, K, **options),
}


def definition(row, gradients, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, **options):
    """Rows after steps with these gradients, by the equations, in float64."""
    decay = float(options.get("weight_decay", 0))
    is_decoupled = options.get("decoupled_weight_decay", False)
    beta1, beta2 = map(float, betas)
    v, m, s = row.double(), 0.0, 0.0
    for t, gradient in enumerate(gradients, start=1):
        g = gradient.double()
        g = g - (g * v).sum(1, keepdim=True) / v.square().sum(1, keepdim=True) * v
        g = -g if options.get("maximize") else g
        if is_decoupled:
            v = v * (1 - float(lr) * decay)
        else:
            g = g + decay * v
        m = beta1 * m + (1 - beta1) * g
        s = beta2 * s + (1 - beta2) * g.square()
        v = v - float(lr) * m / (1 - beta1**t) / ((s / (1 - beta2**t)).sqrt() + eps)
        v = v / v.norm(dim=1, keepdim=True)
    return v


def pair(name="topk", settings=None, plain=torch.optim.Adam, **options):
    """A model and a copy of it, with a dictionary's Adam and torch's."""
    torch.manual_seed(0)
    models = [MODELS[name](**options)]
    models.append(copy.deepcopy(models[0]))
    optimizers = []
    for model, kind in zip(models, (DictionaryAdam, plain), strict=True):
        optimizers.append(kind(model.parameters(), **(settings or {"lr": 1e-2})))
        model.keep_unit_norm(optimizers[-1])
    return models, optimizers


def random_gradients(model, generator):
    return [
        torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype)
        for p in model.parameters()
    ]


def assert_close(actual, expected, **tolerance):
    for (name, a), b in zip(
        actual.state_dict().items(), expected.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(a, b, **tolerance, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_fifty_steps_are_the_equations_no_further_off_than_torch_s_adam_with_hooks(settings):
    (ours, theirs), optimizers = pair(settings=settings)
    generator = torch.Generator().manual_seed(1)
    start, taken = ours.decoder_weight.detach().clone(), []
    for _ in range(50):
        gradients = random_gradients(ours, generator)
        taken.append(gradients[2])
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter.grad = gradient.clone()
            optimizer.step()
    expected = definition(start, taken, **settings)
    error, torch_error = (
        (model.decoder_weight.double() - expected).abs().max() for model in (ours, theirs)
    )
    assert error <= 2 * torch_error
    assert (ours.decoder_weight.norm(dim=1) - 1).abs().max() < 1e-6
    assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_trains_as_with_torch_s_adam_and_hooks(name):
    (ours, theirs), optimizers = pair(name)
    x = torch.randn(64, D)
    target = torch.randn(64, 9) if name == "transcoder" else None
    losses = [[], []]
    for _ in range(5):
        for model, optimizer, record in zip((ours, theirs), optimizers, losses, strict=True):
            optimizer.zero_grad()
            loss = model.loss(x, target=target)
            loss.backward()
            optimizer.step()
            record.append(loss.detach())
    torch.testing.assert_close(*losses)
    assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_step_is_projection_adam_and_norm_to_the_bit():
    torch.manual_seed(0)
    shape = 37, 1500  # a row is longer than what is projected at a time
    updates, rows = [], [torch.nn.Parameter(torch.randn(shape)) for _ in range(2)]
    rows[1].data.copy_(rows[0])
    from aefast.step.optimizers import adam_update

    optimizers = [torch.optim.Adam([row]) for row in rows]
    kind = aefast.backend.extension().OptimizerKind.adam
    for optimizer, row, columns in zip(optimizers, rows, (1500, 0), strict=True):
        group = optimizer.param_groups[0]
        updates.append(adam_update(kind, group, row, optimizer.state, columns, columns > 0))
    for _ in range(3):
        gradients = [torch.randn(shape)]
        gradients.append(gradients[0].clone())
        kernels().project_rows(gradients[1], rows[1])
        kernels().update(updates, [gradient.data_ptr() for gradient in gradients])
        kernels().normalize_rows(rows[1])
    assert torch.equal(*rows)
    for name in ("step", "exp_avg", "exp_avg_sq"):
        assert torch.equal(*(o.state[r][name] for o, r in zip(optimizers, rows, strict=True)))


def test_rows_that_nothing_moves_keep_their_bits_and_those_with_moments_move():
    models, optimizers = pair()
    start = copy.deepcopy(models[0].state_dict())
    generator = torch.Generator().manual_seed(1)
    for active in (range(10), range(5, 15), ()):
        gradients = random_gradients(models[0], generator)
        is_active = torch.zeros(L).index_fill(0, torch.tensor(active, dtype=torch.int64), 1)
        for model, optimizer in zip(models, optimizers, strict=True):
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                is_matrix = parameter.dim() == 2
                parameter.grad = gradient * is_active[:, None] if is_matrix else gradient.clone()
            optimizer.step()
    for name in ("encoder_weight", "decoder_weight"):
        weight = getattr(models[0], name)
        assert torch.equal(weight[15:], start[name][15:])
        assert (weight[:15] != start[name][:15]).any(1).all()
    assert_close(*models, rtol=1e-5, atol=1e-6)


def test_rows_that_nothing_moves_are_not_written():
    """To write a moment of -0 would make it 0."""
    (model, _), (optimizer, _) = pair()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    moments = [optimizer.state[p]["exp_avg"] for p in model.parameters() if p.dim() == 2]
    for moment in moments:
        moment[: L // 2] = -0.0
        moment[L // 2 :] = 1.0
    optimizer.step()
    for moment in moments:
        assert moment[: L // 2].signbit().all()
        torch.testing.assert_close(moment[L // 2 :], torch.full_like(moment[L // 2 :], 0.9))


def test_rows_that_nothing_moves_come_to_unit_norm():
    (ours, theirs), optimizers = pair()
    with torch.no_grad():
        for model in (ours, theirs):
            model.decoder_weight[3] *= 3
            model.decoder_weight[4] = 0
    for model, optimizer in zip((ours, theirs), optimizers, strict=True):
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
    assert ours.decoder_weight[3].norm().item() == pytest.approx(1)


@pytest.mark.parametrize(
    ("settings", "gradient"),
    [({"eps": 0.0}, 0.0), ({"lr": torch.inf}, 0.0), ({}, torch.nan), ({}, torch.inf)],
)
def test_what_is_not_finite_is_where_torch_s_adam_has_it(settings, gradient):
    (ours, theirs), optimizers = pair(settings=settings)
    for model, optimizer in zip((ours, theirs), optimizers, strict=True):
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
            parameter.grad[0] = gradient
        optimizer.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a.isfinite(), b.isfinite())


def test_one_and_two_threads_give_the_same_bits(threads):
    results = []
    for count in (1, 2):
        threads(count)
        torch.manual_seed(0)
        model = TopKSparseAutoencoder(65, 3000, K)
        optimizer = DictionaryAdam(model.parameters())
        model.keep_unit_norm(optimizer)
        for _ in range(3):
            for parameter in model.parameters():
                parameter.grad = torch.randn_like(parameter)
            optimizer.step()
        results.append(model)
    assert_close(*results, rtol=0, atol=0)


def test_state_dicts_are_those_of_torch_s_adam():
    (ours, theirs), optimizers = pair(settings={"lr": 1e-2, "fused": True})
    generator = torch.Generator().manual_seed(1)

    def step(order):
        gradients = random_gradients(ours, generator)
        for number in order:
            model, optimizer = (ours, theirs)[number], optimizers[number]
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter.grad = gradient.clone()
            optimizer.step()

    step((0, 1))
    states = [optimizer.state_dict() for optimizer in optimizers]
    assert states[0]["param_groups"] == states[1]["param_groups"]
    assert states[0]["state"].keys() == states[1]["state"].keys()
    for a, b in zip(states[0]["state"].values(), states[1]["state"].values(), strict=True):
        assert a.keys() == b.keys()
        for name in a:
            torch.testing.assert_close(a[name], b[name])
    for optimizer, state in zip(optimizers, reversed(copy.deepcopy(states)), strict=True):
        optimizer.load_state_dict(state)
    step((0, 1))
    assert optimizers[0].state_dict()["state"][0]["step"] == 2
    assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_what_the_kernels_do_not_take_is_torch_s_own_step():
    (ours, theirs), optimizers = pair(settings={"amsgrad": True})
    x = torch.randn(64, D)
    for _ in range(3):
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            model.loss(x).backward()
            optimizer.step()
    assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_take_torch_s_own_step(dtype):
    (ours, theirs), optimizers = pair(dtype=dtype)
    for model, optimizer in zip((ours, theirs), optimizers, strict=True):
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    assert_close(ours, theirs, rtol=0, atol=0)


def test_another_backend_takes_torch_s_own_step():
    (ours, theirs), optimizers = pair()
    with use_backend("eager"):
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            for parameter in model.parameters():
                parameter.grad = torch.ones_like(parameter)
            optimizer.step()
    assert_close(ours, theirs, rtol=0, atol=0)


def test_gradients_of_other_layouts_have_the_same_numbers():
    models, optimizers = pair()
    for model, optimizer in zip(models, optimizers, strict=True):
        torch.manual_seed(3)
        for parameter in model.parameters():
            gradient = torch.randn(parameter.shape[::-1]).permute(*range(parameter.dim())[::-1])
            parameter.grad = gradient
        model.encoder_bias.grad = torch.ones(()).expand(L)
        optimizer.step()
    assert_close(*models, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("frozen", ["decoder_weight", "encoder_weight", "all but the decoder"])
def test_frozen_parameters_stay_and_the_others_move(frozen):
    models, optimizers = pair()
    x = torch.randn(64, D)
    for model, optimizer in zip(models, optimizers, strict=True):
        for name, parameter in model.named_parameters():
            if name == frozen or (frozen.startswith("all") and name != "decoder_weight"):
                parameter.requires_grad_(False)
        start = copy.deepcopy(model.state_dict())
        for _ in range(3):
            optimizer.zero_grad()
            model.loss(x).backward()
            optimizer.step()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                assert not torch.equal(parameter, start[name])
            elif name != "decoder_weight":
                assert torch.equal(parameter, start[name])
    assert_close(*models, rtol=1e-4, atol=1e-5)


def test_a_decoder_of_another_optimizer_keeps_its_norm():
    torch.manual_seed(0)
    model = TopKSparseAutoencoder(D, L, K)
    optimizer = DictionaryAdam([model.encoder_weight])
    model.keep_unit_norm(optimizer)
    with torch.no_grad():
        model.decoder_weight *= 2
    model.loss(torch.randn(8, D)).backward()
    optimizer.step()
    torch.testing.assert_close(model.decoder_weight.norm(dim=1), torch.ones(L))
    along = (model.decoder_weight.grad * model.decoder_weight).sum(1)
    assert along.abs().max() < 1e-6


def test_groups_have_their_own_settings_and_without_models_it_is_adam():
    models, optimizers = [], []
    for kind in (DictionaryAdam, torch.optim.Adam):
        torch.manual_seed(0)
        model = TopKSparseAutoencoder(D, L, K)
        encoder = {"params": list(model.encoder.parameters())[:2], "lr": 1e-2}
        optimizer = kind([encoder, {"params": [model.decoder_weight], "weight_decay": 0.1}])
        optimizer.add_param_group({"params": [model.decoder_bias], "lr": 0.5})
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        x = torch.randn(64, D)
        for _ in range(4):
            optimizer.zero_grad()
            model.loss(x).backward()
            optimizer.step()
            scheduler.step()
        models.append(model)
        optimizers.append(optimizer)
    assert_close(*models, rtol=1e-4, atol=1e-5)
    assert optimizers[0].param_groups[0]["lr"] == optimizers[1].param_groups[0]["lr"]


def test_the_closure_s_gradients_are_those_that_are_projected():
    (ours, expected), optimizers = pair()
    x = torch.randn(64, D)

    def closure():
        optimizers[0].zero_grad()
        loss = ours.loss(x)
        loss.backward()
        return loss

    for _ in range(2):
        loss = optimizers[0].step(closure)
        optimizers[1].zero_grad()
        expected_loss = expected.loss(x)
        expected_loss.backward()
        optimizers[1].step()
        torch.testing.assert_close(loss, expected_loss)
    assert_close(ours, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("amsgrad", [False, True])
def test_hooks_run_once_before_and_after_the_step(amsgrad):
    model = TopKSparseAutoencoder(D, L, K)
    optimizer = DictionaryAdam(model.parameters(), amsgrad=amsgrad)
    model.keep_unit_norm(optimizer)
    torch.optim.Adam([torch.zeros(1)])  # puts its hooks around the base class's step
    calls = []

    def clear(*_):
        calls.append("before")
        optimizer.zero_grad()

    optimizer.register_step_pre_hook(clear)
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    start = model.encoder_weight.detach().clone()
    model.loss(torch.randn(9, D)).backward()
    optimizer.step()
    assert calls == ["before", "after"]
    assert torch.equal(model.encoder_weight, start)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("factor", [1.0, torch.inf])
def test_a_gradient_scaler_unscales_and_skips_what_is_not_finite(fused, factor):
    models, optimizers = pair(settings={"lr": 1e-2, "fused": fused})
    for model, optimizer in zip(models, optimizers, strict=True):
        start = copy.deepcopy(model.state_dict())
        torch.manual_seed(5)
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        loss = sum((p * torch.randn_like(p)).sum() for p in model.parameters())
        scaler.scale(factor * loss).backward()
        scaler.step(optimizer)
        scaler.update()
        has_moved = not torch.equal(model.encoder_weight, start["encoder_weight"])
        assert has_moved == (factor == 1)
    assert_close(*models, rtol=1e-5, atol=1e-6)


def test_a_parametrized_decoder_is_refused_as_by_hooks():
    model = TopKSparseAutoencoder(D, L, K)
    optimizer = DictionaryAdam(model.parameters())
    torch.nn.utils.parametrizations.weight_norm(model, "decoder_weight")
    with pytest.raises(RuntimeError, match="decoder_weight is made anew from other parameters"):
        model.keep_unit_norm(optimizer)
    model = TopKSparseAutoencoder(D, L, K)
    optimizer = DictionaryAdam(model.parameters())
    model.keep_unit_norm(optimizer)
    model.loss(torch.randn(9, D)).backward()
    torch.nn.utils.parametrizations.weight_norm(model, "decoder_weight")
    with pytest.raises(RuntimeError, match="decoder_weight is made anew from other parameters"):
        optimizer.step()


def test_a_subclass_s_own_constraint_is_called():
    class Ball(TopKSparseAutoencoder):
        def normalize_decoder(self):
            with torch.no_grad():
                self.decoder_weight.mul_(2 / self.decoder_weight.norm(dim=1, keepdim=True))

    model = Ball(D, L, K)
    optimizer = DictionaryAdam(model.parameters())
    model.keep_unit_norm(optimizer)
    model.loss(torch.randn(9, D)).backward()
    optimizer.step()
    torch.testing.assert_close(model.decoder_weight.norm(dim=1), torch.full((L,), 2.0))


@pytest.mark.parametrize("how", ["copied", "saved"])
def test_a_copied_optimizer_keeps_the_copied_model_s_norm(how):
    model = TopKSparseAutoencoder(D, L, K)
    optimizer = DictionaryAdam(model.parameters(), lr=0.1)
    model.keep_unit_norm(optimizer)
    if how == "copied":
        model, optimizer = copy.deepcopy((model, optimizer))
    else:
        file = io.BytesIO()
        torch.save((model, optimizer), file)
        file.seek(0)
        model, optimizer = torch.load(file, weights_only=False)
    model.loss(torch.randn(9, D)).backward()
    optimizer.step()
    torch.testing.assert_close(model.decoder_weight.norm(dim=1), torch.ones(L))


def test_autograd_sees_that_parameters_were_changed():
    model = TopKSparseAutoencoder(D, L, K)
    optimizer = DictionaryAdam(model.parameters())
    model.loss(torch.randn(9, D)).backward()
    loss = (model.encoder_weight * model.encoder_weight).sum()
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_fit_takes_it():
    data = torch.randn(48, D)
    models, optimizers = pair()
    histories = [
        aefast.fit(model, data, optimizer, epochs=2, batch_size=16, seed=0)
        for model, optimizer in zip(models, optimizers, strict=True)
    ]
    engine = "step" if backend.unavailable("cpp", "cpu") is None else "loop"
    assert [history.engine for history in histories] == [engine, engine]
    torch.testing.assert_close(histories[0].losses, histories[1].losses, rtol=1e-4, atol=1e-6)
    assert_close(*models, rtol=1e-4, atol=1e-5)
    chain = torch.nn.Sequential(torch.nn.Linear(D, 8), torch.nn.Linear(8, D))
    history = aefast.fit(chain, data, DictionaryAdam(chain.parameters()), epochs=2, batch_size=16)
    assert history.engine == engine


@pytest.mark.parametrize(("rows", "started"), [(1024, 0), (2048, 1)])
def test_an_update_of_few_elements_starts_no_thread(rows, started, threads_started):
    parameter = torch.nn.Parameter(torch.rand(rows, 64))
    optimizer = DictionaryAdam([parameter])
    parameter.grad = torch.rand(rows, 64)
    with use_backend("cpp"):
        assert threads_started(optimizer.step) == started
