"""The RBM comes near the best likelihood, and draws what it learned."""

import pytest
import torch
from matplotlib.figure import Figure

from aefast.figures import rbm

pytestmark = pytest.mark.slow  # its measurement


def test_the_bound_is_the_known_one(measured):
    assert abs(measured.bound - -3.379093) < 1e-5


def test_bars_and_stripes_come_within_a_quarter_nat_of_the_bound(measured):
    assert measured.bound - 0.25 < measured.likelihoods[-1] < measured.bound
    assert measured.likelihoods[-1] > measured.likelihoods[0] + 7


def test_most_samples_are_bars_or_stripes_of_every_kind(measured):
    assert measured.hits > 0.8
    patterns = rbm.bars_and_stripes()[0].unique(dim=0)
    assert (torch.cdist(patterns, measured.patterns, p=1).amin(1) == 0).all()


def test_held_out_digits_are_likelier_than_by_independent_pixels(measured):
    """By more than ln Z's estimate can be wrong by."""
    assert measured.held_out > measured.independent + 5
    assert measured.interval < 0.2


def test_the_sentence_and_the_drawing(measured):
    sentence = rbm.sentence(measured)
    assert f"{measured.likelihoods[-1]:.2f} nats" in sentence
    assert f"{measured.held_out:.1f} nats" in sentence
    rbm.plot(measured, Figure(layout="constrained"))
