"""rbms: the functions that ``aefast.patch("rbms")`` replaces."""

from aefast.patching.replacement import Replacement

# Versions whose code was read, and whose results were tested.
VERSIONS = ("0.5",)

PUBLIC_NAMES = {
    "rbms.bernoulli_bernoulli.BBRBM": (
        "sample_state, init_chains and compute_gradient, of float32 states on a CPU"
    ),
}


def replacements() -> list[Replacement]:
    # Here, because it imports rbms.
    from aefast.patching.rbms import bernoulli

    return bernoulli.replacements()
