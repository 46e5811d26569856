"""Layers from an input to a code and back: what the autoencoders share."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Self, cast

import torch
from torch import Tensor, nn

from aefast.nn.layers import Layers
from aefast.nn.linear import Device, LinearAct, TiedLinearAct, invert, stack_preactivation
from aefast.nn.plain import has_hooks, has_own_forward, has_own_methods, is_plain
from aefast.nn.settings import HasSettings, fixed_choice
from aefast.nn.sharded import Shardable
from aefast.ops.linear_act.op import ACTIVATIONS
from aefast.ops.shared import checks


class EncoderDecoder(HasSettings, Shardable):
    """A shallow or deep encoder, and a decoder whose sizes mirror it.

    The layers carry the names that ``nn.Sequential(Linear, activation, Linear, activation, ...)``
    gives them, so a state dict of either loads into the other. The arguments are
    :class:`aefast.nn.Autoencoder`'s.
    """

    output_activation: str = fixed_choice(ACTIVATIONS)

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
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        sizes = check_sizes(visible, hidden, layers)
        checks.check_choice(activation, "activation", ACTIVATIONS)
        if code_activation is not None:
            checks.check_choice(code_activation, "code_activation", ACTIVATIONS)
        self.output_activation = output_activation
        self.depth = len(sizes) - 1
        self.visible, self.hidden = sizes[0], sizes[-1]
        self.tied = checks.check_flag(tied, "tied")
        activations = [activation] * (self.depth - 1)
        encoder = [
            LinearAct(below, above, activation=kind, device=device, dtype=dtype)
            for (below, above), kind in zip(
                pairwise(sizes), [*activations, code_activation or activation], strict=True
            )
        ]
        decoder = [
            TiedLinearAct(layer, kind)
            if self.tied
            else LinearAct(
                layer.out_features, layer.in_features, activation=kind, device=device, dtype=dtype
            )
            for layer, kind in zip(
                reversed(encoder), [*activations, output_activation], strict=True
            )
        ]
        for number, layer in enumerate([*encoder, *decoder]):
            self.add_module(str(2 * number), layer)
        names = list(self._modules)
        # In a tuple, which hides them from the modules: their layers are there already.
        self._encoder_decoder = tuple(
            Layers(self._modules, part) for part in (names[: self.depth], names[self.depth :])
        )

    @property
    def encoder(self) -> Layers:
        """The layers from the input to the code, as a module."""
        return self._encoder_decoder[0]

    @property
    def decoder(self) -> Layers:
        """The layers from the code to the reconstruction, as a module; of a tied model, each is a
        :class:`TiedLinearAct`."""
        return self._encoder_decoder[1]

    def __setattr__(self, name: str, value: object) -> None:
        if name in ("encoder", "decoder"):
            raise AttributeError(
                f"{name} is made of the model's layers: put others in their places"
            )
        super().__setattr__(name, value)

    def encode(self, x: Tensor) -> Tensor:
        """The code: ``[..., D]`` to ``[..., H]``."""
        return self._run(self.encoder, x)

    def decode(self, code: Tensor) -> Tensor:
        """The reconstruction of a code: ``[..., H]`` to ``[..., D]``."""
        return self._run(self.decoder, code)

    def step_layers(self) -> tuple[Iterable[nn.Module], Iterable[nn.Module]]:
        """The layers of a training step, to the code and back."""
        return self.encoder, self.decoder

    def preactivation(self, code: Tensor) -> Tensor:
        """The reconstruction before its activation: of a sigmoid output, the logits.

        Raises:
            TypeError: as :func:`aefast.nn.linear.invert`.
        """
        if self._calls_its_own("decode"):
            return stack_preactivation(self.decoder, code, self.output_activation)
        return invert(self.decode(code), self.output_activation)

    @property
    def is_plain(self) -> bool:
        """Whether the parameters say all that :meth:`encode` and :meth:`decode` do: only then a
        loss reads them instead of calling these."""
        if has_own_methods(self):
            return False
        if not (self._calls_its_own("encode") and self._calls_its_own("decode")):
            return False
        if not (is_plain(self.encoder) and is_plain(self.decoder)):
            return False
        if not self.tied:
            return True
        pairs = zip(self.decoder, reversed(self.encoder), strict=True)
        return all(
            isinstance(layer, TiedLinearAct) and layer.mirrors(above) for layer, above in pairs
        )

    def _run(self, layers: Layers, x: Tensor) -> Tensor:
        if has_hooks(layers) or has_own_forward(layers):
            return layers(x)
        for name in layers.names:  # what traces the model knows its layers by these names
            x = self._modules[name](x)  # type: ignore[misc]
        return x

    def _calls_its_own(self, method: str) -> bool:
        """Whether neither a subclass nor this instance has another."""
        return method not in self.__dict__ and getattr(type(self), method) is _DEFINED[method]

    def _replicate_for_data_parallel(self) -> Self:
        replica = super()._replicate_for_data_parallel()
        replica._encoder_decoder = tuple(
            part.of(replica._modules) for part in self._encoder_decoder
        )
        return cast(Self, replica)


# As they were defined: others may be put in their places later.
_DEFINED = {"encode": EncoderDecoder.encode, "decode": EncoderDecoder.decode}


def example_of(model: nn.Module) -> Tensor:
    """An empty tensor of the dtype and on the device that a model's parameters have."""
    for parameter in model.parameters():
        return torch.empty(0, dtype=parameter.dtype, device=parameter.device)
    return torch.empty(0, dtype=torch.float32, device="cpu")


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
    return [checks.check_integer(size, name, 2**31, low=1) for name, size in named.items()]


def named_layers(layers: Sequence[int]) -> dict[str, int]:
    """Each size by the name that an error gives it."""
    if isinstance(layers, (str, bytes, Tensor)) or not isinstance(layers, Iterable):
        raise TypeError(f"layers is a {type(layers).__name__}; it takes a sequence of sizes")
    return {f"layers[{number}]": size for number, size in enumerate(layers)}
