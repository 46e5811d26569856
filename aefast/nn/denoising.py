"""The denoising autoencoder."""

import math
from typing import cast

from torch import Tensor, nn

from aefast.functional import corrupt, reconstruction_loss
from aefast.nn.linear import LinearAct
from aefast.ops.corrupt import KINDS
from aefast.ops.linear_act import ACTIVATIONS
from aefast.ops.shared import contract


class DenoisingAutoencoder(nn.Module):
    """Reconstructs its input from a corrupted copy of it.

    In training, ``x' ~ q(x' | x)`` is x with noise, ``h = f(W x' + b)`` the code and
    ``r = g(V h + c)`` the reconstruction; the loss compares r with the clean x. In evaluation
    mode nothing is corrupted.

    The two layers carry the names that ``nn.Sequential(Linear, activation, Linear, activation)``
    gives them, so a state dict of either loads into the other.

    Args:
        visible: D, the size of each input row.
        hidden: H, the size of the code.
        corruption: ``"masking"``, ``"salt_and_pepper"`` or ``"gaussian"``.
        corruption_level: the probability that an element is hit, 0 to 1; for ``"gaussian"`` the
            standard deviation of the noise, 0 or more.
        activation: f, one of :class:`aefast.nn.LinearAct`'s.
        output_activation: g, likewise.

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

    def __init__(
        self,
        visible: int,
        hidden: int,
        *,
        corruption: str = "masking",
        corruption_level: float = 0.3,
        activation: str = "sigmoid",
        output_activation: str = "sigmoid",
    ) -> None:
        super().__init__()
        contract.check_choice(corruption, "corruption", KINDS)
        contract.check_choice(activation, "activation", ACTIVATIONS)
        contract.check_choice(output_activation, "output_activation", ACTIVATIONS)
        most = math.inf if corruption == "gaussian" else 1
        level = contract.check_number(corruption_level, "corruption_level", 0, most)
        self.corruption = corruption
        self.corruption_level = level
        self.add_module("0", LinearAct(visible, hidden, activation=activation))
        self.add_module("2", LinearAct(hidden, visible, activation=output_activation))

    def encode(self, x: Tensor) -> Tensor:
        """The code f(W x + b): ``[..., D]`` to ``[..., H]``."""
        return self.get_submodule("0")(x)

    def decode(self, code: Tensor) -> Tensor:
        """The reconstruction g(V h + c) of a code: ``[..., H]`` to ``[..., D]``."""
        return self.get_submodule("2")(code)

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction of x, ``[..., D]``; in training mode, that of x with noise."""
        if self.training:
            x = corrupt(x, self.corruption, self.corruption_level)
        return self.decode(self.encode(x))

    def loss(self, x: Tensor) -> Tensor:
        """The mean squared error, a scalar, between the reconstruction and the clean x.

        One op over the two layers as they stand, :func:`aefast.functional.reconstruction_loss`:
        it calls neither ``forward``, ``encode`` and ``decode`` nor any hook of theirs. A subclass
        that changes them takes ``torch.nn.functional.mse_loss(self(x), x)``.
        """
        encoder = cast(LinearAct, self.get_submodule("0"))
        decoder = cast(LinearAct, self.get_submodule("2"))
        return reconstruction_loss(
            x,
            encoder.weight,
            encoder.bias,
            decoder.weight,
            decoder.bias,
            activation=encoder.activation,
            output_activation=decoder.activation,
            corruption=self.corruption if self.training else None,
            corruption_level=self.corruption_level if self.training else 0.0,
        )

    def extra_repr(self) -> str:
        return f"corruption={self.corruption!r}, corruption_level={self.corruption_level}"
