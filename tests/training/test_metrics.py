"""The metrics of a run that was stopped and continued read as those of one run."""

import json
import time

import pytest

pytest.importorskip("safetensors")
pytest.importorskip("tensorboard")

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from aefast.training.metrics import METRICS_FILE, Metrics


def line(step, loss):
    return {"step": step, "epoch": 0, "loss": loss, "samples_per_second": 1.0}


def test_what_only_some_lines_say_is_a_curve_of_its_own(tmp_path):
    with Metrics(tmp_path, 0) as metrics:
        metrics.write(line(100, 5.0))
        metrics.write(line(110, 4.0) | {"held_out_loss": 4.5, "pseudo_log_likelihood": -3.0})
    events = EventAccumulator(str(tmp_path)).Reload()
    curves = {"loss", "samples_per_second", "held_out_loss", "pseudo_log_likelihood"}
    assert set(events.Tags()["scalars"]) == curves
    assert [(event.step, event.value) for event in events.Scalars("held_out_loss")] == [(110, 4.5)]


def write(folder, behind, lines):
    with Metrics(folder, behind) as metrics:
        for step, loss in lines:
            metrics.write(line(step, loss))


def test_what_is_no_number_is_null(tmp_path):
    with Metrics(tmp_path, 0) as metrics:
        metrics.write(line(100, 5.0) | {"fraction_of_variance_unexplained": float("nan")})
    text = (tmp_path / METRICS_FILE).read_text()
    assert json.loads(text) == line(100, 5.0) | {"fraction_of_variance_unexplained": None}


def test_lines_past_the_checkpoint_are_taken_again(tmp_path):
    write(tmp_path, 0, [(100, 5.0), (200, 4.0), (300, 3.0)])
    write(tmp_path, 250, [(300, 2.0)])
    lines = [json.loads(text) for text in (tmp_path / METRICS_FILE).read_text().splitlines()]
    assert lines == [line(100, 5.0), line(200, 4.0), line(300, 2.0)]


@pytest.mark.parametrize("half", ['{"step": 2', 100_000 * "[" + "\n", '{"step": "2"}\n'])
def test_half_a_line_is_dropped(half, tmp_path):
    write(tmp_path, 0, [(100, 5.0)])
    with (tmp_path / METRICS_FILE).open("a") as file:
        file.write(half)
    write(tmp_path, 150, [(200, 4.0)])
    lines = (tmp_path / METRICS_FILE).read_text().splitlines()
    assert [json.loads(text)["step"] for text in lines] == [100, 200]


def test_tensorboard_sees_the_same_curve(tmp_path):
    write(tmp_path, 0, [(100, 5.0), (200, 4.0), (300, 3.0)])
    time.sleep(1)  # files are read in the order of their names, which hold seconds
    write(tmp_path, 250, [(300, 2.0)])
    events = EventAccumulator(str(tmp_path)).Reload().Scalars("loss")
    assert [(event.step, event.value) for event in events] == [(100, 5.0), (200, 4.0), (300, 2.0)]
