"""Accelerated and plain models agree: outputs, gradients, learning curves, random draws."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import aefast
from tests.accelerate.models import (
    VAE,
    Denoising,
    EncoderDecoder,
    Noisy,
    Products,
    Tied,
    sequential,
)

WAYS = ("example", "in place", "square root", "half", "rsample")
MODELS: dict[str, Callable[[], nn.Module]] = {
    "shallow": lambda: sequential(20, 12, 20),
    "deep": lambda: sequential(20, 16, 8, 16, 20, last=nn.Sigmoid()),
    "every activation": lambda: nn.Sequential(
        *(nn.Linear(20, 20), nn.GELU(), nn.Linear(20, 20), nn.SiLU(), nn.Linear(20, 20)),
        *(nn.LeakyReLU(), nn.Linear(20, 20), nn.Softplus(), nn.Linear(20, 20, bias=False)),
        *(nn.Tanh(), nn.Linear(20, 20), nn.Identity(), nn.ReLU()),
    ),
    "encoder and decoder": EncoderDecoder,
    "dropout": Denoising,
    "dropout module": lambda: Denoising(is_module=True),
    "masks": Noisy,
    "gaussian": lambda: Noisy(is_gaussian=True),
    "tied": Tied,
    **{f"vae {way}": lambda way=way: VAE(way) for way in WAYS},
}


def run(model: nn.Module, x: Tensor) -> list[Tensor]:
    """The outputs and gradients of a seeded call, and what torch's generator draws next."""
    torch.manual_seed(1)
    model.zero_grad()
    x = x.clone().requires_grad_()
    outputs = model(x)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    sum((output * output).sum() for output in outputs).backward()
    gradients = [x.grad, *(parameter.grad for parameter in model.parameters())]
    return [*outputs, *gradients, torch.rand(3)]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("training", [True, False])
def test_outputs_gradients_and_draws(name: str, training: bool) -> None:
    torch.manual_seed(0)
    model = MODELS[name]().train(training)
    twin = copy.deepcopy(model)
    x = torch.rand(64, 20)
    aefast.accelerate(model)
    for actual, expected in zip(run(model, x), run(twin, x), strict=True):
        torch.testing.assert_close(actual, expected, rtol=2e-5, atol=2e-6)
    report = aefast.report(model)
    assert sum(row.served for row in report.rows) > 0
    assert sum(row.fallbacks for row in report.rows) == 0


def test_a_curve_agrees_to_rounding() -> None:
    torch.manual_seed(0)
    model = Denoising()
    twin = copy.deepcopy(model)
    x = torch.rand(64, 20)
    aefast.accelerate(model, loss=nn.MSELoss())
    curves = []
    for net in (model, twin):
        torch.manual_seed(1)
        optimizer = torch.optim.Adam(net.parameters(), 1e-2)
        losses = []
        for _ in range(30):
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(net(x), x)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        curves.append(losses)
    torch.testing.assert_close(curves[0], curves[1], rtol=1e-4, atol=0)


@pytest.mark.parametrize("shape", [(20,), (2, 3, 20), (0, 20), (1, 20), (33, 20)])
def test_any_shape(shape: tuple[int, ...]) -> None:
    model = sequential(20, 12, 20)
    twin = copy.deepcopy(model)
    aefast.accelerate(model)
    x = torch.rand(shape)
    torch.testing.assert_close(model(x), twin(x))
    columns = torch.rand(20, 33).t()
    torch.testing.assert_close(model(columns), twin(columns))
    wide = torch.rand(33, 40)[:, :20]
    torch.testing.assert_close(model(wide), twin(wide))


def test_differentiated_twice() -> None:
    model = sequential(5, 4, 5).double()
    single = sequential(5, 4, 5)
    single.load_state_dict(model.state_dict())
    aefast.accelerate(single)
    hessians = []
    for net in (single, model):
        x = torch.linspace(0, 1, 15).reshape(3, 5).to(next(net.parameters())).requires_grad_()
        (gradient,) = torch.autograd.grad(net(x).square().sum(), x, create_graph=True)
        gradient.square().sum().backward()
        hessians.append(net[0].weight.grad.double())
    torch.testing.assert_close(*hessians, rtol=1e-4, atol=1e-5)


class Functional(nn.Module):
    """Layers of which one has a bias, or the last a weight, of any shape."""

    def __init__(self, bias: Tensor, weight: Tensor) -> None:
        super().__init__()
        self.net = sequential(20, 16, 20, last=nn.Sigmoid())
        self.hidden = nn.Parameter(torch.randn(12, 20))
        self.bias, self.weight = nn.Parameter(bias), nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(F.linear(self.net(x), self.hidden, self.bias))
        return F.linear(hidden, self.weight)


SHAPES = [
    ((), (20, 12)),
    ((1,), (20, 12)),
    ((4, 12), (20, 12)),
    ((1, 12), (20, 12)),
    ((12,), (12,)),
]


@pytest.mark.parametrize(("bias", "weight"), SHAPES)
def test_biases_that_are_broadcast_and_weights_that_are_vectors(
    bias: tuple[int, ...], weight: tuple[int, ...]
) -> None:
    model = Functional(torch.randn(bias), torch.randn(weight))
    twin = copy.deepcopy(model)
    aefast.accelerate(model)
    x = torch.rand(4, 20)
    for net in (model, twin):
        net(x).square().sum().backward()
    torch.testing.assert_close(model(x), twin(x))
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_a_layer_with_one_number_for_a_bias() -> None:
    model = sequential(20, 12, 20)
    model[0].bias = nn.Parameter(torch.ones(1))
    twin = copy.deepcopy(model)
    aefast.accelerate(model)
    x = torch.rand(4, 20)
    torch.testing.assert_close(model(x), twin(x))


def test_layers_whose_widths_do_not_fit_raise() -> None:
    model = nn.Sequential(nn.Linear(20, 12), nn.ReLU(), nn.Linear(16, 20))
    aefast.accelerate(model)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        model(torch.rand(4, 20))


def test_frozen_parameters_get_no_gradient() -> None:
    model = sequential(20, 12, 20)
    model[0].weight.requires_grad_(False)
    twin = copy.deepcopy(model)
    aefast.accelerate(model)
    x = torch.rand(8, 20)
    for net in (model, twin):
        net(x).sum().backward()
    assert model[0].weight.grad is None
    torch.testing.assert_close(model[0].bias.grad, twin[0].bias.grad)


def test_an_output_changed_in_place_is_noticed() -> None:
    model = sequential(20, 12, 20, last=nn.Sigmoid())
    aefast.accelerate(model)
    output = model(torch.rand(4, 20))
    output.mul_(2)
    with pytest.raises(RuntimeError, match="inplace operation"):
        output.sum().backward()


@pytest.mark.parametrize("last", [nn.Identity(), nn.GELU(), nn.SiLU()])
def test_an_output_that_no_derivative_reads_may_be_changed_in_place(last: nn.Module) -> None:
    model = sequential(20, 12, 20, last=last)
    twin = copy.deepcopy(model)
    aefast.accelerate(model)
    x = torch.rand(4, 20)
    for net in (model, twin):
        net(x).clamp_(0, 0.5).square().sum().backward()
    for actual, expected in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(actual.grad, expected.grad)
    assert aefast.report(model).replaced[0].served == 1


def test_a_changed_attribute_is_read_anew() -> None:
    model = Denoising()
    twin = copy.deepcopy(model)
    aefast.accelerate(model)
    x = torch.rand(32, 20)
    for level in (0.3, 0.1, 0.6):
        model.p = twin.p = level
        for actual, expected in zip(run(model, x), run(twin, x), strict=True):
            torch.testing.assert_close(actual, expected, rtol=2e-5, atol=2e-6)


def test_one_that_changes_each_time_is_left_alone() -> None:
    model = Denoising()
    twin = copy.deepcopy(model)
    aefast.accelerate(model)
    x = torch.rand(32, 20)
    for step in range(20):
        model.p = twin.p = 0.9 / (step + 1)
        for actual, expected in zip(run(model, x), run(twin, x), strict=True):
            torch.testing.assert_close(actual, expected, rtol=2e-5, atol=2e-6)
    assert any("it changed between calls" in row.reason for row in aefast.report(model).rows)


def add_in_place(x: Tensor) -> None:
    x += 1


def scale_a_view_in_place(x: Tensor) -> None:
    transposed = x.T
    transposed *= 0.5


WRITES: dict[str, Callable[[Tensor], object]] = {
    "a method": lambda x: x.mul_(0.5),
    "a method of a view": lambda x: x[:, :3].neg_(),
    "a function": lambda x: torch.relu_(x),
    "a function's argument": lambda x: F.leaky_relu(x, 0.1, inplace=True),
    "a function's argument by its place": lambda x: F.dropout(x, 0.3, True, True),
    "an output": lambda x: torch.add(x, 1, out=x),
    "an operator": add_in_place,
    "an operator on a view": scale_a_view_in_place,
    "a module": nn.ReLU(inplace=True),
    "an overload": lambda x: torch.ops.aten.mul_.Tensor(x, 0.5),
    "an overload's packet": lambda x: torch.ops.aten.relu_(x),
    "an op of another library": lambda x: torch.ops.aefast_tests.halve(x),
    "a norm's limit": lambda x: F.embedding(torch.arange(3), x, max_norm=0.1),
}


@torch.library.custom_op("aefast_tests::halve", mutates_args=("x",))
def halve(x: Tensor) -> None:
    x.mul_(0.5)


AUGMENTED: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {}


def augmented(function: Callable[[nn.Module, Tensor], Tensor]) -> None:
    AUGMENTED[function.__name__] = function


@augmented
def a_number(net: nn.Module, x: Tensor) -> Tensor:
    half = rows = x.shape[0]
    half //= 2
    return net(x)[:half].sum(0) / rows


@augmented
def a_count(net: nn.Module, x: Tensor) -> Tensor:
    each = elements = x.numel()
    each /= x.shape[0]
    return net(x) * each / elements


@augmented
def a_shape(net: nn.Module, x: Tensor) -> Tensor:
    longer = shape = x.shape
    longer += (1,)
    return net(x).reshape(longer).squeeze(-1).reshape(shape)


@augmented
def a_product(net: nn.Module, x: Tensor) -> Tensor:
    product = code = net(x)
    product @= torch.ones(20, 20)
    return product + code


@pytest.mark.parametrize("name", AUGMENTED)
def test_an_augmented_assignment_leaves_what_is_not_changed_in_place(name: str) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(20, 12), nn.Tanh(), nn.Linear(12, 20))

        def forward(self, x: Tensor) -> Tensor:
            return AUGMENTED[name](self.net, x)

    torch.manual_seed(0)
    model, x = Model(), torch.rand(64, 20)
    twin = copy.deepcopy(model)
    assert aefast.accelerate(model).replaced
    torch.testing.assert_close(model(x), twin(x))


class Writing(nn.Module):
    """Writes to its input between a layer and its activation, or before the next layer; then reads
    the written memory under another name."""

    def __init__(self, write: Callable[[Tensor], object], before_activation: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(20, 12), nn.Linear(12, 20)
        self.write = write
        self.before_activation = before_activation

    def forward(self, x: Tensor) -> Tensor:
        x = x - 0.4
        same = x
        code = self.first(x)
        if self.before_activation:
            self.write(x)
            code = torch.tanh(code)
        else:
            code = torch.tanh(code)
            self.write(x)
        return self.second(code) + same


@pytest.mark.parametrize("before_activation", [True, False])
@pytest.mark.parametrize("name", WRITES)
def test_no_layer_reads_what_is_written_after_it(name: str, before_activation: bool) -> None:
    """Layers of one stack run at the place of the last one."""
    torch.manual_seed(0)
    model = Writing(WRITES[name], before_activation)
    twin = copy.deepcopy(model)
    assert not aefast.accelerate(model).replaced
    x = torch.rand(64, 20)
    with torch.no_grad():
        torch.manual_seed(1)
        expected = twin(x)
        torch.manual_seed(1)
        torch.testing.assert_close(model(x), expected)


class Doubling(nn.Module):
    """Writes in place before its layers and between them."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(20, 12), nn.ReLU(inplace=True), nn.Linear(12, 20))

    def forward(self, x: Tensor) -> Tensor:
        x = x * 1
        view = x[:, :3]
        view += 1
        return self.net(x)


def test_writes_that_no_layer_waits_over_are_served() -> None:
    model = Doubling()
    twin = copy.deepcopy(model)
    aefast.accelerate(model)
    for actual, expected in zip(run(model, x := torch.rand(64, 20)), run(twin, x), strict=True):
        torch.testing.assert_close(actual, expected, rtol=2e-5, atol=2e-6)
    assert aefast.report(model).replaced[0].served == 1


class Unpacking(nn.Module):
    """Names parts whose number hangs on the number of rows."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = sequential(20, 16, 12)
        self.output = nn.Linear(6, 20)

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = x.shape
        first, second = x.split(4)
        left, right = torch.relu(self.hidden(torch.cat([first, second]))).chunk(2, -1)
        return self.output(left + right).view(rows, columns)


@pytest.mark.parametrize(
    ("rows", "message"),
    [(8, None), (9, "too many values to unpack"), (3, r"not enough .* \(expected 2, got 1\)")],
)
def test_as_many_parts_as_names(rows: int, message: str | None) -> None:
    model = Unpacking()
    twin = copy.deepcopy(model)
    aefast.accelerate(model)
    x = torch.rand(rows, 20)
    for net in (twin, model):
        if message is None:
            torch.testing.assert_close(net(x), twin(x))
        else:
            with pytest.raises(ValueError, match=message):
                net(x)
    assert aefast.report(model).replaced


@pytest.mark.parametrize(
    ("way", "replaced"),
    [
        ("tied", ["20-12-20 relu, sigmoid"]),
        ("functions", ["20-12-20 tanh, identity"]),
        ("two layers", ["20-12-20 relu, identity"]),
        ("a write between", None),
        ("read twice", None),
        ("scaled", None),
        ("another bias", None),
    ],
)
def test_matrix_products_are_layers(way: str, replaced: list[str] | None) -> None:
    torch.manual_seed(0)
    model = Products(way)
    twin = copy.deepcopy(model)
    report = aefast.accelerate(model)
    if replaced is not None:
        assert [row.operation for row in report.replaced] == replaced
    for shape in ((7, 20), (2, 3, 20)):
        x = torch.rand(shape)
        outputs = []
        for net in (model, twin):
            rows = x.clone()
            with torch.set_grad_enabled(way != "a write between"):
                output = net(rows)
            if output.requires_grad:
                output.square().sum().backward()
            outputs.append((output.detach(), rows))
        torch.testing.assert_close(*outputs)
    for actual, expected in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(actual.grad, expected.grad, rtol=2e-5, atol=2e-5)


class Twice(nn.Module):
    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        return x + 2 * other


class NamedAsAnOperation(nn.Module):
    """A module in it has a method's name, and a hook, so that its call is a node of the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.add = Twice()
        self.add.register_forward_hook(lambda *_: None)
        self.weight = nn.Parameter(torch.randn(20, 20))
        self.bias = nn.Parameter(torch.randn(20))
        self.last = nn.Sequential(nn.Linear(20, 12), nn.Tanh(), nn.Linear(12, 20))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.add(x @ self.weight.t(), self.bias))


def test_a_module_with_an_operations_name_is_called() -> None:
    model = NamedAsAnOperation()
    twin = copy.deepcopy(model)
    assert aefast.accelerate(model).replaced
    x = torch.rand(7, 20)
    torch.testing.assert_close(model(x), twin(x))


def test_a_single_product_is_a_linear_layer() -> None:
    class Single(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(12, 20))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.weight.t()

    (row,) = aefast.accelerate(Single()).rows
    assert (row.operation, row.reason) == ("1 x Linear alone", "torch's own is as fast")


def test_fit_takes_the_steps_of_layers_that_are_products() -> None:
    model = Products("tied")
    optimizer = torch.optim.SGD([*model.hidden.parameters(), model.offset], 0.1)
    aefast.accelerate(model)
    history = aefast.fit(model, torch.rand(30, 20), optimizer, loss="mse")
    assert history.engine == "step", history.reason
