"""Figures whose measurement takes long, measured in a hurry: they are drawn. What they say is
tested by `make test-all`."""

import importlib

import pytest
from matplotlib.figure import Figure

from aefast.figures import digits

# Fewer draws, epochs and steps than a figure's sentence takes.
HURRIED = {
    "features": {"DRAWS": 2, "INVERSE_PENALTIES": (10.0,)},
    "generation": {},
    "pretraining": {"EPOCHS": 1, "PRETRAINING_EPOCHS": 1},
    "rbm": {"STEPS": 200},
}


@pytest.mark.parametrize("name", HURRIED)
def test_a_hurried_measurement_is_drawn(monkeypatch, name):
    figure = importlib.import_module(f"aefast.figures.{name}")
    for constant, value in HURRIED[name].items():
        monkeypatch.setattr(figure, constant, value)

    def in_an_epoch(function):
        return lambda *arguments, **options: function(*arguments, **options | {"epochs": 1})

    for function in (digits.train, digits.shuffled):
        if hasattr(figure, function.__name__):
            monkeypatch.setattr(figure, function.__name__, in_an_epoch(function))
    measured = figure.measure()
    assert "." in figure.sentence(measured)
    figure.plot(measured, Figure(layout="constrained"))
