"""The squared error of what sparse codes reconstruct."""

from torch import Tensor

from aefast.ops.shared.public import public
from aefast.ops.sparse_reconstruction_loss.op import loss_and_residual

__all__ = ["sparse_reconstruction_loss"]


@public
def sparse_reconstruction_loss(
    values: Tensor, indices: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor
) -> Tensor:
    """The mean squared error of what a sparse code reconstructs, a scalar::

        y = bias + sum_i values_i weight[indices_i]
        loss = mean((y - target)^2)

    :func:`sparse_decode` and the error of its output in one op. While a row and its latents are in
    cache, they give the loss, the residual ``y - target`` and its products with the latents, of
    which the gradient of ``values`` is made. Only residuals and products are saved for backward.

    The gradient of ``weight`` is summed by latent, in the order of the rows: the same bits for any
    thread count. The loss can be differentiated twice.

    Args:
        values: ``[..., k]``; float32, bfloat16, float16 or float64. Half precisions are computed in
            float32, and the loss is rounded once.
        indices: int64 ``[..., k]``, in [0, L). On a GPU they are not checked; others are left out.
        weight: a latent a row, ``[L, D]``, of values' dtype and device, as bias and target.
        bias: ``[D]``, or None.
        target: ``[..., D]``: the rows that were encoded, or a transcoder's targets.

    Returns:
        A scalar of values' dtype, under autocast in float32.

    Raises:
        TypeError: an argument is of a wrong type, or the dtypes differ.
        ValueError: the shapes do not fit (the message names both), or the devices differ.
        IndexError: an index is outside its range.

    Reference:
        Gao et al., "Scaling and evaluating sparse autoencoders", 2024, section 2.3 and appendix D.

    >>> code, latents = torch.tensor([[2.0, 0.5]]), torch.tensor([[0, 2]])
    >>> sparse_reconstruction_loss(code, latents, torch.eye(3), None, torch.ones(1, 3))
    tensor(0.7500)
    """
    return loss_and_residual(values, indices, weight, bias, target)[0]
