"""The denoising autoencoder."""

import math
from typing import Any, Unpack

import torch
from torch import Tensor

from aefast.functional import corrupt
from aefast.nn.autoencoder import Architecture, Autoencoder, check_draw
from aefast.nn.plain import known_by_its_parameters
from aefast.nn.replicas import check_replica
from aefast.nn.settings import setting
from aefast.nn.step_fields import StepFields
from aefast.nn.step_plan import loss_in_one_call
from aefast.ops.corrupt.noise import KINDS
from aefast.ops.shared import checks, dispatch


def _check_corruption(model: "DenoisingAutoencoder", value: str, name: str) -> str:
    checks.check_choice(value, name, KINDS)
    if "corruption_level" in model.__dict__:
        _check_level(value, model.corruption_level, "corruption_level")
    return value


def _check_level(corruption: str, level: float, name: str) -> float:
    return checks.check_number(level, name, 0, math.inf if corruption == "gaussian" else 1)


@known_by_its_parameters()
class DenoisingAutoencoder(Autoencoder):
    """Reconstructs its input from a corrupted copy of it.

    In training, ``x' ~ q(x' | x)`` is x with noise, ``h = f(W x' + b)`` the code and
    ``r = g(V h + c)`` the reconstruction; the loss compares r with the clean x. In evaluation
    mode nothing is corrupted.

    Args:
        visible: D, the size of each input row.
        hidden: H, the size of the code.
        corruption: ``"masking"``, ``"salt_and_pepper"`` or ``"gaussian"``.
        corruption_level: the probability that an element is hit, 0 to 1; for ``"gaussian"`` the
            standard deviation of the noise, 0 or more.
        architecture: the rest, as :class:`aefast.nn.Autoencoder` takes it; but the
            ``output_activation`` is ``"sigmoid"`` unless it is given.

    Raises:
        ValueError: an unknown corruption or activation, or a level outside its range.
        TypeError: a level that is no number.

    References:
        Vincent, Larochelle, Bengio, Manzagol, "Extracting and composing robust features with
        denoising autoencoders", ICML 2008. Vincent, Larochelle, Lajoie, Bengio, Manzagol,
        "Stacked denoising autoencoders", JMLR 11, 2010.

    >>> import torch
    >>> from aefast.nn import DenoisingAutoencoder
    >>> model = DenoisingAutoencoder(64, 32, corruption_level=0.3)
    >>> x = torch.rand(5, 64)
    >>> model(x).shape, model.encode(x).shape
    (torch.Size([5, 64]), torch.Size([5, 32]))
    >>> model.loss(x).backward()
    """

    corruption: str = setting(_check_corruption)
    corruption_level: float = setting(
        lambda model, value, name: _check_level(model.corruption, value, name)
    )

    def __init__(
        self,
        visible: int | None = None,
        hidden: int | None = None,
        *,
        corruption: str = "masking",
        corruption_level: float = 0.3,
        **architecture: Unpack[Architecture],
    ) -> None:
        architecture.setdefault("output_activation", "sigmoid")
        super().__init__(visible, hidden, **architecture)
        self.corruption = corruption
        self.corruption_level = corruption_level

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction of x, ``[..., D]``; in training with what the loss draws, the noise
        and the code's dropout."""
        if self.training:
            x = corrupt(x, self.corruption, self.corruption_level)
        return super().forward(x)

    def loss(
        self,
        x: Tensor,
        *,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        row_offset: int = 0,
    ) -> Tensor:
        """The mean error of the reconstruction of x with noise against the clean x; otherwise as
        :meth:`aefast.nn.Autoencoder.loss`."""
        check_replica(self)
        check_draw(seed, generator, row_offset)
        loss = loss_in_one_call(self, x, seed, generator, row_offset)
        if loss is not None:
            return loss
        if not self.training:
            return super().loss(x, seed=seed, generator=generator, row_offset=row_offset)
        if self.is_one_op:
            return self.fused_loss(
                x,
                corruption=self.corruption,
                corruption_level=self.corruption_level,
                seed=seed,
                generator=generator,
                row_offset=row_offset,
            )
        drawn: Any = seed
        if self.code_dropout > 0:  # the noise and the dropout are of one seed, as in one call
            checks.check_tensor(x, "x")
            drawn = dispatch.resolve_seed(seed, generator, x.device, dispatch.is_traced(x))
            generator = None
        noisy = corrupt(
            x,
            self.corruption,
            self.corruption_level,
            seed=drawn,
            generator=generator,
            row_offset=row_offset,
        )
        code = self._drop(self.encode(noisy), drawn, generator, row_offset)
        return self.compare(code, x)

    def step_fields(self) -> StepFields | str:
        fields = super().step_fields()
        if self.training and not isinstance(fields, str):
            fields |= {"noise": self.corruption, "noise_level": self.corruption_level}
        return fields

    def extra_repr(self) -> str:
        noise = f"corruption={self.corruption!r}, corruption_level={self.corruption_level}"
        return f"{noise}, {super().extra_repr()}"
