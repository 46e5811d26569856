"""The figure of principal images: what its sentence claims."""

import pytest
import torch

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

from aefast.figures import pca


def test_32_of_64_principal_images_keep_nearly_all_of_held_out_digits(measured):
    few, more, most = measured.explained_held_out.values()
    assert few < 0.4
    assert more > few + 0.3
    assert most > 0.95


def test_the_variance_kept_is_scikit_learns_and_all_of_it_in_the_end(measured):
    # Two decompositions in float64, of a covariance and of the data: 64 products of rounding.
    assert measured.difference < 64 * torch.finfo(torch.float64).eps
    assert measured.explained.diff().min() >= 0
    assert measured.explained[-1].item() == pytest.approx(1)


def test_a_reconstruction_from_more_components_is_nearer_to_the_digit(measured):
    errors = [
        (again - measured.digits).square().mean().item()
        for again in measured.reconstructions.values()
    ]
    assert errors[0] > 1.5 * errors[1] > 4 * errors[2]


def test_the_sentence_holds_the_numbers_and_the_figure_is_drawn(measured):
    from matplotlib.figure import Figure

    for explained in measured.explained_held_out.values():
        assert f"{explained:.0%}" in pca.sentence(measured)
    figure = Figure(figsize=pca.SIZE, layout="constrained")
    pca.plot(measured, figure)
    figure.draw_without_rendering()
