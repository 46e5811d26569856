"""The torch.compile backend: ``torch.compile(model, backend="aefast")``."""

import copy
import tomllib
from collections.abc import Callable
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn
from torch._subclasses import FakeTensorMode

from aefast import backend, use_backend
from aefast.acceleration import compiling
from aefast.functional import contractive_penalty, corrupt, linear_act
from aefast.nn import (
    RBM,
    Autoencoder,
    ContractiveAutoencoder,
    DenoisingAutoencoder,
    GatedSparseAutoencoder,
    JumpReLUSparseAutoencoder,
    SparseAutoencoder,
    StochasticAutoencoder,
    TopKSparseAutoencoder,
    VariationalAutoencoder,
)
from tests.accelerate.models import VAE, Denoising, EncoderDecoder, Tied

pytestmark = pytest.mark.skipif(
    backend.select(torch.device("cpu"), torch.float32) != "cpp",
    reason="the C++ kernels do not serve here",
)


@pytest.fixture(autouse=True)
def _every_size(monkeypatch: pytest.MonkeyPatch) -> None:
    from aefast.ops.shared import cpp

    torch.compiler.reset()
    monkeypatch.setattr(compiling, "FEWEST_PRODUCTS", 0)
    monkeypatch.setattr(compiling, "outpaces_vendor", lambda weight_size: True)
    monkeypatch.setattr(cpp, "level_of_ours", lambda weight_size: "highest")


def compiled(model: nn.Module) -> tuple[Callable[..., Any], list[fx.Graph]]:
    """The model compiled with the backend's graph pass, and the graphs that the pass returned."""
    graphs = []

    def passed(graph_module: fx.GraphModule, inputs: Any) -> Any:
        compiling.put_ops_in(graph_module)
        graphs.append(graph_module.graph)
        return graph_module

    return torch.compile(model, backend=passed, fullgraph=True), graphs


@pytest.mark.parametrize(
    ("make", "activations"),
    [
        (lambda: Denoising(p=0.0), ["relu", "sigmoid"]),
        (EncoderDecoder, ["relu", "relu", "identity", "relu", "relu", "tanh"]),
        (Tied, ["tanh", "identity"]),
        (VAE, ["relu", "identity", "identity", "relu", "sigmoid"]),
    ],
)
def test_layers_become_ops(make: Callable[[], nn.Module], activations: list[str]) -> None:
    model = make()
    twin = copy.deepcopy(model)
    call, graphs = compiled(model)
    x = torch.rand(8, 20)
    outputs = []
    for net in (call, twin):
        torch.manual_seed(0)
        output = net(x)
        output = output[0] if isinstance(output, tuple) else output
        output.square().sum().backward()
        outputs.append(output)
    (graph,) = graphs
    ops = [node.args[3] for node in graph.nodes if node.target is linear_act]
    assert ops == activations
    assert all(node.target not in (F.linear, F.relu, torch.sigmoid) for node in graph.nodes)
    torch.testing.assert_close(*outputs)
    for actual, expected in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(actual.grad, expected.grad, rtol=2e-5, atol=2e-6)


def test_what_does_not_pay_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def ops_of(model: nn.Module, x: torch.Tensor) -> int:
        torch.compiler.reset()
        call, graphs = compiled(model)
        call(x)
        return sum(node.target is linear_act for node in graphs[0].nodes)

    model = Denoising()
    assert ops_of(model, torch.rand(8, 20)) == 2
    with use_backend("eager"):
        assert ops_of(model, torch.rand(8, 20)) == 0
    assert ops_of(model.double(), torch.rand(8, 20).double()) == 0
    broadcast = copy.deepcopy(model).float()
    broadcast.output.bias = torch.nn.Parameter(torch.ones(1))
    assert ops_of(broadcast, torch.rand(8, 20)) == 1
    monkeypatch.setattr(compiling, "FEWEST_PRODUCTS", 8 * 20 * 12 + 1)
    assert ops_of(model.float(), torch.rand(8, 20)) == 0
    assert ops_of(model, torch.rand(9, 20)) == 2


class Split(nn.Module):
    """Puts another operation between a layer and its activation, or around the layer."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.layer = nn.Linear(20, 12)
        self.way = way

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x * 1
        if self.way == "no_grad":
            with torch.no_grad():
                code = self.layer(x)
        elif self.way == "autocast":
            with torch.autocast("cpu", dtype=torch.bfloat16):
                code = self.layer(x)
        else:
            code = self.layer(x)
            x.mul_(0.5)
        return torch.sigmoid(code).float().sum() + x.sum()


@pytest.mark.parametrize("way", ["no_grad", "autocast", "a write"])
def test_a_layer_stays_where_it_is(way: str) -> None:
    torch.manual_seed(0)
    model = Split(way)
    call, graphs = compiled(model)
    x = torch.rand(8, 20)
    with torch.set_grad_enabled(way != "a write"):
        torch.testing.assert_close(call(x), model(x), rtol=1e-5, atol=0)
        assert call(x).requires_grad == model(x).requires_grad
    (graph,) = graphs
    assert [node.args[3] for node in graph.nodes if node.target is linear_act] == ["identity"]


def test_inductor_does_the_rest() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 12), nn.Sigmoid(), nn.Linear(12, 20))
    twin = copy.deepcopy(model)
    call = torch.compile(model, backend=compiling.aefast, fullgraph=True)
    x = torch.rand(8, 20)
    for net in (call, twin):
        (net(x) * 2).square().mean().backward()
    for actual, expected in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(actual.grad, expected.grad, rtol=2e-5, atol=2e-6)
    with torch.no_grad():
        torch.testing.assert_close(call(x), twin(x))


# What torch does between Dynamo and a compiler, where numbers become tensors or constants.
AOT_EAGER = torch._dynamo.lookup_backend("aot_eager")


class Annealed(nn.Module):
    """Noise whose level is an attribute: as plain PyTorch writes it, by our op, or in our model."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.level = 0.3
        kind = "gaussian" if way == "our gaussian loss" else "masking"
        self.net = DenoisingAutoencoder(20, 12, corruption=kind)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.way in ("our loss", "our gaussian loss"):
            return self.net.loss(x)
        if self.way == "our model":
            return self.net(x)
        if self.way == "plain gaussian":
            x = x + self.level * torch.randn_like(x)
        elif self.way == "plain masking":
            x = x * (torch.rand_like(x) > self.level)
        elif self.way == "dropout":
            x = corrupt(x, "masking", self.level) / (1 - self.level)
        else:
            x = corrupt(x, "salt_and_pepper", self.level)
        return self.net.decode(self.net.encode(x))


@pytest.mark.parametrize(
    "way",
    [
        *("plain gaussian", "plain masking", "op", "dropout", "our model", "our loss"),
        "our gaussian loss",
    ],
)
def test_annealing_a_level_compiles_nothing_anew(way: str) -> None:
    """But for the second level, from which on torch.compile takes the number for an input."""
    model, compilations = Annealed(way), []
    x = torch.rand(8, 20)

    by_inductor = way in ("plain gaussian", "our loss")
    compiler = compiling.aefast if by_inductor else AOT_EAGER

    def counting(graph_module: fx.GraphModule, inputs: Any) -> Any:
        compilations.append(graph_module)
        return compiler(graph_module, inputs)

    call = torch.compile(model, backend=counting, fullgraph=True)
    levels = (0.3, 0.25, 0.2, 0.1, 0.0)
    for level in levels:
        model.level = model.net.corruption_level = level
        output = call(x)
        output.sum().backward()
    assert len(compilations) <= 2
    model.eval()
    with torch.no_grad():
        expected = model.net.loss(x) if "loss" in way else model.net(x)
    torch.testing.assert_close(output.detach(), expected)  # of level 0, not of an earlier one


class Smooth(nn.Module):
    """A penalty of the second order, CAE+H, on a code of our layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(20, 12)
        self.noise = self.weight = 0.3

    def loss(self, x: torch.Tensor) -> torch.Tensor:
        weight, bias = self.layer.weight, self.layer.bias
        noise = {"hessian_noise": self.noise, "hessian_weight": self.weight}
        penalty = contractive_penalty(x, weight, bias, **noise, seed=3)
        return penalty.mean()


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: Autoencoder(20, 12, code_dropout=0.3), "code_dropout"),
        (lambda: DenoisingAutoencoder(20, 12, code_dropout=0.3), "code_dropout"),
        (lambda: ContractiveAutoencoder(20, 12), "contraction"),
        (lambda: SparseAutoencoder(20, 12), "sparsity_weight"),
        (lambda: StochasticAutoencoder(20, 12), "code_noise"),
        (lambda: VariationalAutoencoder(20, 4), "kl_weight"),
        (lambda: JumpReLUSparseAutoencoder(20, 40), "sparsity_weight"),
        (lambda: GatedSparseAutoencoder(20, 40), "sparsity_weight"),
        (lambda: SparseAutoencoder(20, 12), "sparsity_target"),
        (lambda: TopKSparseAutoencoder(20, 40, 4, aux_k=4, dead_after=1), "aux_weight"),
        (Smooth, "noise"),
        (Smooth, "weight"),
    ],
)
def test_annealing_a_penalty_compiles_nothing_anew(make: Callable[[], Any], name: str) -> None:
    torch.manual_seed(0)
    model, compilations = make(), []
    x = torch.rand(8, 20)

    def counting(graph_module: fx.GraphModule, inputs: Any) -> Any:
        compilations.append(graph_module)
        return AOT_EAGER(graph_module, inputs)

    call = torch.compile(model.loss, backend=counting, fullgraph=True)
    for value in (0.3, 0.25, 0.2, 0.1):
        setattr(model, name, value)
        results = []
        for loss in (call, model.loss):
            torch.manual_seed(1)
            model.zero_grad()
            result = loss(x)
            result.backward()
            results.append([result.detach(), *(p.grad for p in model.parameters())])
        torch.testing.assert_close(*results)
    assert len(compilations) <= 2


def test_seeds_are_inputs_of_the_graph() -> None:
    compilations = []

    def counting(graph_module: fx.GraphModule, inputs: Any) -> Any:
        compilations.append(graph_module)
        return AOT_EAGER(graph_module, inputs)

    def noised(x: torch.Tensor, seed: int) -> torch.Tensor:
        return corrupt(x, "masking", 0.3, seed=seed)

    call = torch.compile(noised, backend=counting, fullgraph=True)
    x = torch.rand(8, 20)
    for seed in range(3, 8):
        assert torch.equal(call(x, seed), noised(x, seed))
    assert len(compilations) <= 2


@pytest.mark.parametrize(
    "make",
    [
        lambda: DenoisingAutoencoder(20, 12),
        lambda: Autoencoder(20, 12, code_dropout=0.3),
        lambda: ContractiveAutoencoder(20, 12),
        lambda: VariationalAutoencoder(20, 4),
        lambda: RBM(20, 12),
    ],
)
@pytest.mark.parametrize("seed", [None, 3])
def test_a_graph_for_a_gpu_holds_no_tensor_of_the_hosts(
    make: Callable[[], Any], seed: int | None
) -> None:
    """So that reduce-overhead makes a CUDA graph of it. A forward pass of tensors without memory
    needs no GPU."""
    model, graphs = make(), []

    def kept(graph_module: fx.GraphModule, inputs: Any) -> Any:
        graphs.append(graph_module.graph)
        return graph_module.forward

    with FakeTensorMode(allow_non_fake_inputs=True):
        for module in model.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                on_gpu = torch.empty(parameter.shape, device="cuda")
                module._parameters[name] = nn.Parameter(on_gpu, requires_grad=False)
            for name, buffer in list(module.named_buffers(recurse=False)):
                module._buffers[name] = torch.empty(buffer.shape, device="cuda")
        loss = torch.compile(model.loss, backend=kept, fullgraph=True)
        loss(torch.empty(8, 20, device="cuda"), seed=seed)
    values = [node.meta.get("example_value") for graph in graphs for node in graph.nodes]
    devices = [value.device.type for value in values if isinstance(value, torch.Tensor)]
    assert len(devices) > 4
    assert set(devices) == {"cuda"}


def test_modes_and_options_are_inductors(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import compile_fx

    patches = []

    def compiled_by_inductor(graph_module: fx.GraphModule, inputs: Any, **settings: Any) -> Any:
        patches.append(settings["config_patches"])
        return graph_module.forward

    monkeypatch.setattr(compile_fx, "compile_fx", compiled_by_inductor)
    layer = nn.Linear(20, 12)
    for settings in (
        {"mode": "reduce-overhead"},
        {"mode": "max-autotune"},
        {"options": {"max-autotune": True}},
        {},
    ):
        torch.compiler.reset()
        torch.compile(layer, backend=compiling.aefast, **settings)(torch.rand(8, 20))
    assert patches[0] == {"triton.cudagraphs": True}
    assert patches[1]["max_autotune"]
    assert patches[2:] == [{"max_autotune": True}, {}]
    torch.compiler.reset()
    with pytest.raises(Exception, match="Unrecognized mode=quick"):
        torch.compile(layer, backend=compiling.aefast, mode="quick")(torch.rand(8, 20))


def test_it_is_found_by_its_name() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    points = project["project"]["entry-points"]["torch_dynamo_backends"]
    module, name = points["aefast"].split(":")
    assert getattr(import_module(module), name) is compiling.aefast
    installed = metadata.entry_points(group="torch_dynamo_backends", name="aefast")
    if installed:
        assert "aefast" in torch._dynamo.list_backends()
