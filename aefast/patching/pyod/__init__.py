"""pyod: the functions that ``aefast.patch("pyod")`` replaces."""

from aefast.patching.replacement import Replacement, check_version

# Versions whose code was read, and whose results are tested.
VERSIONS = ("3.6",)

METHODS = "fit and decision_function, on a CPU"
PUBLIC_NAMES = {
    "pyod.models.auto_encoder.AutoEncoder": METHODS,
    "pyod.models.vae.VAE": METHODS,
}


def replacements() -> list[Replacement]:
    check_version("pyod", VERSIONS)
    # Here, because it imports pyod.
    from aefast.patching.pyod import detectors

    return detectors.replacements()
