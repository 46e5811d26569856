"""The training loop: the same bits however often it is stopped, its stages, and NaN losses."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

pytest.importorskip("safetensors")

from aefast.nn import DeepBeliefStack
from aefast.training import checkpoint, loop, models
from tests.training.runs import SMALL, dataset, new, proceed


def assert_same_bits(actual, expected):
    assert actual.progress.step == expected.progress.step
    assert actual.progress.losses == expected.progress.losses
    assert actual.progress.held_out == expected.progress.held_out
    model, other = actual.model.state_dict(), expected.model.state_dict()
    assert model.keys() == other.keys()
    assert all(torch.equal(model[name], other[name]) for name in model)
    assert actual.optimizer.keys() == expected.optimizer.keys()
    for number, state in actual.optimizer.items():
        assert state.keys() == expected.optimizer[number].keys()
        assert all(torch.equal(state[name], expected.optimizer[number][name]) for name in state)


def stopped_and_resumed(trainer, steps, folder):
    for step in steps:
        proceed(trainer, until=step)
        assert trainer.progress.step == step
        checkpoint.save(folder, trainer.checkpoint())
        torch.rand(3)  # torch's own generator is not part of a run
        trainer = loop.Trainer(checkpoint.load(folder), dataset())
    proceed(trainer)
    return trainer


@pytest.mark.parametrize("model", SMALL)
def test_a_run_stopped_within_an_epoch_goes_on_to_the_same_bits(model, tmp_path):
    whole = new(model)
    proceed(whole)
    steps = 21 * len(whole.stages)
    assert whole.progress.step == steps
    # In the first epoch, at an epoch's end, and, of a stack, in the second machine.
    resumed = stopped_and_resumed(new(model), [3, 14, steps - 5], tmp_path)
    assert_same_bits(resumed.checkpoint(), whole.checkpoint())


def test_a_stack_stopped_between_two_machines_goes_on_to_the_same_bits(tmp_path):
    whole = new("dbn")
    proceed(whole)
    assert_same_bits(
        stopped_and_resumed(new("dbn"), [21], tmp_path).checkpoint(), whole.checkpoint()
    )


def test_more_epochs_go_on_as_if_they_had_been_asked_for_at_first(tmp_path):
    whole = new("dae", epochs=5)
    proceed(whole)
    short = new("dae", epochs=3)
    proceed(short)
    assert short.is_finished
    checkpoint.save(tmp_path, short.checkpoint())
    loaded = checkpoint.load(tmp_path)
    longer = loop.Trainer(replace(loaded, config=replace(loaded.config, epochs=5)), dataset())
    proceed(longer)
    actual, expected = longer.checkpoint(), whole.checkpoint()
    assert_same_bits(actual, expected)


def test_another_seed_gives_other_parameters_and_other_noise():
    first, second = new("dae", seed=1), new("dae", seed=2)
    assert not torch.equal(*(run.model.encoder[0].weight for run in (first, second)))
    second.model.load_state_dict(first.model.state_dict())
    assert first.take(1, 1.0) != second.take(1, 1.0)


def test_the_first_parameters_are_a_function_of_the_seed_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = new("rbm").model.state_dict()
    assert torch.equal(torch.rand(3), expected)
    second = new("rbm").model.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("model", ["sae", "stochastic", "dbn"])
def test_runs_in_eight_threads_are_one_run_and_leave_torchs_generator_alone(model, threads):
    threads(1)

    def trained(_):
        trainer = new(model, epochs=1)
        losses = trainer.take(7, seconds=60)
        return torch.tensor(losses), *trainer.model.state_dict().values()

    expected = trained(0)
    before = torch.get_rng_state()
    with ThreadPoolExecutor(8) as pool:
        for actual in pool.map(trained, range(16)):
            assert all(map(torch.equal, actual, expected))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_stack_trains_each_machine_on_the_features_of_the_one_below(ordinary_loop):
    trainer = new("dbn")
    stack = trainer.model
    assert isinstance(stack, DeepBeliefStack)
    lower, upper = stack
    untouched = upper.weight.clone()
    proceed(trainer, until=21)
    assert torch.equal(upper.weight, untouched)
    trained = lower.weight.clone()
    batches = []
    upper.loss = lambda x, seed: batches.append(x) or (upper.weight * 0).sum()
    trainer.take(1, 1.0)
    assert torch.equal(lower.weight, trained)
    assert not batches[0].requires_grad
    with torch.no_grad():
        features = lower(torch.from_numpy(dataset().rows))
    assert all((features == row).all(1).any() for row in batches[0])


def test_every_row_is_seen_once_an_epoch(ordinary_loop):
    trainer = new("ae", epochs=1)
    batches = []
    object.__setattr__(trainer, "stages", [spy(trainer.stage, batches)])
    proceed(trainer)
    expected = torch.from_numpy(dataset().rows)
    assert torch.equal(torch.cat(batches).unique(dim=0), expected.unique(dim=0))
    assert sum(map(len, batches)) == len(expected)


def spy(stage, batches):
    def loss(x, seed):
        batches.append(x)
        return stage.loss(x, seed)

    return replace(stage, loss=loss)


def test_no_two_steps_share_a_seed(ordinary_loop):
    trainer = new("dbn")
    seeds = []
    trainer.stages = [
        replace(stage, loss=lambda x, seed, loss=stage.loss: (seeds.append(seed), loss(x, seed))[1])
        for stage in trainer.stages
    ]
    proceed(trainer)
    assert len(set(seeds)) == len(seeds) == 42


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_names_its_step(wrong, ordinary_loop):
    trainer = new("dae")
    stage = trainer.stage

    def loss(x, seed):
        return stage.loss(x, seed) * (wrong if trainer.progress.step == 10 else 1)

    trainer.stages = [replace(stage, loss=loss)]
    with pytest.raises(loop.DivergenceError, match=f"^the loss of step 11 is {wrong}$"):
        proceed(trainer)


def test_parameters_that_are_not_finite_are_not_saved():
    trainer = new("dae")
    proceed(trainer, until=4)
    with torch.no_grad():
        trainer.model.encoder[0].weight[0, 0] = float("nan")
    with pytest.raises(loop.DivergenceError, match=r"^a parameter is not finite after step 4$"):
        trainer.checkpoint()


def test_a_line_of_metrics_every_so_many_steps_and_after_a_stage(monkeypatch):
    monkeypatch.setattr(loop, "LINE_STEPS", 8)
    trainer = new("dbn")
    trainer.progress.seconds = 1e308  # as a checkpoint that someone changed may have
    assert all(line["samples_per_second"] > 0 for line in proceed(trainer))
    lines = proceed(new("dbn"))
    assert [line["step"] for line in lines] == [8, 16, 21, 24, 32, 40, 42]
    assert [line["stage"] for line in lines] == ["machine 1 of 2"] * 3 + ["machine 2 of 2"] * 4
    assert [line["epoch"] for line in lines] == [1, 2, 3, 0, 1, 2, 3]
    assert all(line["samples_per_second"] > 0 for line in lines)
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds)


def test_the_loss_of_a_line_is_the_mean_of_its_steps_also_where_the_run_stopped(monkeypatch):
    monkeypatch.setattr(loop, "LINE_STEPS", 8)
    whole = new("dae")
    losses = [loss for _ in range(3) for loss in whole.take(7, 60.0)]
    trainer = new("dae")
    lines = proceed(trainer, until=11)
    trainer = loop.Trainer(trainer.checkpoint(), dataset())
    lines += proceed(trainer)
    means = [sum(losses[a:b]) / (b - a) for a, b in ((0, 8), (8, 16), (16, 21))]
    assert [line["loss"] for line in lines] == pytest.approx(means, rel=1e-12)


@pytest.mark.parametrize("model", SMALL)
def test_a_model_encodes_decodes_and_where_it_can_samples(model):
    trainer = new(model)
    hidden = SMALL[model]["hidden"]
    with torch.no_grad():
        code = models.encode(trainer.model, torch.from_numpy(dataset().rows))
        assert code.shape == (50, hidden[-1])
        assert models.decode(trainer.model, code).shape == (50, 12)
    draw = models.MODELS[model].sample
    assert (draw is None) == (model in ("ae", "dae", "cae", "sae", *models.DICTIONARIES))
    if draw is not None:
        drawn = draw(trainer.model, 4, 7)
        assert drawn.shape == (4, 12)
        assert torch.equal(drawn, draw(trainer.model, 4, 7))
