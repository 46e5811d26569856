"""The report of accelerate, its warning and its error messages."""

import re
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import aefast
from aefast import use_backend
from aefast.acceleration import public, serving, stack
from aefast.acceleration.draws import draws_as_torch
from tests.accelerate.models import VAE, Denoising, EncoderDecoder, sequential


def test_the_table() -> None:
    lines = str(aefast.accelerate(VAE())).splitlines()
    assert re.split(r"  +", lines[0]) == [
        "module",
        "operation",
        "replaced",
        "served",
        "fell back",
        "reason",
    ]
    assert any("4-16-20 relu, sigmoid" in line and "yes" in line for line in lines)
    assert any("3 x Linear alone" in line and "no" in line for line in lines)


def test_calls_and_milliseconds() -> None:
    model = Denoising()
    aefast.accelerate(model)
    for _ in range(3):
        model(torch.rand(32, 20))
    rows = {row.operation: row for row in aefast.report(model).rows}
    layers = rows["20-12-20 relu, sigmoid"]
    assert (layers.served, layers.fallbacks) == (3, 0)
    if draws_as_torch():
        assert rows["dropout 0.3"].served == 3
    assert 0 < layers.served_ms < 1000
    with use_backend("eager"), pytest.warns(UserWarning, match="ran as plain PyTorch"):
        model(torch.rand(32, 20))
    rows = {row.operation: row for row in aefast.report(model).rows}
    assert rows["20-12-20 relu, sigmoid"].fallbacks == 1
    assert "C++ kernels" in rows["20-12-20 relu, sigmoid"].reason


def test_one_warning_once() -> None:
    model = sequential(20, 12, 20)
    aefast.accelerate(model)
    model.double()
    with pytest.warns(UserWarning, match="ran as plain PyTorch: it takes float32"):
        model(torch.rand(4, 20).double())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(torch.rand(4, 20).double())
    assert aefast.report(model).rows[0].fallbacks == 2


def test_a_warning_names_the_line_that_calls() -> None:
    model = sequential(20, 12, 20)
    aefast.accelerate(model)
    with use_backend("eager"), pytest.warns(UserWarning, match="ran as plain") as warned:
        model(torch.rand(4, 20))
    assert warned[0].filename == __file__


class Scaled(nn.Module):
    """Takes a tensor, and a number that has a default."""

    def __init__(self) -> None:
        super().__init__()
        self.net = sequential(20, 12, 20)

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        return self.net(x) * scale


def test_calls_by_keyword_are_served_and_counted() -> None:
    model, x = Scaled(), torch.rand(4, 20)
    aefast.accelerate(model)
    torch.testing.assert_close(model(x=x), type(model).forward(model, x))
    assert aefast.report(model).rows[0].served == 1
    model(x=x, scale=2.0)
    model(x, 2.0)
    row = aefast.report(model).rows[0]
    assert (row.served, row.fallbacks) == (1, 2)
    assert row.reason == "the call passes arguments that have a default"
    with pytest.raises(TypeError, match="unexpected keyword argument 'y'"):
        model(y=x)
    assert aefast.report(model).rows[0].fallbacks == 2


class Adapter(nn.Module):
    """Stands in a layer's place, as LoRA's does."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base, self.down, self.up = base, nn.Linear(20, 2), nn.Linear(2, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x) * 2)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda net: net[0].register_forward_hook(lambda *_: None), "a hook stands on 0"),
        (
            lambda net: nn.utils.parametrizations.weight_norm(net[2]),
            "another's place|2 is no plain",
        ),
        (lambda net: net.__setitem__(0, Adapter(net[0])), "a module was put in another's place"),
    ],
)
def test_calls_of_a_model_that_was_changed_are_counted(change: Any, reason: str) -> None:
    model, x = sequential(20, 12, 20), torch.rand(4, 20)
    aefast.accelerate(model)
    model(x)
    change(model)
    with pytest.warns(UserWarning, match=f"ran as plain PyTorch: .*({reason})"):
        torch.testing.assert_close(model(x), type(model).forward(model, x))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(x)
    row = aefast.report(model).rows[0]
    assert (row.served, row.fallbacks) == (1, 2)
    assert re.search(reason, row.reason)


def test_tensors_of_other_classes_and_hooks_of_all_modules_are_counted() -> None:
    class Tagged(Tensor):
        pass

    model, x = sequential(20, 12, 20), torch.rand(4, 20)
    aefast.accelerate(model)
    with pytest.warns(UserWarning, match="no plain tensor"):
        model(x.as_subclass(Tagged))
    hook = nn.modules.module.register_module_forward_hook(lambda *_: None)
    model(x)
    hook.remove()
    model(x)
    row = aefast.report(model).rows[0]
    assert (row.served, row.fallbacks) == (1, 2)


def test_layers_with_hooks_stand_in_the_table_and_a_hooked_sequential_is_served() -> None:
    model = EncoderDecoder()
    codes: list[Tensor] = []
    model.encoder.register_forward_hook(lambda module, inputs, output: codes.append(output))
    model.decoder[0].register_forward_hook(lambda *_: None)
    lines = str(aefast.accelerate(model))
    assert re.search(r"decoder\.0 +Linear +no .*hooks stand on it", lines)
    model(torch.rand(4, 20))
    assert len(codes) == 1
    served = {row.name: row.served for row in aefast.report(model).replaced}
    assert served["encoder"] == 1


def test_nothing_stays_bound_if_binding_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    model = EncoderDecoder()
    before = [dict(vars(module)) for module in model.modules()]
    bind, bound = public.bind, []

    def second_raises(module: nn.Module, loss: Any) -> Any:
        if bound:
            raise KeyboardInterrupt
        bound.append(module)
        return bind(module, loss)

    monkeypatch.setattr(public, "bind", second_raises)
    with pytest.raises(KeyboardInterrupt):
        aefast.accelerate(model)
    assert [vars(module) for module in model.modules()] == before


def test_what_a_shape_tells_is_no_surprise() -> None:
    model = Denoising()
    aefast.accelerate(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(torch.rand(0, 20))
        model(torch.rand(2, 20))


def test_calls_that_do_not_pay_take_the_models_own_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph runs once for a shape, to see that nothing in it pays."""
    model = sequential(20, 12, 20)
    aefast.accelerate(model)
    few, many = torch.rand(4, 20), torch.rand(64, 20)
    monkeypatch.setattr(stack, "FEWEST_PRODUCTS", 64 * 2 * 20 * 12)
    called: list[int] = []
    call = stack.Stack.__call__
    monkeypatch.setattr(
        stack.Stack, "__call__", lambda self, x: called.append(len(x)) or call(self, x)
    )
    for x in (few, many, few, many, few):
        assert torch.allclose(model(x), type(model).forward(model, x), atol=1e-6)
    assert called == [4, 64, 64]
    row = aefast.report(model).rows[0]
    assert (row.served, row.fallbacks, row.reason) == (2, 3, stack.TOO_SMALL)


def test_a_changed_model_that_pays_is_served_from_the_next_check_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, x = sequential(20, 12, 20), torch.rand(4, 20)
    aefast.accelerate(model)
    monkeypatch.setattr(stack, "FEWEST_PRODUCTS", 4 * 2 * 20 * 300)
    monkeypatch.setattr(serving, "CALLS_TRUSTED", 4)
    model(x)
    model[0], model[2] = nn.Linear(20, 300), nn.Linear(300, 20)
    for _ in range(12):
        torch.testing.assert_close(model(x), type(model).forward(model, x))
    assert sum(row.served for row in aefast.report(model).replaced) == 9
    assert sum(row.fallbacks for row in aefast.report(model).replaced) == 1 + 3


def test_a_call_without_arguments_raises_torchs_error(monkeypatch: pytest.MonkeyPatch) -> None:
    model = sequential(20, 12, 20)
    aefast.accelerate(model)
    monkeypatch.setattr(stack, "FEWEST_PRODUCTS", 1 << 40)
    model(torch.rand(4, 20))
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        model()


def test_a_call_that_does_not_pay_says_nothing_of_other_calls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another mode, layers, precision or dtype is looked at anew."""
    model, x = Denoising(), torch.rand(32, 20)
    aefast.accelerate(model)
    monkeypatch.setattr(stack, "FEWEST_PRODUCTS", 1 << 40)
    model.eval()(x)
    monkeypatch.setattr(stack, "FEWEST_PRODUCTS", 0)
    model(x)
    assert aefast.report(model).rows[0].served == 0
    model.train()(x)
    assert aefast.report(model).rows[0].served == 1
    torch.set_float32_matmul_precision("medium")
    try:
        model.eval()(x)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert aefast.report(model).rows[0].served == 2
    with pytest.warns(UserWarning, match="ran as plain PyTorch: it takes float32"):
        model.double()(x.double())


class Effects(nn.Module):
    """A forward with one side effect."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.net = sequential(20, 12, 20)
        self.kind = kind
        self.calls = 0
        self.codes: list[Tensor] = []


class Stores(Effects):
    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.net(x)


class Appends(Effects):
    def forward(self, x: Tensor) -> Tensor:
        self.codes.append(x)
        return self.net(x)


class Prints(Effects):
    def forward(self, x: Tensor) -> Tensor:
        print("forward")
        return self.net(x)


class WithoutGradients(Effects):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = x * 2
        return self.net(x)


class Branches(Effects):
    def forward(self, x: Tensor) -> Tensor:
        if x.mean() > 0:
            x = x * 2
        return self.net(x)


class MakesTensors(Effects):
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x + torch.rand(20))


class DrawsInPython(Effects):
    def forward(self, x: Tensor) -> Tensor:
        if torch.rand(()).item() < 0.5:
            x = x * 2
        return self.net(x)


class AsksForModes(Effects):
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) if torch.is_grad_enabled() else x


class AsksForTypes(Effects):
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) if isinstance(x, Tensor) else x


class Takes(Effects):
    def forward(self, *x: Tensor) -> Tensor:
        return self.net(x[0])


LEVEL = 2.0


class ReadsTheModule(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = sequential(20, 12, 20)

    def forward(self, x: Tensor, scale: float | None = None) -> Tensor:
        if scale is not None:
            x = x * scale
        return self.net(x * LEVEL)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Stores, "stores calls"),
        (Appends, "reads codes, a list"),
        (Prints, "calls print"),
        (WithoutGradients, "has a with block|reads no_grad"),
        (Branches, "cannot trace"),
        (MakesTensors, "a tensor of its own"),
        (DrawsInPython, "a tensor of its own|cannot trace"),
        (AsksForModes, "reads is_grad_enabled"),
        (AsksForTypes, "calls isinstance"),
        (Takes, "any number of arguments"),
    ],
)
def test_a_forward_that_does_more_is_left_alone(make: Any, reason: str) -> None:
    model = make("")
    state = torch.get_rng_state()
    report = aefast.accelerate(model)
    assert torch.equal(torch.get_rng_state(), state)
    (row,) = [row for row in report.rows if not row.name]
    assert not row.is_replaced
    assert re.search(reason, row.reason), row.reason
    # The kernels serve the nn.Sequential that it calls.
    (part,) = report.replaced
    assert part.name == "net"
    model(torch.rand(8, 20))
    assert model.calls == (make is Stores)
    assert len(model.codes) == (make is Appends)
    calls = {row.name: row.served for row in aefast.report(model).replaced}
    assert calls == {"net": 1}


def test_a_global_is_read_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ReadsTheModule()
    aefast.accelerate(model)
    x = torch.rand(8, 20)
    for level in (2.0, 3.0):
        monkeypatch.setitem(globals(), "LEVEL", level)
        torch.testing.assert_close(model(x), model.net(x * level))
    torch.testing.assert_close(model(x, 0.5), model.net(x * 1.5))
    torch.testing.assert_close(model(x, scale=0.5), model.net(x * 1.5))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: aefast.accelerate(3), TypeError, "model is a int; it takes a torch.nn.Module"),
        (lambda: aefast.accelerate(nn.ReLU()), ValueError, "ReLU without a linear layer"),
        (lambda: aefast.accelerate(sequential(4, 3), loss=1), TypeError, "loss is a int"),
        (
            lambda: aefast.accelerate(sequential(4, 3), loss=nn.MSELoss),
            TypeError,
            r"loss is the class MSELoss; it takes a function or a module, such as MSELoss\(\)",
        ),
        (
            lambda: aefast.accelerate(torch.jit.trace(nn.Linear(4, 4), torch.rand(2, 4))),
            TypeError,
            "of torch.jit; it takes the module that was compiled",
        ),
        (
            lambda: aefast.accelerate(aefast.nn.Autoencoder(4, 2)),
            ValueError,
            "the layers of aefast.nn run on the kernels as they are",
        ),
        (lambda: aefast.restore(sequential(4, 3)), ValueError, "is not accelerated"),
        (lambda: aefast.report(sequential(4, 3)), ValueError, "is not accelerated"),
        (lambda: aefast.restore("model"), TypeError, "model is a str"),
    ],
)
def test_errors_are_one_line(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_twice() -> None:
    model = EncoderDecoder()
    aefast.accelerate(model)
    for one in (model, nn.Sequential(model)):
        with pytest.raises(
            ValueError, match=r"accelerated already; aefast.restore\(model\) undoes"
        ):
            aefast.accelerate(one)
    aefast.restore(model)
    aefast.accelerate(model)


def test_where_nothing_is_replaced_the_forward_stays() -> None:
    model = nn.Sequential(nn.Linear(20, 12), nn.LayerNorm(12), nn.Linear(12, 20))
    report = aefast.accelerate(model)
    assert not report.replaced
    assert "2 x Linear alone" in str(report)
    assert "forward" not in vars(model)
    aefast.restore(model)
    assert "forward" not in vars(model)
