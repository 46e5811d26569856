"""Gibbs sampling, contrastive divergence and free energy."""

import torch
from torch import Tensor

from aefast.ops.rbm.op import (
    check_chain,
    check_machine,
    check_states,
    divergence_of_chains,
    energy,
    sample_chain,
)
from aefast.ops.rbm.settings import Sample
from aefast.ops.shared import dispatch
from aefast.ops.shared.public import public

__all__ = ["contrastive_divergence", "free_energy", "gibbs"]


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
) -> Sample:
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
        seed: an int in [0, 2**63); None draws one from ``generator``. With one seed
            :func:`contrastive_divergence` draws the same numbers, for its chain is this one: two
            chains that are to be independent take two seeds.
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
    machine = check_machine(visible, weight, visible_bias, hidden_bias, visible_kind, log_var)
    check_states(visible, "visible", visible_kind)
    return sample_chain(
        visible,
        machine,
        k,
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
        seed: an int in [0, 2**63); None draws one from ``generator``. With one seed :func:`gibbs`
            draws the same numbers, for its chain is this one: two chains that are to be independent
            take two seeds.
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
    machine = check_machine(visible, weight, visible_bias, hidden_bias, visible_kind, log_var)
    check_states(visible, "visible", visible_kind)
    if chain is not None:
        check_chain(chain, visible, weight)
        check_states(chain, "chain", visible_kind)
    return divergence_of_chains(
        visible, machine, k, chain=chain, seed=seed, generator=generator, row_offset=row_offset
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
        visible: ``[..., D]``. Bernoulli states are not looked at here, but by
            :meth:`aefast.nn.RBM.free_energy`, which refuses those outside [0, 1].
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
    machine = check_machine(visible, weight, visible_bias, hidden_bias, visible_kind, log_var)
    with dispatch.without_autocast(visible.device):
        return energy(visible, machine)
