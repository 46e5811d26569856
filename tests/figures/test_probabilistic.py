"""The figure of probabilistic PCA and factor analysis: what its sentence claims."""

import pytest

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

from aefast.figures import probabilistic


def test_few_factors_beat_many_principal_components(measured):
    few, many = probabilistic.FEW, probabilistic.MANY
    assert 4 * few < many
    assert measured.factors[few] > measured.principal[many] + 1


def test_either_model_tends_to_the_gaussian_with_all_components(measured):
    for model in (measured.principal, measured.factors):
        likelihoods = list(model.values())
        assert likelihoods[0] < likelihoods[2] < likelihoods[4]
        assert likelihoods[-1] == pytest.approx(measured.full, abs=0.1)


def test_the_likelihoods_are_scikit_learns(measured):
    # Nothing but the climb's end could differ: TOLERANCE nats over all training digits.
    assert measured.difference < probabilistic.TOLERANCE / 1437


def test_factor_analysis_gives_the_middle_more_noise_than_the_edges(measured):
    noise = measured.factors_noise.reshape(8, 8)
    assert noise[:, 0].max() < measured.principal_noise / 3
    assert noise[:, 2:6].mean() > measured.principal_noise


def test_samples_have_the_moments_of_digits(measured):
    """Of twenty each: the means differ by 0.3 standard deviations, the root of 2 / 20."""
    for samples in (measured.principal_samples, measured.factors_samples):
        error = (samples.mean(0) - measured.digits.mean(0)).square().mean().sqrt()
        assert error < measured.digits.std(0).mean() / 2


def test_the_sentence_holds_the_numbers_and_the_figure_is_drawn(measured):
    from matplotlib.figure import Figure

    sentence = probabilistic.sentence(measured)
    assert f"{measured.factors[probabilistic.FEW]:.1f} nats" in sentence
    assert f"{measured.principal[probabilistic.MANY]:.1f}" in sentence
    figure = Figure(figsize=probabilistic.SIZE, layout="constrained")
    probabilistic.plot(measured, figure)
    figure.draw_without_rendering()
