"""The sparse autoencoder."""

from typing import Unpack

import torch
from torch import Tensor

from aefast.functional import kl_sparsity, l1_sparsity
from aefast.nn.autoencoder import Architecture, Autoencoder, check_draw
from aefast.nn.plain import known_by_its_parameters
from aefast.nn.replicas import check_replica
from aefast.nn.settings import inside_unit_interval, number, setting
from aefast.nn.shared_batch import group_of_training, refuse_traces
from aefast.nn.step_fields import StepFields
from aefast.nn.step_plan import loss_in_one_call
from aefast.ops.shared import checks
from aefast.ops.sparsity.eager import divergence

PENALTIES = ("kl", "l1")


def _check_penalty(model: "SparseAutoencoder", value: str, name: str) -> str:
    checks.check_choice(value, "penalty", PENALTIES)
    code = model.encoder[-1].activation
    if value == "kl" and code != "sigmoid":
        raise ValueError(f"code_activation is {code!r}; with penalty 'kl' it takes 'sigmoid'")
    return value


@known_by_its_parameters()
class SparseAutoencoder(Autoencoder):
    """An autoencoder few of whose code's units are active at a time.

    Training minimizes the reconstruction's mean error plus ``sparsity_weight`` times a penalty:
    ``"kl"`` is sum_j KL(target, mean activity of unit j over the batch), in nats, which takes a
    code in (0, 1); ``"l1"`` the mean over the rows of ||h||_1.

    Args:
        visible: D, the size of each input row.
        hidden: H, the size of the code.
        penalty: ``"kl"`` or ``"l1"``.
        sparsity_weight: the factor of the penalty, 0 or more.
        sparsity_target: of ``"kl"``: the mean activity that each unit is drawn to, in (0, 1).
        architecture: the rest, as :class:`aefast.nn.Autoencoder` takes it.

    Raises:
        TypeError, ValueError: as :class:`aefast.nn.Autoencoder`; or ``"kl"`` of a code that is no
            sigmoid's.

    References:
        Ng, "Sparse autoencoder", CS294A lecture notes, Stanford, 2011. Goodfellow, Bengio,
        Courville, "Deep Learning", 2016, section 14.2.1.

    >>> import torch
    >>> from aefast.nn import SparseAutoencoder
    >>> model = SparseAutoencoder(64, 128, penalty="kl", sparsity_target=0.05)
    >>> model.loss(torch.rand(5, 64)).backward()
    """

    penalty_kind: str = setting(_check_penalty)
    sparsity_weight: float = number(0)
    sparsity_target: float = setting(inside_unit_interval)

    def __init__(
        self,
        visible: int | None = None,
        hidden: int | None = None,
        *,
        penalty: str = "kl",
        sparsity_weight: float = 1e-3,
        sparsity_target: float = 0.05,
        **architecture: Unpack[Architecture],
    ) -> None:
        super().__init__(visible, hidden, **architecture)
        self.penalty_kind = penalty
        self.sparsity_weight = sparsity_weight
        self.sparsity_target = sparsity_target

    def loss(
        self,
        x: Tensor,
        *,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        row_offset: int = 0,
    ) -> Tensor:
        """The mean error of the reconstruction plus the weighted penalty; a scalar.

        Ranks that share a batch, as inside ``DistributedDataParallel`` or :func:`shared_batch`,
        take the KL penalty of the mean activity over all of its rows.

        On a CPU it holds the parameters' gradients until its backward pass, as
        :meth:`aefast.nn.Autoencoder.loss` does.
        """
        check_replica(self)
        check_draw(seed, generator, row_offset)
        if self.exchanges:
            group = group_of_training(self)
            if group.size > 1:
                refuse_traces("take a batch's mean activity", x)
                code = group.together(lambda: self.encode(x))
                activity = group.mean(code.reshape(-1, code.shape[-1]))
                return self._loss_of(x, code, activity, seed, generator, row_offset)
        loss = loss_in_one_call(self, x, seed, generator, row_offset)
        if loss is not None:
            return loss
        code = self.encode(x)
        error = self.compare(self._drop(code, seed, generator, row_offset), x)
        return error + self.sparsity_weight * self.penalty(code)

    @property
    def exchanges(self) -> bool:
        """Whether the penalty is of a batch's mean activity, which its ranks exchange."""
        is_own = "penalty" in self.__dict__ or type(self).penalty is not SparseAutoencoder.penalty
        return self.penalty_kind == "kl" and not is_own

    def _loss_of(
        self,
        x: Tensor,
        code: Tensor,
        activity: Tensor,
        seed: int | None,
        generator: torch.Generator | None,
        row_offset: int,
    ) -> Tensor:
        """The loss of some rows x of a batch, with the KL penalty of the whole batch's mean
        activity ``[H]``."""
        error = self.compare(self._drop(code, seed, generator, row_offset), x)
        penalty = divergence(activity, self.sparsity_target).sum().to(code.dtype)
        return error + self.sparsity_weight * penalty

    def penalty(self, code: Tensor) -> Tensor:
        """The penalty of a batch's code ``[..., H]``: a scalar, without its factor.

        Raises:
            TypeError, ValueError: as :func:`aefast.functional.kl_sparsity`; or the penalty is
                ``"kl"`` and the code outside [0, 1], which is checked on a CPU only. That of a code
                that is NaN is NaN.
        """
        if self.penalty_kind == "kl":
            checks.check_tensor(code, "code")
            checks.check_unit_interval(code, "code", "the KL penalty takes", is_computed=True)
            return kl_sparsity(code, self.sparsity_target)
        return l1_sparsity(code)

    def step_fields(self) -> StepFields | str:
        fields = super().step_fields()
        if not isinstance(fields, str):
            fields |= {
                "penalty": self.penalty_kind,
                "penalty_weight": self.sparsity_weight,
                "penalty_target": self.sparsity_target,
            }
        return fields

    def extra_repr(self) -> str:
        target = f", sparsity_target={self.sparsity_target}" if self.penalty_kind == "kl" else ""
        return (
            f"penalty={self.penalty_kind!r}, sparsity_weight={self.sparsity_weight}{target}, "
            f"{super().extra_repr()}"
        )
