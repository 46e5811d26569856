"""Dropout on the code is unbiased at evaluation, and makes the code redundant."""

from matplotlib.figure import Figure

from aefast.figures import dropout


def test_the_mean_of_draws_is_the_evaluation_output_within_its_standard_error(measured):
    """The squares of 100 independent images' deviations: their mean spreads by at most
    sqrt(2 / 100) of itself, and the pixels of an image only lessen that; four times it here."""
    for distance, expected in zip(measured.distance, measured.standard_error, strict=True):
        assert abs((distance / expected) ** 2 - 1) < 4 * (2 / 100) ** 0.5


def test_the_draws_are_enough_for_a_bias_to_show(measured):
    """The standard error falls far below the spread of one draw."""
    assert measured.standard_error[-1] < measured.standard_error[0] / 30


def test_a_code_trained_with_dropout_outlives_the_loss_of_units(measured):
    column = dropout.REMOVED.index(dropout.SHOWN)
    without, *others = (errors[column] for errors in measured.errors)
    assert max(others) < without / 3
    assert measured.errors[-1][-1] < measured.errors[1][-1] < measured.errors[0][-1]


def test_it_pays_for_that_with_all_of_them(measured):
    first = [errors[0] for errors in measured.errors]
    assert first == sorted(first)


def test_the_sentence_and_the_drawing(measured):
    sentence = dropout.sentence(measured)
    assert f"{measured.distance[-1] / measured.standard_error[-1]:.2f} standard errors" in sentence
    column = dropout.REMOVED.index(dropout.SHOWN)
    assert f"{measured.errors[0][column]:.2f}" in sentence
    dropout.plot(measured, Figure(layout="constrained"))
