"""Layers from an input to a code and back: what the autoencoders share."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import cast

from torch import Tensor, nn

from aefast.functional import linear_act
from aefast.nn.linear import LinearAct, TiedLinearAct
from aefast.ops.linear_act import ACTIVATIONS
from aefast.ops.shared import contract


class EncoderDecoder(nn.Module):
    """A shallow or deep encoder, and a decoder whose sizes mirror it.

    The layers carry the names that ``nn.Sequential(Linear, activation, Linear, activation, ...)``
    gives them, so a state dict of either loads into the other. The arguments are
    :class:`aefast.nn.Autoencoder`'s.
    """

    def __init__(
        self,
        visible: int | None,
        hidden: int | None,
        *,
        layers: Sequence[int] | None,
        activation: str,
        code_activation: str | None = None,
        output_activation: str,
        tied: bool = False,
    ) -> None:
        super().__init__()
        sizes = check_sizes(visible, hidden, layers)
        contract.check_choice(activation, "activation", ACTIVATIONS)
        if code_activation is not None:
            contract.check_choice(code_activation, "code_activation", ACTIVATIONS)
        contract.check_choice(output_activation, "output_activation", ACTIVATIONS)
        self.depth = len(sizes) - 1
        activations = [activation] * (self.depth - 1)
        encoder = [
            LinearAct(below, above, activation=kind)
            for (below, above), kind in zip(
                pairwise(sizes), [*activations, code_activation or activation], strict=True
            )
        ]
        decoder = [
            TiedLinearAct(layer, kind)
            if tied
            else LinearAct(layer.out_features, layer.in_features, activation=kind)
            for layer, kind in zip(
                reversed(encoder), [*activations, output_activation], strict=True
            )
        ]
        for number, layer in enumerate([*encoder, *decoder]):
            self.add_module(str(2 * number), layer)

    @property
    def encoder(self) -> list[LinearAct]:
        """The layers from the input to the code."""
        return [self._layer(number) for number in range(self.depth)]

    @property
    def decoder(self) -> list[LinearAct]:
        """The layers from the code to the reconstruction; of a tied one, :class:`TiedLinearAct`."""
        return [self._layer(number) for number in range(self.depth, 2 * self.depth)]

    def _layer(self, number: int) -> LinearAct:
        return cast(LinearAct, self.get_submodule(str(2 * number)))

    def encode(self, x: Tensor) -> Tensor:
        """The code: ``[..., D]`` to ``[..., H]``."""
        for layer in self.encoder:
            x = layer(x)
        return x

    def decode(self, code: Tensor) -> Tensor:
        """The reconstruction of a code: ``[..., H]`` to ``[..., D]``."""
        for layer in self.decoder:
            code = layer(code)
        return code

    def preactivation(self, code: Tensor) -> Tensor:
        """The reconstruction before its activation: of a sigmoid output, the logits."""
        *inner, last = self.decoder
        for layer in inner:
            code = layer(code)
        return linear_act(code, last.weight, last.bias)


def check_sizes(visible: int | None, hidden: int | None, layers: Sequence[int] | None) -> list[int]:
    """The sizes from the input to the code, each at least 1."""
    if (layers is None) == (visible is None and hidden is None):
        raise ValueError("it takes either visible and hidden, or layers")
    if layers is None:
        named: Mapping[str, int | None] = {"visible": visible, "hidden": hidden}
    else:
        named = named_layers(layers)
        if len(named) < 2:
            raise ValueError(f"layers is {list(layers)}; it takes two sizes or more")
    return [contract.check_integer(size, name, 2**31, low=1) for name, size in named.items()]


def named_layers(layers: Sequence[int]) -> dict[str, int]:
    """Each size by the name that an error gives it."""
    if isinstance(layers, str) or not isinstance(layers, Iterable):
        raise TypeError(f"layers is a {type(layers).__name__}; it takes a sequence of sizes")
    return {f"layers[{number}]": size for number, size in enumerate(layers)}
