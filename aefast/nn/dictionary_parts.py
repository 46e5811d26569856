"""The encoder and the decoder of a sparse dictionary as modules of their own."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from aefast.nn.layers import Renamed
from aefast.ops.topk.op import SparseCode


class DictionaryPart(nn.Module):
    """The encoder, or the decoder, of a sparse dictionary.

    Its parameters stay the model's, under shorter names: ``encoder.weight`` is the model's
    ``encoder_weight``. So a part is no submodule of the model, and has no place in its state dict.
    The model does not call its parts: a hook of a part runs where the part itself is called.

    Args:
        model: the dictionary.
        prefix: what the part's name adds to those of its parameters: ``"encoder_"``.
        parameters: their names in the model.
    """

    model: Any

    def __init__(self, model: Any, prefix: str, parameters: Sequence[str]) -> None:
        super().__init__()
        names = {name.removeprefix(prefix): name for name in parameters}
        self.__dict__["_parameters"] = Renamed(model._parameters, names)
        self.__dict__["model"] = model  # not registered: a part does not own its model


class DictionaryEncoder(DictionaryPart):
    """From rows to codes: a call computes what the model's ``encode`` does.

    >>> import torch
    >>> from aefast.nn import TopKSparseAutoencoder
    >>> model = TopKSparseAutoencoder(64, 512, k=8)
    >>> [name for name, _ in model.encoder.requires_grad_(False).named_parameters()]
    ['weight', 'bias']
    >>> model.encoder(torch.randn(5, 64)).indices.shape
    torch.Size([5, 8])
    """

    def forward(self, x: Tensor) -> SparseCode | Tensor:
        """The code of x ``[..., D]``."""
        return self.model.encode(x)


class DictionaryDecoder(DictionaryPart):
    """From codes to rows: a call computes what the model's ``decode`` does.

    >>> import torch
    >>> from aefast.nn import TopKSparseAutoencoder
    >>> model = TopKSparseAutoencoder(64, 512, k=8)
    >>> model.decoder(model.encode(torch.randn(5, 64))).shape
    torch.Size([5, 64])
    """

    def forward(self, code: SparseCode | tuple[Tensor, Tensor] | Tensor) -> Tensor:
        """The reconstruction ``[..., D]`` of a code."""
        return self.model.decode(code)
