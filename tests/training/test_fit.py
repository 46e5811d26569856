"""aefast.fit: it gives the ordinary loop's parameters; its arguments, callbacks and interrupts."""

import contextlib
import copy
import functools
import math
import re
import signal
import threading
import time

import numpy as np
import pytest
import torch
from torch import Tensor

import aefast
from aefast import backend, data, nn
from aefast.data import minibatches
from aefast.distributed import interrupts
from aefast.nn.step_plan import plan_of
from aefast.random import child_seed
from aefast.step import loss as step_loss
from aefast.step.minibatch_schedule import MinibatchSchedule
from aefast.training import engines, fit_steps

needs_cpp = pytest.mark.skipif(
    backend.unavailable("cpp", "cpu") is not None, reason="the C++ extension is not here"
)

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1),
    "momentum": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, dampening=0.2, weight_decay=0.01),
    "nesterov": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, 1e-3, weight_decay=0.01),
    "fused": lambda p: torch.optim.Adam(p, 1e-3, betas=(0.8, 0.99), eps=1e-6, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, 1e-3, weight_decay=0.1),
    "maximize": lambda p: torch.optim.SGD(p, 1e-4, maximize=True),
}
MODELS = {
    "plain": lambda: nn.Autoencoder(12, 5),
    "denoising": lambda: nn.DenoisingAutoencoder(12, 5),
    "contractive": lambda: nn.ContractiveAutoencoder(12, 5),
    "sparse": lambda: nn.SparseAutoencoder(12, 5, code_dropout=0.2),
    "stochastic": lambda: nn.StochasticAutoencoder(12, 5, decoder_kind="gaussian"),
    "variational": lambda: nn.VariationalAutoencoder(12, 3, layers=[7]),
    "deep tied": lambda: nn.Autoencoder(layers=[12, 8, 3], activation="tanh", tied=True),
}


def trained(name, optimizer="adam", engine="step", rows=None, model=None, **options):
    torch.manual_seed(0)
    model = model or MODELS[name]()
    rows = torch.rand(90, 12) if rows is None else rows
    options = {"epochs": 2, "batch_size": 16, "seed": 3, **options}
    optimizer = OPTIMIZERS[optimizer](model.parameters())
    with backend.use_backend("cpp" if engine == "step" else "eager"):
        history = aefast.fit(model, rows, optimizer, **options)
    assert history.engine == engine, history.reason
    return model, optimizer, history


def assert_close(model, other, bound):
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert (a - b).abs().max() <= bound


def assert_same_state(optimizer, other):
    state, expected = optimizer.state_dict(), other.state_dict()
    assert state["param_groups"] == expected["param_groups"]
    assert state["state"].keys() == expected["state"].keys()
    for number, actual in state["state"].items():
        assert actual.keys() == expected["state"][number].keys()
        for key, value in actual.items():
            expected_value = expected["state"][number][key]
            if expected_value is None:
                assert value is None
                continue
            assert value.dtype == expected_value.dtype
            assert value.shape == expected_value.shape
            torch.testing.assert_close(value, expected_value, rtol=1e-3, atol=1e-6)


@needs_cpp
@pytest.mark.parametrize("name", MODELS)
def test_200_steps_end_within_a_hundredth_of_a_step_of_the_ordinary_loops(name):
    # Adam's step is at most its learning rate, whatever the gradient: 1e-3 here.
    model, optimizer, history = trained(name, epochs=34)
    other, other_optimizer, other_history = trained(name, engine="loop", epochs=34)
    assert len(history.losses) == len(other_history.losses) == 204
    assert_close(model, other, 1e-5)
    torch.testing.assert_close(history.losses, other_history.losses, rtol=1e-5, atol=1e-6)
    assert_same_state(optimizer, other_optimizer)


@needs_cpp
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_ends_where_torch_does(optimizer):
    model, state, _ = trained("plain", optimizer)
    other, other_state, _ = trained("plain", optimizer, engine="loop")
    assert_close(model, other, 2e-6)
    assert_same_state(state, other_state)


@needs_cpp
def test_parameter_groups_frozen_parameters_and_a_scheduler():
    results = []
    for name in ("cpp", "eager"):
        torch.manual_seed(0)
        model = MODELS["plain"]()
        encoder, decoder = model.encoder[0], model.decoder[0]
        encoder.bias.requires_grad_(False)
        groups = [
            {"params": [encoder.weight], "lr": 0.5},
            {"params": [encoder.bias, decoder.weight, decoder.bias], "momentum": 0.5},
        ]
        optimizer = torch.optim.SGD(groups, 0.1)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        with backend.use_backend(name):
            for _ in range(3):
                aefast.fit(model, torch.rand(40, 12), optimizer, seed=1)
                scheduler.step()
        results.append(model)
    assert_close(*results, 1e-6)


@needs_cpp
def test_going_on_step_by_step_and_from_a_state_dict():
    rows = torch.rand(64, 12)
    results = []
    for name in ("cpp", "eager"):
        torch.manual_seed(0)
        model = MODELS["denoising"]()
        optimizer = OPTIMIZERS["fused"](model.parameters())
        with backend.use_backend(name):
            aefast.fit(model, rows, optimizer, seed=1)
        for seed in range(3):
            optimizer.zero_grad()
            model.loss(rows, seed=seed).backward()
            optimizer.step()
        again = OPTIMIZERS["fused"](model.parameters())
        again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        with backend.use_backend(name):
            aefast.fit(model, rows, again, seed=2)
        results.append(model)
    assert_close(*results, 1e-6)


@pytest.mark.parametrize("name", ["cpp", "eager"])
def test_a_seed_of_numpys_is_the_int(name):
    if name == "cpp" and backend.unavailable("cpp", "cpu") is not None:
        pytest.skip("needs the C++ extension")
    losses = []
    for seed in (5, np.int64(5), np.uint8(5)):
        torch.manual_seed(0)
        model = MODELS["denoising"]()
        optimizer = OPTIMIZERS["adam"](model.parameters())
        with backend.use_backend(name):
            aefast.fit(model, torch.rand(20, 12), optimizer, epochs=1, seed=5)
            losses.append(aefast.fit(model, torch.rand(20, 12), optimizer, seed=seed).losses)
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(losses[0], losses[2])


@needs_cpp
@pytest.mark.parametrize("seed", [5, None])
def test_epochs_split_over_calls_give_the_same_bits(seed):
    def run(calls):
        torch.manual_seed(0)
        model = MODELS["denoising"]()
        rows = torch.rand(50, 12)
        optimizer = OPTIMIZERS["adam"](model.parameters())
        torch.manual_seed(7)
        losses = [
            aefast.fit(model, rows, optimizer, epochs=epochs, batch_size=16, seed=seed).losses
            for epochs in calls
        ]
        return [torch.cat(losses), *model.parameters()]

    assert all(map(torch.equal, run([4]), run([1, 2, 1])))


@needs_cpp
@pytest.mark.parametrize("name", ["denoising", "variational"])
def test_the_bits_do_not_depend_on_threads_nor_on_how_long_a_call_takes(name, threads, monkeypatch):
    rows = torch.rand(600, 200)
    model = {
        "denoising": lambda: nn.DenoisingAutoencoder(200, 90),
        "variational": lambda: nn.VariationalAutoencoder(200, 9, layers=[90]),
    }[name]

    def run():
        torch.manual_seed(1)
        return list(trained(name, rows=rows, model=model(), batch_size=256)[0].parameters())

    threads(1)
    one = run()
    threads(2)
    monkeypatch.setattr(fit_steps, "CHUNK_SECONDS", 0.0)
    assert all(map(torch.equal, one, run()))


@needs_cpp
@pytest.mark.parametrize(("batch_size", "started"), [(16, 0), (32, 1)])
def test_short_steps_start_no_thread(batch_size, started, threads_started):
    """Not for an update of 784 x 64 parameters either."""
    options = {"rows": torch.rand(64, 784), "model": nn.Autoencoder(784, 64)}
    assert threads_started(lambda: trained("plain", batch_size=batch_size, **options)) == started


@needs_cpp
@pytest.mark.parametrize(
    "make",
    [
        lambda rows: rows,
        lambda rows: rows.numpy(),
        lambda rows: rows.reshape(90, 3, 4),
        lambda rows: rows.double(),
        lambda rows: torch.stack([rows, rows], 1)[:, 1],
        lambda rows: data.dataset.from_array(rows.numpy(), "rows"),
    ],
    ids=["tensor", "array", "images", "float64", "strided", "dataset"],
)
def test_all_that_data_may_be(make):
    expected, _, history = trained("plain")
    model, _, other = trained("plain", rows=make(torch.rand(90, 12, generator=same_as_trained())))
    torch.testing.assert_close(other.losses[-1], history.losses[-1], rtol=0.2, atol=0)
    assert len(other.losses) == len(history.losses)
    assert expected is not model


ARRAYS = {
    "float64": lambda rows: rows,
    "float16": lambda rows: rows.astype(np.float16),
    "long double": lambda rows: rows.astype(np.longdouble),
    "big-endian": lambda rows: rows.astype(">f4"),
    "integers": lambda rows: (5 * rows).astype(np.int64),
    "bits": lambda rows: rows > 0.5,
    "bytes in columns": lambda rows: np.asfortranarray((255 * rows).astype(np.uint8)),
    "columns": lambda rows: np.asfortranarray(rows.astype(np.float32)),
    "every other column": lambda rows: np.repeat(rows.astype(np.float32), 2, axis=1)[:, ::2],
    "a transposed tensor": lambda rows: torch.from_numpy(rows.T.astype(np.float32).copy()).t(),
    "bits of a tensor": lambda rows: torch.from_numpy(rows > 0.5),
    "images": lambda rows: rows.reshape(-1, 3, 4),
    "a dataset": lambda rows: data.dataset.from_array(rows, "rows"),
}


@needs_cpp
@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_in_memory_of_any_dtype_and_layout_are_trained_on_by_the_kernels(kind):
    rows = ARRAYS[kind](np.random.default_rng(0).random((90, 12)))
    model, _, history = trained("denoising", rows=rows)
    array = rows.rows if isinstance(rows, data.Dataset) else np.asarray(rows)
    dataset = data.dataset.from_array(array, "rows")
    torch.manual_seed(0)
    expected = MODELS["denoising"]()
    optimizer = OPTIMIZERS["adam"](expected.parameters())
    losses = []
    for epoch in range(2):
        for n, x in enumerate(data.batches(dataset, 16, seed=3, epoch=epoch)):
            optimizer.zero_grad()
            loss = expected.loss(x, seed=child_seed(child_seed(3, epoch), n))
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert_close(model, expected, 2e-6)
    assert history.losses.tolist() == pytest.approx(losses, rel=1e-5)


@needs_cpp
def test_probabilities_that_are_1_to_rounding_are_1_in_float32():
    rows = np.random.default_rng(0).random((90, 12))
    rows[0, 0] = 1 + 2e-16
    trained(
        "plain",
        rows=rows,
        model=nn.Autoencoder(12, 5, output_activation="sigmoid", reconstruction="bce"),
    )


@needs_cpp
def test_float64_rows_that_are_mapped_stay_where_they_are(tmp_path):
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).random((90, 12)))
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    for rows in (mapped, np.asarray(mapped)):
        model = MODELS["plain"]()
        history = aefast.fit(model, rows, OPTIMIZERS["adam"](model.parameters()))
        assert history.engine == "loop"
        assert "the data are float64" in history.reason


def same_as_trained():
    return torch.Generator().manual_seed(0)


@needs_cpp
def test_a_mapped_file_and_bytes(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (90, 12), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    losses = [
        trained("plain", rows=rows)[2].losses
        for rows in (images, mapped, torch.from_numpy(images), images.astype(np.float32) / 255)
    ]
    assert all(torch.equal(losses[0], other) for other in losses[1:])


def test_without_shuffling_rows_come_in_their_order():
    recorded = []

    class Spy(nn.Autoencoder):
        def loss(self, x, *, seed=None):
            recorded.append(x.clone())
            return super().loss(x, seed=seed)

    model = Spy(12, 5)
    rows = torch.rand(20, 12)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    history = aefast.fit(model, rows, optimizer, batch_size=8, shuffle=False)
    assert history.engine == "loop"
    assert "Spy" in history.reason
    assert torch.equal(torch.cat(recorded), rows)


@needs_cpp
def test_validation_is_the_loss_in_evaluation_mode():
    rows, held_out = torch.rand(90, 12), torch.rand(33, 12)
    model, _, history = trained("denoising", rows=rows, validation=held_out, epochs=3)
    assert history.validation.shape == (3,)
    model.eval()
    expected = model.loss(held_out).item()
    assert history.validation[-1].item() == pytest.approx(expected, rel=1e-6)


@needs_cpp
def test_a_loss_that_is_not_finite_names_the_step_and_leaves_the_one_before():
    rows = torch.rand(64, 12)
    rows[40] = math.nan
    torch.manual_seed(0)
    model = MODELS["plain"]()
    optimizer = OPTIMIZERS["adam"](model.parameters())
    with pytest.raises(engines.DivergenceError, match=r"^the loss of step 3 is nan$"):
        aefast.fit(model, rows, optimizer, batch_size=16, shuffle=False)
    expected, state, _ = trained("plain", rows=rows[:32], epochs=1, shuffle=False)
    assert all(map(torch.equal, model.parameters(), expected.parameters()))
    assert_same_state(optimizer, state)


@needs_cpp
def test_a_first_step_that_is_not_finite_leaves_the_optimizer_without_state():
    model = MODELS["plain"]()
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    with pytest.raises(engines.DivergenceError, match="step 1 is nan"):
        aefast.fit(model, torch.full((4, 12), math.nan), optimizer)
    assert not optimizer.state


@needs_cpp
def test_a_callback_is_shown_a_look_and_may_end_the_training(monkeypatch):
    monkeypatch.setattr(fit_steps, "CALLBACK_SECONDS", 0.0)
    monkeypatch.setattr(fit_steps, "CHUNK_SECONDS", 0.0)
    reports = []

    def callback(progress):
        reports.append(progress)
        return progress.step == 8

    _, _, history = trained("plain", callback=callback, epochs=5)
    assert [progress.step for progress in reports] == list(range(1, 9))
    assert [progress.epoch for progress in reports] == [0] * 6 + [1] * 2
    assert reports[2].loss == history.losses[2].item()
    assert all(progress.samples_per_second > 0 for progress in reports)
    assert len(history.losses) == 8


@pytest.fixture
def heard_interrupts():
    """Let SIGINT raise KeyboardInterrupt, as it does not in xdist's workers."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@needs_cpp
def test_an_interrupt_leaves_a_whole_step(heard_interrupts):
    torch.manual_seed(0)
    model = nn.Autoencoder(64, 32)
    optimizer = torch.optim.Adam(model.parameters())
    rows = torch.rand(500, 64)
    start = model.encoder[0].weight.detach().clone()

    def interrupt_once_a_step_was_taken():
        while torch.equal(model.encoder[0].weight.detach(), start):
            time.sleep(0.01)
        signal.raise_signal(signal.SIGINT)

    thread = threading.Thread(target=interrupt_once_a_step_was_taken)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        aefast.fit(model, rows, optimizer, epochs=10**6, seed=0)
    thread.join()
    steps = {int(state["step"]) for state in optimizer.state.values()}
    assert len(steps) == 1
    assert steps.pop() > 0
    aefast.fit(model, rows, optimizer, seed=0)  # and it goes on


class HalfStep(torch.optim.SGD):
    """An optimizer that gets Ctrl-C between two parameters of its step number ``at``."""

    at, steps, signal = 3, 0, signal.SIGINT

    @torch.no_grad()
    def step(self, closure=None):
        self.steps += 1
        for number, parameter in enumerate(self.param_groups[0]["params"]):
            parameter -= 0.01 * parameter.grad
            if self.steps == self.at and number == 0:
                signal.raise_signal(self.signal)
            self.state[parameter]["step"] = self.steps


@pytest.mark.parametrize("is_stream", [False, True])
def test_an_interrupt_of_the_ordinary_loop_leaves_a_whole_step(heard_interrupts, is_stream):
    model = nn.Autoencoder(8, 4)
    optimizer = HalfStep(model.parameters())
    rows = torch.rand(12, 8)
    data = (lambda: rows.split(2)) if is_stream else rows
    with pytest.raises(KeyboardInterrupt):
        aefast.fit(model, data, optimizer, epochs=100, batch_size=2, seed=0)
    assert {state["step"] for state in optimizer.state.values()} == {optimizer.steps}
    assert optimizer.steps >= 3
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_in_a_loss_that_trains_another_model_waits_for_the_outer_step(
    heard_interrupts,
):
    class Outer(nn.Autoencoder):
        def loss(self, x, **settings):
            inner = nn.Autoencoder(8, 4)
            aefast.fit(inner, rows, torch.optim.SGD(inner.parameters(), lr=0.1))
            return super().loss(x, **settings)

    model, rows = Outer(8, 4), torch.rand(12, 8)
    optimizer = HalfStep(model.parameters())
    with pytest.raises(KeyboardInterrupt):
        aefast.fit(model, rows, optimizer, epochs=100, batch_size=2, seed=0)
    assert {state["step"] for state in optimizer.state.values()} == {optimizer.steps}


def test_each_of_two_signals_in_one_step_is_handled():
    calls = []

    def first(number, frame):
        calls.append(number)
        raise KeyboardInterrupt

    interrupted = interrupts.Interrupts({1: first, 2: lambda number, frame: calls.append(number)})

    def both():
        with interrupted.whole_step():
            interrupted.note(2, None)
            interrupted.note(1, None)

    with pytest.raises(KeyboardInterrupt):
        both()
    assert sorted(calls) == [1, 2]


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="the system has no timers")
def test_a_timer_that_raises_leaves_a_whole_step():
    class OverTimeError(Exception):
        pass

    def handler(number, frame):
        raise OverTimeError

    model = nn.Autoencoder(8, 4)
    optimizer = HalfStep(model.parameters())
    optimizer.signal = signal.SIGALRM
    before = signal.signal(signal.SIGALRM, handler)
    try:
        with pytest.raises(OverTimeError):
            aefast.fit(model, torch.rand(12, 8), optimizer, epochs=100, batch_size=2, seed=0)
        assert signal.getsignal(signal.SIGALRM) is handler
    finally:
        signal.signal(signal.SIGALRM, before)
    assert {state["step"] for state in optimizer.state.values()} == {optimizer.steps}


def interrupted(model, rows, optimizer, **settings):
    """Let Ctrl-C come while a call of fit takes its steps."""

    over = threading.Event()

    def interrupt():
        while not optimizer.state and not over.wait(0.01):
            pass
        if not over.wait(0.15):
            signal.raise_signal(signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            aefast.fit(model, rows, optimizer, epochs=10**6, **settings)
    finally:
        over.set()
        thread.join()
    return int(next(iter(optimizer.state.values()))["step"])


@needs_cpp
@pytest.mark.parametrize("seed", [0, None])
def test_after_an_interrupt_the_next_epoch_follows(heard_interrupts, seed):
    """Its losses are those of the epoch after the one that was broken off: with a learning rate of
    0 an epoch's losses depend on its rows and noise alone. Without a seed that may be one which had
    drawn its seed and taken no step."""
    torch.manual_seed(0)
    model, rows = nn.DenoisingAutoencoder(16, 8), torch.rand(600, 16)
    new = functools.partial(torch.optim.Adam, [*model.parameters()], lr=0.0)
    torch.manual_seed(1)
    optimizer = new()
    steps = interrupted(model, rows, optimizer, batch_size=100, seed=seed)
    after = aefast.fit(model, rows, optimizer, batch_size=100, seed=seed).losses
    begun = -(-steps // 6)
    torch.manual_seed(1)
    whole = aefast.fit(model, rows, new(), epochs=begun + 2, batch_size=100, seed=seed).losses
    following = whole.view(-1, 6)[begun : begun + (1 if seed is not None else 2)]
    assert any(torch.equal(after, losses) for losses in following)


@needs_cpp
def test_an_interrupted_machine_counts_the_steps_that_it_took(heard_interrupts):
    machine, rows = nn.RBM(16, 8, chains=10), (torch.rand(200, 16) < 0.3).float()
    optimizer = torch.optim.Adam(machine.parameters())
    steps = interrupted(machine, rows, optimizer, batch_size=20, seed=0)
    assert int(machine.training_steps) == steps


@needs_cpp
def test_an_epoch_that_diverged_counts_as_over():
    model, rows = nn.Autoencoder(4, 2), torch.rand(20, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    bad = rows.clone()
    bad[3] = float("nan")
    with pytest.raises(aefast.training.engines.DivergenceError):
        aefast.fit(model, bad, optimizer, batch_size=5, seed=0)
    after = aefast.fit(model, rows, optimizer, batch_size=5, seed=0).losses
    fresh = torch.optim.SGD(model.parameters(), lr=0.0)
    whole = aefast.fit(model, rows, fresh, epochs=2, batch_size=5, seed=0).losses
    assert torch.equal(after, whole[4:])


@needs_cpp
def test_an_interrupted_first_step_leaves_no_state(monkeypatch):
    from aefast.step import cpp

    model = nn.Autoencoder(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, dampening=0.5)

    def interrupted_step(**arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(cpp._C, "fit", interrupted_step)
    with pytest.raises(KeyboardInterrupt):
        aefast.fit(model, torch.rand(20, 4), optimizer)
    assert not optimizer.state


def drawing_model():
    """A plain model that draws from torch's generator, which the ordinary loop trains."""
    layers = torch.nn.Linear(6, 4), torch.nn.Dropout(0.5), torch.nn.Linear(4, 6)
    return torch.nn.Sequential(*layers)


@pytest.mark.parametrize("split", [[1, 3], [2, 2], [4]])
def test_without_a_seed_the_split_over_calls_changes_nothing(split):
    rows = torch.rand(20, 6)
    parameters = []
    for epochs, callback in ((split, None), ([4], lambda progress: None)):
        torch.manual_seed(0)
        model = drawing_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for count in epochs:
            aefast.fit(
                model,
                rows,
                optimizer,
                epochs=count,
                batch_size=5,
                loss=torch.nn.L1Loss(),
                callback=callback,
            )
        parameters.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*parameters)


def test_a_loaded_optimizer_goes_on_at_the_first_epoch_that_is_said():
    rows = torch.rand(20, 4)
    torch.manual_seed(0)
    model = nn.DenoisingAutoencoder(4, 2)
    optimizer = torch.optim.Adam(model.parameters())
    aefast.fit(model, rows, optimizer, epochs=2, batch_size=5, seed=0)
    twin, its_optimizer = copy.deepcopy((model, optimizer))
    aefast.fit(model, rows, optimizer, epochs=2, batch_size=5, seed=0)
    aefast.fit(twin, rows, its_optimizer, batch_size=5, seed=0, first_epoch=2)
    aefast.fit(twin, rows, its_optimizer, batch_size=5, seed=0)
    assert all(map(torch.equal, model.parameters(), twin.parameters()))


def test_after_a_callback_the_model_is_in_training_mode(monkeypatch):
    class Watched(nn.Autoencoder):
        def loss(self, x, **settings):
            modes.append(self.training)
            return super().loss(x, **settings)

    modes = []
    model = Watched(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monkeypatch.setattr(fit_steps, "CALLBACK_SECONDS", 0.0)
    monkeypatch.setattr(fit_steps, "CHUNK_SECONDS", 0.0)  # a callback after each step
    aefast.fit(
        model, torch.rand(6, 4), optimizer, batch_size=2, callback=lambda progress: model.eval()
    )
    assert modes == [True] * 3


@pytest.mark.parametrize("hooked", [False, True])
def test_held_out_rows_are_checked_before_a_step_is_taken(hooked):
    model = nn.DenoisingAutoencoder(4, 2, reconstruction="bce")
    if hooked:
        model.encoder[0].register_forward_hook(lambda *arguments: None)
    optimizer = torch.optim.Adam(model.parameters())
    with pytest.raises(ValueError, match="validation has rows of 5 numbers; data has 4"):
        aefast.fit(model, torch.rand(9, 4), optimizer, validation=torch.rand(9, 5))
    if not hooked:
        with pytest.raises(ValueError, match="validation"):
            aefast.fit(model, torch.rand(9, 4), optimizer, validation=torch.rand(9, 4) + 1)
    assert not optimizer.state


@pytest.mark.parametrize("state", [7.0, -1.0, float("nan")])
def test_chains_of_no_bernoulli_states_are_refused(state):
    model = nn.RBM(12, 5, chains=10)
    model.chain.fill_(state)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    with pytest.raises(ValueError, match=f"^chain holds {state:g}; Bernoulli units take numbers"):
        aefast.fit(model, torch.ones(40, 12), optimizer)
    assert not model.training_steps


@needs_cpp
def test_chains_that_are_loaded_while_it_trains_are_those_that_move_on():
    model, other = nn.RBM(12, 5, chains=10), nn.RBM(12, 5, chains=3)
    reports = []

    def load_at_the_first(progress):
        reports.append(progress)
        if len(reports) == 1:
            model.load_state_dict(other.state_dict())
        return len(reports) > 1

    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    history = aefast.fit(
        model, torch.ones(40, 12), optimizer, epochs=10**6, callback=load_at_the_first
    )
    assert history.engine == "step"
    assert model.chain.shape == (3, 12)
    assert not torch.equal(model.chain, other.chain)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m.double(), "float32"),
        (lambda m: m.encoder[0].register_forward_hook(lambda *_: None), "hook"),
    ],
)
def test_what_the_kernels_do_not_serve_runs_the_ordinary_loop(change, reason):
    model = MODELS["plain"]()
    change(model)
    rows = torch.rand(20, 12).to(next(model.parameters()).dtype)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    history = aefast.fit(model, rows, optimizer)
    assert history.engine == "loop"
    assert reason in history.reason


@needs_cpp
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda p: torch.optim.RMSprop(p), "RMSprop"),
        (lambda p: torch.optim.Adam(p, amsgrad=True), "amsgrad"),
    ],
)
def test_an_optimizer_that_the_kernels_do_not_take(make, reason):
    model = MODELS["plain"]()
    history = aefast.fit(model, torch.rand(20, 12), make(model.parameters()))
    assert history.engine == "loop"
    assert reason in history.reason


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": -1}, "epochs is -1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 0.5}, "seed is a float"),
        ({"shuffle": "no"}, "shuffle is 'no'; it takes True or False"),
        ({"shuffle": 0}, "shuffle is 0; it takes True or False"),
        ({"seed": torch.tensor(3)}, "seed is a Tensor; it takes an int"),
        ({"data": [[1.0]]}, "data is a list"),
        ({"data": torch.rand(12)}, r"data has shape \[12\]"),
        ({"data": torch.rand(0, 12)}, r"data has shape \[0, 12\]"),
        ({"data": torch.rand(5, 11)}, "11"),
        ({"data": torch.rand(5, 12).cfloat()}, "data has dtype complex64"),
        ({"validation": torch.rand(12)}, "validation has shape"),
        ({"model": torch.nn.Linear(2, 2)}, "without a loss method"),
        (
            {"model": nn.LossModule(nn.Autoencoder(12, 5))},
            "a LossModule around a Autoencoder; it takes model.model itself",
        ),
        ({"optimizer": None}, "optimizer is a NoneType"),
        ({"optimizer": torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])}, "none of the model"),
        ({"data": torch.ones(3, 12, device="meta")}, "data is a meta tensor"),
        ({"validation": torch.ones(3, 12).to_sparse()}, "validation is a sparse_coo tensor"),
        ({"callback": 0}, "callback is a int; it takes a function or None"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    model = MODELS["plain"]()
    arguments = {
        "model": model,
        "data": torch.rand(20, 12),
        "optimizer": torch.optim.SGD(model.parameters()),
    }
    before = copy.deepcopy(model.state_dict())
    with pytest.raises((TypeError, ValueError), match=message):
        aefast.fit(**(arguments | change))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def own_loss(model, optimizer):
    ordinary = model.loss
    model.loss = lambda x, seed=None: 2 * ordinary(x, seed=seed)


def own_step(model, optimizer):
    ordinary = optimizer.step

    def clipped():
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        ordinary()

    optimizer.step = clipped


def own_zero_grad(model, optimizer):
    optimizer.zero_grad = lambda set_to_none=True: None  # gradients add up


def gradient_hook(model, optimizer):
    model.encoder[0].weight.register_hook(lambda gradient: 0 * gradient)


def zero_gradient(parameter):
    parameter.grad.zero_()


def hook_after_gradient(model, optimizer):
    model.encoder[0].weight.register_post_accumulate_grad_hook(zero_gradient)


def shared_layer(model, optimizer):
    model.encoder[1].weight = model.encoder[0].weight


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (own_loss, "loss of its own"),
        (own_step, "hooks stand on the optimizer"),
        (own_zero_grad, "hooks stand on the optimizer"),
        (gradient_hook, "a parameter's gradient"),
        (hook_after_gradient, "a parameter's gradient"),
        (shared_layer, "share a parameter"),
    ],
)
@needs_cpp
def test_what_someone_put_into_a_step_is_done(change, reason):
    torch.manual_seed(0)
    rows = torch.rand(40, 6)
    model = nn.Autoencoder(layers=[6, 6, 6])
    twin = copy.deepcopy(model)
    optimizers = [torch.optim.SGD(m.parameters(), 0.5) for m in (model, twin)]
    change(model, optimizers[0])
    change(twin, optimizers[1])
    history = aefast.fit(model, rows, optimizers[0], batch_size=16, seed=0, shuffle=False)
    assert history.engine == "loop"
    assert reason in history.reason
    with backend.use_backend("eager"):
        for x in rows.split(16):
            optimizers[1].zero_grad()
            twin.loss(x).backward()
            optimizers[1].step()
    assert_close(model, twin, 1e-6)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
@needs_cpp
def test_another_step_of_an_optimizers_class_is_taken(kind, monkeypatch):
    model, rows = nn.Autoencoder(6, 3), torch.rand(40, 6)
    step, taken = kind.step, []

    @functools.wraps(step)
    def counted(self, closure=None):
        taken.append(self)
        return step(self, closure)

    monkeypatch.setattr(kind, "step", counted)
    history = aefast.fit(model, rows, kind(model.parameters(), lr=0.1), batch_size=20, seed=0)
    assert history.engine == "loop"
    assert len(taken) == 2
    monkeypatch.undo()
    history = aefast.fit(model, rows, kind(model.parameters(), lr=0.1), batch_size=20, seed=0)
    assert history.engine == "step"


@needs_cpp
def test_parameters_made_in_inference_mode_are_not_trained():
    with torch.inference_mode():
        model = nn.Autoencoder(12, 5)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match=r"[Ii]nference tensors"):  # torch's own
        aefast.fit(model, torch.rand(20, 12), torch.optim.SGD(model.parameters(), 0.1))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@needs_cpp
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_state_of_other_sizes_is_not_read_by_the_kernels(momentum):
    small, large = nn.Autoencoder(12, 5), nn.Autoencoder(120, 50)
    make = OPTIMIZERS["momentum" if momentum else "adam"]
    optimizer, other = make(small.parameters()), make(large.parameters())
    aefast.fit(small, torch.rand(20, 12), optimizer)
    other.load_state_dict(optimizer.state_dict())
    with pytest.raises(RuntimeError, match="size of tensor"):  # torch's own
        aefast.fit(large, torch.rand(20, 120), other)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: nn.Autoencoder(12, 5, reconstruction="bce", output_activation="sigmoid"),
            "the cross-entropy takes",
        ),
        (lambda: nn.VariationalAutoencoder(12, 5), "Bernoulli units"),
    ],
)
@pytest.mark.parametrize("number", [1.5, -0.25, math.nan])
def test_targets_outside_the_unit_interval_are_refused(make, message, number):
    model = make()
    rows = torch.rand(20, 12)
    rows[19, 3] = number
    with pytest.raises(ValueError, match=f"holds {number:g}; {message}"):
        aefast.fit(model, rows, torch.optim.SGD(model.parameters(), 0.1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_trains_in_whatever_mode_the_caller_is(mode, dtype):
    model = nn.Autoencoder(12, 5, dtype=dtype)
    optimizer = torch.optim.Adam(model.parameters())
    with mode():
        before = model.encoder[0].weight.clone()
        aefast.fit(model, torch.rand(20, 12), optimizer)
        assert not torch.equal(model.encoder[0].weight, before)
    model.loss(torch.rand(3, 12, dtype=dtype)).backward()
    optimizer.step()  # whose state is of no inference


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_arrays_that_torch_cannot_look_into(dtype):
    numbers = np.random.default_rng(0).random((20, 12), dtype=np.float32)
    packed = np.zeros(20, np.dtype([("pixels", "f4", 12), ("label", "u1")]))["pixels"]
    packed[:] = numbers
    model = nn.Autoencoder(12, 5, dtype=dtype)
    histories = [
        aefast.fit(twin, rows, torch.optim.SGD(twin.parameters(), 0.1), batch_size=4, seed=0)
        for rows in (numbers, packed, numbers[::-1].copy()[::-1])
        for twin in [copy.deepcopy(model)]
    ]
    assert torch.equal(histories[0].losses, histories[1].losses)
    assert torch.equal(histories[0].losses, histories[2].losses)


def test_what_a_mask_hides_is_not_trained_on():
    model = nn.Autoencoder(12, 5)
    rows = np.ma.masked_greater(np.random.default_rng(0).random((20, 12), dtype=np.float32), 0.9)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for options in ({"data": rows}, {"data": rows.data, "validation": rows.astype(np.float64)}):
        name = [*options][-1]
        with pytest.raises(ValueError, match=rf"^{name} has {rows.mask.sum()} masked numbers"):
            aefast.fit(model, optimizer=optimizer, **options)


def test_a_batch_of_more_rows_than_there_are_takes_no_memory_for_them():
    model = nn.Autoencoder(12, 5)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    assert len(aefast.fit(model, torch.rand(20, 12), optimizer, batch_size=2**31 - 1).losses) == 1


def test_what_a_callback_freezes_stays(monkeypatch):
    monkeypatch.setattr(fit_steps, "CALLBACK_SECONDS", 0.0)
    monkeypatch.setattr(fit_steps, "CHUNK_SECONDS", 0.0)
    model = nn.Autoencoder(12, 5)
    recorded = []

    def freeze(progress):
        model.encoder.requires_grad_(False)
        recorded.append(model.encoder[0].weight.clone())

    optimizer = OPTIMIZERS["sgd"](model.parameters())
    aefast.fit(model, torch.rand(20, 12), optimizer, batch_size=5, callback=freeze)
    assert torch.equal(recorded[0], recorded[-1])
    assert torch.equal(recorded[0], model.encoder[0].weight)


@needs_cpp
@pytest.mark.parametrize("chunk", [0.0, 1.0])
def test_both_engines_take_even_minibatches(chunk):
    """The estimators' even minibatches: 10 rows in minibatches of 4, 3 and 3."""
    actual = []
    for name in (None, "eager"):
        torch.manual_seed(0)
        model, optimizer_of = nn.DenoisingAutoencoder(6, 3), OPTIMIZERS["adam"]
        rows = data.dataset.from_array(torch.rand(10, 6).numpy(), "rows")
        whole = MinibatchSchedule(torch.arange(20) % 10, 4, 10, [3, 4], is_even=True)
        with backend.use_backend(name) if name else contextlib.nullcontext():
            engine = engines.choose_engine(
                model,
                rows,
                optimizer_of(model.parameters()),
                lambda x, seed, model=model: model.loss(x, seed=seed),
                whole.largest_minibatch,
            )
            losses = []
            while len(losses) < 6:
                losses += engine.run(whole.after(len(losses)), chunk)
        assert engine.name == ("loop" if name else "step")
        actual.append(losses)
    assert actual[0] == pytest.approx(actual[1], rel=1e-5)


@needs_cpp
def test_where_the_vendors_product_is_faster_the_rows_of_a_step_decide(vendor_product, monkeypatch):
    """As in the model's loss: one call takes steps of so many multiplications, and of no more."""
    monkeypatch.setattr(step_loss, "MOST_PRODUCTS", 12 * 5 * 16)

    def engine(rows, batch_size, **options):
        model, x = nn.Autoencoder(12, 5), torch.rand(rows, 12)
        history = aefast.fit(
            model, x, OPTIMIZERS["adam"](model.parameters()), batch_size=batch_size, **options
        )
        refusal = plan_of(model).refusal(x[: options.get("micro_batch_size", batch_size)])
        assert history.engine == ("step" if refusal is None else "loop")
        assert refusal is None or history.reason.endswith(step_loss.VENDOR_IS_FASTER)
        return history.engine

    assert engine(48, 16) == engine(16, 48) == "step"
    assert engine(48, 17) == engine(17, 48) == "loop"
    assert engine(48, 48, micro_batch_size=16) == "step"
    assert engine(48, 48, micro_batch_size=17) == "loop"


@needs_cpp
def test_a_command_asks_for_the_rows_of_its_steps(vendor_product, monkeypatch):
    pytest.importorskip("safetensors")
    from tests.training import runs

    monkeypatch.setattr(step_loss, "MOST_PRODUCTS", runs.VISIBLE * 8 * 9)
    names = [runs.new("ae", batch_size=size)._new_engine().name for size in (9, 10)]
    assert names == ["step", "loop"]
    held_out = runs.new("ae", batch_size=100, validation=1 - 9 / runs.ROWS)
    assert held_out._new_engine().name == "step"


def test_float64_rows_of_a_float64_model_are_not_rounded():
    rows = torch.rand(20, 12, dtype=torch.float64)
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(nn.Autoencoder(12, 5, dtype=torch.float64))
    actual, expected = models
    history = aefast.fit(
        actual, rows, OPTIMIZERS["adam"](actual.parameters()), batch_size=10, shuffle=False, seed=0
    )
    optimizer = OPTIMIZERS["adam"](expected.parameters())
    for x in rows.split(10):
        optimizer.zero_grad()
        expected.loss(x).backward()
        optimizer.step()
    assert history.engine == "loop"
    assert all(map(torch.equal, actual.parameters(), expected.parameters()))


@needs_cpp
@pytest.mark.parametrize("seed", [5, None])
def test_after_an_epoch_that_was_broken_off_the_next_one_follows(seed, monkeypatch):
    """The learning rate is 0, so that an epoch's losses depend on its order and draws alone."""

    def losses(*callbacks):
        torch.manual_seed(0)
        model, rows = MODELS["denoising"](), torch.rand(50, 12)
        optimizer = torch.optim.SGD(model.parameters(), 0.0)
        torch.manual_seed(7)
        return [
            aefast.fit(
                model, rows, optimizer, epochs=2, batch_size=16, seed=seed, callback=callback
            ).losses.tolist()
            for callback in callbacks
        ]

    whole, after = losses(None, None)
    monkeypatch.setattr(fit_steps, "CHUNK_SECONDS", 0.0)
    monkeypatch.setattr(fit_steps, "CALLBACK_SECONDS", 0.0)
    first, second = losses(lambda progress: progress.step == 2, None)
    assert first == whole[:2]
    assert second == [*whole[4:], *after[:4]]


def test_a_function_gives_the_batches_of_each_epoch():
    data, sizes = torch.randn(30, 6), (8, 4, 18)
    models = [nn.TopKSparseAutoencoder(6, 24, 3) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    optimizers = [torch.optim.Adam(model.parameters(), 1e-2) for model in models]
    for model, optimizer in zip(models, optimizers, strict=True):
        model.keep_unit_norm(optimizer)
    reports = []
    history = aefast.fit(
        models[0],
        lambda: iter(data.double().reshape(30, 2, 3).split(sizes)),
        optimizers[0],
        epochs=2,
        callback=reports.append,
    )
    assert (history.engine, len(history.losses)) == ("loop", 6)
    for _ in range(2):
        for x in data.split(sizes):
            optimizers[1].zero_grad()
            models[1].loss(x).backward()
            optimizers[1].step()
    for a, b in zip(models[0].state_dict().values(), models[1].state_dict().values(), strict=True):
        assert torch.equal(a, b)
    torch.testing.assert_close(models[0].decoder_weight.norm(dim=1), torch.ones(24))


def test_a_transcoder_learns_from_pairs_of_rows_as_from_its_loss_with_a_target(tmp_path):
    inputs, targets = torch.randn(30, 6), torch.randn(30, 4)
    for name, rows in (("inputs", inputs), ("targets", targets)):
        (tmp_path / name).mkdir()
        for number, part in enumerate(rows.split(16)):
            np.save(tmp_path / name / f"{number}.npy", part.numpy())
    shards = tuple(aefast.data.load(tmp_path / name) for name in ("inputs", "targets"))
    batches = list(zip(inputs.split(8), targets.split(8), strict=True))
    start = nn.TopKSparseAutoencoder(6, 24, 3, outputs=4)
    trained = []
    tensors = inputs, targets
    for source in (tensors, shards, lambda: batches, None):
        model = copy.deepcopy(start)
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        if source is None:
            for x, target in batches:
                optimizer.zero_grad()
                model.loss(x, target=target).backward()
                optimizer.step()
        else:
            options = {"validation": (inputs, targets), "batch_size": 8, "shuffle": False}
            history = aefast.fit(model, source, optimizer, **options)
            model.eval()
            held_out = model.loss(inputs, target=targets).item()
            has_cpp = backend.unavailable("cpp", "cpu") is None
            assert history.engine == ("step" if has_cpp and source is tensors else "loop")
            assert history.validation.item() == pytest.approx(held_out, rel=1e-5)
        trained.append(model.decoder_weight)
    assert all(torch.equal(weight, trained[-1]) for weight in trained[1:])
    torch.testing.assert_close(trained[0], trained[-1])  # by the kernels, where they are
    model, optimizer = copy.deepcopy(start), torch.optim.SGD(start.parameters(), 0.1)
    aefast.fit(start, shards, optimizer, epochs=2, batch_size=8, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for epoch in range(2):
        for rows in minibatches.order_of(shards[0], 30, 0, epoch).split(8):
            optimizer.zero_grad()
            model.loss(inputs[rows], target=targets[rows]).backward()
            optimizer.step()
    assert torch.equal(start.decoder_weight, model.decoder_weight)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"data": (torch.ones(9, 6), torch.ones(8, 4))},
            ValueError,
            "data has 9 rows of inputs and 8 of targets; it takes a target for each input",
        ),
        (
            {"validation": (torch.ones(9, 6), torch.ones(8, 4))},
            ValueError,
            "validation has 9 rows of inputs and 8 of targets",
        ),
        (
            {"data": (torch.ones(9, 6),)},
            ValueError,
            "data is a tuple of 1; it takes rows, or a pair",
        ),
        ({"data": (torch.ones(9, 6), [1])}, TypeError, "data is a list"),
        (
            {"data": (torch.ones(9, 6), torch.ones(9, 5))},
            ValueError,
            r"target has shape \[9, 5\]; it takes \[..., 4\]",
        ),
        ({"data": torch.ones(9, 6)}, ValueError, "target is None; a transcoder takes"),
        ({"data": lambda: [(torch.ones(9, 6),)]}, ValueError, "target is None; a transcoder"),
        ({"data": lambda: [[torch.ones(9, 6)] * 3]}, ValueError, "data gave a list of 3"),
        (
            {"data": lambda: [[torch.ones(9, 6)] * 2], "model": nn.Autoencoder(6, 4)},
            TypeError,
            "a batch of data is a pair of inputs and targets; the loss of a Autoencoder takes no",
        ),
        (
            {"model": nn.Autoencoder(6, 4)},
            TypeError,
            "data is a pair of inputs and targets; the loss of a Autoencoder takes no target",
        ),
    ],
)
def test_wrong_pairs_are_named(options, error, message):
    model = nn.TopKSparseAutoencoder(6, 24, 3, outputs=4)
    pair = (torch.ones(9, 6), torch.ones(9, 4))
    arguments = {"model": model, "data": pair, **options}
    arguments["optimizer"] = torch.optim.Adam(arguments["model"].parameters())
    with pytest.raises(error, match=f"^{message}"):
        aefast.fit(**arguments)


def test_held_out_bytes_are_divided_as_the_datas_are():
    """Held-out bytes are scaled like the data's: their own maximum says nothing about the scale."""
    grey, dark = (torch.arange(60).reshape(10, 6) * step for step in (4, 0))
    grey, dark = grey.to(torch.uint8), (dark + torch.eye(10, 6)).to(torch.uint8)

    def held_out(data, validation, model):
        optimizer = torch.optim.SGD(model.parameters(), 0.0)
        return aefast.fit(model, data, optimizer, validation=validation).validation

    model = nn.Autoencoder(6, 4)
    assert held_out(grey, dark, model) == held_out(grey, dark / 255, model)
    model = nn.TopKSparseAutoencoder(6, 24, 3)
    pairs = (grey, grey), (dark, dark)
    assert held_out(*pairs, model) == held_out(pairs[0], (dark / 255, dark / 255), model)


GREY = torch.arange(60, dtype=torch.uint8).reshape(10, 6) * 4
NORMAL = torch.randn(10, 6, generator=torch.manual_seed(0)) + torch.tensor([3.0, -3.0] * 3)


@pytest.mark.parametrize(
    ("data", "validation", "message"),
    [
        (
            GREY % 2 + torch.eye(10, 6, dtype=torch.uint8),
            GREY,
            "validation holds 236, and data's uint8 numbers are 0 and 1, which are not divided by "
            "255; it takes 0 and 1",
        ),
        *(
            (
                bits,
                kind(GREY),
                f"validation holds 236, and data's {name} numbers are 0 and 1; it takes numbers in "
                "[0, 1]",
            )
            for kind in (Tensor.float, Tensor.long)
            for name, bits in (
                ("uint8", torch.eye(10, 6).byte()),
                ("bool", torch.eye(10, 6).bool()),
            )
        ),
        *(
            (
                GREY,
                kind(GREY),
                "validation holds 236, and data is uint8, divided by 255; it takes uint8, or "
                "numbers in [0, 1]",
            )
            for kind in (Tensor.float, Tensor.double, Tensor.long)
        ),
        *(
            (
                kind(GREY),
                GREY,
                "validation is uint8, divided by 255, and data holds 236; it takes numbers on the "
                "data's scale in the data's dtype",
            )
            for kind in (Tensor.float, Tensor.double, Tensor.long)
        ),
        (
            NORMAL,
            GREY,
            f"validation is uint8, divided by 255, and data holds {NORMAL.min():g}; it takes",
        ),
    ],
)
@pytest.mark.parametrize("is_double", [False, True])
def test_held_out_rows_on_another_scale_than_the_data_are_refused(
    data, validation, message, is_double
):
    model = nn.Autoencoder(6, 4).to(torch.float64 if is_double else torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        aefast.fit(model, data, optimizer, validation=validation)
    model = nn.TopKSparseAutoencoder(6, 24, 3).to(next(model.parameters()).dtype)
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    pairs = {"data": (GREY, data), "validation": (GREY, validation)}
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        aefast.fit(model, optimizer=optimizer, **pairs)


@pytest.mark.parametrize("bits", [torch.eye(10, 6).bool(), torch.eye(10, 6).to(torch.uint8)])
def test_held_out_floats_beside_bytes_may_leave_the_unit_interval_a_little(bits):
    noisy = GREY / 255 - 0.3
    model = nn.Autoencoder(6, 4)
    optimizer = torch.optim.SGD(model.parameters(), 0.0)

    def held_out(data, validation):
        return aefast.fit(model, data, optimizer, validation=validation).validation

    assert held_out(GREY, noisy) == held_out(noisy, noisy)
    assert held_out(noisy, GREY) == held_out(noisy, GREY / 255)
    assert held_out(bits, bits.float()) == held_out(bits, bits.double())
    assert held_out(bits.float(), bits) == held_out(bits, bits)


@pytest.mark.parametrize("container", [list, tuple])
def test_a_loader_gives_each_batch_in_a_list_of_one(container):
    losses = []
    for wrap in (lambda x: x, lambda x: container([x])):
        torch.manual_seed(0)
        model, batches = nn.Autoencoder(6, 4), [wrap(torch.rand(3, 2, 3)) for _ in range(4)]
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        losses.append(aefast.fit(model, lambda batches=batches: batches, optimizer).losses)
    assert torch.equal(*losses)


class LossOfEachElement(nn.Autoencoder):
    def loss(self, x, *, seed=None):
        return (self(x) - x).square()


@pytest.mark.parametrize("data", [torch.rand(8, 6), lambda: [torch.rand(8, 6)]])
def test_a_loss_that_is_no_scalar_and_a_model_that_is_frozen_are_named(data):
    model = LossOfEachElement(6, 4)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(ValueError, match=r"^loss gave shape \[8, 6\]; it takes one that gives a"):
        aefast.fit(model, data, optimizer)
    model.requires_grad_(False)
    with pytest.raises(ValueError, match=r"^model has no parameter that is trained: requires_grad"):
        aefast.fit(model, data, optimizer)


def test_a_function_may_give_batches_without_end(monkeypatch):
    monkeypatch.setattr(fit_steps, "CALLBACK_SECONDS", 0)
    model = nn.TopKSparseAutoencoder(6, 24, 3)
    optimizer = torch.optim.Adam(model.parameters())
    history = aefast.fit(
        model,
        lambda: iter(lambda: torch.randn(4, 6), None),
        optimizer,
        callback=lambda progress: progress.step == 5,
    )
    assert len(history.losses) == 5


@pytest.mark.parametrize(
    ("batches", "error", "message"),
    [
        ([], ValueError, "data gave no batch"),
        (None, TypeError, "data gave a NoneType; it takes a function that gives batches"),
        ([1], TypeError, "data gave a int; it takes batches"),
        ([torch.zeros(2, 6, dtype=torch.uint8)], TypeError, "data gave dtype uint8; .* floats"),
        ([torch.zeros(2, 6, dtype=torch.complex64)], TypeError, "data gave dtype complex64"),
        ([(torch.zeros(2, 6), torch.zeros(2, 6).int())], TypeError, "data gave dtype int32"),
        ([torch.zeros(6)], ValueError, r"data gave shape \[6\]; it takes batches \[B, D\]"),
        ([torch.zeros(2, 7)], ValueError, r"x has shape \[2, 7\]"),
    ],
)
def test_what_a_function_gives_is_checked(batches, error, message):
    model = nn.TopKSparseAutoencoder(6, 24, 3)
    with pytest.raises(error, match=message):
        aefast.fit(model, lambda: batches, torch.optim.Adam(model.parameters()))


def test_a_function_takes_no_argument():
    model = nn.TopKSparseAutoencoder(6, 24, 3)
    with pytest.raises(TypeError, match="data is a function, missing a required argument: 'epoch'"):
        aefast.fit(model, lambda epoch: [], torch.optim.Adam(model.parameters()))


def fit_and_change(monkeypatch, model, change, data, epochs=4):
    """Train by SGD with a callback that changes the model at its first call."""
    monkeypatch.setattr(fit_steps, "CALLBACK_SECONDS", 0.0)
    changes = iter([change])
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    return aefast.fit(
        model,
        data,
        optimizer,
        epochs=epochs,
        batch_size=10,
        seed=0,
        callback=lambda progress: next(changes, lambda model: None)(model),
    )


@needs_cpp
def test_a_hook_that_a_callback_sets_is_called(monkeypatch):
    model, calls = nn.Autoencoder(12, 5), []

    def add_hook(model):
        model.encoder[0].register_forward_hook(lambda *_: calls.append(1))

    history = fit_and_change(monkeypatch, model, add_hook, torch.rand(20, 12))
    assert history.engine == "loop"
    assert len(calls) == 6  # of the three epochs that were left, two steps each


@needs_cpp
def test_a_weight_that_a_callback_anneals_counts(monkeypatch):
    rows = torch.rand(20, 12)
    losses = []
    for weight in (1.0, 0.0):
        torch.manual_seed(0)
        model = nn.VariationalAutoencoder(12, 3, bound="elbo")
        history = fit_and_change(
            monkeypatch,
            model,
            lambda model, weight=weight: setattr(model, "kl_weight", weight),
            rows,
        )
        assert history.engine == "step"
        losses.append(history.losses)
    assert torch.equal(losses[0][:2], losses[1][:2])  # before the change
    assert bool((losses[0][2:] > losses[1][2:]).all())


@needs_cpp
@pytest.mark.parametrize("shape", [(2, 3), (7, 12)])
def test_a_parameter_that_a_callback_gives_another_shape_is_an_error(monkeypatch, shape):
    def replace(model):
        model.encoder[0].weight.data = torch.zeros(shape)

    with pytest.raises(ValueError, match=r"encoder_weight's shape"):
        fit_and_change(monkeypatch, nn.Autoencoder(12, 5), replace, torch.rand(20, 12))


@needs_cpp
def test_chains_that_a_callback_gives_another_width_are_an_error(monkeypatch):
    def replace(model):
        model.chain.data = torch.zeros(2, 3)

    data = torch.rand(20, 12).round()
    with pytest.raises(ValueError, match=r"chain has shape \[2, 3\]"):
        fit_and_change(monkeypatch, nn.RBM(12, 3, chains=5), replace, data)
