"""A deep autoencoder beats PCA at 2, 6 and 30 dimensions."""

import torch
from matplotlib.figure import Figure

from aefast.figures import deep


def test_it_beats_pca_at_every_size_on_digits_seen_and_unseen(measured):
    assert deep.SIZES == [2, 6, 30]
    for errors, linear in (
        (measured.trained, measured.trained_pca),
        (measured.held_out, measured.held_out_pca),
    ):
        for error, least in zip(errors, linear, strict=True):
            assert error < 0.85 * least


def test_its_code_of_two_tells_digits_apart_better(measured):
    """By more than three standard errors of either's share of 360."""
    assert measured.accuracy > measured.accuracy_pca + 3 * (0.25 / 360) ** 0.5


def test_the_codes_are_of_the_held_out_digits(measured):
    assert measured.code.shape == measured.code_pca.shape == (360, 2)
    assert torch.equal(measured.labels, deep.load_digits()[3])


def test_the_sentence_and_the_drawing(measured):
    sentence = deep.sentence(measured)
    for error, linear in zip(measured.held_out, measured.held_out_pca, strict=True):
        assert f"{error:.2f} against {linear:.2f}" in sentence
    assert f"{measured.accuracy:.0%}" in sentence
    deep.plot(measured, Figure(layout="constrained"))
