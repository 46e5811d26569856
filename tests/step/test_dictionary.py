"""A dictionary's training step in one call, against the ordinary loop."""

import copy
import signal
import threading
import time
from pathlib import Path

import pytest
import torch

import aefast
from aefast import backend
from aefast.nn import (
    BatchTopKSparseAutoencoder,
    DictionaryAdam,
    GatedSparseAutoencoder,
    JumpReLUSparseAutoencoder,
    MatryoshkaSparseAutoencoder,
    TopKSparseAutoencoder,
)
from aefast.nn.step_plan import NOT_TOGETHER, plan_of
from aefast.step import cpp
from aefast.step.dictionary_cpp import kernel_plan
from aefast.step.minibatch_schedule import MinibatchSchedule

pytestmark = pytest.mark.skipif(
    backend.unavailable("cpp", "cpu") is not None, reason="the C++ extension is not here"
)

D, OUTPUTS, L, K, ROWS, BATCH = 24, 17, 96, 5, 150, 32

OPTIMIZERS = {
    "dictionary_adam": lambda parameters: DictionaryAdam(parameters, lr=1e-2),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=1e-2, weight_decay=0.01),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=1e-2),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, weight_decay=0.01),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True),
}


MODELS = {
    "topk": lambda **options: TopKSparseAutoencoder(D, L, K, **options),
    "ranked": lambda **options: TopKSparseAutoencoder(
        D, L, K, rescale_acts_by_decoder_norm=True, **options
    ),
    "batch": lambda **options: BatchTopKSparseAutoencoder(D, L, 2.3, **options),
    "matryoshka": lambda **options: MatryoshkaSparseAutoencoder(D, L, K, **options),
    "jumprelu": lambda **options: JumpReLUSparseAutoencoder(
        D, L, sparsity_weight=0.03, bandwidth=0.3, initial_threshold=0.3, **options
    ),
    "tanh": lambda **options: JumpReLUSparseAutoencoder(
        D, L, sparsity_weight=0.03, bandwidth=0.3, estimator="tanh", **options
    ),
    "gated": lambda **options: GatedSparseAutoencoder(D, L, sparsity_weight=0.03, **options),
    "one_prefix": lambda **options: MatryoshkaSparseAutoencoder(D, L, K, prefixes=[L], **options),
}


def pair(make="dictionary_adam", *, model="topk", keeps_norm=True, **options):
    """A model with an optimizer."""
    torch.manual_seed(0)
    model = MODELS[model](**options)
    optimizer = OPTIMIZERS[make](model.parameters())
    if keeps_norm:
        model.keep_unit_norm(optimizer)
    return model, optimizer


def rows_of(width=D, count=ROWS):
    return torch.randn(count, 8).relu() @ torch.randn(8, width)


def by_loop(model):
    """The model, which the ordinary loop trains: it has a loss of its own."""
    model.loss = model.loss
    return model


def assert_trained_alike(pairs, data, **options):
    """Train the first pair by the kernels and the second by the loop."""
    histories = [
        aefast.fit(model, data, optimizer, epochs=4, batch_size=BATCH, seed=0, **options)
        for model, optimizer in pairs
    ]
    assert [history.engine for history in histories] == ["step", "loop"]
    losses, expected = (history.losses for history in histories)
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-6)
    (model, optimizer), (other, other_optimizer) = pairs
    assert torch.equal(model.idle, other.idle)
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(buffer, other.get_buffer(name), rtol=1e-5, atol=1e-6)
    other._constrain_encoder()
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        for name, state in optimizer.state[a].items():
            torch.testing.assert_close(state, other_optimizer.state[b][name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("keeps_norm", [False, True])
@pytest.mark.parametrize("make", OPTIMIZERS)
@pytest.mark.parametrize("aux_k", [0, 8])
@pytest.mark.parametrize("is_transcoder", [False, True])
def test_it_trains_as_the_loop_does(make, keeps_norm, aux_k, is_transcoder):
    options = {"keeps_norm": keeps_norm, "aux_k": aux_k, "aux_weight": 0.5, "dead_after": 40}
    outputs = OUTPUTS if is_transcoder else None
    pairs = [pair(make, outputs=outputs, **options) for _ in range(2)]
    by_loop(pairs[1][0])
    inputs, targets = rows_of(), rows_of(OUTPUTS)
    for model, _ in pairs:
        model.start_from(targets if is_transcoder else inputs)
    assert_trained_alike(pairs, (inputs, targets) if is_transcoder else inputs)
    model = pairs[0][0]
    assert model.dead.any()
    if keeps_norm:
        torch.testing.assert_close(model.decoder_weight.norm(dim=1), torch.ones(L))


@pytest.mark.parametrize("is_transcoder", [False, True])
@pytest.mark.parametrize("aux_k", [0, 8])
@pytest.mark.parametrize("keeps_norm", [False, True])
@pytest.mark.parametrize("model", [name for name in MODELS if name != "topk"])
def test_its_kin_train_as_the_loop_does(model, keeps_norm, aux_k, is_transcoder):
    options = {"keeps_norm": keeps_norm, "aux_k": aux_k, "aux_weight": 0.5, "dead_after": 40}
    outputs = OUTPUTS if is_transcoder else None
    pairs = [pair(model=model, outputs=outputs, **options) for _ in range(2)]
    by_loop(pairs[1][0])
    inputs, targets = rows_of(), rows_of(OUTPUTS)
    for one, _ in pairs:
        with torch.no_grad():
            one.decoder_weight.mul_(
                0.5 + torch.rand(L, 1, generator=torch.Generator().manual_seed(1))
            )
    assert_trained_alike(pairs, (inputs, targets) if is_transcoder else inputs)


@pytest.mark.parametrize("aux_k", [0, 8])
@pytest.mark.parametrize("model", ["jumprelu", "gated"])
def test_few_latents_that_may_be_active_are_multiplied_alone(model, aux_k, threads):
    """Thresholds so high that no row has more than an eighth of the latents."""

    def pair_with_few():
        one, optimizer = pair(model=model, aux_k=aux_k, aux_weight=0.5, dead_after=40)
        with torch.no_grad():
            one.encoder_weight.div_(one.encoder_weight.norm(dim=1, keepdim=True))
            if model == "jumprelu":
                one.threshold.fill_(2.0)
            else:
                one.encoder_bias.fill_(-2.0)
        return one, optimizer

    data = rows_of()
    pairs = [pair_with_few() for _ in range(2)]
    by_loop(pairs[1][0])
    assert_trained_alike(pairs, data)
    active = (pairs[0][0].encode_dense(data) > 0).sum(1)
    assert 0 < active.max() < L / 8
    trained = []
    for count in (1, 2, 3):
        threads(count)
        one, optimizer = pair_with_few()
        losses = aefast.fit(one, data.repeat(5, 1), optimizer, batch_size=750, seed=0).losses
        trained.append([losses, *one.state_dict().values()])
    for other in trained[1:]:
        assert all(map(torch.equal, trained[0], other))


def test_a_row_may_have_all_latents_of_a_batch():
    """More than the widths that a batch top-k code is tried with at first."""
    pairs = [pair(model="batch"), pair(model="batch")]
    by_loop(pairs[1][0])
    data = 0.01 * rows_of(count=64)
    data[::32] *= 10_000
    for model, _ in pairs:
        model.k = 3
        with torch.no_grad():
            model.encoder_bias.copy_(torch.linspace(0, 1, L))
    assert_trained_alike(pairs, data, shuffle=False)
    code = pairs[0][0].train().encode(data[:32])
    assert code.values.shape[1] > 4 * 3 * 2


def test_equal_values_are_those_of_lower_rows():
    pairs = [pair(model="batch"), pair(model="batch")]
    by_loop(pairs[1][0])
    for model, _ in pairs:
        torch.nn.init.zeros_(model.encoder_weight)
        torch.nn.init.ones_(model.encoder_bias)
    assert_trained_alike(pairs, rows_of(), shuffle=False)


def test_dead_latents_learn_from_what_the_others_leave():
    (model, optimizer), (without, other_optimizer) = pair(aux_k=8, dead_after=40), pair()
    data = rows_of()
    for one, its in ((model, optimizer), (without, other_optimizer)):
        aefast.fit(one, data, its, epochs=4, batch_size=BATCH, seed=0)
    never = without.idle == 4 * ROWS
    assert never.any()
    assert torch.equal(without.encoder_weight[never], pair()[0].encoder_weight[never])
    assert not torch.equal(model.encoder_weight[never], without.encoder_weight[never])


def test_an_autoencoder_takes_targets_and_bytes_too():
    pairs = [pair(), pair()]
    by_loop(pairs[1][0])
    clean = (256 * torch.rand(ROWS, D)).to(torch.uint8)
    assert_trained_alike(pairs, (torch.rand(ROWS, D), clean), shuffle=False)


def test_parameters_that_are_frozen_stay():
    pairs = [pair("adam", keeps_norm=False) for _ in range(2)]
    by_loop(pairs[1][0])
    for model, _ in pairs:
        model.encoder.requires_grad_(False)
    assert_trained_alike(pairs, rows_of())
    assert torch.equal(pairs[0][0].encoder_weight, pair()[0].encoder_weight)


@pytest.mark.parametrize(
    ("model", "make"), [("topk", "momentum"), *((model, "dictionary_adam") for model in MODELS)]
)
def test_the_same_bits_by_any_threads_however_epochs_are_split(threads, model, make):
    kind = model
    data = rows_of(count=1000)  # of steps that several threads share

    def trained(count, *parts):
        threads(count)
        model, optimizer = pair(make, model=kind, aux_k=8, dead_after=300)
        histories = [
            aefast.fit(model, data, optimizer, epochs=epochs, batch_size=700, seed=0)
            for epochs in parts
        ]
        assert {history.engine for history in histories} == {"step"}
        return [torch.cat([history.losses for history in histories]), *model.state_dict().values()]

    expected = trained(1, 6)
    for actual in (trained(2, 6), trained(3, 1, 2, 3)):
        assert all(map(torch.equal, actual, expected))


# Multiplications of a step from which on the kernels take two threads: kFewestProducts of
# csrc/step/step.h, and more than what the ops take.
FEWEST_PRODUCTS_OF_TWO = 3 << 19


@pytest.mark.parametrize("engine", ["step", "loop"])
@pytest.mark.parametrize("model", ["topk", "batch", "matryoshka", "jumprelu", "gated"])
def test_a_hundred_steps_by_two_threads_have_the_bits_of_one(
    model, engine, threads, our_product, monkeypatch
):
    """Of a size that a second thread takes its part of."""
    monkeypatch.setitem(globals(), "L", 1024)
    assert 100 * L * D >= FEWEST_PRODUCTS_OF_TWO
    data = rows_of(count=400)

    def trained(count):
        threads(count)
        one, optimizer = pair(model=model, aux_k=8, dead_after=1000)
        if engine == "loop":
            by_loop(one)
        history = aefast.fit(one, data, optimizer, epochs=25, batch_size=100, seed=0)
        assert (history.engine, len(history.losses)) == (engine, 100)
        return [history.losses, *one.state_dict().values()]

    assert all(map(torch.equal, trained(2), trained(1)))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux counts pages")
def test_the_memory_of_steps_is_given_back():
    resource = pytest.importorskip("resource")
    model = TopKSparseAutoencoder(256, 16384, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    data = torch.randn(8, 256)
    pages = []
    for _ in range(2):
        aefast.fit(model, data[:1], optimizer, epochs=0)
        pages.append(int(Path("/proc/self/statm").read_text().split()[1]))
        assert aefast.fit(model, data, optimizer, batch_size=8).engine == "step"
    pages.append(int(Path("/proc/self/statm").read_text().split()[1]))
    gradients = 2 * model.encoder_weight.numel() * 4
    assert (pages[-1] - pages[0]) * resource.getpagesize() < gradients / 2


def test_a_loss_that_is_not_finite_leaves_all_as_it_was():
    model, optimizer = pair(aux_k=8, dead_after=40)
    data = rows_of()
    aefast.fit(model, data, optimizer, batch_size=BATCH, seed=0)
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    with pytest.raises(ArithmeticError, match="the loss of step 1 is"):
        aefast.fit(model, data * 1e30, optimizer, batch_size=BATCH, seed=0)
    torch.testing.assert_close((model.state_dict(), optimizer.state_dict()), before, rtol=0, atol=0)


def test_an_interrupt_leaves_whole_steps():
    model = TopKSparseAutoencoder(64, 4096, 16)
    optimizer = DictionaryAdam(model.parameters())
    model.keep_unit_norm(optimizer)
    data = rows_of(64, 2048)

    def interrupt_once_a_step_was_taken():
        while not model.idle.any():
            time.sleep(0.01)
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.Thread(target=interrupt_once_a_step_was_taken)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            aefast.fit(model, data, optimizer, epochs=10**6, batch_size=1024, seed=0)
    finally:
        thread.join()
        signal.signal(signal.SIGINT, before)
    (steps,) = {int(state["step"]) for state in optimizer.state.values()}
    assert int(model.idle.max()) == 1024 * steps  # a latent that was never active
    aefast.fit(model, data, optimizer, batch_size=1024, seed=0)  # and it goes on


class Subclass(TopKSparseAutoencoder):
    def encode(self, x):
        return super().encode(2 * x)


def with_hook(model, optimizer):
    optimizer.register_step_post_hook(lambda *_: None)


def with_norms_of_another(model, optimizer):
    TopKSparseAutoencoder(D, L, K).keep_unit_norm(optimizer)


def with_frozen_directions(model, optimizer):
    model.decoder_weight.requires_grad_(False)


def with_own_encode(model, optimizer):
    model.encode = model.encode


def with_pruning(model, optimizer):
    torch.nn.utils.prune.l1_unstructured(model, "encoder_weight", 0.5)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (with_hook, "hooks stand on the optimizer's step"),
        (with_norms_of_another, "keeps the norm of directions that are none of the step's"),
        (with_frozen_directions, "keeps the norm of directions that are none of the step's"),
        (with_own_encode, "a method of its own"),
        (with_pruning, "a parametrization"),
    ],
)
@pytest.mark.parametrize("make", ["dictionary_adam", "adam"])
def test_what_the_kernels_do_not_do_the_loop_does(make, change, reason):
    model, optimizer = pair(make)
    change(model, optimizer)
    history = aefast.fit(model, rows_of(), optimizer, batch_size=BATCH)
    assert history.engine == "loop"
    assert reason in history.reason


def test_a_subclass_and_evaluation_have_no_plan():
    assert plan_of(Subclass(D, L, K)) == "Subclass has no plan of its step"
    batch = MODELS["batch"]().eval()
    assert plan_of(batch) == "in evaluation mode a code has what is above the threshold"
    model, optimizer = pair(outputs=OUTPUTS)
    with pytest.raises(ValueError, match=r"^target is None; a transcoder takes"):
        aefast.fit(model, rows_of(), optimizer)


def test_a_shared_weight_and_a_missing_bias_take_the_loop():
    """The kernels number the parameters: of one that is two of them a gradient would be lost."""
    shared, optimizer = pair("adam", keeps_norm=False)
    shared.decoder_weight = shared.encoder_weight
    optimizer = torch.optim.Adam(shared.parameters(), lr=1e-2)
    assert plan_of(shared) == "two layers share a parameter"
    assert aefast.fit(shared, rows_of(), optimizer, seed=0).engine == "loop"
    bare, _ = pair("adam", keeps_norm=False)
    bare.encoder_bias = None
    assert plan_of(bare) == "a parameter is None"


@pytest.mark.parametrize(("model", "shape"), [("batch", (L,)), ("jumprelu", ())])
def test_a_threshold_of_another_shape_has_no_plan(model, shape):
    """The kernels read as many numbers as their plan says."""
    model, _ = pair(model=model)
    model.threshold.data = torch.zeros(shape)
    assert plan_of(model) == NOT_TOGETHER


@pytest.mark.parametrize(
    ("model", "change", "message"),
    [
        ("batch", {"k": 0.0}, "k must be above 0"),
        ("topk", {"k": 1.5}, "k of each row must be whole"),
        ("topk", {"k": L + 1.0}, "k must be above 0 and at most the latents"),
        ("gated", {"latents": 0}, "a dictionary takes latents"),
    ],
)
def test_the_kernels_take_no_plan_that_would_not_end(model, change, message):
    planned = plan_of(pair(model=model)[0])
    with pytest.raises(ValueError, match=message):
        kernel_plan(planned.plan._replace(**change), planned.idle, planned.threshold)


class OneUpdate:
    """The update of one parameter, by the number that it is said to have."""

    def __init__(self, parameter, number):
        self.parameter, self.numbers = parameter, [number]

    def updates(self):
        size, address = self.parameter.numel(), self.parameter.data_ptr()
        kind = cpp._C.OptimizerKind.sgd
        return [cpp._C.ParameterUpdate(kind=kind, parameter=address, size=size)]

    def advance(self, steps):
        """It has no state."""


@pytest.mark.parametrize(
    ("width", "targets", "number", "message"),
    [
        (D - 1, OUTPUTS, 0, "data takes as many columns as the plan has inputs"),
        (D, OUTPUTS - 1, 0, "targets take as many columns as the plan has outputs"),
        (D, None, 0, "a transcoder takes targets"),
        (D, OUTPUTS, 4, "updated takes numbers of parameters"),
        (D, OUTPUTS, -1, "updated takes numbers of parameters"),
    ],
)
def test_the_kernels_take_no_rows_or_parameters_beyond_the_plan(width, targets, number, message):
    planned = plan_of(pair(outputs=OUTPUTS)[0])
    order = torch.arange(ROWS)
    schedule = MinibatchSchedule(
        order=order, batch_size=BATCH, epoch_rows=ROWS, seeds=[0], first_step=0
    )
    data, targets = (
        None if width is None else cpp.rows_of(rows_of(width).numpy(), 1.0)
        for width in (width, targets)
    )
    plan = kernel_plan(planned.plan, planned.idle, None)
    update = OneUpdate(planned.parameters[0], number)
    with pytest.raises(ValueError, match=message):
        cpp.fit(plan, planned.parameters, update, schedule, 1.0, data, targets)


def test_rescaling_is_true_or_false():
    with pytest.raises(TypeError, match="rescale_acts_by_decoder_norm is 'no'; it takes True or"):
        TopKSparseAutoencoder(D, L, K, rescale_acts_by_decoder_norm="no")
