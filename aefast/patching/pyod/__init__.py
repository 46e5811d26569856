"""pyod: the functions that ``aefast.patch("pyod")`` replaces."""

from aefast.patching.replacement import Replacement

# Versions whose code was read, and whose results were tested.
VERSIONS = ("3.6",)

METHODS = "fit and decision_function, on a CPU"
PUBLIC_NAMES = {
    "pyod.models.auto_encoder.AutoEncoder": METHODS,
    "pyod.models.vae.VAE": METHODS,
}


def replacements() -> list[Replacement]:
    # Here, because it imports pyod.
    from aefast.patching.pyod import detectors

    return detectors.replacements()
