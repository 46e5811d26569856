"""The fused training step: every kind of plan against its definition in float64."""

import copy
import gc
import os
import pickle
import weakref
from collections import OrderedDict

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from aefast import backend, nn
from aefast.nn.step_plan import plan_of
from aefast.ops.shared import dispatch
from aefast.step import eager, kernels
from aefast.step.loss import refusal, step_loss
from tests import fresh
from tests.accuracy import (
    assert_as_accurate_as_torch,
    assert_as_accurate_as_torch_on_average,
)

pytestmark = pytest.mark.skipif(
    backend.unavailable("cpp", "cpu") is not None, reason="the C++ extension is not here"
)

NOISE = [("masking", 0.3), ("salt_and_pepper", 0.3), ("gaussian", 0.5)]
ACTIVATIONS = ["identity", "relu", "leaky_relu", "sigmoid", "tanh", "softplus", "gelu", "silu"]
MODELS = {
    "plain": lambda d, h: nn.Autoencoder(d, h),
    "tied": lambda d, h: nn.Autoencoder(d, h, tied=True),
    "bce": lambda d, h: nn.Autoencoder(d, h, output_activation="sigmoid", reconstruction="bce"),
    "deep": lambda d, h: nn.Autoencoder(layers=[d, h + 3, h], activation="tanh"),
    "deep tied": lambda d, h: nn.Autoencoder(layers=[d, h + 3, h], activation="gelu", tied=True),
    "dropout": lambda d, h: nn.Autoencoder(d, h, code_dropout=0.4),
    "contractive": lambda d, h: nn.ContractiveAutoencoder(d, h, contraction=0.1),
    "contractive tied": lambda d, h: nn.ContractiveAutoencoder(d, h, contraction=0.1, tied=True),
    "kl": lambda d, h: nn.SparseAutoencoder(d, h, sparsity_weight=0.1),
    "kl dropout": lambda d, h: nn.SparseAutoencoder(d, h, sparsity_weight=0.1, code_dropout=0.3),
    "l1": lambda d, h: nn.SparseAutoencoder(d, h, penalty="l1", activation="tanh"),
    "stochastic": lambda d, h: nn.StochasticAutoencoder(d, h),
    "stochastic gaussian": lambda d, h: nn.StochasticAutoencoder(d, h, decoder_kind="gaussian"),
    "variational": lambda d, h: nn.VariationalAutoencoder(d, h, layers=[h + 3]),
    "variational linear": lambda d, h: nn.VariationalAutoencoder(d, h, decoder_kind="gaussian"),
    "variational units": lambda d, h: nn.VariationalAutoencoder(
        d, h, decoder_kind="gaussian", variance="units"
    ),
}
MODELS |= {
    kind: lambda d, h, kind=kind, level=level: nn.DenoisingAutoencoder(
        d, h, corruption=kind, corruption_level=level
    )
    for kind, level in NOISE
}
MODELS |= {
    f"contractive {name}": lambda d, h, name=name: nn.ContractiveAutoencoder(
        d, h, contraction=0.1, activation=name, output_activation=name
    )
    for name in ACTIVATIONS
}


def planned(model):
    step = plan_of(model)
    assert not isinstance(step, str), step
    return step.plan, step.parameters


def definition(plan, parameters, x, dtype):
    """The loss and its gradients in plain PyTorch."""
    parameters = [p.detach().to(dtype).requires_grad_() for p in parameters]
    loss = eager.loss(plan, parameters, x.to(dtype), 12345, 3)
    return [loss, *torch.autograd.grad(loss, parameters)]


def kernel(plan, parameters, x):
    assert refusal(plan, parameters, x) is None
    loss = step_loss(plan, parameters, x, 12345, 3)
    return [loss, *torch.autograd.grad(loss, parameters)]


def assert_right(model, x, is_as_accurate=assert_as_accurate_as_torch):
    plan, parameters = planned(model)
    results = kernel(plan, parameters, x)
    reference = definition(plan, parameters, x, torch.float64)
    same_dtype = definition(plan, parameters, x, torch.float32)
    for actual, expected, exact in zip(results, same_dtype, reference, strict=True):
        is_as_accurate(actual, expected, exact)


@pytest.mark.parametrize("name", MODELS)
def test_loss_and_gradients_are_as_accurate_as_the_definition(name):
    assert_right(MODELS[name](20, 7), torch.rand(37, 20))


@pytest.mark.parametrize("name", ["plain", "deep tied", "variational", "kl", "contractive"])
@pytest.mark.parametrize(
    ("rows", "visible", "hidden"), [(1, 1, 1), (2, 3, 1), (3, 1, 2), (4, 2, 4)]
)
def test_sizes_of_one_to_four(name, rows, visible, hidden):
    assert_right(MODELS[name](visible, hidden), torch.rand(rows, visible))


@pytest.mark.parametrize("name", ["masking", "kl", "contractive tied", "variational units"])
def test_a_batch_of_several_panels(name, our_product):
    """Compare the mean error: the largest one is 0.7 to 1.2 times its bound, by luck."""

    def is_as_accurate(actual, expected, exact):
        assert_as_accurate_as_torch_on_average(actual, expected, exact)
        error, torchs = ((one.double() - exact).abs().max() for one in (actual, expected))
        assert error <= 3 * torchs + 2**-24 * exact.abs().max()

    assert_right(MODELS[name](200, 50), torch.rand(5000, 200), is_as_accurate)


@pytest.mark.parametrize("name", ["masking", "deep", "kl", "contractive", "variational"])
def test_the_bits_do_not_depend_on_the_threads(name, threads):
    model, x = MODELS[name](200, 90), torch.rand(300, 200)
    threads(1)
    one = kernel(*planned(model), x)
    threads(2)
    assert all(map(torch.equal, one, kernel(*planned(model), x)))


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
@pytest.mark.parametrize("name", ["masking", "variational", "deep"])
def test_every_instruction_set(name, isa, instruction_set):
    instruction_set(isa)
    assert_right(MODELS[name](20, 7), torch.rand(37, 20))


@pytest.mark.parametrize("name", MODELS)
def test_without_gradients_the_loss_is_the_same(name):
    model, x = MODELS[name](20, 7), torch.rand(37, 20)
    with_gradients = model.loss(x, seed=5)
    with torch.no_grad():
        alone = model.loss(x, seed=5)
    torch.testing.assert_close(alone, with_gradients.detach(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("training", [True, False])
def test_the_plan_is_the_loss_that_a_model_takes_op_by_op(name, training):
    model, x = MODELS[name](20, 7).double().train(training), torch.rand(37, 20).double()
    plan, parameters = planned(model)
    by_ops = model.loss(x, seed=5, row_offset=2)
    torch.testing.assert_close(by_ops, eager.loss(plan, parameters, x, 5, 2), rtol=1e-6, atol=0)


def test_an_incoming_gradient_multiplies_and_a_second_backward_makes_them_anew():
    model, x = MODELS["masking"](20, 7), torch.rand(8, 20)
    parameters = list(model.parameters())
    once = torch.autograd.grad(model.loss(x, seed=1), parameters)
    loss = 3 * model.loss(x, seed=1)
    for _ in range(2):
        thrice = torch.autograd.grad(loss, parameters, retain_graph=True)
        for a, b in zip(thrice, once, strict=True):
            torch.testing.assert_close(a, 3 * b)


@pytest.mark.parametrize("name", ["plain", "contractive", "variational", "deep tied"])
def test_the_gradient_is_differentiable(name):
    model, x = MODELS[name](6, 3), torch.rand(5, 6)

    def penalty(model, x):
        gradients = torch.autograd.grad(
            model.loss(x, seed=1), list(model.parameters()), create_graph=True
        )
        return sum(gradient.square().sum() for gradient in gradients)

    second = torch.autograd.grad(penalty(model, x), list(model.parameters()))
    exact = torch.autograd.grad(penalty(model.double(), x.double()), list(model.parameters()))
    for a, b in zip(second, exact, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-3, atol=1e-5)


def test_weights_that_are_made_of_each_other_are_differentiated_twice():
    model = MODELS["plain"](6, 6)
    results = []
    for dtype in (torch.float32, torch.float64):
        weight = model.encoder[0].weight.detach().to(dtype).requires_grad_()
        tied_weights = {"0.weight": weight, "2.weight": 2 * weight}
        x = torch.linspace(0, 1, 30, dtype=dtype).reshape(5, 6)
        loss = torch.func.functional_call(nn.LossModule(model.to(dtype)), {
            f"model.{name}": value for name, value in tied_weights.items()
        }, (x,))  # fmt: skip
        (slope,) = torch.autograd.grad(loss, weight, create_graph=True)
        results.append([slope, *torch.autograd.grad(slope.square().sum(), weight)])
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual.double(), expected, rtol=1e-4, atol=1e-6)


def test_a_frozen_parameter_gets_no_gradient():
    model = MODELS["plain"](6, 3)
    model.encoder[0].weight.requires_grad_(False)
    model.loss(torch.rand(5, 6)).backward()
    assert model.encoder[0].weight.grad is None
    assert model.decoder[0].weight.grad is not None


def test_the_gradient_is_that_of_the_parameters_that_the_loss_was_of():
    model, x = MODELS["plain"](6, 3), torch.rand(5, 6)
    expected = torch.autograd.grad(model.loss(x), list(model.parameters()))
    loss = model.loss(x)
    with torch.no_grad():
        model.encoder[0].weight.mul_(2)
    assert all(
        map(
            torch.equal,
            expected,
            torch.autograd.grad(loss, list(model.parameters()), retain_graph=True),
        )
    )
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, list(model.parameters()))


@pytest.fixture(params=["C++", "Python"])
def unchanged(request, monkeypatch):
    """What compares a model with what it was: C++, or Python as where C++ reads no tensors."""
    if request.param == "Python":
        monkeypatch.setattr(backend, "reads_tensors", lambda: False)


def change_activation(model):
    model.encoder[0].activation = "tanh"


def change_layer(model):
    model.encoder[0] = nn.LinearAct(20, 7, activation="relu")


def change_data(model):
    model.decoder[0].weight.data = torch.rand(20, 7)


def change_shape(model):
    model.encoder[0].weight.data = torch.rand(14, 20)
    model.encoder[0].bias.data = torch.rand(14)
    model.decoder[0].weight.data = torch.rand(20, 14)


def change_parameter(model):
    model.decoder[0].bias = torch.nn.Parameter(torch.rand(20))


def change_bias(model):
    model.decoder[0].bias = None


def change_level(model):
    model.corruption_level = 0.9


def change_mode(model):
    model.eval()


@pytest.mark.parametrize(
    "change",
    [
        change_activation,
        change_layer,
        change_data,
        change_shape,
        change_parameter,
        change_bias,
        change_level,
        change_mode,
    ],
)
def test_a_kept_plan_is_made_anew_where_the_model_changed(change, unchanged):
    model, x = MODELS["masking"](20, 7), torch.rand(9, 20)
    model.loss(x, seed=1)
    change(model)
    fresh = copy.deepcopy(model)
    assert fresh.__dict__.get("_kept_step") is None
    loss = model.loss(x, seed=1)
    with backend.use_backend("eager"):
        torch.testing.assert_close(loss, fresh.loss(x, seed=1))


@pytest.mark.parametrize(
    ("make", "name", "shape"),
    [
        (lambda: nn.Autoencoder(5, 3), "0.bias", (2,)),
        (lambda: nn.Autoencoder(5, 3), "0.bias", (3, 1)),
        (lambda: nn.Autoencoder(5, 3), "0.weight", (4, 5)),
        (lambda: nn.Autoencoder(5, 3), "0.weight", (15,)),
        (lambda: nn.Autoencoder(5, 3), "2.weight", (4, 3)),
        (lambda: nn.VariationalAutoencoder(5, 2), "encoder.0.weight", (3, 5)),
        (lambda: nn.VariationalAutoencoder(5, 2, decoder_kind="gaussian"), "log_var", (4,)),
        (lambda: nn.VariationalAutoencoder(5, 2, decoder_kind="gaussian"), "log_var", (0,)),
        (lambda: nn.RBM(5, 3), "hidden_bias", (2,)),
        (lambda: nn.RBM(5, 3), "visible_bias", (0,)),
        (lambda: nn.RBM(5, 3, chains=4), "chain", (4, 4)),
    ],
)
def test_parameters_that_do_not_fit_together_are_no_plan(make, name, shape):
    model = make()
    owner, _, attribute = name.rpartition(".")
    module = model.get_submodule(owner)
    replaced = torch.rand(shape)
    if attribute != "chain":
        replaced = torch.nn.Parameter(replaced)
    setattr(module, attribute, replaced)
    assert any(reason in plan_of(model) for reason in ("do not fit", "no matrix", "no vector"))
    with pytest.raises((ValueError, RuntimeError)):
        model.loss(torch.rand(6, 5))


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [
        ("masking", "corruption", "gaussian"),
        ("dropout", "code_dropout", 0.0),
        ("contractive", "contraction", 2.0),
        ("kl", "sparsity_weight", 3.0),
        ("kl", "sparsity_target", 0.5),
        ("kl", "penalty_kind", "l1"),
        ("variational", "kl_weight", 0.0),
        ("variational", "samples", 3),
        ("variational", "bound", "importance"),
        ("stochastic", "code_noise", 0.0),
    ],
)
def test_a_kept_plan_is_made_anew_where_a_setting_changed(name, setting, value):
    model, x = MODELS[name](20, 7), torch.rand(9, 20)
    before = model.loss(x, seed=1)
    setattr(model, setting, value)
    loss = model.loss(x, seed=1)
    assert loss != before
    with backend.use_backend("eager"):
        torch.testing.assert_close(loss, copy.deepcopy(model).loss(x, seed=1))


ROWS = {
    "strided": lambda x: x.repeat(1, 2)[::2, :20],
    "transposed": lambda x: x.t().contiguous().t(),
    "negated": lambda x: torch._neg_view(-x),
    "of more dimensions": lambda x: x.reshape(3, 3, 20),
    "a parameter": lambda x: torch.nn.Parameter(x),
    "in float64": lambda x: x.double(),
}


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("name", ["masking", "variational"])
def test_a_kept_plan_reads_rows_of_any_layout_as_they_are(name, rows):
    model, x = MODELS[name](20, 7), torch.rand(9, 20)
    model.loss(x, seed=1)
    model, others = (model.double() if rows(x).dtype == torch.float64 else model), rows(x)
    fresh = copy.deepcopy(model)
    loss = model.loss(others, seed=1)
    assert loss.dtype == others.dtype
    with backend.use_backend("eager"):
        torch.testing.assert_close(loss, fresh.loss(others.reshape(-1, 20), seed=1))


def test_a_kept_plan_serves_no_call_that_asks_for_something_else():
    model, x = MODELS["plain"](20, 7), torch.rand(9, 20)
    node = type(model.loss(x).grad_fn).__name__
    assert node == "StepLossBackward"
    with backend.use_backend("eager"):
        assert type(model.loss(x).grad_fn).__name__ != node
    with torch.autocast("cpu"):
        assert type(model.loss(x).grad_fn).__name__ != node
    with torch.autograd.forward_ad.dual_level():
        assert type(model.loss(x).grad_fn).__name__ != node
    rows = x.clone().requires_grad_()
    model.loss(rows).backward()
    assert rows.grad.abs().sum() > 0
    losses = torch.func.vmap(model.loss)(torch.stack([x, 2 * x]))
    torch.testing.assert_close(losses, torch.stack([model.loss(x), model.loss(2 * x)]))


class Watch(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


def in_a_dispatch_mode(ask):
    with Watch():
        ask()


def in_forward_mode(ask):
    with torch.autograd.forward_ad.dual_level():
        ask()


# Each calls ask() inside.
TRACED_OR_TRANSFORMED = {
    "a dispatch mode": in_a_dispatch_mode,
    "make_fx": lambda ask: make_fx(lambda x: (x + 1, ask())[0])(torch.ones(2)),
    "make_fx before autograd": lambda ask: make_fx(lambda x: (x + 1, ask())[0], pre_dispatch=True)(
        torch.ones(2)
    ),
    "torch.jit.trace": lambda ask: torch.jit.trace(
        lambda x: (x + 1, ask())[0], torch.ones(2), check_trace=False
    ),
    "vmap": lambda ask: torch.func.vmap(lambda x: (x + 1, ask())[0])(torch.ones(2)),
    "grad": lambda ask: torch.func.grad(lambda x: (x.sum(), ask())[0])(torch.ones(2)),
    "jvp": lambda ask: torch.func.jvp(
        lambda x: (x + 1, ask())[0], (torch.ones(2),), (torch.ones(2),)
    ),
    "forward mode": in_forward_mode,
}


@pytest.mark.filterwarnings("ignore")  # torch.jit's, that it is deprecated
@pytest.mark.parametrize("way", TRACED_OR_TRANSFORMED.values(), ids=TRACED_OR_TRANSFORMED)
def test_a_kept_plan_serves_no_call_that_is_traced_or_transformed(way):
    """What dispatch asks of a call in Python is what C++ asks of one with a kept plan."""
    model, x = MODELS["plain"](20, 7), torch.rand(9, 20)
    model.loss(x)
    kept, answers = model.__dict__["_kept_step"], []
    way(lambda: answers.append((dispatch.is_intercepted(x), kept.serves(model, x))))
    assert set(answers) == {(True, False)}
    assert not dispatch.is_intercepted(x)
    assert kept.serves(model, x)


def test_a_kept_plan_serves_no_call_whose_saved_tensors_go_through_hooks():
    """As those of torch.utils.checkpoint."""
    model, x = MODELS["plain"](20, 7), torch.rand(9, 20)
    model.loss(x)
    kept = model.__dict__["_kept_step"]
    with torch.autograd.graph.saved_tensors_hooks(lambda saved: saved, lambda saved: saved):
        assert not kept.serves(model, x)
    assert kept.serves(model, x)


def test_a_plan_that_was_kept_under_another_backend_serves_after_it():
    model, x = MODELS["plain"](20, 7), torch.rand(9, 20)
    with backend.use_backend("eager"):
        plan_of(model)
        kept = model.__dict__["_kept_step"]
        assert not kept.serves(model, x)
    assert kept.serves(model, x)


@pytest.mark.parametrize("name", ["numba", "triton", "eager"])
def test_a_plan_is_kept_under_any_backend_of_the_environment(name, monkeypatch):
    """As in a training on a GPU: only a loss on the CPU is refused."""
    monkeypatch.setattr(backend, "environment_choice", lambda: name)
    model = MODELS["plain"](20, 7)
    assert not isinstance(plan_of(model), str)
    assert not model.__dict__["_kept_step"].serves(model, torch.rand(9, 20))


def test_a_plan_of_tensors_that_the_kernels_do_not_read_is_not_kept():
    """As those on a GPU: it would be planned anew, and looked at whether it is current."""
    model, x = MODELS["plain"](20, 7), torch.rand(9, 20)
    model.loss(x)
    model.double()
    assert not isinstance(plan_of(model), str)
    assert "_kept_step" not in model.__dict__


OF_ANOTHER_TORCH = """
import ctypes
from ctypes import c_char_p, c_uint32, c_void_p, py_object
import torch

class Exchange(ctypes.Structure):
    _fields_ = [("major", c_uint32), ("minor", c_uint32), ("older", c_void_p)]

def capsule(major, older):
    make = ctypes.pythonapi.PyCapsule_New
    make.restype, make.argtypes = py_object, [c_void_p, c_char_p, c_void_p]
    exchanges.append(Exchange(major, 0, older))
    return make(ctypes.addressof(exchanges[-1]), name, None)

read = ctypes.pythonapi.PyCapsule_GetPointer
read.restype, read.argtypes = c_void_p, [py_object, c_char_p]
exchanges, name = [], b"dlpack_exchange_api"
here = read(torch.Tensor.__dlpack_c_exchange_api__, name)
CHANGE
from aefast import backend, nn
for model in nn.Autoencoder(20, 7), nn.RBM(20, 7):
    x, parameters = torch.rand(9, 20).round(), list(model.parameters())
    for _ in range(2):
        loss = model.loss(x, seed=1)
        assert type(loss.grad_fn).__name__ == "StepLossBackward"
        actual = [loss, *torch.autograd.grad(loss, parameters)]
    with backend.use_backend("eager"):
        loss = model.loss(x, seed=1)
        expected = [loss, *torch.autograd.grad(loss, parameters)]
    torch.testing.assert_close(actual, expected)
print(backend.reads_tensors())
"""


@pytest.mark.parametrize(
    ("change", "reads"),
    [
        ("del torch.Tensor.__dlpack_c_exchange_api__", False),
        ("torch.Tensor.__dlpack_c_exchange_api__ = capsule(2, None)", False),
        ("torch.Tensor.__dlpack_c_exchange_api__ = capsule(3, here)", True),
    ],
)
def test_a_torch_with_another_exchange_of_tensors_takes_steps_too(change, reads):
    """A later version may offer another table of functions; it names the older one, if it can."""
    result = fresh.run(OF_ANOTHER_TORCH.replace("CHANGE", change), dict(os.environ))
    assert (result.returncode, result.stdout) == (0, f"{reads}\n"), result.stderr


def test_an_answer_that_is_neither_yes_nor_no_is_an_error():
    nothing = ((), (), ())
    with pytest.raises(RuntimeError, match="ambiguous"):
        backend.extension().is_one(torch.ones(()), (lambda: torch.ones(2),), nothing)


@pytest.mark.parametrize("kind", ["sgd", "adam", "average"])
def test_an_update_of_no_elements_counts_its_step(kind):
    count, c = torch.zeros(()), backend.extension()
    update = c.ParameterUpdate(
        kind=getattr(c.OptimizerKind, kind), parameter=0, size=0, count=count.data_ptr()
    )
    c.update([update], [0], 2)
    assert count == 1


def test_rows_that_do_not_fit_a_kept_plan_are_refused():
    model, x = MODELS["bce"](20, 7), torch.rand(9, 20)
    model.loss(x)
    for wrong, message in [(2 * x, r"\[0, 1\]"), (x[:, :19], "shape"), (x.numpy(), "ndarray")]:
        with pytest.raises((TypeError, ValueError, RuntimeError), match=message):
            model.loss(wrong)
    assert model.loss(x[:0]).isnan()


def test_a_kept_plan_does_not_read_memory_that_was_freed():
    for of_model in (False, True):
        model, x = MODELS["plain"](20, 7), torch.rand(9, 20)
        model.loss(x)
        freed = model.encoder[0].weight if of_model else x
        freed.untyped_storage().resize_(0)
        with pytest.raises(RuntimeError, match=r"not allocated|out of bounds for storage"):
            model.loss(x)


def test_the_step_takes_tensors_that_are_its_plans():
    model, x = MODELS["plain"](20, 7), torch.rand(9, 20)
    plan, parameters = planned(model)
    kernel = kernels().kernel_plan(plan)
    for wrong in (
        parameters[1:],
        [parameters[0].t(), *parameters[1:]],
        [parameters[0][:-1], *parameters[1:]],
    ):
        with pytest.raises(ValueError, match="a plan takes"):
            kernels().step(kernel, wrong, x, 1, 0, ())
    for wrong in (x[:, 1:], x.t(), x[0], x.repeat(1, 2)[:, ::2]):
        with pytest.raises(ValueError, match=r"^x.* takes|must lie side by side"):
            kernels().step(kernel, parameters, wrong, 1, 0, ())
    for wrong in (x.double(), x.to_sparse(), x.numpy(), x.to("meta"), None):
        with pytest.raises(TypeError, match=r"torch\.Tensor"):
            kernels().step(kernel, parameters, wrong, 1, 0, ())


def test_a_gradient_is_its_parameters_own():
    """Autograd takes the memory that the kernel wrote, and no other gradient shares it."""
    model, x = MODELS["plain"](20, 7), torch.rand(9, 20)
    loss = model.loss(x)
    memory = [gradient.data_ptr() for gradient in loss.grad_fn.gradients]
    loss.backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    assert [gradient.data_ptr() for gradient in gradients] == memory
    assert all(g.untyped_storage().nbytes() == g.nbytes for g in gradients)


def test_a_hook_after_a_first_loss_is_called(unchanged):
    model, x = MODELS["plain"](20, 7), torch.rand(9, 20)
    before = model.loss(x)
    for module in (model.encoder, model.encoder[0]):
        handle = module.register_forward_hook(lambda module, inputs, output: 2 * output)
        assert model.loss(x) != before
        handle.remove()
        assert model.loss(x) == before


def replace_hooks(model):
    model.encoder[0]._forward_hooks = OrderedDict({0: lambda module, inputs, output: 2 * output})


def replace_method(model):
    model.decode = lambda code: 2 * type(model).decode(model, code)


@pytest.mark.parametrize("replace", [replace_hooks, replace_method])
def test_what_is_replaced_after_a_first_loss_is_called(replace, unchanged):
    model, x = MODELS["plain"](20, 7), torch.rand(9, 20)
    before = model.loss(x)
    replace(model)
    assert model.loss(x) != before


def test_a_class_whose_method_is_replaced_after_a_first_loss_calls_it(monkeypatch, unchanged):
    model, x = MODELS["plain"](20, 7), torch.rand(9, 20)
    before = model.loss(x)
    defined = nn.LinearAct.forward
    monkeypatch.setattr(nn.LinearAct, "forward", lambda self, x: 2 * defined(self, x))
    assert model.loss(x) != before


def test_a_model_with_a_kept_plan_is_collected():
    model = MODELS["plain"](20, 7)
    model.loss(torch.rand(9, 20))
    assert "_kept_step" in model.__dict__
    reference = weakref.ref(model)
    del model
    gc.collect()
    assert reference() is None


def test_a_model_with_a_kept_plan_is_copied_and_pickled():
    model, x = MODELS["deep tied"](20, 7), torch.rand(9, 20)
    before = model.loss(x)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), copy.copy(model)):
        assert torch.equal(other.loss(x), before)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.encoder[0].weight.mul_(2)
    assert twin.loss(x) != before
    assert torch.equal(model.loss(x), before)


def test_what_the_kernels_do_not_take_says_why():
    model = MODELS["plain"](6, 3)
    plan, parameters = planned(model)
    x = torch.rand(5, 6)
    assert "float64" in refusal(plan, parameters, x.double())
    assert "requires a gradient" in refusal(plan, parameters, x.requires_grad_())
    x = x.detach()
    with torch.autocast("cpu"):
        assert "autocast" in refusal(plan, parameters, x)
    with backend.use_backend("eager"):
        assert "eager" in refusal(plan, parameters, x)
    assert "dense matrix" in refusal(plan, parameters, torch.rand(6, 5).t()[:, :5])
    deep = nn.ContractiveAutoencoder(layers=[6, 4, 3])
    assert "deep" in plan_of(deep)
    weighted = nn.VariationalAutoencoder(6, 2, bound="importance", samples=3)
    assert "one sample" in plan_of(weighted)


@pytest.mark.parametrize("part", ["encoder", "decoder", "both"])
def test_a_parameter_of_two_layers_gets_the_sum_of_their_gradients(part):
    torch.manual_seed(0)
    model = nn.Autoencoder(layers=[4, 4, 4])
    layers = {
        "encoder": model.encoder,
        "decoder": model.decoder,
        "both": [model.encoder[0], model.decoder[1]],
    }[part]
    layers[1].weight, layers[1].bias = layers[0].weight, layers[0].bias
    x = torch.rand(9, 4)
    actual = torch.autograd.grad(model.loss(x), [*model.parameters()])
    with backend.use_backend("eager"):
        expected = torch.autograd.grad(model.loss(x), [*model.parameters()])
    torch.testing.assert_close(actual, expected)


def test_memory_that_the_kernels_cannot_read_is_left_to_others():
    model = nn.Autoencoder(6, 3)
    x = torch.rand(5, 6)
    torch.testing.assert_close(model.loss(torch._neg_view(-x)), model.loss(x))
    with pytest.raises(ValueError, match="meta"):
        model.to("meta").loss(x)


@pytest.mark.parametrize("variance", ["shared", "units"])
def test_a_gaussian_error_over_the_rows_is_finite_where_no_row_is(variance):
    """Over a variance of e^-88 an error of 3 is past float32; an eighth of it is not."""
    model = nn.VariationalAutoencoder(4, 2, decoder_kind="gaussian", variance=variance)
    with torch.no_grad():
        model.log_var.fill_(-88.0)
        model.decoder[-1].weight.mul_(0.01)
    plan, parameters = planned(model)
    x = torch.full((8, 4), 3.0)
    x[:, 1] = -2.5
    actual, expected = kernel(plan, parameters, x), definition(plan, parameters, x, torch.float64)
    for result, exact in zip(actual, expected, strict=True):
        torch.testing.assert_close(result, exact.float(), rtol=1e-4, atol=0)
    bias = model.decoder[-1].bias
    assert actual[1 + [p is bias for p in parameters].index(True)].abs().max() > 3e37


def steep():
    """An autoencoder whose decoder's weights are 1e25, and rows."""
    model = nn.Autoencoder(4, 2)
    with torch.no_grad():
        model.decoder[-1].weight.mul_(1e25)
    return model, torch.randn(8, 4)


def precise():
    """A variational one whose decoder's variances are e^-88, and rows."""
    model = nn.VariationalAutoencoder(4, 2, decoder_kind="gaussian")
    with torch.no_grad():
        model.log_var.fill_(-88.0)
    return model, 9 * torch.randn(8, 4)


def machine():
    """One with rows whose squares are past float32."""
    return nn.RBM(4, 3, visible_kind="gaussian", learn_variance=True), 1e22 * torch.randn(8, 4)


@pytest.mark.parametrize("make", [steep, precise, machine])
def test_a_small_incoming_gradient_keeps_gradients_finite(make):
    model, x = make()
    parameters = list(model.parameters())
    loss = model.loss(x, seed=0)
    actual = torch.autograd.grad(1e-20 * loss, parameters, retain_graph=True)
    assert not all(p.isfinite().all() for p in torch.autograd.grad(loss, parameters))
    with backend.use_backend("eager"):
        expected = torch.autograd.grad(1e-20 * model.loss(x, seed=0), parameters)
    for result, exact in zip(actual, expected, strict=True):
        assert exact.isfinite().all()
        largest = exact.abs().max().item()
        torch.testing.assert_close(result, exact, rtol=1e-4, atol=1e-6 * largest)
