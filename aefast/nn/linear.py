"""A linear layer that applies its activation in the same kernel."""

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
