"""Sparse autoencoders reach their target, or zero."""

from matplotlib.figure import Figure

from aefast.figures import sparse


def test_the_kl_penalty_draws_each_units_mean_to_the_target(measured):
    deviation = (measured.means["kl"] / sparse.TARGET - 1).abs()
    assert deviation.mean() < 0.05
    assert deviation.max() < 0.2
    assert measured.means["no penalty"].mean() > 5 * sparse.TARGET


def test_it_reaches_it_at_held_out_digits_too(measured):
    assert abs(measured.activities["kl"].mean() / sparse.TARGET - 1) < 0.1


def test_with_l1_ever_more_units_are_zero_and_the_error_rises(measured):
    assert measured.zeros == sorted(measured.zeros)
    assert measured.zeros[-1] > measured.zeros[0] + 0.4
    assert measured.errors == sorted(measured.errors)


def test_the_sentence_and_the_drawing(measured):
    sentence = sparse.sentence(measured)
    assert f"{measured.zeros[-1]:.0%}" in sentence
    assert f"{(measured.means['kl'] / sparse.TARGET - 1).abs().mean():.1%}" in sentence
    sparse.plot(measured, Figure(layout="constrained"))
