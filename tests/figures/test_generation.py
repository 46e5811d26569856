"""What generative models draw is nearer to digits than random codes of an autoencoder."""

import pytest
import torch
from matplotlib.figure import Figure

from aefast.figures import generation

pytestmark = pytest.mark.slow  # its measurement


@pytest.mark.parametrize("name", ["variational", "RBM", "stochastic"])
def test_samples_are_nearer_to_digits_than_random_codes_and_digits_to_them(measured, name):
    for distances in (measured.to_digits, measured.from_digits):
        assert distances[name] < distances["uniform codes"] - 0.3
        assert distances[name] < distances["Gaussian codes"] - 0.05
        # In units of how much random codes lose to digits.
        lost = distances["uniform codes"] - distances["training digits"]
        assert distances[name] - distances["training digits"] < lost / 2


def test_probabilistic_pca_beats_uniform_codes(measured):
    for distances in (measured.to_digits, measured.from_digits):
        assert distances["probabilistic PCA"] < distances["uniform codes"] - 0.2


def test_as_many_samples_of_each(measured):
    assert {samples.shape for samples in measured.samples.values()} == {(360, 64)}


def test_no_sample_is_a_training_digit(measured):
    """Near to the data, not a copy of it."""
    data = generation.load_digits()[0]
    for name in generation.GENERATORS:
        assert torch.cdist(measured.samples[name], data).amin() > 0.2


def test_the_sentence_and_the_drawing(measured):
    sentence = generation.sentence(measured)
    for name in (*generation.GENERATORS, *generation.PLAIN):
        assert f"{measured.to_digits[name]:.2f}" in sentence
    generation.plot(measured, Figure(layout="constrained"))
