"""Forwards that a graph would not say all of are left alone, and what base classes read is seen."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import aefast
from tests.accelerate.models import sequential


class Model(nn.Module):
    scale = 2.0

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(20, 12)
        self.second = nn.Linear(12, 20)
        self.calls = 0

    def net(self, x: Tensor) -> Tensor:
        return self.second(F.relu(self.first(x)))

    def encode(self, x: Tensor) -> Tensor:
        return x * self.scale

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.encode(x))


class Counted(Model):
    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.net(x) * self.calls


class AsksForTensors(Model):
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) if torch.is_tensor(x) else x


class AsksForAClass(Model):
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) if x.__class__ is Tensor else x


class Matches(Model):
    def forward(self, x: Tensor) -> Tensor:
        match x:
            case torch.Tensor():
                return self.net(x)
        return x


class ReadsParameters(Model):
    def forward(self, x: Tensor) -> Tensor:
        for parameter in self.first.parameters():
            if parameter.abs().max() > 0.3:
                x = x * 0.5
        return self.net(x)


class ReadsItsState(Model):
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) * self.state_dict()["first.weight"].abs().max().item()


class AsksForThePrecision(Model):
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) * (3 if torch.get_float32_matmul_precision() == "high" else 1)


class AsksForDeterminism(Model):
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) * (3 if torch.are_deterministic_algorithms_enabled() else 1)


class FillsItsDictionary(Model):
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) * self.__dict__.setdefault("found", self.calls)


class FillsADefault(Model):
    def forward(self, x: Tensor, seen: list[int] = []) -> Tensor:  # noqa: B006
        seen.append(1)
        return self.net(x) * len(seen)


class Doubling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(20, 20)
        self.factor = 2.0

    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x) * self.factor

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.net(x))


class HasAnotherCall(Model):
    def __init__(self) -> None:
        super().__init__()
        self.before = Doubling()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.before(x))


class CountedBelow(Counted):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


def hooked(model: nn.Module) -> None:
    model.register_forward_hook(lambda module, inputs, output: output * 2)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (AsksForTensors, "reads is_tensor"),
        (AsksForAClass, "reads __class__"),
        (Matches, "asks for a class"),
        (ReadsParameters, "reads parameters"),
        (ReadsItsState, "reads state_dict"),
        (AsksForThePrecision, "reads get_float32_matmul_precision"),
        (AsksForDeterminism, "reads are_deterministic_algorithms_enabled"),
        (FillsItsDictionary, "reads __dict__"),
        (FillsADefault, "has a default that is a list"),
        (HasAnotherCall, "Doubling in it has a __call__ of its own"),
        (CountedBelow, "stores calls"),
    ],
)
def test_what_a_graph_would_not_say(make: type[Model], reason: str) -> None:
    model = make()
    report = aefast.accelerate(model)
    assert not report.replaced
    assert reason in str(report)


def test_a_hook_on_the_model_hides_no_side_effect() -> None:
    model = Counted()
    hooked(model)
    assert "stores calls" in str(aefast.accelerate(model))
    for _ in range(3):
        model(torch.rand(4, 20))
    assert model.calls == 3


class BaseForward(Model):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


class BaseMethod(Model):
    def encode(self, x: Tensor) -> Tensor:
        return super().encode(x) + 1


class Inherits(Model):
    pass


def on_the_model(model: nn.Module) -> None:
    model.scale = 5.0


def on_its_class(model: nn.Module) -> None:
    type(model).scale = 5.0


def another_method(model: nn.Module) -> None:
    type(model).encode = lambda self, x: x + 1


@pytest.mark.parametrize("change", [on_the_model, on_its_class, another_method])
@pytest.mark.parametrize("base", [BaseForward, BaseMethod, Inherits])
def test_what_a_base_class_reads(base: type[Model], change: Callable[[nn.Module], None]) -> None:
    class Changed(base):  # type: ignore[misc, valid-type]
        pass

    model = Changed()
    twin = copy.deepcopy(model)
    assert aefast.accelerate(model).replaced
    x = torch.rand(8, 20)
    before = model(x)
    torch.testing.assert_close(before, twin(x))
    change(model)
    if "scale" in vars(model):
        change(twin)
    torch.testing.assert_close(model(x), twin(x))
    assert not torch.allclose(model(x), before)


def test_a_module_in_it_may_be_compiled() -> None:
    layer = nn.Linear(20, 20)
    model = nn.Sequential(torch.compile(layer, backend="eager"), *sequential(20, 12, 20))
    twin = nn.Sequential(layer, *model[1:])
    assert aefast.accelerate(model).replaced
    x = torch.rand(8, 20)
    torch.testing.assert_close(model(x), twin(x))
    block = sequential(20, 12, 20)
    block.compile(backend="eager")
    model = nn.Sequential(block, *sequential(20, 12, 20))
    twin = nn.Sequential(*copy.deepcopy(block), *model[1:])
    assert aefast.accelerate(model).replaced
    torch.testing.assert_close(model(x), twin(x))
