"""A model that is changed after accelerate computes what its changed code does."""

import copy
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import aefast
from tests.accelerate.models import VAE, Denoising, sequential


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = 2.0
        self.fc = nn.Linear(20, 20)

    def shift(self, x: Tensor) -> Tensor:
        return x + 1

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.fc(x))


class Nested(nn.Module):
    """Reads an attribute of another module, and calls its method."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Block()
        self.slope = nn.LeakyReLU()
        self.dropout = nn.Dropout(0.3)
        self.output = nn.Linear(20, 20)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(self.block.shift(self.block(x) * self.block.scale))
        return torch.tanh(self.output(self.slope(self.block.fc(x))))


def other_scale(model: nn.Module) -> None:
    model.block.scale = 5.0


def other_rate(model: nn.Module) -> None:
    model.dropout.p = 0.8


def other_slope(model: nn.Module) -> None:
    model.slope.negative_slope = 0.5


def other_method(model: nn.Module) -> None:
    model.block.shift = lambda x: x - 1


def other_layer(model: nn.Module) -> None:
    torch.manual_seed(3)
    model.block.fc = nn.Linear(20, 20)


def other_modes(model: nn.Module) -> None:
    model.dropout.eval()


@pytest.mark.parametrize(
    "change", [other_scale, other_rate, other_slope, other_method, other_layer, other_modes]
)
def test_what_the_code_reads(change: Callable[[nn.Module], None]) -> None:
    model = Nested()
    twin = copy.deepcopy(model)
    aefast.accelerate(model)
    x = torch.rand(32, 20)
    outputs = []
    for _ in range(2):
        for net in (model, twin):
            torch.manual_seed(0)
            outputs.append(net(x))
        change(model)
        change(twin)
    torch.testing.assert_close(outputs[0], outputs[1])
    torch.testing.assert_close(outputs[2], outputs[3])
    assert not torch.allclose(outputs[1], outputs[3])
    assert sum(row.fallbacks for row in aefast.report(model).rows) == 0


class Incomplete(nn.Module):
    """Reads what may be there, a parameter and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.net = sequential(20, 12, 20)
        self.net[0].bias = None
        self.scale = None
        self.register_buffer("shift", None)

    def forward(self, x: Tensor) -> Tensor:
        x = self.net(x)
        x = x if self.scale is None else x * self.scale
        return x if self.shift is None else x + self.shift


def first_bias(model: nn.Module) -> None:
    model.net[0].bias = nn.Parameter(torch.ones(12))


def no_last_bias(model: nn.Module) -> None:
    model.net[2].bias = None


def a_parameter(model: nn.Module) -> None:
    model.scale = nn.Parameter(torch.tensor(2.0))


def a_buffer(model: nn.Module) -> None:
    model.shift = torch.tensor(2.0)


def a_made_weight(model: nn.Module) -> None:
    """As networks are given weights that others make."""
    doubled = model.net[0].weight.detach() * 2
    del model.net[0].weight
    model.net[0].weight = doubled


def a_buffer_for_a_weight(model: nn.Module) -> None:
    doubled = model.net[0].weight.detach() * 2
    del model.net[0].weight
    model.net[0].register_buffer("weight", doubled)


@pytest.mark.parametrize(
    "change",
    [first_bias, no_last_bias, a_parameter, a_buffer, a_made_weight, a_buffer_for_a_weight],
)
def test_parameters_and_buffers_that_come_and_go(change: Callable[[nn.Module], None]) -> None:
    model = Incomplete()
    twin = copy.deepcopy(model)
    aefast.accelerate(model)
    x = torch.rand(8, 20)
    before = model(x)
    change(model)
    change(twin)
    torch.testing.assert_close(model(x), twin(x))
    assert not torch.allclose(model(x), before)


@pytest.mark.parametrize(
    ("module", "name"), [(F, "linear"), (F, "relu"), (torch, "sigmoid"), (F, "dropout")]
)
def test_another_function_in_place_of_torchs(
    module: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make() -> nn.Module:
        return nn.Sequential(*sequential(20, 12, 20), nn.ReLU(), nn.Linear(20, 20), nn.Dropout(0.0))

    model = make()
    twin = copy.deepcopy(model)
    aefast.accelerate(model)
    x = torch.rand(8, 20)
    function = getattr(module, name)
    torch.testing.assert_close(model(x), twin(x))
    monkeypatch.setattr(
        module, name, lambda *arguments, **options: 2 * function(*arguments, **options)
    )
    torch.testing.assert_close(model(x), twin(x))
    assert "was replaced" in str(aefast.accelerate(make()))
    monkeypatch.undo()
    torch.testing.assert_close(model(x), twin(x))


def test_another_forward_of_its_class(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Nested()
    aefast.accelerate(model)
    x = torch.rand(4, 20)
    model(x)
    monkeypatch.setattr(Block, "shift", lambda self, x: x * 0)
    torch.testing.assert_close(
        model(x), torch.tanh(model.output(model.slope(model.block.fc(x * 0))))
    )
    monkeypatch.setattr(Nested, "forward", lambda self, x: x)
    assert torch.equal(model(x), x)


class Doubled(Denoising):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def test_a_model_of_another_class() -> None:
    model = Denoising().eval()
    twin = copy.deepcopy(model)
    aefast.accelerate(model)
    x = torch.rand(8, 20)
    torch.testing.assert_close(model(x), twin(x))
    model.__class__ = twin.__class__ = Doubled
    torch.testing.assert_close(model(x), twin(x))


class Buffered(nn.Module):
    """Reads a buffer, in one of several ways."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.net = sequential(20, 12, 20)
        self.way = way
        self.register_buffer("level", torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        if self.way == "branch":
            return self.net(x) * (3 if self.level > 1 else 1)
        if self.way == "item":
            return self.net(x) * self.level.item()
        if self.way == "float":
            return self.net(x) * float(self.level)
        if self.way == "loop":
            for _ in range(int(self.level)):
                x = self.net(x)
        return self.net(x) * self.level


@pytest.mark.parametrize("way", ["branch", "item", "float", "loop", "product"])
def test_a_buffer_is_read_at_each_call(way: str) -> None:
    model = Buffered(way)
    twin = copy.deepcopy(model)
    aefast.accelerate(model)
    x = torch.rand(8, 20)
    for level in (2.0, 0.5, 3.0):
        for net in (model, twin):
            net.level.fill_(level)
        torch.testing.assert_close(model(x), twin(x))
    assert sum(row.served for row in aefast.report(model).rows) >= 3


def test_a_forward_of_its_own_stays() -> None:
    model = sequential(20, 12, 20)
    own = model.forward = lambda x: x * 2
    report = aefast.accelerate(model)
    assert not report.replaced
    assert "this instance has a forward of its own" in str(report)
    x = torch.rand(4, 20)
    assert torch.equal(model(x), x * 2)
    aefast.restore(model)
    assert model.forward is own


def test_one_that_no_graph_says_any_more_is_not_asked_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from aefast.acceleration import serving

    model = VAE()
    aefast.accelerate(model)
    calls = []
    monkeypatch.setattr(serving, "trace", lambda module: calls.append(module) or "no")
    model.fc1.register_forward_hook(lambda module, inputs, output: output)
    for _ in range(30):
        model(torch.rand(4, 20))
    assert len(calls) <= serving.MOST_TRACES


@pytest.mark.parametrize("copied", [copy.copy, lambda model: model._replicate_for_data_parallel()])
def test_replicas_are_plain(copied: Callable[[nn.Module], nn.Module]) -> None:
    model = Denoising()
    names = set(vars(model))
    aefast.accelerate(model)
    replica = copied(model)
    assert {*vars(replica)} - {"_is_replica", "_former_parameters"} == names
    assert "by aefast" not in repr(replica)


def test_a_layer_that_is_used_twice() -> None:
    layer = nn.Linear(20, 20)
    model = nn.Sequential(layer, nn.Tanh(), layer, nn.Sigmoid())
    twin = copy.deepcopy(model)
    aefast.accelerate(model)
    x = torch.rand(8, 20)
    for net in (model, twin):
        net(x).sum().backward()
    torch.testing.assert_close(layer.weight.grad, twin[0].weight.grad)


@pytest.mark.parametrize("is_tied", [False, True])
def test_a_weight_of_two_layers_is_differentiated_twice(is_tied: bool) -> None:
    layer = nn.Linear(20, 20)
    model = Bare() if is_tied else nn.Sequential(layer, nn.Tanh(), layer, nn.Sigmoid())
    plain, exact = copy.deepcopy(model), copy.deepcopy(model).double()
    aefast.accelerate(model)
    penalties = []
    for net in (model, plain, exact):
        weight = next(net.parameters())
        x = torch.linspace(0, 1, 60).reshape(3, 20).to(weight).requires_grad_()
        inputs = x, weight
        slopes = torch.autograd.grad(net(x).square().sum(), inputs, create_graph=True)
        sum(slope.square().sum() for slope in slopes).backward()
        penalties.append([*slopes, x.grad, weight.grad])
    # The second derivative takes differences of large numbers: what counts is PyTorch's own error.
    for actual, theirs, expected in zip(*penalties, strict=True):
        error, their_error = ((one - expected).norm() for one in (actual, theirs))
        assert error < 2 * their_error + 1e-6 * expected.norm()


def test_weights_that_are_made_of_each_other_are_differentiated_twice() -> None:
    model = sequential(6, 6, 6)
    exact = copy.deepcopy(model).double()
    aefast.accelerate(model)
    penalties = []
    for net in (model, exact):
        weight = next(net.parameters()).detach().requires_grad_()
        x = torch.linspace(0, 1, 12).reshape(2, 6).to(weight)
        tied_weights = {"0.weight": weight, "2.weight": 2 * weight}
        output = torch.func.functional_call(net, tied_weights, (x * weight.sum(),))
        (slope,) = torch.autograd.grad(output.square().sum(), weight, create_graph=True)
        penalties.append([slope, *torch.autograd.grad(slope.square().sum(), weight)])
    for actual, expected in zip(*penalties, strict=True):
        torch.testing.assert_close(actual.double(), expected, rtol=1e-4, atol=1e-4)


class Bare(nn.Module):
    """Has parameters and no layers."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(12, 20))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.sigmoid(F.linear(x, self.weight)), self.weight.T)


def test_layers_that_are_no_modules() -> None:
    model = Bare()
    twin = copy.deepcopy(model)
    assert aefast.accelerate(model).replaced
    x = torch.rand(8, 20)
    for net in (model, twin):
        net(x).sum().backward()
    torch.testing.assert_close(model.weight.grad, twin.weight.grad)


def test_scripted() -> None:
    model = sequential(20, 12, 20)
    aefast.accelerate(model)
    x = torch.rand(4, 20)
    torch.testing.assert_close(torch.jit.script(model)(x), model(x))
