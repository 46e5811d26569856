"""Pre-training gives a lower error than random weights after equal steps."""

import pytest
from matplotlib.figure import Figure

from aefast.figures import pretraining

pytestmark = pytest.mark.slow  # its measurement


def test_after_equal_steps_the_pretrained_net_is_ahead(measured):
    assert len(measured.pretrained) == len(measured.glorot) == len(measured.default)
    assert measured.pretrained[-1] < 0.85 * measured.glorot[-1]
    assert measured.pretrained[-1] < 0.6 * measured.default[-1]


def test_it_is_so_at_every_epoch(measured):
    for errors in (measured.glorot, measured.default):
        assert all(a < b for a, b in zip(measured.pretrained, errors, strict=True))


def test_it_starts_below_the_mean_digit_where_random_ones_are_above(measured):
    assert measured.pretrained[0] < measured.mean_image
    assert measured.mean_image < min(measured.glorot[0], measured.default[0])


def test_pytorchs_random_weights_do_not_leave_the_mean_digit(measured):
    assert abs(measured.default[-1] / measured.mean_image - 1) < 0.02


def test_the_sentence_and_the_drawing(measured):
    sentence = pretraining.sentence(measured)
    for errors in (measured.pretrained, measured.glorot, measured.default):
        assert f"{errors[-1]:.2f}" in sentence
    pretraining.plot(measured, Figure(layout="constrained"))
