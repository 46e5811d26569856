"""Linear layers that apply their activation in the same kernel."""

import math
from typing import TypedDict

import torch
from torch import Tensor, nn

from aefast.functional import linear_act
from aefast.nn.plain import has_hooks, has_own_forward, known_by_its_parameters
from aefast.nn.reparametrized import renew_weights
from aefast.nn.settings import HasSettings, choice
from aefast.nn.sharded import gathered, only_gathers
from aefast.ops.linear_act.op import ACTIVATIONS
from aefast.ops.shared import checks
from aefast.torch_private import FORWARD_HOOKS

Device = torch.device | str | int | None


class FactoryOptions(TypedDict):
    """The device and dtype of a constructor's tensors."""

    device: Device
    dtype: torch.dtype | None


@known_by_its_parameters("weight", "bias")
class LinearAct(HasSettings):
    """``y = act(x Wt + b)``: :class:`torch.nn.Linear` and its activation as one op.

    Parameters, their initialization and the state dict are those of :class:`torch.nn.Linear`. It is
    no subclass: what takes a ``torch.nn.Linear`` for ``x Wt + b``, as low-rank adapters and
    quantizers do, would be wrong by the activation.

    Args:
        in_features: D, the size of each input row.
        out_features: H, the size of each output row.
        bias: whether the layer has a bias.
        activation: ``"identity"``, ``"relu"``, ``"leaky_relu"`` (slope 0.01), ``"sigmoid"``,
            ``"tanh"``, ``"softplus"``, ``"gelu"`` (the exact one) or ``"silu"``.
        device: of the parameters; None takes torch's default one.
        dtype: of the parameters; None takes torch's default one.

    Attributes:
        weight: ``[H, D]``.
        bias: ``[H]``, or None.

    Raises:
        ValueError: ``activation`` is none of these; in the forward, the last dimension of x is
            not D, or x differs from the parameters in device.
        TypeError: in the forward, x differs from the parameters in dtype.

    >>> import torch
    >>> from aefast.nn import LinearAct
    >>> layer = LinearAct(64, 32, activation="sigmoid")
    >>> layer(torch.rand(5, 64)).shape
    torch.Size([5, 32])
    >>> layer
    LinearAct(in_features=64, out_features=32, bias=True, activation='sigmoid')
    """

    weight: nn.Parameter
    bias: nn.Parameter
    activation: str = choice(ACTIVATIONS)

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        activation: str = "identity",
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.activation = activation
        weight = torch.empty(out_features, in_features, device=device, dtype=dtype)
        self.weight = nn.Parameter(weight)
        self.register_parameter(
            "bias", nn.Parameter(weight.new_empty(out_features)) if bias else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters anew, as :class:`torch.nn.Linear` does."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.in_features) if self.in_features else 0
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor, activation: str | None = None) -> Tensor:
        """``[..., D]`` to ``[..., H]``, in x's dtype; with the activation given, or the layer's."""
        return linear_act(x, self.weight, self.bias, activation or self.activation)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, activation={self.activation!r}"
        )


@known_by_its_parameters("bias")
class TiedLinearAct(HasSettings):
    """``y = act(x W + b)``: a decoder's layer with the weight of an encoder's, transposed.

    The weight stays that layer's alone, in the state dict too; the bias is this one's. The tie is
    to the layer: put another one in its place in a model, and this one keeps to the first. The
    bias has the weight's device and dtype.

    Args:
        layer: whose weight W it is, ``[H, D]``.
        activation: one of :class:`LinearAct`'s.

    Raises:
        ValueError: ``activation`` is none of these.

    >>> import torch
    >>> from aefast.nn.linear import LinearAct, TiedLinearAct
    >>> encoder = LinearAct(64, 32, activation="sigmoid")
    >>> decoder = TiedLinearAct(encoder)
    >>> decoder(encoder(torch.rand(5, 64))).shape, list(decoder.state_dict())
    (torch.Size([5, 64]), ['bias'])
    """

    activation: str = choice(ACTIVATIONS)

    def __init__(self, layer: LinearAct, activation: str = "identity") -> None:
        super().__init__()
        self.activation = activation
        self.bias = nn.Parameter(torch.zeros_like(layer.weight[0]))
        # In a tuple, which hides it from parameters() and the state dict.
        self._tied = (layer,)

    def reset_parameters(self) -> None:
        """The bias begins at 0."""
        nn.init.zeros_(self.bias)

    @property
    def weight(self) -> Tensor:
        """The other layer's, transposed: ``[D, H]``."""
        return self._tied[0].weight.t()

    def mirrors(self, layer: nn.Module) -> bool:
        """Whether it is this layer's weight, and no other's."""
        return self._tied[0] is layer

    def forward(self, x: Tensor, activation: str | None = None) -> Tensor:
        """``[..., H]`` to ``[..., D]``, in x's dtype; with the activation given, or the layer's."""
        layer = self._tied[0]
        renew_weights(layer)
        weight = gathered(layer.weight, x).t()
        return linear_act(x, weight, self.bias, activation or self.activation)

    def extra_repr(self) -> str:
        in_features, out_features = self.weight.shape[1], self.weight.shape[0]
        return f"{in_features=}, {out_features=}, activation={self.activation!r}"


def preactivation(layer: nn.Module, x: Tensor, activation: str) -> Tensor:
    """What a call of the layer gives, without the activation that it ends in.

    Raises:
        TypeError: as :func:`invert`.
    """
    if activation == "identity":
        return layer(x)
    if _ends_in_its_activation(layer):
        return layer(x, activation="identity")
    return invert(layer(x), activation)


def stack_preactivation(layers: nn.Module, x: Tensor, activation: str) -> Tensor:
    """The output, before its activation, of a module that calls its layers one after the other.

    Raises:
        TypeError: as :func:`invert`.
    """
    if has_hooks(layers) or has_own_forward(layers):
        return invert(layers(x), activation)
    *inner, last = layers.children()
    for layer in inner:
        x = layer(x)
    return preactivation(last, x, activation)


def _ends_in_its_activation(layer: nn.Module) -> bool:
    if FORWARD_HOOKS or not all(map(only_gathers, layer._forward_hooks.values())):
        return False
    return type(layer).forward in _OWN_FORWARDS and "forward" not in layer.__dict__


# As they were defined: others may be put in their places later.
_OWN_FORWARDS = (LinearAct.forward, TiedLinearAct.forward)


def invert(mean: Tensor, activation: str) -> Tensor:
    """The logits of a sigmoid's output, as far as its digits say: where hooks or an adapter have
    the last word on it, there are no others.

    Raises:
        TypeError: the activation is another that has an inverse in no digits.
        ValueError: the output is outside [0, 1].
    """
    if activation == "identity":
        return mean
    if activation != "sigmoid":
        raise TypeError(
            f"a hook or a module in a layer's place has the last word on its output; before the "
            f"activation {activation!r} it has no value"
        )
    checks.check_unit_interval(mean, "the output", "cross-entropies take", is_computed=True)
    limits = torch.finfo(mean.dtype)
    return torch.logit(mean.clamp(limits.tiny, 1 - limits.eps / 2))
