"""The figure of the linear autoencoder: its loss and its subspace are PCA's."""

from matplotlib.figure import Figure

from aefast.figures import linear


def test_the_loss_is_the_sum_of_the_discarded_eigenvalues_within_a_percent(measured):
    for loss, least in zip(measured.losses, measured.discarded, strict=True):
        assert 0.9999 * least < loss < 1.01 * least


def test_the_decoder_spans_pcas_subspace_within_a_degree(measured):
    assert max(measured.angles) < 1


def test_the_sentence_holds_the_numbers_and_the_figure_is_drawn(measured):
    assert f"{max(measured.angles):.2f} degrees" in linear.sentence(measured)
    figure = Figure(figsize=linear.SIZE)
    linear.plot(measured, figure)
    assert len(figure.axes) == 2
