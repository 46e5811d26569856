"""An overcomplete autoencoder copies noise too, unless it is regularized."""

import pytest
import torch
from matplotlib.figure import Figure

from aefast.figures import overcomplete


def test_the_code_is_larger_than_the_data():
    assert overcomplete.load_digits()[0].shape[1] < overcomplete.HIDDEN


def test_without_a_regularizer_it_copies_digits_and_noise(measured):
    assert measured.digits["none"] < 0.01
    assert measured.noise["none"] < 0.05


@pytest.mark.parametrize("name", ["sparse (L1)", "denoising", "contractive", "dropout"])
def test_with_one_it_reconstructs_digits_and_not_noise(measured, name):
    assert measured.digits[name] < 0.3
    assert measured.noise[name] > 0.5
    assert measured.noise[name] > 2.5 * measured.digits[name]


def test_noise_has_the_pixels_distributions_and_nothing_else():
    digits = overcomplete.load_digits()[2]
    noise = overcomplete.independent_pixels(digits)
    assert torch.equal(noise.sort(0).values, digits.sort(0).values)
    varies = digits.std(0) > 0.1
    correlation = torch.corrcoef(noise[:, varies].t()).fill_diagonal_(0)
    assert correlation.square().mean().sqrt() < 2 / len(digits) ** 0.5


def test_the_sentence_and_the_drawing(measured):
    sentence = overcomplete.sentence(measured)
    assert f"{measured.digits['none']:.1%}" in sentence
    assert f"{measured.noise['none']:.1%}" in sentence
    overcomplete.plot(measured, Figure(layout="constrained"))
