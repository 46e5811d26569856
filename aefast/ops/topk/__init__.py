"""Sparse codes over many latents."""

from torch import Tensor

from aefast.ops.shared import checks, dispatch
from aefast.ops.shared.public import public
from aefast.ops.topk import batch, products
from aefast.ops.topk.op import (
    SparseCode,
    as_rows,
    check_code,
    check_encoder,
    encode,
    in_shape_of,
)

__all__ = ["batch_topk_encode", "sparse_decode", "topk_encode"]


@public
def topk_encode(x: Tensor, weight: Tensor, bias: Tensor | None, k: int) -> SparseCode:
    """Each row's k largest pre-activations, and which latents they are of::

        torch.topk(x @ weight.T + bias, k)

    without an array of all pre-activations: latents are multiplied a panel at a time, and of each
    row only what beats a threshold that tightens is kept. The largest goes first, NaN above all;
    of equal ones the lower latent goes first, and is kept.

    Gradients pass through the latents that were selected alone; those of ``weight`` and ``bias``
    are sorted by latent and added in the order of the rows, the same bits for any thread count.

    Args:
        x: ``[..., D]``; float32, bfloat16, float16 or float64. Half precisions are computed, and
            ranked, in float32, and rounded once.
        weight: a latent a row, ``[L, D]``, of the same dtype and device, as bias.
        bias: ``[L]``, or None.
        k: how many, in [1, L].

    Returns:
        A named tuple ``(values, indices)``, both ``[..., k]``: of x's dtype, and int64.

    Raises:
        TypeError: an argument is of a wrong type, or the dtypes differ.
        ValueError: the shapes do not fit (the message names both), the devices differ, or k is
            outside its range.

    Reference:
        Gao et al., "Scaling and evaluating sparse autoencoders", 2024, section 2.3. Makhzani, Frey,
        "k-sparse autoencoders", ICLR 2014.

    >>> topk_encode(torch.tensor([[1.0, 2.0, 2.0]]), torch.eye(3), None, 2).indices
    tensor([[1, 2]])
    """
    checks.check_tensor(x, "x")
    x, weight, bias = dispatch.cast_operands(x, weight, bias)
    check_encoder(x, weight, bias, k)
    with dispatch.without_autocast(x.device):
        values, indices = encode(as_rows(x), weight, bias, int(k))
    return SparseCode(in_shape_of(x, values), in_shape_of(x, indices))


@public
def batch_topk_encode(x: Tensor, weight: Tensor, bias: Tensor | None, k: float) -> SparseCode:
    """The largest pre-activations of a whole batch, k a row on the average: one row may have more
    of them than another::

        torch.topk((x @ weight.T + bias).flatten(), max(1, int(k * B)))

    in the form of :func:`topk_encode`, whose rows are as long as the longest: what a row has less
    is 0. A row's largest goes first; of equal ones the lower row, and in it the lower latent, is
    kept. NaN is above all.

    No array of all pre-activations is held. Gradients pass through the latents that were selected
    alone, with the same bits for any thread count. The width depends on the data: it is a
    dynamic size to ``torch.compile`` and ``torch.export``, no part of a graph of ``make_fx`` (whose
    backward pass takes x ``[B, D]`` alone), and ``torch.vmap`` does not take it.

    Args:
        x: ``[..., D]``; float32, bfloat16, float16 or float64; B is the number of rows. Half
            precisions are computed, and ranked, in float32, and rounded once.
        weight: a latent a row, ``[L, D]``, of the same dtype and device, as bias.
        bias: ``[L]``, or None.
        k: how many a row has on the average, in (0, L]; a batch has at least one.

    Returns:
        A named tuple ``(values, indices)``, both ``[..., m]``: of x's dtype, and int64.

    Raises:
        TypeError: an argument is of a wrong type, or the dtypes differ.
        ValueError: the shapes do not fit (the message names both), the devices differ, or k is
            outside its range.

    Reference:
        Bussmann, Leask, Nanda, "BatchTopK sparse autoencoders", 2024.

    >>> x = torch.tensor([[3.0, 2.0, 1.0], [0.0, 1.0, 0.0]])
    >>> batch_topk_encode(x, torch.eye(3), None, 1).values
    tensor([[3., 2.],
            [0., 0.]])
    """
    checks.check_tensor(x, "x")
    x, weight, bias = dispatch.cast_operands(x, weight, bias)
    check_encoder(x, weight, bias, 1)
    k = batch.check_active(k, weight)
    with dispatch.without_autocast(x.device):
        values, indices = batch.encode(as_rows(x), weight, bias, k)
    return SparseCode(in_shape_of(x, values), in_shape_of(x, indices))


@public
def sparse_decode(
    values: Tensor, indices: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    """The reconstruction from a sparse code: the sum of k latents' directions, each times its
    value::

        y = bias + sum_i values_i weight[indices_i]

    A latent that is named twice counts twice. The gradients of ``weight`` are sorted by latent and
    added in the order of the rows, the same bits for any thread count.

    Args:
        values: ``[..., k]``; float32, bfloat16, float16 or float64. Half precisions are added in
            float32 and rounded once.
        indices: int64 ``[..., k]``, numbers in [0, L), which is checked on a CPU only: a GPU leaves
            out the others.
        weight: a latent a row, ``[L, D]``, of values' dtype and device, as bias.
        bias: ``[D]``, or None.

    Returns:
        ``[..., D]``, of values' dtype.

    Raises:
        TypeError: an argument is of a wrong type, or the dtypes differ.
        ValueError: the shapes do not fit (the message names both), or the devices differ.
        IndexError: an index is outside its range.

    Reference:
        Gao et al., "Scaling and evaluating sparse autoencoders", 2024, appendix D.

    >>> code, latents = torch.tensor([[2.0, 0.5]]), torch.tensor([[0, 2]])
    >>> sparse_decode(code, latents, torch.eye(3))
    tensor([[2.0000, 0.0000, 0.5000]])
    """
    checks.check_tensor(values, "values")
    values, weight, bias = dispatch.cast_operands(values, weight, bias)
    check_code(values, indices, weight, bias)
    with dispatch.without_autocast(values.device):
        output = products.sparse_decode(as_rows(values), as_rows(indices), weight, bias)
    return in_shape_of(values, output)
