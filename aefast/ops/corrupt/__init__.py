"""Noise injection."""

import torch
from torch import Tensor

from aefast.ops.corrupt.noise import STEPS, Noise
from aefast.ops.corrupt.op import check_noise, run
from aefast.ops.shared import checks, dispatch
from aefast.ops.shared.public import public

__all__ = ["corrupt"]


@public
def corrupt(
    x: Tensor,
    kind: str,
    level: float,
    *,
    low: float = 0.0,
    high: float = 1.0,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    row_offset: int = 0,
) -> Tensor:
    """A corrupted copy of ``x``: the noise injection of a denoising autoencoder.

    With u uniform in [0, 1) and z standard normal, drawn anew for each element:

    =====================  ====================================================================
    ``kind``               result
    =====================  ====================================================================
    ``"masking"``          0 where u < level, else x
    ``"salt_and_pepper"``  low where u < level / 2, high where level / 2 <= u < level, else x
    ``"gaussian"``         x + level z
    =====================  ====================================================================

    The numbers are a pure function of (seed, row, column): see :mod:`aefast.random`. The same
    seed corrupts the same elements on every device, backend and thread count, and backward draws
    the mask again instead of storing it. The gradient passes where x passed; through Gaussian
    noise it passes everywhere.

    Args:
        x: any shape; float32, bfloat16, float16 or float64. More than two dimensions count as
            rows of the last one.
        kind: ``"masking"``, ``"salt_and_pepper"`` or ``"gaussian"``.
        level: the probability of touching an element, in [0, 1]; for ``"gaussian"`` the
            standard deviation, at least 0. A probability is rounded to float32. Under
            ``torch.compile`` on a CPU it is an input of the graph from its second value on; on a
            GPU a constant, and each new one compiles anew.
        low: the value of salt and pepper's lower half.
        high: the value of its upper half.
        seed: an int in [0, 2**63); None draws one from ``generator``.
        generator: a ``torch.Generator``; None takes torch's default one, so that
            ``torch.manual_seed`` governs.
        row_offset: the number of x's first row, an int in [0, 2**62). A rank that holds rows
            n, n + 1, ... of a batch passes n, and draws what one process would draw for all.

    Returns:
        The corrupted copy, with x's shape, dtype and device, contiguous.

    Raises:
        TypeError: x is not a floating-point tensor, or another argument is of a wrong type.
        ValueError: kind is unknown, or level, low, high, seed or row_offset outside its range.

    Reference:
        Vincent, Larochelle, Lajoie, Bengio, Manzagol, "Stacked denoising autoencoders", JMLR 11,
        2010, section 3.3.

    >>> corrupt(torch.ones(2, 4), "masking", 0.5, seed=0)
    tensor([[0., 0., 1., 1.],
            [1., 1., 1., 1.]])
    """
    level = check_noise(x, kind, level)
    largest = torch.finfo(x.dtype).max
    low = checks.check_number(low, "low", -largest, largest)
    high = checks.check_number(high, "high", -largest, largest)
    row_offset = checks.check_integer(row_offset, "row_offset", 2**62)
    traced = dispatch.is_traced(x)
    checks.check_seed_arguments(seed, generator)
    seed_or_tensor = dispatch.resolve_seed(seed, generator, x.device, traced)
    noise = Noise(kind, level, low, high, seed_or_tensor, row_offset, STEPS[kind])
    return run(x, noise, traced)
