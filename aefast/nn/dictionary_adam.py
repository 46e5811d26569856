"""Adam for sparse dictionaries: its step and what keeps the directions' norm are one pass."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Adam

from aefast import backend
from aefast.backend import extension
from aefast.ops.shared import dispatch
from aefast.step import kernels
from aefast.step.optimizers import (
    AVERAGES,
    Group,
    adam_update,
    is_plain,
    note_alike,
    unprofiled,
)

if TYPE_CHECKING:
    from aefast.nn.dictionary import SparseDictionary


class DictionaryAdam(Adam):
    r"""``torch.optim.Adam`` whose step also keeps the directions of a sparse dictionary at unit
    norm.

    ``model.keep_unit_norm(optimizer)`` says of which model. A step then takes from the gradient
    :math:`g` of each direction :math:`v` what would change its norm, moves it as Adam does, and
    rescales it:

    .. math::
        g' &= g - \frac{g^\top v}{\|v\|^2} \, v \\
        m &\leftarrow \beta_1 m + (1 - \beta_1) \, g' , \qquad
        s \leftarrow \beta_2 s + (1 - \beta_2) \, g'^2 \\
        u &= v - \eta \, \frac{m / (1 - \beta_1^t)}{\sqrt{s / (1 - \beta_2^t)} + \epsilon} , \qquad
        v \leftarrow \frac{u}{\|u\|}

    Parameters and state are those of ``torch.optim.Adam`` with ``keep_unit_norm``, to rounding, and
    either optimizer loads the other's state dict. The projection comes after the closure and the
    hooks that run before the step.

    For float32 parameters on a CPU a C++ kernel takes one pass over a parameter, its gradient and
    its state, and gives the same bits for any number of threads. It writes nothing to a matrix's
    rows whose gradients and moments are 0, as those of latents that were never active: Adam without
    weight decay does not move them. Projected gradients are not written, either. Other parameters,
    and ``amsgrad``, ``capturable``, ``differentiable`` or a ``GradScaler`` that works within the
    step, take torch's own step, between two passes over the directions.

    Args:
        params, lr, betas, eps, weight_decay, amsgrad, options: as those of ``torch.optim.Adam``.

    Raises:
        TypeError, ValueError, RuntimeError: as ``torch.optim.Adam``.

    Reference:
        Kingma, Ba, "Adam: a method for stochastic optimization", ICLR 2015. The projection:
        Bricken et al., "Towards monosemanticity: decomposing language models with dictionary
        learning", 2023.

    >>> import torch
    >>> from aefast.nn import DictionaryAdam, TopKSparseAutoencoder
    >>> model = TopKSparseAutoencoder(64, 512, k=8)
    >>> optimizer = DictionaryAdam(model.parameters(), lr=1e-3)
    >>> model.keep_unit_norm(optimizer)
    >>> model.loss(torch.randn(100, 64)).backward()
    >>> optimizer.step()
    >>> torch.allclose(model.decoder_weight.norm(dim=1), torch.ones(512))
    True
    """

    # What keep_unit_norm() adds to. A copied or pickled optimizer takes its models along.
    dictionaries: "tuple[SparseDictionary, ...]" = ()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "dictionaries": self.dictionaries}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step; what the closure returns, which computes the loss and its gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        trained = [
            (group, parameter)
            for group in self.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        is_served = self._is_served(trained)
        served = {id(parameter) for _, parameter in trained} if is_served else set()
        directions = {id(model._own_directions()) for model in self.dictionaries} & served
        apart = [m for m in self.dictionaries if id(m._own_directions()) not in directions]
        for model in apart:
            model.project_decoder_gradient()
        if is_served:
            self._take(trained, directions)
        else:
            unprofiled(Adam.step)(self)  # the hooks have run, or are to run after this step
        for model in apart:
            model.normalize_decoder()
        for model in self.dictionaries:
            model._constrain_encoder()
        return loss

    def _is_served(self, trained: "list[tuple[Group, Tensor]]") -> bool:
        """Whether the kernels can take the step."""
        is_scaled = getattr(self, "found_inf", None) is not None
        if not trained or is_scaled or dispatch.is_in_functorch():
            return False
        return all(
            not (group["amsgrad"] or group["capturable"] or group["differentiable"])
            and _is_plain(parameter)
            and (
                not self.state.get(parameter)
                or is_plain(self.state[parameter], parameter, AVERAGES[Adam])
            )
            for group, parameter in trained
        )

    def _take(self, trained: "list[tuple[Group, Tensor]]", directions: set[int]) -> None:
        """Take the kernels' step. ``directions`` are the ids of the parameters whose rows are."""
        updates, gradients = [], []
        for group, parameter in trained:
            columns = parameter.shape[1] if parameter.dim() == 2 else 0
            kind, is_unit = extension().OptimizerKind.adam, id(parameter) in directions
            updates.append(adam_update(kind, group, parameter, self.state, columns, is_unit))
            assert parameter.grad is not None
            gradients.append(dispatch.materialize(parameter.grad, "a gradient").contiguous())
        kernels().update(updates, [gradient.data_ptr() for gradient in gradients])
        torch.autograd.graph.increment_version([parameter for _, parameter in trained])


note_alike(DictionaryAdam, Adam)


def _is_plain(parameter: Tensor) -> bool:
    """Whether the kernels read a parameter and its gradient as they lie in memory."""
    gradient = parameter.grad
    return (
        gradient is not None
        and not dispatch.is_traced(parameter, gradient)
        and not parameter.is_inference()
        and gradient.dtype == parameter.dtype == torch.float32
        and gradient.layout is torch.strided
        and parameter.is_contiguous()
        and backend.select(parameter.device, parameter.dtype) == "cpp"
    )
