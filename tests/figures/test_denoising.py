"""The figure of the denoising autoencoder: its step leads back to the data, and is the score."""

import torch
from matplotlib.figure import Figure

from aefast.figures import denoising


def test_noisy_points_come_nearer_to_the_curve(measured):
    assert measured.distance_after < measured.distance_before / 4


def test_every_arrow_within_the_noise_points_towards_the_curve(measured):
    ends = measured.grid + measured.field
    before = torch.cdist(measured.grid, measured.curve).amin(1)
    after = torch.cdist(ends, measured.curve).amin(1)
    near = (before > 0.05) & (before < 2 * denoising.LEVEL)
    assert (after < before)[near].double().mean() > 0.98


def test_on_gaussian_data_the_step_is_the_score(measured):
    """Of 20,000 rows: the four elements of the map are off by about sqrt(4 / 20,000)."""
    assert measured.score_error < 0.03


def test_the_sentence_holds_the_numbers_and_the_figure_is_drawn(measured):
    assert f"{measured.distance_after:.3f}" in denoising.sentence(measured)
    figure = Figure(figsize=denoising.SIZE)
    denoising.plot(measured, figure)
    assert len(figure.axes) == 1
