"""Every way that torch has of looking on: the same numbers, the right FLOPs, the op's name."""

import copy
import warnings

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import aefast.functional as F
from aefast import backend, ops, selftest, use_backend
from aefast.nn import (
    Autoencoder,
    ContractiveAutoencoder,
    JumpReLUSparseAutoencoder,
    LossModule,
    TopKSparseAutoencoder,
)

WEIGHT, BIAS = torch.linspace(-1, 1, 20).reshape(5, 4), torch.linspace(-0.5, 0.5, 5)
LOG_VAR = torch.linspace(-1, 1, 4)
KERNELS = [
    name for name in ("cpp", "numba") if backend.unavailable(name, torch.device("cpu")) is None
]

# Of data [B, 4] in [0, 1].
OPS = {
    "corrupt": lambda x: F.corrupt(x, "salt_and_pepper", 0.4, seed=1),
    "linear_act": lambda x: F.linear_act(x, WEIGHT, BIAS, "gelu"),
    "mlp": lambda x: F.mlp(x, [WEIGHT], [BIAS], ["tanh"]),
    "autoencode": lambda x: F.autoencode(x, WEIGHT, BIAS),
    "reconstruction_loss": lambda x: F.reconstruction_loss(
        x, WEIGHT, BIAS, corruption="masking", corruption_level=0.4, contraction=0.1, seed=1
    ),
    "contractive_penalty": lambda x: F.contractive_penalty(x, WEIGHT, BIAS),
    "contractive_penalty of two layers": lambda x: F.contractive_penalty(
        x,
        [WEIGHT, WEIGHT[:, :5].t() @ WEIGHT[:, :5].new_ones(5, 5)],
        None,
        hessian_noise=0.1,
        seed=1,
    ),
    "jacobian": lambda x: F.jacobian(x, WEIGHT, BIAS),
    "gibbs": lambda x: F.gibbs(x, WEIGHT, None, BIAS, k=2, return_probs=True, seed=1),
    "gibbs of gaussian units": lambda x: F.gibbs(
        x, WEIGHT, None, BIAS, visible_kind="gaussian", log_var=LOG_VAR, seed=1
    )[:2],
    "contrastive_divergence": lambda x: F.contrastive_divergence(x, WEIGHT, None, BIAS, seed=1),
    "free_energy": lambda x: F.free_energy(x, WEIGHT, None, BIAS),
    "reparameterize": lambda x: F.reparameterize(x, x, seed=1),
    "gaussian_kl": lambda x: F.gaussian_kl(x, x),
    "kl_sparsity": lambda x: F.kl_sparsity(x, 0.1),
    "l1_sparsity": lambda x: F.l1_sparsity(x),
    "soft_threshold": lambda x: F.soft_threshold(x, 0.3),
    "sparse_encode": lambda x: F.sparse_encode(x, WEIGHT, 0.1, steps=20),
    "topk_encode": lambda x: F.topk_encode(x, WEIGHT, BIAS, 2),
    "batch_topk_encode": lambda x: F.batch_topk_encode(x, WEIGHT, BIAS, 2),
    "jumprelu_encode": lambda x: F.jumprelu_encode(x, WEIGHT, BIAS, BIAS.abs(), 0.5),
    "gated_encode": lambda x: F.gated_encode(x, WEIGHT, BIAS, BIAS.exp(), BIAS),
    "sparse_decode": lambda x: F.sparse_decode(x[:, :2], torch.ones_like(x[:, :2]).long(), WEIGHT),
    "sparse_reconstruction_loss": lambda x: F.sparse_reconstruction_loss(
        x[:, :2], torch.ones_like(x[:, :2]).long(), WEIGHT, None, x
    ),
}


@pytest.fixture(params=OPS)
def op(request):
    return OPS[request.param]


def data(rows):
    return torch.linspace(0, 1, 4 * rows).reshape(rows, 4)


def check_same(actual, expected):
    if isinstance(expected, torch.Tensor):
        actual, expected = (actual,), (expected,)
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("differentiated", [False, True])
def test_a_trace_of_torch_jit_gives_other_rows_their_own_numbers(op, differentiated):
    with torch.set_grad_enabled(differentiated):
        traced = torch.jit.trace(op, data(6).requires_grad_(differentiated), check_trace=False)
        for rows in (6, 3):
            check_same(traced(data(rows)), op(data(rows)))


@pytest.mark.parametrize("pre_dispatch", [False, True])
def test_make_fx_gives_a_graph_of_the_same_numbers(op, pre_dispatch):
    graph = make_fx(op, pre_dispatch=pre_dispatch)(data(6))
    check_same(graph(1 - data(6)), op(1 - data(6)))


def test_a_symbolic_trace_calls_the_op_by_its_name(op):
    class Model(torch.nn.Module):
        def forward(self, x):
            return op(x)

    graph = torch.fx.symbolic_trace(Model())
    names = [node.target.__module__ for node in graph.graph.nodes if node.op == "call_function"]
    assert "aefast.functional" in names
    check_same(graph(data(6)), op(data(6)))


def test_a_symbolic_trace_that_needs_shapes_says_what_traces_with_them():
    with pytest.raises(TypeError, match=r"^x is a Proxy of torch.fx.symbolic_trace.*torch.export"):
        torch.fx.symbolic_trace(TopKSparseAutoencoder(4, 8, 2))
    with pytest.raises(TypeError, match=r"^x is a Proxy of torch.fx.symbolic_trace.*torch.export"):
        torch.fx.symbolic_trace(Autoencoder(4, 3, code_dropout=0.5))
    with pytest.raises(TypeError, match=r"^generator is a Proxy of torch.fx.symbolic_trace"):
        torch.fx.symbolic_trace(LossModule(Autoencoder(4, 3)))


def test_a_function_mode_sees_the_op(op):
    modules = []

    class Mode(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            modules.append(getattr(function, "__module__", None))
            return function(*args, **(kwargs or {}))

    expected = op(data(6))
    with Mode():
        check_same(op(data(6)), expected)
    assert "aefast.functional" in modules


class Watch(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


def second_derivative(op):
    x = (0.05 + 0.9 * data(6)).requires_grad_()
    outputs = op(x)
    outputs = [outputs] if isinstance(outputs, torch.Tensor) else outputs
    total = sum(o.square().sum() for o in outputs if o is not None)
    if not total.requires_grad:
        return []
    options = {"create_graph": True, "materialize_grads": True}
    (first,) = torch.autograd.grad(total, x, **options)
    second = torch.autograd.grad(first.pow(3).sum(), x, **options) if first.requires_grad else ()
    return [first, *second]


def test_a_dispatch_mode_sees_second_derivatives_right(op):
    with Watch():
        actual = second_derivative(op)
    expected = second_derivative(op)
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def check_a_gradient_after_its_transform(total, value):
    leaf = value.clone().requires_grad_()
    loss = total(leaf)
    if not loss.requires_grad:
        return
    (expected,) = torch.autograd.grad(loss, leaf, materialize_grads=True)
    for mode in (True, False):
        _, gradient = torch.func.vjp(total, value)
        with torch.set_grad_enabled(mode):
            (actual,) = gradient(torch.ones((), dtype=loss.dtype))
        torch.testing.assert_close(actual.to(expected.dtype), expected)
    actual = torch.func.jacrev(total)(value)
    torch.testing.assert_close(actual.to(expected.dtype), expected)


def test_a_gradient_that_is_taken_after_its_transform_has_ended(op):
    """As torch.func.vjp's is: what was saved is no tensor of the transform any more."""

    def total(x):
        outputs = op(x)
        outputs = [outputs] if isinstance(outputs, torch.Tensor) else outputs
        return sum(o.square().sum() for o in outputs if o is not None)

    check_a_gradient_after_its_transform(total, 0.05 + 0.9 * data(6))


@pytest.mark.parametrize("options", [{}, {"hessian_noise": 0.1, "seed": 1}])
@pytest.mark.parametrize("deep", [False, True])
def test_a_penaltys_gradient_after_its_transform_is_of_the_weights(options, deep):
    def total(weight):
        weights = [weight, weight[:3, :3].repeat(1, 2)[:, :5]] if deep else [weight]
        return F.contractive_penalty(data(6), weights, None, **options).sum()

    check_a_gradient_after_its_transform(total, WEIGHT)


def test_a_pruned_contractive_loss_in_a_dispatch_mode_is_that_of_its_calls():
    model, x = ContractiveAutoencoder(4, 3, contraction=0.1), data(6)
    torch.nn.utils.prune.l1_unstructured(model.encoder[0], "weight", 0.5)
    expected = torch.autograd.grad(model.loss(x), list(model.parameters()))
    with Watch():
        actual = torch.autograd.grad(model.loss(x), list(model.parameters()))
    torch.testing.assert_close(actual, expected)


class Image(torch.Tensor):
    """Of no functions of its own: torch makes what comes out an Image, too."""


def test_of_a_subclass_the_results_are_of_it(op):
    def tensors(results):
        return (
            [results]
            if isinstance(results, torch.Tensor)
            else [r for r in results if r is not None]
        )

    actual, expected = op(data(6).as_subclass(Image)), op(data(6))
    assert type(actual) is (Image if isinstance(expected, torch.Tensor) else type(expected))
    for a, b in zip(tensors(actual), tensors(expected), strict=True):
        assert type(a) is Image
        torch.testing.assert_close(a.as_subclass(torch.Tensor), b)


def flops(op):
    x = data(6).requires_grad_()
    with FlopCounterMode(display=False) as counter:
        outputs = op(x)
        outputs = [outputs] if isinstance(outputs, torch.Tensor) else outputs
        total = sum(o.sum() for o in outputs if o is not None and o.requires_grad)
        if isinstance(total, torch.Tensor):
            total.backward()
    return counter.get_total_flops()


def test_a_flop_counter_counts_the_definitions(op):
    with use_backend("eager"):
        expected = flops(op)
    assert flops(op) == expected


def test_flops_of_a_layer_forward_and_backward():
    weight = torch.rand(5, 4, requires_grad=True)
    assert flops(lambda x: F.linear_act(x, weight, None, "sigmoid")) == 3 * 2 * 6 * 4 * 5
    assert flops(lambda x: F.gibbs(x, weight, None, None, k=3)) == 3 * 2 * 2 * 6 * 4 * 5
    assert flops(lambda x: F.sparse_encode(x, WEIGHT, 0.1, steps=20)) > 0


def test_a_profiler_shows_a_range_of_the_ops_name(request, op):
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        op(data(6))
    name = request.node.callspec.params["op"].split()[0]
    assert f"aefast::{name}" in {event.key for event in profiler.key_averages()}


@pytest.mark.parametrize("strict", [True, False])
def test_a_contractive_loss_is_exported(strict):
    model = LossModule(ContractiveAutoencoder(4, 3))
    program = torch.export.export(model, (data(6),), strict=strict)
    check_same(program.module()(1 - data(6)), model(1 - data(6)))


def test_an_export_that_calls_the_encoder_refuses_its_jacobian():
    autoencoder = ContractiveAutoencoder(4, 3)
    autoencoder.encoder[0].register_forward_hook(lambda layer, inputs, output: 2 * output)
    with pytest.raises(RuntimeError, match="which no export records; it takes plain layers"):
        torch.export.export(LossModule(autoencoder), (data(6),), strict=False)


def test_an_export_under_the_eager_backend_runs_without_aefast():
    model = Autoencoder(4, 3).eval()
    with use_backend("eager"):
        program = torch.export.export(model, (data(6),))
    called = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert called
    assert not any("aefast" in name for name in called)
    check_same(program.module()(1 - data(6)), model(1 - data(6)))


@pytest.mark.filterwarnings("ignore")
def test_the_exporter_of_traces_gets_the_definition(monkeypatch):
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    with torch.no_grad():
        traced = torch.jit.trace(Autoencoder(4, 3), data(6), check_trace=False)
    kinds = {node.kind() for node in traced.inlined_graph.nodes()}
    assert kinds
    assert not any(kind.startswith("aefast") for kind in kinds)


def test_a_model_that_was_traced_is_saved_and_loaded(tmp_path):
    model = Autoencoder(4, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(model, data(6)), tmp_path / "model.pt")
        loaded = torch.jit.load(tmp_path / "model.pt")
    check_same(loaded(data(3)), model(data(3)))


@pytest.mark.parametrize("op", ops.names())
def test_what_has_no_part_in_a_functional_gradient_is_computed_as_without(op):
    """An encoder that is held constant: nothing of the call needs a gradient, and yet memory that
    is made there is the transform's own."""

    def total(case):
        outputs = case.function(*case.inputs)
        outputs = [outputs] if isinstance(outputs, torch.Tensor) else outputs
        return sum(output.double().sum() for output in outputs if output is not None)

    for name in KERNELS:
        for case in selftest.cases():
            if case.op == op and torch.float32 in case.dtypes:
                with use_backend(name):
                    slope = torch.func.grad(lambda s, case=case: s * total(case))(torch.ones(()))
                    torch.testing.assert_close(slope, total(case).float(), msg=case.name)


@pytest.mark.parametrize("aux_k", [0, 4])
def test_a_traced_loss_raises_thresholds_as_the_loss_does(aux_k):
    model = JumpReLUSparseAutoencoder(6, 12, aux_k=aux_k, dead_after=60)
    with torch.no_grad():
        model.threshold[:3] = -0.2
    x, other = torch.rand(2, 8, 6)
    jit, fx = copy.deepcopy(model), copy.deepcopy(model)
    traced = torch.jit.trace(LossModule(jit), x, check_trace=False)(other)
    symbolic = make_fx(lambda x: fx.loss(x))(x)(other)
    expected = model.loss(other)
    assert expected == traced == symbolic
    assert all((m.threshold >= 0).all() for m in (model, jit, fx))
