"""Every differentiable op as a function.

Shapes: B batch, D visible or input units, H hidden units; weights are ``[out, in]``, as in
``torch.nn.Linear``. Each op runs on the backend that :mod:`aefast.backend` names, obeys autograd
(twice), ``torch.compile``, ``torch.export``, autocast and ``torch.func``. In float64, under
``torch.vmap`` and in forward-mode differentiation the eager definition runs.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from aefast.ops import contractive as _contractive
from aefast.ops import corrupt as _corrupt
from aefast.ops import linear_act as _linear_act
from aefast.ops import mlp as _mlp
from aefast.ops import rbm as _rbm
from aefast.ops import reconstruction as _reconstruction
from aefast.ops import sparse_coding as _sparse_coding
from aefast.ops import sparsity as _sparsity
from aefast.ops import topk as _topk
from aefast.ops import variational as _variational
from aefast.ops.shared.public import public

__all__ = [
    "autoencode",
    "contractive_penalty",
    "contrastive_divergence",
    "corrupt",
    "free_energy",
    "gaussian_kl",
    "gibbs",
    "jacobian",
    "kl_sparsity",
    "l1_sparsity",
    "linear_act",
    "mlp",
    "reconstruction_loss",
    "reparameterize",
    "soft_threshold",
    "sparse_decode",
    "sparse_encode",
    "tangents",
    "topk_encode",
]


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

    ===================  ==========================================================
    ``kind``             result
    ===================  ==========================================================
    ``"masking"``        0 where u < level, else x
    ``"salt_and_pepper"``  low where u < level / 2, high where level / 2 <= u < level, else x
    ``"gaussian"``       x + level z
    ===================  ==========================================================

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
            ``torch.compile`` it is a constant of the graph: each new one compiles anew.
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
    return _corrupt.corrupt(
        x,
        kind,
        level,
        low=low,
        high=high,
        seed=seed,
        generator=generator,
        row_offset=row_offset,
    )


@public
def linear_act(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "identity"
) -> Tensor:
    """A linear layer with its activation: ``act(x Wt + b)``.

    Float32 products obey ``torch.set_float32_matmul_precision`` and, of ``torch.backends``, the
    newer ``fp32_precision`` switches; sums are always float32. The activation's gradient is taken
    from the output where that tells it, and from the pre-activation for gelu and silu.

    Args:
        x: ``[..., D]``; float32, bfloat16, float16 or float64.
        weight: ``[H, D]``, of x's dtype and device.
        bias: ``[H]``, or None.
        activation: ``"identity"``, ``"relu"``, ``"leaky_relu"`` (slope 0.01), ``"sigmoid"``,
            ``"tanh"``, ``"softplus"``, ``"gelu"`` (exact) or ``"silu"``, as torch defines them.

    Returns:
        ``[..., H]``, of x's dtype and device.

    Raises:
        TypeError: an argument is not a floating-point tensor, or the dtypes differ.
        ValueError: the shapes do not fit, the devices differ, or the activation is unknown.

    Reference:
        Goodfellow, Bengio, Courville, "Deep Learning", MIT Press, 2016, section 14.1: the
        encoder h = f(x) and the decoder r = g(h).

    >>> linear_act(torch.ones(1, 2), torch.eye(2), torch.tensor([0.0, -3.0]), "relu")
    tensor([[1., 0.]])
    """
    return _linear_act.linear_act(x, weight, bias, activation)


@public
def mlp(
    x: Tensor,
    weights: Iterable[Tensor],
    biases: Iterable[Tensor | None],
    activations: Iterable[str],
) -> Tensor:
    """A stack of layers: ``h = act_l(h Wt_l + b_l)`` for each layer l, starting from ``h = x``.

    What a deep encoder or decoder is made of. Each layer is a :func:`linear_act`.

    Args:
        x: ``[..., D]``; float32, bfloat16, float16 or float64.
        weights: ``[H1, D]``, ``[H2, H1]``, ..., of x's dtype and device; at least one.
        biases: ``[H1]``, ``[H2]``, ... or None, one for each weight.
        activations: the name of one of :func:`linear_act`'s for each weight.

    Returns:
        ``[..., H]`` with the H of the last layer, of x's dtype and device.

    Raises:
        TypeError: an argument is of a wrong type, or the dtypes differ.
        ValueError: the lists differ in length or are empty, the shapes of two layers do not fit
            (the message names both), the devices differ, or an activation is unknown.

    Reference:
        Hinton, Salakhutdinov, "Reducing the dimensionality of data with neural networks",
        Science 313, 2006.

    >>> weights = [torch.ones(3, 2), torch.ones(1, 3)]
    >>> mlp(torch.ones(1, 2), weights, [None, torch.tensor([-4.0])], ["relu", "identity"])
    tensor([[2.]])
    """
    return _mlp.mlp(x, weights, biases, activations)


@public
def autoencode(
    x: Tensor,
    encoder_weight: Tensor,
    encoder_bias: Tensor | None,
    decoder_weight: Tensor | None = None,
    decoder_bias: Tensor | None = None,
    *,
    activation: str = "sigmoid",
    output_activation: str = "identity",
) -> tuple[Tensor, Tensor]:
    """The reconstruction and the code of an autoencoder with one hidden layer.

    ``code = act(x Et + b)`` and ``reconstruction = act'(code Vt + c)``, with the encoder's weight
    E and bias b, the decoder's V and c, and the two activations. Where the loss alone is wanted,
    :func:`reconstruction_loss` is faster and takes less memory.

    Args:
        x: ``[..., D]``; float32, bfloat16, float16 or float64.
        encoder_weight: E, ``[H, D]``, of x's dtype and device, as all that follow.
        encoder_bias: b, ``[H]``, or None.
        decoder_weight: V, ``[D, H]``; None ties the decoder to the encoder: V = Et.
        decoder_bias: c, ``[D]``, or None.
        activation: the code's, one of :func:`linear_act`'s.
        output_activation: the reconstruction's, likewise.

    Returns:
        The reconstruction ``[..., D]`` and the code ``[..., H]``.

    Raises:
        TypeError: an argument is not a floating-point tensor, or the dtypes differ.
        ValueError: the shapes do not fit (the message names both), the devices differ, or an
            activation is unknown.

    Reference:
        Goodfellow, Bengio, Courville, "Deep Learning", MIT Press, 2016, section 14.1.

    >>> reconstruction, code = autoencode(
    ...     torch.ones(1, 2), torch.ones(3, 2), None, activation="relu"
    ... )
    >>> reconstruction, code
    (tensor([[6., 6.]]), tensor([[2., 2., 2.]]))
    """
    return _reconstruction.autoencode(
        x,
        encoder_weight,
        encoder_bias,
        decoder_weight,
        decoder_bias,
        activation=activation,
        output_activation=output_activation,
    )


@public
def reconstruction_loss(
    x: Tensor,
    encoder_weight: Tensor,
    encoder_bias: Tensor | None,
    decoder_weight: Tensor | None = None,
    decoder_bias: Tensor | None = None,
    *,
    activation: str = "sigmoid",
    output_activation: str = "identity",
    loss: str = "mse",
    target: Tensor | None = None,
    corruption: str | None = None,
    corruption_level: float = 0.0,
    contraction: float = 0.0,
    reduction: str = "mean",
    seed: int | None = None,
    generator: torch.Generator | None = None,
    row_offset: int = 0,
) -> Tensor:
    """The loss of an autoencoder's reconstruction, from the input to the number in one op.

    With ``x' = corrupt(x)``, the encoder's weight E and bias b, the decoder's V and c::

        code = act(x' Et + b),  z = code Vt + c,  r = act'(z),  t = target
        mse: (r - t)^2          bce: -(t ln r + (1 - t) ln(1 - r)), in nats

    for each element, then reduced as ``torch.nn.functional.mse_loss`` and its like do. Under a
    sigmoid, bce is taken from z as ``binary_cross_entropy_with_logits`` does. Neither the
    reconstruction nor its gradient is written: where a gradient is required, it is made along
    with the loss, over rows that stay in cache, and backward only multiplies it with the
    incoming one. Call it, and export it, under ``torch.no_grad()`` where no gradient is wanted:
    that takes less than half the time.

    Between the passes a loss holds those gradients: of a small batch more than eager PyTorch's
    activations, of a large one less. Of small batches' losses that are summed before one backward
    pass, only the first holds its gradients; the others make theirs in that pass, which takes some
    20% longer.

    Under autocast the same kernels serve in its place, at least as exact: on a GPU in its dtype; on
    a CPU in float32, with one bfloat16 product for bfloat16 and three for float16 on matrix units.
    Sums and the loss are float32, and so are the gradients of float32 parameters. Without matrix
    units float32 products are the quicker ones too, except where a CPU's vector units multiply
    bfloat16 (AVX512-BF16): there PyTorch's own run under autocast.

    Not so fused are ``reduction="none"``, bce of another output than a sigmoid's, half precisions
    on a CPU, and graphs of torch.compile under autocast, which take the kernels of the parts one
    after the other; and on a CPU eager PyTorch serves where that is quicker: a loss so small that
    setting up takes longer than the work, or one of few rows where the vendor's product is the
    fastest.

    Args:
        x: ``[..., D]``; float32, bfloat16, float16 or float64.
        encoder_weight: E, ``[H, D]``, of x's dtype and device, as all that follow.
        encoder_bias: b, ``[H]``, or None.
        decoder_weight: V, ``[D, H]``; None ties the decoder to the encoder: V = Et.
        decoder_bias: c, ``[D]``, or None.
        activation: the code's, one of :func:`linear_act`'s.
        output_activation: the reconstruction's, likewise.
        loss: ``"mse"`` or ``"bce"``.
        target: what the reconstruction is compared with, of x's shape; None takes x as it came
            in. Gradients flow into it, too.
        corruption: what noise the encoder sees, one of :func:`corrupt`'s kinds, salt and pepper
            being 1 and 0; None for none. Its mask is drawn again where it is needed, never stored.
        corruption_level: :func:`corrupt`'s level; 0 without corruption.
        contraction: the factor of the encoder's :func:`contractive_penalty`, at what the encoder
            sees, which is added: its mean over the rows under ``"mean"``, its sum under ``"sum"``.
        reduction: ``"mean"`` over all elements, ``"sum"``, or ``"none"``, without contraction.
        seed: an int in [0, 2**63); None draws one from ``generator``, if there is corruption.
        generator: a ``torch.Generator``; None takes torch's default one.
        row_offset: the number of x's first row, as :func:`corrupt` takes it.

    Returns:
        A scalar, or with ``reduction="none"`` ``[..., D]``; of x's dtype and device.

    Raises:
        TypeError: an argument is of a wrong type, or the dtypes differ.
        ValueError: the shapes do not fit (the message names both), the devices differ, a choice
            is unknown, or a number outside its range.

    Reference:
        Vincent, Larochelle, Lajoie, Bengio, Manzagol, "Stacked denoising autoencoders", JMLR 11,
        2010, sections 2.2 and 3.

    >>> x, weight = torch.eye(2), torch.eye(2)
    >>> reconstruction_loss(x, weight, None, activation="relu")
    tensor(0.)
    >>> reconstruction_loss(x, weight, None, activation="relu", target=2 * x, reduction="sum")
    tensor(2.)
    """
    return _reconstruction.reconstruction_loss(
        x,
        encoder_weight,
        encoder_bias,
        decoder_weight,
        decoder_bias,
        activation=activation,
        output_activation=output_activation,
        loss=loss,
        target=target,
        corruption=corruption,
        corruption_level=corruption_level,
        contraction=contraction,
        reduction=reduction,
        seed=seed,
        generator=generator,
        row_offset=row_offset,
    )


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

    One layer shares the encoder's product with ``return_code``, and costs hardly more than the
    code. Deeper ones go through the Gram matrix of the first layer, or from the input's end,
    whichever takes fewer products, over samples that stay in cache: J is never written. The
    definition writes it, which serves deep encoders in float64 and half precisions, under
    ``torch.vmap``, and where gradients are to be differentiated again. Under autocast the kernels
    serve as :func:`reconstruction_loss`'s do; the penalty is float32 then.
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
    return _contractive.contractive_penalty(
        x,
        weights,
        biases,
        activation,
        method=method,
        probes=probes,
        return_code=return_code,
        return_error=return_error,
        hessian_noise=hessian_noise,
        hessian_weight=hessian_weight,
        seed=seed,
        generator=generator,
        row_offset=row_offset,
    )


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
    return _contractive.jacobian(x, weights, biases, activation)


@public
def tangents(
    x: Tensor,
    weights: Tensor | Sequence[Tensor],
    biases: Tensor | Sequence[Tensor | None] | None,
    activation: str | Sequence[str] = "sigmoid",
    n: int = 1,
    *,
    iterations: int = 100,
) -> _contractive.Tangents:
    """The n directions of x at every row that an encoder's code changes most with.

    These are the right singular vectors of the Jacobian with the largest singular values. In a
    contractive autoencoder they span the tangent plane of the data's manifold, and how fast the
    values fall tells its dimension. They are found by subspace iteration, from products with the
    Jacobian that never write it.

    Args:
        x: ``[..., D]``; float32, bfloat16, float16 or float64.
        weights: as :func:`contractive_penalty` takes them.
        biases: likewise.
        activation: likewise.
        n: how many, in [1, min(D, H)].
        iterations: at most so many; it ends before where the values stand still.

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
    return _contractive.tangents(x, weights, biases, activation, n, iterations=iterations)


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
            slope, which points back, are finite.
        target: t, in (0, 1).

    Returns:
        A scalar of the code's dtype and device, under autocast in float32 at least.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: the target is not in (0, 1), or the code has no dimensions.

    Reference:
        Ng, "Sparse autoencoder", CS294A lecture notes, Stanford, 2011.

    >>> kl_sparsity(torch.tensor([[0.25, 0.5], [0.75, 0.5]]), 0.5)
    tensor(0.)
    """
    return _sparsity.kl_sparsity(code, target)


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
    return _sparsity.l1_sparsity(code)


@public
def gibbs(
    visible: Tensor,
    weight: Tensor,
    visible_bias: Tensor | None,
    hidden_bias: Tensor | None,
    k: int = 1,
    *,
    visible_kind: str = "bernoulli",
    log_var: Tensor | None = None,
    beta: float | Tensor | None = None,
    clamp_mask: Tensor | None = None,
    return_probs: bool = False,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    row_offset: int = 0,
) -> _rbm.Sample:
    """k full steps of Gibbs sampling in a restricted Boltzmann machine, a chain a row.

    With the weight W, the visible units' bias b, the hidden ones' c, and the inverse temperature
    beta, a step draws first h, then v::

        P(h_j = 1 given v) = sigmoid(beta (c + W v)_j)
        bernoulli:  P(v_i = 1 given h) = sigmoid(beta (b + Wt h)_i)
        gaussian:   v_i ~ N((b + Wt h)_i, s_i^2 / beta), and v / s^2 in the place of v above

    The uniforms and normals are a pure function of (seed, step, row, column), step 2 t for the
    hidden and 2 t + 1 for the visible units of the t-th step: see :mod:`aefast.random`. The same
    seed draws the same states on every backend, device and thread count, except where the last
    place of a probability decides.

    Args:
        visible: the states that the chains begin with, ``[..., D]``; Bernoulli units' in [0, 1].
            float32, bfloat16, float16 or float64. Kernels serve float32.
        weight: W, ``[H, D]``, of the same dtype and device, as all that follow.
        visible_bias: b, ``[D]``, or None.
        hidden_bias: c, ``[H]``, or None.
        k: how many steps, at least 1.
        visible_kind: ``"bernoulli"`` or ``"gaussian"``.
        log_var: ln s^2 of Gaussian units, ``[D]``; None for a variance of 1.
        beta: a number or one for each row, ``[...]``; finite and at least 0, of Gaussian units
            above 0.
        clamp_mask: boolean, of visible's shape or one that broadcasts to it; where it is True a
            visible unit keeps its state: sampling of the others given these, in-painting.
        return_probs: return the probabilities of the last step's draws as well.
        seed: an int in [0, 2**63); None draws one from ``generator``.
        generator: a ``torch.Generator``; None takes torch's default one.
        row_offset: the number of the first row, as :func:`corrupt` takes it.

    Returns:
        A named tuple ``(visible, hidden, visible_prob, hidden_prob)``: ``hidden [..., H]`` was
        drawn from ``hidden_prob``, and ``visible [..., D]`` from ``visible_prob``, for Gaussian
        units the mean; the two are None unless asked for. Not differentiable; of visible's dtype,
        under autocast too.

    Raises:
        TypeError: an argument is of a wrong type, or the dtypes differ.
        ValueError: the shapes do not fit (the message names both), the devices differ, a choice is
            unknown, a number outside its range, or a Bernoulli state outside [0, 1] (which is
            looked at on a CPU).

    Reference:
        Goodfellow, Bengio, Courville, "Deep Learning", MIT Press, 2016, section 20.2; Cho, Ilin,
        Raiko, "Improved learning of Gaussian-Bernoulli restricted Boltzmann machines", 2011.

    >>> sample = gibbs(torch.ones(1, 2), torch.full((3, 2), 40.0), None, None, seed=0)
    >>> sample.hidden, sample.visible
    (tensor([[1., 1., 1.]]), tensor([[1., 1.]]))
    """
    return _rbm.gibbs(
        visible,
        weight,
        visible_bias,
        hidden_bias,
        k,
        visible_kind=visible_kind,
        log_var=log_var,
        beta=beta,
        clamp_mask=clamp_mask,
        return_probs=return_probs,
        seed=seed,
        generator=generator,
        row_offset=row_offset,
    )


@public
def contrastive_divergence(
    visible: Tensor,
    weight: Tensor,
    visible_bias: Tensor | None,
    hidden_bias: Tensor | None,
    k: int = 1,
    *,
    chain: Tensor | None = None,
    visible_kind: str = "bernoulli",
    log_var: Tensor | None = None,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    row_offset: int = 0,
) -> tuple[Tensor, Tensor]:
    """A scalar whose gradient is contrastive divergence's, and the chain's new states.

    The gradient, by the weight, is ``mean(P(h given v') v't) - mean(P(h given v) vt)`` over the
    data v and the states v' that k steps of :func:`gibbs` lead to, from the data (CD-k) or from
    ``chain`` (persistent, PCD-k): an optimizer that minimizes it raises the likelihood. The scalar
    is the difference of the mean free energies, in nats; it is no likelihood, and may have any
    sign.

    Args:
        visible: the data, ``[..., D]``.
        weight: ``[H, D]``; this and the rest as in :func:`gibbs`.
        visible_bias: ``[D]``, or None.
        hidden_bias: ``[H]``, or None.
        k: how many steps, at least 1.
        chain: the states ``[..., D]`` that the persistent chains are in, of any number; None begins
            at the data.
        visible_kind: ``"bernoulli"`` or ``"gaussian"``.
        log_var: ln of the variances of Gaussian units, ``[D]``; None for 1.
        seed: an int in [0, 2**63); None draws one from ``generator``.
        generator: a ``torch.Generator``; None takes torch's default one.
        row_offset: the number of the first chain's row, as :func:`gibbs` takes it.

    Returns:
        The scalar, and the chain's states, of its shape or the data's.

    Raises:
        TypeError: an argument is of a wrong type, or the dtypes differ.
        ValueError: as :func:`gibbs`, and where the chain's width is not the data's.

    Reference:
        Hinton, "Training products of experts by minimizing contrastive divergence", 2002; Tieleman,
        "Training restricted Boltzmann machines using approximations to the likelihood gradient",
        ICML 2008.

    >>> weight = torch.zeros(3, 2, requires_grad=True)
    >>> loss, chain = contrastive_divergence(torch.ones(4, 2), weight, None, None, seed=0)
    >>> loss.backward()
    >>> weight.grad.shape, chain.shape
    (torch.Size([3, 2]), torch.Size([4, 2]))
    """
    return _rbm.contrastive_divergence(
        visible,
        weight,
        visible_bias,
        hidden_bias,
        k,
        chain=chain,
        visible_kind=visible_kind,
        log_var=log_var,
        seed=seed,
        generator=generator,
        row_offset=row_offset,
    )


@public
def free_energy(
    visible: Tensor,
    weight: Tensor,
    visible_bias: Tensor | None,
    hidden_bias: Tensor | None,
    *,
    visible_kind: str = "bernoulli",
    log_var: Tensor | None = None,
) -> Tensor:
    """The free energy of visible states: ``F(v) = -ln sum_h exp(-E(v, h))``, in nats.

    With :func:`gibbs`'s symbols::

        bernoulli:  F(v) = -bt v - sum_j softplus((c + W v)_j)
        gaussian:   F(v) = |(v - b) / s|^2 / 2 - sum_j softplus((c + W (v / s^2))_j)

    so that P(v) is exp(-F(v)) over the partition function.

    Args:
        visible: ``[..., D]``.
        weight: ``[H, D]``; this and the rest as in :func:`gibbs`.
        visible_bias: ``[D]``, or None.
        hidden_bias: ``[H]``, or None.
        visible_kind: ``"bernoulli"`` or ``"gaussian"``.
        log_var: ln of the variances of Gaussian units, ``[D]``; None for 1.

    Returns:
        ``[...]``, differentiable.

    Raises:
        TypeError: an argument is of a wrong type, or the dtypes differ.
        ValueError: the shapes do not fit (the message names both), the devices differ, or
            visible_kind is unknown.

    Reference:
        Goodfellow, Bengio, Courville, "Deep Learning", MIT Press, 2016, section 16.2.4.

    >>> free_energy(torch.zeros(1, 2), torch.ones(3, 2), None, None)  # -3 ln 2
    tensor([-2.0794])
    """
    return _rbm.free_energy(
        visible, weight, visible_bias, hidden_bias, visible_kind=visible_kind, log_var=log_var
    )


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

    References:
        Kingma, Welling, "Auto-encoding variational Bayes", ICLR 2014, section 2.4. Goodfellow,
        Bengio, Courville, "Deep Learning", MIT Press, 2016, section 20.9.

    >>> reparameterize(torch.zeros(2, 3), torch.zeros(2, 3), seed=0)
    tensor([[ 1.3046, -0.1551, -1.7394],
            [ 1.9585,  0.4219, -0.6103]])
    """
    return _variational.reparameterize(
        mean, log_var, seed=seed, generator=generator, row_offset=row_offset
    )


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

    References:
        Kingma, Welling, "Auto-encoding variational Bayes", ICLR 2014, appendix B. Goodfellow,
        Bengio, Courville, "Deep Learning", MIT Press, 2016, section 20.10.3.

    >>> gaussian_kl(torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.zeros(2, 2))
    tensor([0.0000, 0.5000])
    """
    return _variational.gaussian_kl(mean, log_var)


@public
def soft_threshold(x: Tensor, threshold: float) -> Tensor:
    """Every element moved by ``threshold`` towards 0, those nearer than that to 0 itself::

        y = sign(x) max(|x| - threshold, 0)

    It is the proximal step of an L1 penalty: y minimizes ``(y - x)^2 / 2 + threshold |y|``. The
    gradient passes where |x| > threshold.

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
    return _sparse_coding.soft_threshold(x, threshold)


@public
def sparse_encode(
    x: Tensor,
    dictionary: Tensor,
    penalty: float,
    *,
    steps: int = _sparse_coding.STEPS,
    tolerance: float = _sparse_coding.TOLERANCE,
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
    return _sparse_coding.sparse_encode(
        x, dictionary, penalty, steps=steps, tolerance=tolerance, start=start
    )


@public
def topk_encode(x: Tensor, weight: Tensor, bias: Tensor | None, k: int) -> _topk.SparseCode:
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
    return _topk.topk_encode(x, weight, bias, k)


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
        indices: int64 ``[..., k]``, numbers in [0, L), which a GPU is not asked about: it leaves
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
    return _topk.sparse_decode(values, indices, weight, bias)
