"""Latents of token embeddings: which tokens are theirs, and how alike those are."""

import importlib.util

import pytest
import torch
from matplotlib.figure import Figure

from aefast.figures import token_features
from aefast.nn import TopKSparseAutoencoder

HAS_WORDLLAMA = importlib.util.find_spec("wordllama") is not None


@pytest.mark.skipif(HAS_WORDLLAMA, reason="wordllama is here")
def test_what_to_install_is_said(tmp_path):
    pytest.importorskip("typer")
    from typer.testing import CliRunner

    from aefast.cli import app

    out = str(tmp_path / "out")
    result = CliRunner().invoke(app, ["figures", "token_features", "--out", out])
    assert result.exit_code != 0
    assert "wordllama is missing: pip install wordllama" in result.output


def test_a_latents_tokens_are_those_that_excite_it_most(monkeypatch):
    """Of known directions, a latent each: tokens are multiples of them."""
    monkeypatch.setattr(token_features, "TOKENS", 3)
    monkeypatch.setattr(token_features, "SHOWN", 4)
    model = TopKSparseAutoencoder(4, 4, 1).eval()
    with torch.no_grad():
        for weight in (model.encoder_weight, model.decoder_weight):
            weight.copy_(torch.eye(4))
    rows = torch.cat([scale * torch.eye(4) for scale in (1.0, 5.0, 3.0, 4.0)])
    measured = token_features.examine(model, rows, [f"{n // 4}$of{n % 4}" for n in range(16)])
    shown = sorted(tokens for _, tokens in measured.shown)
    assert shown == [[f"{n}$of{latent}" for n in (1, 3, 2)] for latent in range(4)]
    assert measured.alike == pytest.approx(1, abs=0.05)
    assert measured.random < 0.1
    assert measured.unexplained == pytest.approx(0, abs=1e-6)
    assert f"{measured.alike:.2f}" in token_features.sentence(measured)
    token_features.plot(measured, Figure(layout="constrained"))


@pytest.mark.slow
@pytest.mark.skipif(not HAS_WORDLLAMA, reason="wordllama is not here: pip install wordllama")
def test_a_latents_tokens_are_more_alike_than_random_ones(measured):
    assert measured.alike > 0.1
    assert abs(measured.random) < 0.01
    assert all(cosine > 0.3 for cosine, _ in measured.shown)
