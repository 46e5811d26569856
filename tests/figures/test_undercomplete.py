"""A nonlinear code of any size is at least as good as PCA's."""

import pytest
import torch
from matplotlib.figure import Figure

from aefast.figures import undercomplete


def test_on_the_training_digits_it_loses_to_no_linear_code(measured):
    """PCA's error is the least of all linear codes there."""
    gains = undercomplete.gains(measured.trained, measured.trained_pca)
    assert min(gains) > 0
    assert min(gains[1:]) > 0.05


def test_nor_to_pca_on_held_out_digits(measured):
    gains = undercomplete.gains(measured.held_out, measured.held_out_pca)
    assert min(gains) > 0
    assert min(gains[1:]) > 0.05


def test_its_rival_is_pca(measured):
    """The error is the sum of the discarded eigenvalues."""
    data = undercomplete.load_digits()[0].double()
    eigenvalues = torch.linalg.eigvalsh(torch.cov(data.t(), correction=0))
    discarded = [eigenvalues[: 64 - size].sum().item() for size in undercomplete.SIZES]
    assert measured.trained_pca == pytest.approx(discarded, rel=1e-4)


def test_with_a_linear_output_it_cannot_win():
    """What the figure's choice of an output that bends rests on."""
    data = undercomplete.load_digits()[0]
    torch.manual_seed(0)
    model = undercomplete.Autoencoder(64, 6, activation="softplus")
    undercomplete.train(model, data, epochs=60, learning_rate=3e-2)
    linear = undercomplete.squared_error(undercomplete.pca(data, 6), data)
    assert linear < undercomplete.squared_error(model, data) < 1.1 * linear


def test_the_sentence_and_the_drawing(measured):
    sentence = undercomplete.sentence(measured)
    for gain in undercomplete.gains(measured.held_out, measured.held_out_pca):
        assert f"{gain:.1%}" in sentence
    undercomplete.plot(measured, Figure(layout="constrained"))
