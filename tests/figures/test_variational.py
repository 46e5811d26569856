"""The figure of the variational autoencoder: what its sentence claims."""

from itertools import pairwise

import pytest
import torch

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

from aefast.figures import variational


def test_more_samples_bound_the_likelihood_more_tightly(measured):
    bounds = [measured.elbo, *measured.importance.values(), measured.log_likelihood]
    assert all(loose < tight - 0.02 for loose, tight in pairwise(bounds))
    assert measured.log_likelihood - measured.elbo > 0.2


def test_two_latent_units_beat_independent_pixels(measured):
    assert measured.elbo > measured.pixels + 2


def test_a_linear_one_reaches_the_likelihood_of_probabilistic_pca(measured):
    for size, best in measured.principal.items():
        reached = measured.linear[size]
        assert best - 0.1 < reached < best + 1e-3
        assert reached - 0.3 < measured.linear_elbo[size] < reached + 0.02
    assert measured.principal[8] > measured.principal[1] + 10  # of which the gap is 1 %


def test_the_sheet_is_smooth_and_holds_different_digits(measured):
    """Neighbors differ less than places far apart."""
    sheet = measured.sheet.reshape(variational.SIDE, variational.SIDE, 64)
    steps = (sheet.diff(dim=0).norm(dim=-1).mean() + sheet.diff(dim=1).norm(dim=-1).mean()) / 2
    across = torch.cdist(measured.sheet, measured.sheet).mean()
    assert steps < across / 2


def test_the_sentence_holds_the_numbers_and_the_figure_is_drawn(measured):
    from matplotlib.figure import Figure

    sentence = variational.sentence(measured)
    for number in (measured.log_likelihood, measured.importance[50], measured.elbo):
        assert f"{-number:.2f}" in sentence
    figure = Figure(figsize=variational.SIZE, layout="constrained")
    variational.plot(measured, figure)
    figure.draw_without_rendering()
