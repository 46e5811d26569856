"""The contractive penalty, the Jacobian and its tangents."""

from collections.abc import Sequence

import torch
from torch import Tensor

from aefast.ops.contractive import eager
from aefast.ops.contractive.op import (
    ROW_LIMIT,
    as_matrix,
    check_encoder,
    check_method,
    parameters_of,
    penalty_of,
)
from aefast.ops.contractive.settings import PenaltySettings
from aefast.ops.contractive.singular_vectors import Tangents, leading_directions
from aefast.ops.linear_act.op import run as linear_act
from aefast.ops.shared import checks, dispatch
from aefast.ops.shared.precision import upcast
from aefast.ops.shared.public import public

__all__ = ["contractive_penalty", "jacobian", "tangents"]


@public
def contractive_penalty(
    x: Tensor,
    weights: Tensor | Sequence[Tensor],
    biases: Tensor | Sequence[Tensor | None] | None,
    activation: str | Sequence[str] = "sigmoid",
    *,
    method: str = "exact",
    probes: int = 1,
    return_code: bool = False,
    return_error: bool = False,
    hessian_noise: float = 0.0,
    hessian_weight: float = 1.0,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    row_offset: int = 0,
) -> Tensor | tuple[Tensor, ...]:
    """The squared Frobenius norm of an encoder's Jacobian at every row: the contractive penalty.

    An encoder ``code = f(x)`` of L layers ``h_l = act(h_(l-1) W_lt + b_l)`` has the Jacobian::

        J(x) = D_L W_L ... D_1 W_1,  D_l = diag(act'(a_l))
        exact:       ||J||^2 = sum_ij J_ij^2;  one layer: sum_j act'(a_j)^2 ||W_j||^2
        hutchinson:  mean over the probes e of ||et J||^2, each component of e 1 or -1 evenly

    and with ``hessian_noise`` the second-order term of CAE+H is added,
    ``hessian_weight ||J(x) - J(x + hessian_noise z)||^2`` for a standard normal z a row.

    The penalty of one layer shares the encoder's product with ``return_code``, and costs hardly
    more than the code. That of several layers is computed without writing J, over samples that stay
    in cache: either by the Gram matrix of the first weight or by products from the code's end,
    whichever multiplies less. The definition, which writes J, serves deep encoders in float64 and
    half precisions, under ``torch.vmap``, and where gradients are differentiated again. Under
    autocast the kernels serve as :func:`reconstruction_loss`'s do; the penalty is float32 then.
    Gradients flow into x, weights and biases, through penalty and code. Where they will be asked
    for, a deep encoder's are made along with the penalty; call it under ``torch.no_grad()`` where
    none is wanted: that takes less than half the time.

    Args:
        x: ``[..., D]``; float32, bfloat16, float16 or float64.
        weights: of one layer ``[H, D]``, or of several, ``[[H_1, D], [H_2, H_1], ...]``.
        biases: ``[H]``, or one for each layer, any of them None; None for no bias at all.
        activation: one of :func:`linear_act`'s for all layers, or one for each.
        method: ``"exact"`` or ``"hutchinson"``, an unbiased estimate in far fewer products.
        probes: how many the estimate is the mean of.
        return_code: return the code as well.
        return_error: return the estimate's standard error as well; it takes two probes.
        hessian_noise: the standard deviation of the noise; 0 leaves the term out.
        hessian_weight: its factor.
        seed: an int in [0, 2**63) for probes and noise; None draws one from ``generator``.
        generator: a ``torch.Generator``; None takes torch's default one.
        row_offset: the number of x's first row, as :func:`corrupt` takes it; below 2**46.

    Returns:
        The penalty ``[...]``; or a tuple of it, the code ``[..., H]`` and the standard error
        ``[...]``, as asked for. The error is not differentiable.

    Raises:
        TypeError: an argument is of a wrong type, or the dtypes differ.
        ValueError: the shapes do not fit (the message names both, and the layer), the devices
            differ, a choice is unknown, or a number outside its range.

    Reference:
        Rifai, Vincent, Muller, Glorot, Bengio, "Contractive auto-encoders", ICML 2011; Rifai et
        al., "Higher order contractive auto-encoder", ECML 2011. Hutchinson, "A stochastic
        estimator of the trace of the influence matrix", 1989.

    >>> x, weight = torch.zeros(1, 2), torch.tensor([[3.0, 4.0]])
    >>> contractive_penalty(x, weight, None, "identity")
    tensor([25.])
    >>> contractive_penalty(x, [weight, 2 * torch.ones(1, 1)], None, "identity", return_code=True)
    (tensor([100.]), tensor([[0.]]))
    """
    layers = check_encoder(x, weights, biases, activation)
    probes = check_method(method, probes, return_error)
    hessian_noise = checks.check_number(hessian_noise, "hessian_noise", 0)
    hessian_weight = checks.check_number(hessian_weight, "hessian_weight", 0)
    row_offset = checks.check_integer(row_offset, "row_offset", ROW_LIMIT)
    checks.check_seed_arguments(seed, generator)
    traced = dispatch.is_traced(x, *parameters_of(layers))
    resolved_seed: int | Tensor = 0
    if probes > 0 or hessian_noise > 0:
        resolved_seed = dispatch.resolve_seed(seed, generator, x.device, traced)
    settings = PenaltySettings(probes, hessian_noise, hessian_weight, resolved_seed, row_offset)
    autocast = dispatch.autocast_dtype(x.device)
    penalty, error, code = penalty_of(as_matrix(x), layers, settings, traced, autocast)
    if autocast is not None:
        # As torch's: its losses are float32 then, and its layers' outputs of autocast's dtype.
        penalty, code = upcast(penalty), code.to(autocast)
    results = [penalty.reshape(x.shape[:-1])]
    if return_code:
        results.append(code.reshape(*x.shape[:-1], code.shape[1]))
    if return_error:
        results.append(error.reshape(x.shape[:-1]))
    return results[0] if len(results) == 1 else tuple(results)


@public
def jacobian(
    x: Tensor,
    weights: Tensor | Sequence[Tensor],
    biases: Tensor | Sequence[Tensor | None] | None,
    activation: str | Sequence[str] = "sigmoid",
) -> Tensor:
    """The Jacobian of an encoder at every row: ``J[..., i, j]`` is d code_i / d x_j.

    It takes H D numbers a row. Where its norm alone is wanted, :func:`contractive_penalty` makes
    that without it; its leading directions are :func:`tangents`.

    Args:
        x: ``[..., D]``; float32, bfloat16, float16 or float64.
        weights: as :func:`contractive_penalty` takes them.
        biases: likewise.
        activation: likewise.

    Returns:
        ``[..., H, D]``, differentiable.

    Raises:
        TypeError: an argument is of a wrong type, or the dtypes differ.
        ValueError: the shapes do not fit (the message names both, and the layer), the devices
            differ, or an activation is unknown.

    Reference:
        Goodfellow, Bengio, Courville, "Deep Learning", MIT Press, 2016, section 14.7.

    >>> jacobian(torch.zeros(1, 2), torch.tensor([[4.0, 8.0]]), None)
    tensor([[[1., 2.]]])
    """
    layers = check_encoder(x, weights, biases, activation)
    _, slopes = eager.encode(as_matrix(x), layers, linear_act)
    rows = eager.pull(layers, slopes, None, linear_act)
    return rows.reshape(*x.shape[:-1], *rows.shape[1:])


@public
def tangents(
    x: Tensor,
    weights: Tensor | Sequence[Tensor],
    biases: Tensor | Sequence[Tensor | None] | None,
    activation: str | Sequence[str] = "sigmoid",
    n: int = 1,
    *,
    iterations: int = 100,
) -> Tangents:
    """The n directions of x at every row that an encoder's code changes most with.

    These are the right singular vectors of the Jacobian with the largest singular values. In a
    contractive autoencoder they span the tangent plane of the data's manifold, and how fast the
    values fall tells its dimension. On a CPU, where the code or x has at most 128 columns, they are
    made of the eigenvectors of the Jacobian's Gram matrix, in float64; else, and of float64, they
    are found by subspace iteration, from products with the Jacobian that never write it.

    Args:
        x: ``[..., D]``; float32, bfloat16, float16 or float64.
        weights: as :func:`contractive_penalty` takes them.
        biases: likewise.
        activation: likewise.
        n: how many, in [1, min(D, H)].
        iterations: of subspace iteration at most so many; it ends before where the values stand
            still. Where eigenvectors of the Gram matrix serve, nothing is iterated.

    Returns:
        A named tuple of ``vectors [..., n, D]``, orthonormal, each one's largest component
        positive, and ``values [..., n]``, falling. Not differentiable.

    Raises:
        TypeError: an argument is of a wrong type, or the dtypes differ.
        ValueError: the shapes do not fit (the message names both, and the layer), the devices
            differ, an activation is unknown, or n outside its range.

    Reference:
        Rifai, Dauphin, Vincent, Bengio, Muller, "The manifold tangent classifier", NIPS 2011.
        Halko, Martinsson, Tropp, "Finding structure with randomness", SIAM Review 53, 2011,
        algorithm 4.4.

    >>> vectors, values = tangents(torch.zeros(1, 2), torch.tensor([[4.0, 3.0]]), None, "identity")
    >>> vectors, values
    (tensor([[[0.8000, 0.6000]]]), tensor([[5.]]))
    """
    layers = check_encoder(x, weights, biases, activation)
    most = min(layers[0].weight.shape[1], layers[-1].weight.shape[0])
    n = checks.check_integer(n, "n", 2**31)
    if not 1 <= n <= most:
        raise ValueError(
            f"n is {n}; with {layers[0].weight.shape[1]} inputs and "
            f"{layers[-1].weight.shape[0]} outputs it takes an int in [1, {most}]"
        )
    iterations = checks.check_integer(iterations, "iterations", 2**31)
    with dispatch.without_autocast(x.device):
        directions = leading_directions(as_matrix(x), layers, n, iterations)
    return Tangents(*(part.reshape(*x.shape[:-1], *part.shape[1:]) for part in directions))
