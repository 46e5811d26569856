"""The figure of sparse coding: few atoms explain patches that they were not learned from."""

import torch
from matplotlib.figure import Figure

from aefast.figures import sparse_coding


def test_few_atoms_explain_half_of_the_variance(measured):
    assert sum(measured.active) / len(measured.active) < sparse_coding.ATOMS / 4
    assert measured.explained > 0.5


def test_the_objective_is_at_most_scikit_learns(measured):
    assert measured.excess < 1e-6


def test_a_larger_penalty_takes_fewer_atoms_and_leaves_more(measured):
    assert measured.actives == sorted(measured.actives, reverse=True)
    assert measured.errors == sorted(measured.errors)


def test_most_atoms_are_localized(measured):
    """Half of an edge's energy lies in few of its pixels; noise needs about a fifth of them."""
    energy = measured.dictionary.square().sort(1, descending=True).values.cumsum(1)
    pixels = (energy < 0.5).sum(1) + 1
    noise = torch.randn(1000, 100, generator=torch.Generator().manual_seed(0)).square()
    shares = noise.sort(1, descending=True).values.cumsum(1) / noise.sum(1, keepdim=True)
    assert pixels.double().median() < ((shares < 0.5).sum(1) + 1).double().median() * 0.7


def test_the_sentence_holds_the_numbers_and_the_figure_is_drawn(measured):
    assert f"{measured.explained:.0%}" in sparse_coding.sentence(measured)
    figure = Figure(figsize=sparse_coding.SIZE)
    sparse_coding.plot(measured, figure)
    assert figure.axes or figure.subfigs
