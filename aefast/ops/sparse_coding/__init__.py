"""Soft thresholding and sparse coding."""

import torch
from torch import Tensor

from aefast.ops.shared import checks
from aefast.ops.shared.public import public
from aefast.ops.sparse_coding.op import check_settings, check_tensors, encode, shrink

__all__ = ["soft_threshold", "sparse_encode"]

STEPS = 5000
TOLERANCE = 1e-8


@public
def sparse_encode(
    x: Tensor,
    dictionary: Tensor,
    penalty: float,
    *,
    steps: int = STEPS,
    tolerance: float = TOLERANCE,
    start: Tensor | None = None,
) -> Tensor:
    """Sparse codes: for each row x of the data the z that minimizes, with the dictionary D,

        1/2 ||x - z D||^2 + penalty ||z||_1

    by FISTA with adaptive restart: a gradient step from an extrapolated code, and
    :func:`soft_threshold`. On a CPU the kernels take the steps on a working set of atoms, which
    grows until no other atom would join. Each row ends by itself, so that its code depends on the
    rows beside it only by the rounding of products, and not at all in the C++ kernels: where its
    duality gap, which bounds how far its objective lies above the least, is at most ``tolerance``
    times ``||x||^2 / 2``, the objective of a code of zeros; or where the steps no longer change the
    code in its dtype, nor lower the gap. Such a row may lie above the tolerance, and far above it
    where the atoms' norms differ by orders of magnitude or atoms are nearly parallel: atoms should
    have similar norms.

    Not differentiable: the code carries no gradient. To learn the dictionary none is needed. The
    gradient of the least objective by D is that of the objective at the code held constant (the
    envelope theorem): ``((x - code @ D).square().sum() / 2).backward()``.

    Args:
        x: ``[..., D]``; float32, bfloat16, float16 or float64. Half precisions are computed in
            float32.
        dictionary: an atom a row, ``[K, D]``, of the same dtype and device.
        penalty: of the codes' absolute values, above 0.
        steps: at most so many a row, at least 1.
        tolerance: of the relative duality gap, at least 0.
        start: codes ``[..., K]`` to begin with, as those of a dictionary that was much the same;
            None begins at zeros.

    Returns:
        The codes ``[..., K]``, of x's dtype. All of a row is NaN where the row, its start or the
        dictionary is not finite, or has a square that overflows.

    Raises:
        TypeError: an argument is of a wrong type, or the dtypes differ.
        ValueError: the shapes do not fit (the message names both), the devices differ, or a number
            is outside its range.

    Reference:
        Olshausen, Field, "Emergence of simple-cell receptive field properties by learning a sparse
        code for natural images", Nature 381, 1996. Beck, Teboulle, "A fast iterative
        shrinkage-thresholding algorithm for linear inverse problems", SIAM Journal on Imaging
        Sciences 2, 2009. O'Donoghue, Candes, "Adaptive restart for accelerated gradient schemes",
        Foundations of Computational Mathematics 15, 2015. Working sets: Massias, Gramfort, Salmon,
        "Celer: a fast solver for the lasso with dual extrapolation", ICML 2018.

    >>> sparse_encode(torch.tensor([[3.0, 0.5]]), torch.eye(2), 1.0)
    tensor([[2., 0.]])
    """
    penalty, steps, tolerance = check_settings(penalty, steps, tolerance)
    check_tensors(x, dictionary, start)
    return encode(x, dictionary, start, penalty, tolerance, steps)


@public
def soft_threshold(x: Tensor, threshold: float) -> Tensor:
    """Every element moved by ``threshold`` towards 0, those nearer than that to 0 itself::

        y = sign(x) max(|x| - threshold, 0)

    It is the proximal step of an L1 penalty: y minimizes ``(y - x)^2 / 2 + threshold |y|``. The
    gradient passes where abs(x) > threshold.

    Args:
        x: any shape; float32, bfloat16, float16 or float64.
        threshold: a number, at least 0.

    Returns:
        y, with x's shape, dtype and device.

    Raises:
        TypeError: x is not a floating-point tensor, or threshold not a number.
        ValueError: threshold is outside its range.

    Reference:
        Parikh, Boyd, "Proximal algorithms", Foundations and Trends in Optimization 1, 2014,
        section 6.5.2.

    >>> soft_threshold(torch.tensor([-3.0, 0.5, 2.0]), 1.0)
    tensor([-2.,  0.,  1.])
    """
    checks.check_tensor(x, "x")
    threshold = checks.check_number(threshold, "threshold", 0, torch.finfo(x.dtype).max)
    return shrink(x, threshold)
