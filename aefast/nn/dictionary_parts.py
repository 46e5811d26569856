"""The encoder and the decoder of a sparse dictionary as modules of their own."""

from typing import TYPE_CHECKING

from torch import Tensor, nn

from aefast.nn.layers import Renamed
from aefast.ops.topk.op import SparseCode

if TYPE_CHECKING:
    from aefast.nn.dictionary import SparseDictionary


class DictionaryPart(nn.Module):
    """The encoder, or the decoder, of a sparse dictionary.

    Its parameters stay the model's, under shorter names: ``encoder.weight`` is the model's
    ``encoder_weight``. So a part is no submodule of the model, and has no place in its state dict.
    The model does not call its parts: a hook of a part runs where the part itself is called.

    Args:
        model: the dictionary.
        prefix: what the names of its parameters in the model begin with, and here do not.
        others: what those of further parameters of this part begin with.
    """

    model: "SparseDictionary"

    def __init__(
        self, model: "SparseDictionary", prefix: str, others: tuple[str, ...] = ()
    ) -> None:
        super().__init__()
        self.__dict__["_parameters"] = _PartOfParameters(model._parameters, prefix, others)
        self.__dict__["model"] = model  # not registered: a part does not own its model


class _PartOfParameters(Renamed[nn.Parameter | None]):
    """Those of a model's parameters whose names begin alike. A reparametrized weight's original is
    one of them: it bears the weight's name, and ``_orig`` after it."""

    def __init__(
        self, members: dict[str, nn.Parameter | None], prefix: str, others: tuple[str, ...]
    ) -> None:
        self.members, self.prefix, self.others = members, prefix, others

    @property
    def names(self) -> dict[str, str]:
        return {
            name.removeprefix(self.prefix): name
            for name in self.members
            if name.startswith((self.prefix, *self.others))
        }


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
