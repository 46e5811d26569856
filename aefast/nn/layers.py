"""Some of a model's layers as a module of their own."""

from collections.abc import Iterator, MutableMapping, Sequence
from typing import Any, TypeVar, overload

from torch import Tensor, nn

from aefast.nn.plain import known_by_its_parameters

T = TypeVar("T")


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

    def __init__(self, modules: dict[str, nn.Module | None], names: Sequence[str]) -> None:
        super().__init__()
        self.names = list(names)
        renamed = {str(index): name for index, name in enumerate(names)}
        self.__dict__["_modules"] = Renamed(modules, renamed)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., in]`` to ``[..., out]``."""
        for layer in self._modules.values():
            x = layer(x)  # type: ignore[misc]
        return x

    def of(self, modules: dict[str, nn.Module | None]) -> "Layers":
        """The layers of the same names of a model's replica."""
        return Layers(modules, self.names)

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._modules.values())

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        return list(self)[index]

    def __setitem__(self, index: int, layer: nn.Module) -> None:
        setattr(self, str(range(len(self))[index]), layer)


class Renamed(MutableMapping[str, T]):
    """A part of a model's modules, or of its parameters, under other names.

    Args:
        members: the model's, by their names there.
        names: of each member of this part by its name here.
    """

    def __init__(self, members: dict[str, T], names: dict[str, str]) -> None:
        self.members = members
        self._names = names

    @property
    def names(self) -> dict[str, str]:
        """The model's name of each member, by its name here."""
        return self._names

    def __getitem__(self, name: str) -> T:
        return self.members[self.names[name]]

    def __setitem__(self, name: str, member: T) -> None:
        if name not in self.names:
            raise KeyError(f"{name!r} is not in this part; it takes one of {', '.join(self.names)}")
        self.members[self.names[name]] = member

    def __delitem__(self, name: str) -> None:
        raise TypeError(f"{name!r} can't be removed; another can take its place")

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def values(self) -> list[T]:  # type: ignore[override]
        return [self.members[name] for name in self.names.values()]
