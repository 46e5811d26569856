"""Self-test cases of an autoencoder and its loss."""

from functools import partial

from aefast.ops.reconstruction import autoencode, reconstruction_loss
from aefast.ops.shared.selftest_case import SEED, Case, generators, layer


def cases() -> list[Case]:
    normal, uniform = generators()
    encoder = layer(normal, uniform)
    autoencoder = *encoder, normal(47, 31) / 3, normal(47) / 2
    denoising = partial(
        reconstruction_loss,
        output_activation="sigmoid",
        reconstruction="bce",
        corruption="masking",
        corruption_level=0.3,
        **SEED,
    )
    contractive = partial(reconstruction_loss, contraction=0.1, reduction="sum")
    return [
        Case("reconstruction", "autoencoder", autoencode, autoencoder),
        Case("reconstruction", "denoising loss", denoising, autoencoder),
        Case("reconstruction", "contractive loss, tied", contractive, encoder),
    ]
