"""Codes are better features than pixels where labels are few."""

import pytest
from matplotlib.figure import Figure

from aefast.figures import features

pytestmark = pytest.mark.slow  # its measurement


@pytest.mark.parametrize("name", ["sparse", "denoising"])
def test_with_few_labels_codes_beat_pixels(measured, name):
    """From the same labeled digits, by two standard errors and a point."""
    gain, error = measured.gain(name)
    assert (gain[:2] > 2 * error[:2]).all()
    assert (gain[:2] > 0.01).all()


def test_the_sparse_code_does_so_with_more_of_them_too(measured):
    gain, error = measured.gain("sparse")
    assert gain[-1] > 2 * error[-1]


def test_an_rbms_code_wins_with_few_labels_and_loses_with_many(measured):
    gain, error = measured.gain("RBM")
    assert gain[0] > 2 * error[0]
    assert gain[-1] < -2 * error[-1]


def test_labels_help(measured):
    for accuracies in measured.accuracies.values():
        assert (accuracies.mean(0).diff() > 0).all()


def test_the_sentence_and_the_drawing(measured):
    sentence = features.sentence(measured)
    for name in ("sparse", "pixels"):
        for accuracy in measured.accuracies[name].mean(0):
            assert f"{accuracy:.1%}" in sentence
    features.plot(measured, Figure(layout="constrained"))
