"""Linear layers that apply their activation in the same kernel."""

import torch
from torch import Tensor, nn

from aefast.functional import linear_act
from aefast.ops.linear_act import ACTIVATIONS
from aefast.ops.shared import contract


class LinearAct(nn.Linear):
    """``y = act(x Wt + b)``: :class:`torch.nn.Linear` and its activation as one op.

    Parameters, their initialization and the state dict are those of :class:`torch.nn.Linear`.

    Args:
        in_features: D, the size of each input row.
        out_features: H, the size of each output row.
        bias: whether the layer has a bias.
        activation: ``"identity"``, ``"relu"``, ``"leaky_relu"`` (slope 0.01), ``"sigmoid"``,
            ``"tanh"``, ``"softplus"``, ``"gelu"`` (the exact one) or ``"silu"``.

    Attributes:
        weight: ``[H, D]``, float32 unless the module is cast.
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

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        activation: str = "identity",
    ) -> None:
        contract.check_choice(activation, "activation", ACTIVATIONS)
        super().__init__(in_features, out_features, bias)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """``[..., D]`` to ``[..., H]``, in x's dtype."""
        return linear_act(x, self.weight, self.bias, self.activation)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, activation={self.activation!r}"


class TiedLinearAct(nn.Module):
    """``y = act(x W + b)``: a decoder's layer with the weight of an encoder's, transposed.

    The weight stays that layer's alone, in the state dict too; the bias is this one's. The tie is
    to the layer: put another one in its place in a model, and this one keeps to the first.

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

    def __init__(self, layer: LinearAct, activation: str = "identity") -> None:
        contract.check_choice(activation, "activation", ACTIVATIONS)
        super().__init__()
        self.activation = activation
        self.bias = nn.Parameter(torch.zeros_like(layer.weight[0]))
        # In a tuple, which hides it from parameters() and the state dict.
        self._tied = (layer,)

    @property
    def weight(self) -> Tensor:
        """The other layer's, transposed: ``[D, H]``."""
        return self._tied[0].weight.t()

    def forward(self, x: Tensor) -> Tensor:
        """``[..., H]`` to ``[..., D]``, in x's dtype."""
        return linear_act(x, self.weight, self.bias, self.activation)

    def extra_repr(self) -> str:
        in_features, out_features = self.weight.shape[1], self.weight.shape[0]
        return f"{in_features=}, {out_features=}, activation={self.activation!r}"
