"""A Gaussian code's sample and divergence."""

import torch
from torch import Tensor

from aefast.ops.shared import checks, dispatch
from aefast.ops.shared.precision import upcast
from aefast.ops.shared.public import public
from aefast.ops.variational.op import checked_pair, divergence, sample

__all__ = ["gaussian_kl", "reparameterize"]


@public
def reparameterize(
    mean: Tensor,
    log_var: Tensor,
    *,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    row_offset: int = 0,
) -> Tensor:
    """A sample of N(mean, diag e^log_var) that gradients pass through: the code of a VAE.

        mean + e^(log_var / 2) z,    z standard normal

    z is a pure function of (seed, row, column): see :mod:`aefast.random`. The same seed draws the
    same z on every device, backend and thread count, to last-place rounding, and backward draws it
    again instead of storing it.

    Several samples of one code are drawn from expanded inputs, which are not copied:
    ``reparameterize(mean.expand(S, B, H), log_var.expand(S, B, H))``.

    Args:
        mean: ``[..., H]`` or any other shape; float32, bfloat16, float16 or float64. Half
            precisions are computed in float32 and rounded once. More than two dimensions count as
            rows of the last one.
        log_var: the logarithm of the variance, of mean's shape, dtype and device; under autocast of
            any dtype, and the sample is of the one that the two promote to.
        seed: an int in [0, 2**63); None draws one from ``generator``.
        generator: a ``torch.Generator``; None takes torch's default one, so that
            ``torch.manual_seed`` governs.
        row_offset: the number of mean's first row, an int in [0, 2**62). A rank that holds rows
            n, n + 1, ... of a batch passes n, and draws what one process would draw for all.

    Returns:
        The sample, with mean's shape, dtype and device, contiguous.

    Raises:
        TypeError: mean or log_var is not a floating-point tensor, their dtypes differ, or another
            argument is of a wrong type.
        ValueError: shapes or devices differ, or seed or row_offset is outside its range.

    Reference:
        Kingma, Welling, "Auto-encoding variational Bayes", ICLR 2014, section 2.4. Goodfellow,
        Bengio, Courville, "Deep Learning", MIT Press, 2016, section 20.9.

    >>> reparameterize(torch.zeros(2, 3), torch.zeros(2, 3), seed=0)
    tensor([[ 1.3046, -0.1551, -1.7394],
            [ 1.9585,  0.4219, -0.6103]])
    """
    mean, log_var = checked_pair(mean, log_var)
    row_offset = checks.check_integer(row_offset, "row_offset", 2**62)
    checks.check_seed_arguments(seed, generator)
    traced = dispatch.is_traced(mean, log_var)
    resolved_seed = dispatch.resolve_seed(seed, generator, mean.device, traced)
    return sample(mean, log_var, resolved_seed, row_offset, traced)


@public
def gaussian_kl(mean: Tensor, log_var: Tensor) -> Tensor:
    """The divergence of a Gaussian code from its standard normal prior, in nats, row by row.

        KL(N(mean, diag e^log_var) || N(0, I)) = 1/2 sum_j (mean_j^2 + e^log_var_j - 1 - log_var_j)

    The kernels take e^log_var - 1 - log_var without cancellation: a code near its prior keeps its
    divergence to float32's accuracy. Sums run in one fixed order: the same for any thread count.

    Args:
        mean: ``[..., H]``; float32, bfloat16, float16 or float64. Half precisions are computed in
            float32 and rounded once.
        log_var: the logarithm of the variance, of mean's shape, dtype and device; under autocast of
            any dtype.

    Returns:
        ``[...]``, of mean's dtype and device, under autocast in float32 at least; at least 0 up to
        rounding.

    Raises:
        TypeError: mean or log_var is not a floating-point tensor, or their dtypes differ.
        ValueError: mean has no dimension, or shapes or devices differ.

    Reference:
        Kingma, Welling, "Auto-encoding variational Bayes", ICLR 2014, appendix B. Goodfellow,
        Bengio, Courville, "Deep Learning", MIT Press, 2016, section 20.10.3.

    >>> gaussian_kl(torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.zeros(2, 2))
    tensor([0.0000, 0.5000])
    """
    mean, log_var = checked_pair(mean, log_var)
    if mean.dim() == 0:
        raise ValueError("mean has shape []; it takes [..., H]")
    if dispatch.autocast_dtype(mean.device) is not None:
        # Losses come out in float32 then, as torch's do.
        mean, log_var = upcast(mean), upcast(log_var)
    return divergence(mean, log_var)
