"""Held-out loss, early stopping by patience, and settings that change from epoch to epoch."""

import math

import pytest
import torch

pytest.importorskip("safetensors")

import aefast
from aefast import random
from aefast.training import checkpoint, loop
from tests.training.runs import SMALL, dataset, new, proceed
from tests.training.test_checkpoint import rewrite
from tests.training.test_loop import assert_same_bits, spy, stopped_and_resumed

SCHEDULES = {"validation": 0.2, "patience": 2, "learning_rate_decay": 0.5}


def test_the_rows_that_are_held_out_are_a_share_by_the_seed_and_are_never_trained_on(ordinary_loop):
    trainer = new("ae", validation=0.3, epochs=2)
    assert (len(trainer.held_out), len(trainer.trained)) == (15, 35)
    assert torch.equal(
        torch.cat([trainer.held_out, trainer.trained]).sort().values, torch.arange(50)
    )
    assert torch.equal(trainer.held_out, new("ae", validation=0.3).held_out)
    assert not torch.equal(trainer.held_out, new("ae", validation=0.3, seed=1).held_out)
    batches = []
    trainer.stages = [spy(trainer.stage, batches)]
    proceed(trainer)
    expected = trainer.dataset.take(trainer.trained)
    assert torch.equal(torch.cat(batches[:5]).sort(0).values, expected.sort(0).values)
    assert trainer.progress.samples == 70


def test_a_line_after_each_epoch_has_the_loss_of_the_rows_held_out():
    trainer = new("dae", validation=0.2)
    lines = proceed(trainer)
    assert [line["step"] for line in lines] == [5, 10, 15]
    rows = trainer.dataset.take(trainer.held_out)
    with torch.no_grad():
        losses = [
            trainer.model.eval().loss(x, seed=random.child_seed(0, 8 * number)).item() * len(x)
            for number, x in enumerate(rows.split(8))
        ]
    assert lines[-1]["held_out_loss"] == pytest.approx(sum(losses) / 10, rel=1e-6)
    assert len({line["held_out_loss"] for line in lines}) == 3


def test_lines_within_an_epoch_say_nothing_of_rows_held_out(monkeypatch):
    monkeypatch.setattr(loop, "LINE_STEPS", 4)
    lines = proceed(new("ae", validation=0.2, epochs=1))
    assert [(line["step"], "held_out_loss" in line) for line in lines] == [(4, False), (5, True)]


@pytest.mark.parametrize("model", SMALL)
def test_a_run_with_held_out_rows_goes_on_to_the_same_bits(model, tmp_path):
    more = {"kl_weight": 0.5, "kl_warm_up": 2} if model == "vae" else {}
    whole = new(model, **SCHEDULES, **more)
    proceed(whole)
    # Within an epoch, at its end, and, of a stack, in the second machine.
    steps = [3, 10, *([17] if model == "dbn" else [])]
    resumed = stopped_and_resumed(new(model, **SCHEDULES, **more), steps, tmp_path)
    assert_same_bits(resumed.checkpoint(), whole.checkpoint())


@pytest.mark.parametrize("model", SMALL)
def test_to_be_judged_changes_nothing_of_a_run(model, monkeypatch):
    judged = new(model, validation=0.2)
    proceed(judged)
    monkeypatch.setattr(loop.Trainer, "_evaluate", lambda self: {})
    other = new(model, validation=0.2)
    proceed(other)
    actual, expected = (run.checkpoint() for run in (judged, other))
    actual.progress.losses = expected.progress.losses = []  # of lines that are not written
    assert_same_bits(actual, expected)


def judged(trainer, monkeypatch, losses):
    """Give a trainer's epochs these held-out losses."""
    values = iter(losses)
    monkeypatch.setattr(loop, "held_out_loss", lambda *arguments: next(values))
    return trainer


@pytest.mark.parametrize(
    ("losses", "epochs"),
    [
        ([3.0, 2.0, 2.5, 2.1, 9.0], 4),  # two epochs without a lower loss
        ([3.0, 3.0, 3.0, 1.0], 3),  # an equal loss is not lower
        ([5.0, 6.0, 4.0, 5.0, 3.0, 4.0, 4.0, 2.0], 7),
        ([6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.5, 0.1, 0.0], 9),
    ],
)
def test_patience_ends_a_run_after_so_many_epochs_without_a_better_loss(
    losses, epochs, monkeypatch, tmp_path
):
    make = {"validation": 0.2, "patience": 2, "epochs": 9}
    trainer = judged(new("ae", **make), monkeypatch, losses)
    proceed(trainer)
    assert (trainer.progress.epoch, trainer.is_finished) == (epochs, True)
    # The same for a run that was stopped after each epoch and continued.
    trainer = judged(new("ae", **make), monkeypatch, losses)
    resumed = stopped_and_resumed(trainer, [5 * n for n in range(1, epochs)], tmp_path)
    assert resumed.progress.epoch == epochs


def test_without_patience_a_run_takes_all_its_epochs(monkeypatch):
    trainer = judged(new("ae", validation=0.2, epochs=9), monkeypatch, range(1, 99))
    proceed(trainer)
    assert (trainer.progress.epoch, trainer.progress.held_out) == (9, [])


@pytest.mark.parametrize("model", ["vae", "rbm", "topk", "dbn"])
@pytest.mark.parametrize("stops", [[], [5, 15, 18]])
def test_a_run_with_patience_has_the_model_of_its_best_epoch(model, stops, monkeypatch, tmp_path):
    """A stack's is of its last machine's."""
    values = iter([5.0, 4.0, 6.0, 4.0] if model != "dbn" else [5.0, 6.0, 7.0, 3.0, 2.0, 4.0, 2.0])
    monkeypatch.setattr(loop, "early_stopping_metric", lambda metrics: next(values))
    trainer = new(model, validation=0.2, patience=2, epochs=9)
    trainer = stopped_and_resumed(trainer, stops, tmp_path)
    assert trainer.is_finished
    checkpoint.save(tmp_path, trainer.checkpoint())
    best, last = checkpoint.load_trained(tmp_path), checkpoint.load(tmp_path)
    assert (best.progress.epoch, last.progress.epoch) == (2, 4)
    assert_equal(best.model, aefast.load(tmp_path))
    values = iter([5.0, 6.0, 7.0, *[9.0] * 9] if model == "dbn" else [9.0] * 9)
    short = new(model, validation=0.2, patience=2, epochs=9)
    proceed(short, until=best.progress.step)
    assert_equal(best.model, short.model)


def assert_equal(model, other):
    state, other_state = model.state_dict(), other.state_dict()
    assert state.keys() == other_state.keys()
    assert all(torch.equal(state[name], other_state[name]) for name in state)


def test_without_patience_the_model_is_the_last(tmp_path):
    trainer = new("ae", validation=0.2)
    proceed(trainer)
    checkpoint.save(tmp_path, trainer.checkpoint())
    assert not (tmp_path / checkpoint.BEST_FILE).exists()
    assert_equal(aefast.load(tmp_path), trainer.model)


def test_patience_ends_each_machine_of_a_stack_by_its_own_epochs(monkeypatch):
    figures = iter([5.0, 6.0, 4.0, 9.0, 9.0, *[3.0, 4.0, 5.0]])
    monkeypatch.setattr(loop, "early_stopping_metric", lambda values: next(figures))
    trainer = new("dbn", validation=0.2, patience=2, epochs=9)
    lines = proceed(trainer)
    ends = [line["epoch"] for line in lines]
    assert ends == [1, 2, 3, 4, 5, 1, 2, 3]
    assert trainer.is_finished


@pytest.mark.parametrize("kind", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("validation", [0.0, 0.2])
def test_a_machine_is_judged_by_its_reconstructions_and_pseudo_likelihood(kind, validation):
    trainer = new("rbm", validation=validation, visible_kind=kind)
    line = proceed(trainer)[-1]
    machine, rows = trainer.model, trainer.held_out if validation else trainer.trained
    x = trainer.dataset.take(rows)
    with torch.no_grad():
        error = (machine.visible_mean(machine(x)) - x).square().mean().item()
    assert line["reconstruction_error"] == pytest.approx(error, rel=1e-6)
    assert ("held_out_loss" in line) == (validation > 0)
    assert ("pseudo_log_likelihood" in line) == (kind == "bernoulli")
    if kind == "bernoulli":  # an estimate, of 8 units of 12 a row
        exact = machine.pseudo_log_likelihood(x).mean().item()
        assert line["pseudo_log_likelihood"] == pytest.approx(exact, rel=0.15)


def test_a_held_out_loss_that_is_not_finite_names_the_step(monkeypatch):
    trainer = judged(new("ae", validation=0.2), monkeypatch, [1.0, math.nan])
    with pytest.raises(loop.DivergenceError, match=r"^the held_out_loss after step 10 is nan$"):
        proceed(trainer)


@pytest.mark.parametrize("model", ["ae", "rbm", "dbn"])
def test_the_learning_rate_falls_with_each_epoch_of_a_stage(model):
    trainer = new(model, learning_rate=0.8, learning_rate_decay=0.5)
    rates = []
    for _ in range(3 * len(trainer.stages)):
        trainer.take(7, 60.0)
        rates.append(trainer.optimizer.param_groups[0]["lr"])
    assert rates == [0.8, 0.4, 0.2] * len(trainer.stages)


def test_the_kernels_follow_the_learning_rate():
    fast, slow = new("ae"), new("ae", learning_rate_decay=1e-12)
    proceed(fast, until=7)
    proceed(slow)
    still = [fast.model.state_dict()[name] for name in fast.model.state_dict()]
    for expected, actual in zip(still, slow.model.state_dict().values(), strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("ordinary", [False, True])
def test_the_weight_of_the_divergence_grows_from_0_to_its_own(ordinary, request):
    if ordinary:
        request.getfixturevalue("ordinary_loop")
    trainer = new("vae", kl_weight=4.0, kl_warm_up=2, validation=0.2)
    start = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    first = []
    for weight in (0.0, 2.0, 4.0):
        first += trainer.take(1, 60.0)
        assert trainer.model.kl_weight == weight
        trainer.take(4, 60.0)
        assert trainer.model.kl_weight == 4.0  # the weight in the held-out loss
    # The first step's loss is that of a model without a divergence.
    other = new("vae", kl_weight=0.0, validation=0.2)
    other.model.load_state_dict(start)
    assert first[0] == other.take(1, 60.0)[0]


def test_the_kernels_take_the_weight_of_each_epoch():
    """Compare the loss of an epoch's first step with the model's own terms."""
    trainer = new("vae", kl_weight=4.0, kl_warm_up=2)
    trainer.take(7, 60.0)
    x = trainer.dataset.take(trainer._epoch_order()[:8])
    seed = random.child_seed(random.child_seed(trainer.config.seed, 0), 7)
    trainer.model.kl_weight = 2.0
    with torch.no_grad():
        expected = trainer.model.loss(x, seed=seed).item()
    assert trainer.take(1, 60.0)[0] == pytest.approx(expected, rel=1e-5)


def test_a_run_from_before_these_options_goes_on(tmp_path):
    trainer = new("vae")
    proceed(trainer, until=5)
    saved = trainer.checkpoint()
    checkpoint.save(tmp_path, saved)

    def old(header, tensors):
        for name in SCHEDULES | {"kl_warm_up": 0}:
            del header["config"][name]
        del header["config"]["options"]["kl_weight"]
        del header["progress"]["held_out"]

    rewrite(tmp_path / checkpoint.CHECKPOINT_FILE, old)
    loaded = checkpoint.load(tmp_path)
    assert loaded.config == saved.config
    resumed = loop.Trainer(loaded, dataset())
    proceed(resumed)
    proceed(trainer)
    assert_same_bits(resumed.checkpoint(), trainer.checkpoint())
