"""Some of a model's layers as a module of their own."""

from collections.abc import Iterator, MutableMapping, Sequence
from typing import Any, overload

from torch import Tensor, nn

from aefast.nn.plain import known_by_its_parameters


@known_by_its_parameters()
class Layers(nn.Module):
    """Layers of a model, one after the other: its encoder, or its decoder.

    The layers stay the model's, under the names that it knows them by; what is put in one's place,
    here or there, is in both. So this is no submodule of the model, and has no part in its state
    dict. It is indexed and iterated over as a list is.

    Args:
        modules: the model's modules by their names.
        names: of these layers, from the first to the last.

    >>> import torch
    >>> from aefast.nn import Autoencoder
    >>> model = Autoencoder(layers=[64, 32, 2])
    >>> head = torch.nn.Sequential(model.encoder.requires_grad_(False), torch.nn.Linear(2, 10))
    >>> head(torch.rand(5, 64)).shape, len(model.encoder), model.encoder[-1].out_features
    (torch.Size([5, 10]), 2, 2)
    """

    def __init__(self, modules: dict[str, Any], names: Sequence[str]) -> None:
        super().__init__()
        self.names = list(names)
        self.__dict__["_modules"] = _Renamed(modules, self.names)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., in]`` to ``[..., out]``."""
        for layer in self._modules.values():
            x = layer(x)  # type: ignore[misc]
        return x

    def of(self, modules: dict[str, Any]) -> "Layers":
        """The layers of the same names of a model's replica."""
        return Layers(modules, self.names)

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._modules.values())

    @overload
    def __getitem__(self, place: int) -> Any: ...
    @overload
    def __getitem__(self, place: slice) -> list[Any]: ...
    def __getitem__(self, place: int | slice) -> Any:
        return list(self)[place]

    def __setitem__(self, place: int, layer: nn.Module) -> None:
        setattr(self, str(range(len(self))[place]), layer)


class _Renamed(MutableMapping[str, Any]):
    """A model's modules of some names, by their places ``"0"``, ``"1"``, ... among these."""

    def __init__(self, modules: dict[str, Any], names: Sequence[str]) -> None:
        self.modules = modules
        self.names = {str(place): name for place, name in enumerate(names)}

    def __getitem__(self, place: str) -> Any:
        return self.modules[self.names[place]]

    def __setitem__(self, place: str, module: Any) -> None:
        if place not in self.names:
            raise KeyError(f"{place!r} is no layer here; it takes one of {', '.join(self.names)}")
        self.modules[self.names[place]] = module

    def __delitem__(self, place: str) -> None:
        raise TypeError(f"layer {place!r} can't be removed; another can take its place")

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def values(self) -> list[Any]:  # type: ignore[override]
        return [self.modules[name] for name in self.names.values()]
