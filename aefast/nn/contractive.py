"""The contractive autoencoder."""

import contextlib
from collections.abc import Callable
from typing import Unpack

import torch
from torch import Tensor

from aefast.functional import contractive_penalty, tangents
from aefast.nn.autoencoder import Architecture, Autoencoder, check_draw
from aefast.nn.plain import (
    calls_only_its_own,
    calls_only_its_own_once_gathered,
    known_by_its_parameters,
)
from aefast.nn.replicas import check_replica
from aefast.nn.settings import number
from aefast.nn.sharded import gathered
from aefast.nn.step_fields import StepFields
from aefast.nn.step_plan import loss_in_one_call
from aefast.ops.contractive.singular_vectors import Tangents, turned
from aefast.ops.shared import checks
from aefast.torch_private import is_exporting


@known_by_its_parameters()
class ContractiveAutoencoder(Autoencoder):
    """An autoencoder whose code changes little where its input does.

    Training minimizes the reconstruction's mean error plus ``contraction`` times the mean over the
    rows of ||J(x)||^2, the squared Frobenius norm of the encoder's Jacobian. Only directions in
    which the data vary resist it: they are the tangents of the manifold that the data lie on.

    Args:
        visible: D, the size of each input row.
        hidden: H, the size of the code.
        contraction: the factor of the penalty, 0 or more. The error is a mean over the elements,
            the penalty is not: 0.1 beside an error summed over 64 of them is 0.0016 here.
        architecture: the rest, as :class:`aefast.nn.Autoencoder` takes it.

    Raises:
        TypeError, ValueError: as :class:`aefast.nn.Autoencoder`.

    Reference:
        Rifai, Vincent, Muller, Glorot, Bengio, "Contractive auto-encoders: explicit invariance
        during feature extraction", ICML 2011.

    >>> import torch
    >>> from aefast.nn import ContractiveAutoencoder
    >>> model = ContractiveAutoencoder(64, 32, contraction=0.01)
    >>> x = torch.rand(5, 64)
    >>> model.loss(x).backward()
    >>> model.tangents(x, n=3).vectors.shape
    torch.Size([5, 3, 64])
    """

    contraction: float = number(0)

    def __init__(
        self,
        visible: int | None = None,
        hidden: int | None = None,
        *,
        contraction: float = 0.003,
        **architecture: Unpack[Architecture],
    ) -> None:
        super().__init__(visible, hidden, **architecture)
        self.contraction = contraction

    def loss(
        self,
        x: Tensor,
        *,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        row_offset: int = 0,
    ) -> Tensor:
        """The mean error of the reconstruction plus the weighted mean penalty; a scalar.

        On a CPU it holds the parameters' gradients until its backward pass, as
        :meth:`aefast.nn.Autoencoder.loss` does.
        """
        check_replica(self)
        check_draw(seed, generator, row_offset)
        loss = loss_in_one_call(self, x, seed, generator, row_offset)
        if loss is not None:
            return loss
        if self.is_one_op:
            return self.fused_loss(x, contraction=self.contraction)
        error = super().loss(x, seed=seed, generator=generator, row_offset=row_offset)
        return error + self.contraction * self.penalty(x).mean()

    def penalty(self, x: Tensor) -> Tensor:
        """||J(x)||^2 at each row: ``[..., D]`` to ``[...]``.

        Of an encoder that is not plain (:func:`aefast.nn.plain.is_plain`) it takes a backward pass
        for each unit of the code.
        """
        if not self._encodes_plainly():
            return jacobian_of_calls(self.encode, x).square().sum((-2, -1))
        penalty = contractive_penalty(x, *self._layers(x))
        assert isinstance(penalty, Tensor)
        return penalty

    def tangents(self, x: Tensor, n: int = 1) -> Tangents:
        """The n directions that the code changes most with: :func:`aefast.functional.tangents`."""
        if self._encodes_plainly():
            return tangents(x, *self._layers(x), n=n)
        most = min(self.visible, self.hidden)
        n = checks.check_integer(n, "n", most + 1, low=1)
        with torch.no_grad():
            _, values, vectors = torch.linalg.svd(jacobian_of_calls(self.encode, x))
        return Tangents(turned(vectors[..., :n, :]), values[..., :n])

    def _encodes_plainly(self) -> bool:
        return self._calls_its_own("encode") and (
            calls_only_its_own(self.encoder) or calls_only_its_own_once_gathered(self.encoder)
        )

    def _layers(self, x: Tensor) -> tuple[list[Tensor], list[Tensor | None], list[str]]:
        layers = self.encoder
        return (
            [gathered(layer.weight, x) for layer in layers],
            [None if layer.bias is None else gathered(layer.bias, x) for layer in layers],
            [layer.activation for layer in layers],
        )

    def step_fields(self) -> StepFields | str:
        fields = super().step_fields()
        if self.depth > 1:
            return "the Jacobian of a deep encoder has kernels of its own"
        if not isinstance(fields, str):
            fields |= {"penalty": "contraction", "penalty_weight": self.contraction}
        return fields

    def extra_repr(self) -> str:
        return f"contraction={self.contraction}, {super().extra_repr()}"


def jacobian_of_calls(encode: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """J at each row, ``[..., H, D]``, of whatever calling ``encode`` does to rows one by one.

    Raises:
        TypeError: what it calls has no derivative, as quantized layers have none.
        RuntimeError: under ``torch.export``, which records no backward pass.
    """
    if is_exporting():
        raise RuntimeError(
            "the penalty of an encoder with hooks or adapters on its layers takes backward passes, "
            "which no export records; it takes plain layers"
        )
    create_graph = torch.is_grad_enabled()
    with contextlib.ExitStack() as modes:
        if torch.is_inference_mode_enabled():  # where nothing has a derivative
            modes.enter_context(torch.inference_mode(False))
            x = x.clone()
        modes.enter_context(torch.enable_grad())
        rows = x if x.requires_grad else x.detach().requires_grad_()
        code = encode(rows.view_as(rows))  # a hook on a leaf's gradient hears of no autograd.grad
        units = code.unbind(-1) if code.requires_grad else ()
        vectors = [
            torch.autograd.grad(
                unit.sum(), rows, retain_graph=True, create_graph=create_graph, allow_unused=True
            )[0]
            for unit in units
        ]
        if not vectors or vectors[0] is None:
            raise TypeError(
                "the encoder's layers have no derivative; the penalty takes its Jacobian"
            )
        return torch.stack(vectors, -2)
