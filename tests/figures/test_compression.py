"""A quantized code has less error than PCA's at equal bits per pixel."""

import pytest
from matplotlib.figure import Figure

from aefast.figures import compression


@pytest.mark.parametrize("rate", compression.RATES)
def test_at_equal_rates_the_autoencoder_has_less_error(measured, rate):
    actual, linear = (
        compression.best(points, rate) for points in (measured.autoencoder, measured.pca)
    )
    assert max(actual.rate, linear.rate) <= rate
    assert actual.error < 0.9 * linear.error


def test_codes_of_one_size_take_equal_bits(measured):
    for actual, linear in zip(measured.autoencoder, measured.pca, strict=True):
        assert (actual.rate, actual.label) == (linear.rate, linear.label)


def test_more_bits_cost_more_and_lose_less(measured):
    """Up to the point where the quantizer's error no longer shows."""
    count = len(compression.BITS)
    for points in (measured.autoencoder, measured.pca):
        for start in range(0, len(points), count):
            of_one_size = points[start : start + count]
            rates = [point.rate for point in of_one_size]
            assert rates == sorted(rates)
            errors = [point.error for point in of_one_size]
            assert errors[:4] == sorted(errors[:4], reverse=True)
            assert errors[-1] < 1.01 * min(errors)


def test_the_frontier_falls(measured):
    for points in (measured.autoencoder, measured.pca):
        errors = [point.error for point in compression.frontier(points)]
        assert len(errors) > 5
        assert errors == sorted(errors, reverse=True)


def test_the_sentence_and_the_drawing(measured):
    sentence = compression.sentence(measured)
    for rate in compression.RATES:
        actual, linear = (
            compression.best(points, rate) for points in (measured.autoencoder, measured.pca)
        )
        assert f"{actual.error:.2f} against {linear.error:.2f}" in sentence
    compression.plot(measured, Figure(layout="constrained"))
