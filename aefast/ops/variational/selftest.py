"""Self-test cases of a Gaussian code's sample and divergence."""

from functools import partial

from aefast.ops.shared.selftest_case import SEED, Case, generators
from aefast.ops.variational import gaussian_kl, reparameterize


def cases() -> list[Case]:
    normal, _ = generators()
    code = normal(37, 129), normal(37, 129)
    return [
        Case("variational", "sample", partial(reparameterize, **SEED), code),
        Case("variational", "divergence", gaussian_kl, code),
    ]
