"""The stochastic autoencoder learns, and its chain ends at the data."""

import torch
from matplotlib.figure import Figure

from aefast.figures import stochastic


def test_the_loss_falls(measured):
    assert measured.held_out_after < measured.held_out_before - 20
    assert sum(measured.losses[-20:]) < sum(measured.losses[:20])


def test_it_explains_digits_that_it_was_not_trained_on_as_well(measured):
    trained = sum(measured.losses[-20:]) / 20
    assert abs(measured.held_out_after - trained) < 1


def test_the_chains_come_from_noise_to_digits_of_all_kinds(measured):
    start, *_, end = measured.distances
    gap = measured.held_out_distance
    assert end - gap < (start - gap) / 5
    assert measured.distances[:5] == sorted(measured.distances[:5], reverse=True)
    assert measured.classes == 10


def test_draws_are_binary_and_their_means_are_not(measured):
    assert set(measured.draws.unique().tolist()) == {0.0, 1.0}
    assert ((measured.means > 0) & (measured.means < 1)).all()


def test_the_mean_at_a_digits_code_is_nearer_to_it_than_to_the_others(measured):
    between = torch.cdist(measured.means, measured.inputs)
    assert (between.diagonal() < between.median(1).values).all()


def test_the_sentence_and_the_drawing(measured):
    sentence = stochastic.sentence(measured)
    assert f"{measured.held_out_after:.1f} nats" in sentence
    assert f"{measured.distances[-1]:.2f}" in sentence
    stochastic.plot(measured, Figure(layout="constrained"))
