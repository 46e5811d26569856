"""What a training step of a restricted Boltzmann machine computes."""

from typing import NamedTuple


class MachinePlan(NamedTuple):
    """A step of contrastive divergence.

    The parameters are the weight ``[H, D]``, the visible and the hidden units' biases and, where
    Gaussian visible units learn their variances, log_var ``[D]``.

    Attributes:
        visible: D.
        hidden: H.
        visible_kind: ``"bernoulli"`` or ``"gaussian"``.
        has_log_var: whether there is a log_var; without one variances are 1.
        k: how many Gibbs steps a chain takes.
        sparsity_weight: of KL(target, mean hidden activity); 0 for no penalty.
        sparsity_target: the mean activity, in (0, 1).
    """

    visible: int
    hidden: int
    visible_kind: str = "bernoulli"
    has_log_var: bool = False
    k: int = 1
    sparsity_weight: float = 0.0
    sparsity_target: float = 0.5
