"""What the replaced methods give on small data: a trial of a version that was not tested."""

import numpy as np
from pyod.models.auto_encoder import AutoEncoder
from pyod.models.vae import VAE

from aefast.patching.versions import Results, attributes_of


def trial() -> Results:
    """Scores of an AutoEncoder's own first parameters: it is trained at a learning rate of 0."""
    rows = np.random.default_rng(0).normal(size=(64, 5))
    still = {"lr": 0.0, "epoch_num": 1, "verbose": 0, "batch_size": 16, "random_state": 0}
    detector = AutoEncoder(
        hidden_neuron_list=[4, 2], batch_norm=False, dropout_rate=0, optimizer_params={}, **still
    ).fit(rows)
    variational = VAE(
        encoder_neuron_list=[4], decoder_neuron_list=[4], latent_dim=2, optimizer_params={}, **still
    ).fit(rows)
    return {
        "AutoEncoder.fit": detector.decision_scores_,
        "AutoEncoder.decision_function": detector.decision_function(rows[:7]),
        "AutoEncoder": attributes_of(detector),
        "VAE": attributes_of(variational),
    }
