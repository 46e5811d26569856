"""pyod: the functions that ``aefast.patch("pyod")`` replaces."""

from aefast.patching.replacement import Replacement, check_version

# Whose code was read, and whose numbers are tested.
VERSIONS = ("3.6",)

METHODS = "fit and decision_function, on a CPU"
PUBLIC_NAMES = {
    "pyod.models.auto_encoder.AutoEncoder": METHODS,
    "pyod.models.vae.VAE": METHODS,
}


def replacements() -> list[Replacement]:
    check_version("pyod", VERSIONS)
    # It imports pyod.
    from aefast.patching.pyod import detectors

    return detectors.replacements()
