"""Sparsity penalties of a code."""

from torch import Tensor

from aefast.ops.shared import checks
from aefast.ops.shared.public import public
from aefast.ops.sparsity.op import check_code, run

__all__ = ["kl_sparsity", "l1_sparsity"]


@public
def kl_sparsity(code: Tensor, target: float) -> Tensor:
    """How far the mean activity of a code's units is from a target, in nats.

    With m_j the mean over all rows of unit j, ``sum_j KL(target, m_j)`` of Bernoulli
    distributions::

        KL(t, m) = t ln(t / m) + (1 - t) ln((1 - t) / (1 - m))

    Its gradient is the same in every row, and is not written as a batch of them.

    Args:
        code: ``[..., H]``, of elements in [0, 1]; float32, bfloat16, float16 or float64. A mean
            is bounded to [eps, 1 - eps], eps = 2^-23, so that a saturated unit's penalty and
            slope are finite. The elements are not looked at here, which would take a second pass
            over them, but their means: :meth:`aefast.nn.SparseAutoencoder.penalty` refuses others.
        target: t, in (0, 1).

    Returns:
        A scalar of the code's dtype and device, under autocast in float32 at least.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: the target is not in (0, 1), the code has no dimensions, or the mean activity
            of a unit is outside [0, 1], which is checked on a CPU only, and not under vmap.

    Reference:
        Ng, "Sparse autoencoder", CS294A lecture notes, Stanford, 2011.

    >>> kl_sparsity(torch.tensor([[0.25, 0.5], [0.75, 0.5]]), 0.5)
    tensor(0.)
    """
    check_code(code)
    target = checks.check_number(target, "target", 0, 1)
    if target in (0, 1):
        raise ValueError(f"target is {target}; it takes a number in (0, 1)")
    return run(code, target)


@public
def l1_sparsity(code: Tensor) -> Tensor:
    """The mean over the rows of ``sum_j |h_j|``.

    Args:
        code: ``[..., H]``; float32, bfloat16, float16 or float64.

    Returns:
        A scalar of the code's dtype and device, under autocast in float32 at least. Its gradient at
        an element that is 0 is 0.

    Raises:
        TypeError: the code is of a wrong type.
        ValueError: it has no dimensions.

    Reference:
        Goodfellow, Bengio, Courville, "Deep Learning", 2016, section 14.2.1.

    >>> l1_sparsity(torch.tensor([[1.0, -2.0], [0.0, 3.0]]))
    tensor(3.)
    """
    check_code(code)
    return run(code, None)
