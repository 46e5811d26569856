"""accelerate changes one instance alone, and restore undoes it completely."""

import copy
import inspect
import io
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import aefast
from tests.accelerate.models import VAE, Denoising, EncoderDecoder, Tied, sequential

MODELS: list[Callable[[], nn.Module]] = [
    lambda: sequential(20, 12, 20),
    EncoderDecoder,
    Denoising,
    Tied,
    VAE,
]


def walk(value: Any, numbers: dict[int, int] | None = None) -> Any:
    """The contents of an object: tensors and functions by identity, other values by content."""
    numbers = {} if numbers is None else numbers
    if id(value) in numbers:
        return "seen", numbers[id(value)]
    if isinstance(value, Tensor):
        held = value.grad, value._backward_hooks, value.requires_grad, value._version
        return type(value), id(value), value.data_ptr(), held
    if isinstance(value, str | int | float | bool | type(None)) or (
        callable(value) and not (isinstance(value, nn.Module))
    ):
        return value
    numbers[id(value)] = len(numbers)
    if isinstance(value, dict):
        return type(value), id(value), [(key, walk(one, numbers)) for key, one in value.items()]
    if isinstance(value, list | tuple | set):
        return type(value), [walk(one, numbers) for one in value]
    return type(value), id(value), walk(vars(value), numbers)


@pytest.mark.parametrize("make", MODELS)
def test_restored_it_holds_what_it_held(make: Callable[[], nn.Module]) -> None:
    model = make()
    model.register_forward_hook(lambda module, inputs, output: None)
    next(model.parameters()).register_hook(lambda grad: grad)
    before, text, classes = (
        walk(model),
        repr(model),
        [vars(type(m)).copy() for m in model.modules()],
    )
    states = copy.deepcopy(model.state_dict())
    aefast.accelerate(model)
    assert "forward" in vars(model)
    model.eval()(torch.rand(4, 20))
    model.train()(torch.rand(4, 20))
    assert [vars(type(m)) for m in model.modules()] == classes
    assert aefast.restore(model) is model
    assert walk(model) == before
    assert repr(model) == text
    for name, value in model.state_dict().items():
        assert torch.equal(value, states[name])


def tripled(x: Tensor) -> Tensor:
    return 3 * x


@pytest.mark.parametrize("name", ["model", "part"])
def test_a_forward_that_is_set_later_is_the_users(name: str) -> None:
    model = nn.Sequential(EncoderDecoder().encoder, nn.Linear(3, 20))
    aefast.accelerate(model)
    x = torch.rand(4, 20)
    model(x)
    changed = model if name == "model" else model[0]
    changed.forward = tripled
    rows = x if name == "model" else x[:, :3]
    expected = 3 * x if name == "model" else model[1](3 * rows)
    torch.testing.assert_close(model(rows), expected)
    loaded = pickle.loads(pickle.dumps(model))
    for twin in (copy.deepcopy(model), loaded, aefast.restore(model)):
        torch.testing.assert_close(twin(rows), expected)


def test_a_forward_that_is_deleted_or_wrapped_is_restored() -> None:
    model = sequential(20, 12, 20)
    aefast.accelerate(model)
    x = torch.rand(4, 20)
    expected = model(x)
    del model.forward
    torch.testing.assert_close(model(x), expected)
    aefast.restore(model)
    aefast.accelerate(model)
    forward = model.forward
    model.forward = lambda x: 2 * forward(x)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    history = aefast.fit(model, torch.rand(32, 20), optimizer, epochs=1, loss="mse", seed=0)
    assert "a forward of its own" in history.reason
    aefast.restore(model)
    torch.testing.assert_close(model(x), 2 * expected)


def test_the_walk_sees_what_is_left() -> None:
    model = EncoderDecoder()
    before = walk(model)
    model.decoder[1].left = 1
    assert walk(model) != before


@pytest.mark.parametrize("make", MODELS)
def test_all_but_one_line_is_as_it_was(make: Callable[[], nn.Module]) -> None:
    model = make()
    other = make()
    text, parameters = repr(model), list(model.named_parameters())
    keys, forward = list(model.state_dict()), type(model).forward
    aefast.accelerate(model)
    lines = repr(model).splitlines()
    unchanged = [line for line in lines if "by aefast" not in line]
    assert "\n".join(unchanged) == text
    assert list(map(id, dict(model.named_parameters()).values())) == [id(p) for _, p in parameters]
    assert list(model.state_dict()) == keys
    assert [name for name, _ in model.named_modules()] == [
        name for name, _ in other.named_modules()
    ]
    assert type(model).forward is forward
    assert "forward" not in vars(other)


@pytest.mark.parametrize("make", MODELS)
def test_copies_are_accelerated_and_pickles_are_plain(make: Callable[[], nn.Module]) -> None:
    model = make().eval()
    aefast.accelerate(model)
    x = torch.rand(8, 20)
    clone = copy.deepcopy(model)
    assert aefast.report(clone).replaced
    for actual, expected in zip(clone.parameters(), model.parameters(), strict=True):
        assert actual is not expected
    with torch.no_grad():
        next(clone.parameters()).add_(1)
    torch.manual_seed(0)
    first = model(x)
    torch.manual_seed(0)
    second = clone(x)
    first, second = (o[0] if isinstance(o, tuple) else o for o in (first, second))
    assert not torch.equal(first, second)  # each reads its own parameters
    loaded = pickle.loads(pickle.dumps(model))
    with pytest.raises(ValueError, match="is not accelerated"):
        aefast.report(loaded)
    aefast.accelerate(loaded)
    torch.manual_seed(0)
    third = loaded(x)
    torch.testing.assert_close(third[0] if isinstance(third, tuple) else third, first)


def test_a_pickle_loads_without_this_package() -> None:
    holder = nn.ModuleDict({"net": sequential(4, 3, 4)})
    aefast.accelerate(holder)
    assert aefast.report(holder).replaced
    buffer = io.BytesIO()
    torch.save(holder, buffer)
    program = (
        "import sys; sys.modules['aefast'] = None\n"
        "import io, torch\n"
        "net = torch.load(io.BytesIO(sys.stdin.buffer.read()), weights_only=False)['net']\n"
        "print(net(torch.ones(2, 4)).shape, 'by aefast' in repr(net))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input=buffer.getvalue(), capture_output=True, check=True
    )
    assert done.stdout.decode().strip() == "torch.Size([2, 4]) False"


def test_its_forward_has_its_signature_and_docstring() -> None:
    """Trainers ask which keyword arguments they may give."""
    for model in (VAE(), EncoderDecoder()):
        before = inspect.signature(model.forward), model.forward.__doc__, model.forward.__name__
        aefast.accelerate(model)
        after = inspect.signature(model.forward), model.forward.__doc__, model.forward.__name__
        assert after == before


def test_parts_are_served_when_called_on_their_own() -> None:
    model = EncoderDecoder()
    aefast.accelerate(model)
    model.encoder(torch.rand(4, 20))
    (row,) = [row for row in aefast.report(model).rows if row.name == "encoder"]
    assert row.served == 1
    model(torch.rand(4, 20))
    (row,) = [row for row in aefast.report(model).rows if row.name == "encoder"]
    assert row.served == 1
