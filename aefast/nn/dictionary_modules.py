"""The encoder and the decoder of a sparse dictionary as modules of their own."""

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

from aefast.nn.layers import Renamed
from aefast.nn.plain import known_by_its_parameters
from aefast.ops.topk.op import SparseCode

if TYPE_CHECKING:
    from aefast.nn.dictionary import SparseDictionary


class DictionaryModule(nn.Module):
    """The encoder, or the decoder, of a sparse dictionary.

    Its parameters stay the model's, under shorter names: ``encoder.weight`` is the model's
    ``encoder_weight``. So it is no submodule of the model, and has no place in its state dict.
    The model does not call it: its hooks run where it is called itself.

    Args:
        model: the dictionary.
        prefix: what the model's names of these parameters begin with, and the names here do not.
        other_prefixes: further prefixes, which stay in the names.
    """

    model: "SparseDictionary"

    def __init__(
        self, model: "SparseDictionary", prefix: str, other_prefixes: tuple[str, ...] = ()
    ) -> None:
        super().__init__()
        self.__dict__["_parameters"] = _ParametersByPrefix(
            model._parameters, prefix, other_prefixes
        )
        self.__dict__["model"] = model  # not registered: it does not own its model


class _ParametersByPrefix(Renamed[nn.Parameter | None]):
    """The parameters of a model whose names begin with a prefix. A reparametrized weight's original
    is one of them: it bears the weight's name, and ``_orig`` after it."""

    def __init__(
        self, members: dict[str, nn.Parameter | None], prefix: str, other_prefixes: tuple[str, ...]
    ) -> None:
        self.members, self.prefix, self.other_prefixes = members, prefix, other_prefixes

    @property
    def names(self) -> dict[str, str]:
        return {
            name.removeprefix(self.prefix): name
            for name in self.members
            if name.startswith((self.prefix, *self.other_prefixes))
        }


@known_by_its_parameters("weight", "bias")
class DictionaryEncoder(DictionaryModule):
    """The encoder, from rows to codes: a call computes what the model's ``encode`` does.

    >>> import torch
    >>> from aefast.nn import TopKSparseAutoencoder
    >>> model = TopKSparseAutoencoder(64, 512, k=8)
    >>> [name for name, _ in model.encoder.requires_grad_(False).named_parameters()]
    ['weight', 'bias']
    >>> model.encoder(torch.randn(5, 64)).indices.shape
    torch.Size([5, 8])
    """

    # What the names of further parameters begin with.
    OTHER_PREFIXES: ClassVar[tuple[str, ...]] = ()

    def __init__(self, model: "SparseDictionary") -> None:
        super().__init__(model, "encoder_", self.OTHER_PREFIXES)

    def forward(self, x: Tensor) -> SparseCode | Tensor:
        """The code of x ``[..., D]``."""
        return self.model.encode(x)


@known_by_its_parameters("weight", "bias", "threshold")
class JumpReLUEncoder(DictionaryEncoder):
    """An encoder with a threshold for each latent."""

    OTHER_PREFIXES = ("threshold",)


@known_by_its_parameters("weight", "bias", "magnitude_bias", "magnitude_scale")
class GatedEncoder(DictionaryEncoder):
    """An encoder with a path for the gates and one for the magnitudes."""

    OTHER_PREFIXES = ("magnitude_",)


@known_by_its_parameters("weight", "bias")
class DictionaryDecoder(DictionaryModule):
    """The decoder, from codes to rows: a call computes what the model's ``decode`` does.

    >>> import torch
    >>> from aefast.nn import TopKSparseAutoencoder
    >>> model = TopKSparseAutoencoder(64, 512, k=8)
    >>> model.decoder(model.encode(torch.randn(5, 64))).shape
    torch.Size([5, 64])
    """

    def __init__(self, model: "SparseDictionary") -> None:
        super().__init__(model, "decoder_")

    def forward(self, code: SparseCode | tuple[Tensor, Tensor] | Tensor) -> Tensor:
        """The reconstruction ``[..., D]`` of a code."""
        return self.model.decode(code)
