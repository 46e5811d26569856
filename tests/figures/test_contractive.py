"""The contractive autoencoder's tangents are those of the data."""

from matplotlib.figure import Figure

from aefast.figures import contractive


def test_at_digits_the_tangents_are_nearer_to_local_pca_than_any_baseline(measured):
    overlaps = measured.digits
    others = max(overlaps[name] for name in ("random", "global PCA", "autoencoder"))
    assert overlaps["contractive"] > others + 0.02
    assert overlaps["contractive"] > 3 * overlaps["random"]
    assert overlaps["local PCA"] > overlaps["contractive"]  # the bound that the sentence names


def test_of_a_shifted_digit_they_are_nearer_to_the_exact_ones(measured):
    overlaps = measured.shifts
    others = max(overlaps[name] for name in ("random", "global PCA", "autoencoder"))
    assert overlaps["contractive"] > others + 0.2


def test_the_exact_tangents_are_exact(measured):
    """Local PCA, which knows nothing of the shifts, finds the same plane."""
    assert measured.shifts["local PCA"] > 0.98


def test_the_random_ones_overlap_by_chance(measured):
    """n of D dimensions hold n / D of any direction."""
    assert abs(measured.digits["random"] - 5 / 64) < 0.02


def test_the_spectrum_falls(measured):
    for values in measured.spectra.values():
        assert (values.diff() <= 0).all()
    contractive, plain = (measured.spectra[name] for name in ("contractive", "autoencoder"))
    assert contractive[19] < plain[19] / 2


def test_the_sentence_and_the_drawing(measured):
    assert f"{measured.digits['contractive']:.2f}" in contractive.sentence(measured)
    assert f"{measured.shifts['contractive']:.2f}" in contractive.sentence(measured)
    contractive.plot(measured, Figure(layout="constrained"))
