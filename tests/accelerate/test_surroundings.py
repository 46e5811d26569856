"""Accelerated models with wrappers, hooks and parametrizations, added before or after."""

import copy
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parametrizations, prune
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

import aefast
from tests.accelerate.models import VAE, Denoising, EncoderDecoder, Products, sequential


def same(model: nn.Module, twin: nn.Module, x: Tensor, **tolerance: float) -> None:
    """Compare the outputs and gradients of two models."""
    results = []
    for net in (model, twin):
        torch.manual_seed(0)
        net.zero_grad()
        output = net(x)
        output = output[0] if isinstance(output, tuple) else output
        output.float().square().sum().backward()
        results.append([output, *(p.grad for p in net.parameters())])
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, **(tolerance or {"rtol": 2e-5, "atol": 2e-6}))


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="aefast: a call of the accelerated")
        yield


class LowRank(nn.Module):
    """A low-rank adapter that replaces a layer."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, 2, bias=False)
        self.up = nn.Linear(2, base.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


def put_adapter(model: nn.Module) -> None:
    torch.manual_seed(5)
    model.encoder[0] = LowRank(model.encoder[0])


def put_hook(model: nn.Module) -> None:
    model.encoder[0].register_forward_hook(lambda module, inputs, output: output * 2)


def put_pre_hook(model: nn.Module) -> None:
    model.decoder[2].register_forward_pre_hook(lambda module, inputs: (inputs[0] + 1,))


def put_backward_hook(model: nn.Module) -> None:
    model.decoder[4].register_full_backward_hook(lambda module, inputs, outputs: (inputs[0] * 2,))


def put_pruning(model: nn.Module) -> None:
    prune.l1_unstructured(model.encoder[0], "weight", 0.5)


def put_parametrization(model: nn.Module) -> None:
    parametrizations.weight_norm(model.encoder[0])


def put_forward(model: nn.Module) -> None:
    layer = model.encoder[0]
    layer.forward = lambda x: nn.functional.linear(x, layer.weight * 2, layer.bias)


def put_other_activation(model: nn.Module) -> None:
    model.encoder[1] = nn.ELU()


def put_other_parameter(model: nn.Module) -> None:
    torch.manual_seed(5)
    model.encoder[0].weight = nn.Parameter(torch.randn(16, 20))


def put_dropout_rate(model: nn.Module) -> None:
    model.encoder[3] = nn.Dropout(0.2)


@pytest.mark.parametrize(
    "put",
    [
        *(put_adapter, put_hook, put_pre_hook, put_backward_hook, put_pruning, put_forward),
        *(put_parametrization, put_other_activation, put_other_parameter, put_dropout_rate),
    ],
)
@pytest.mark.parametrize("before", [True, False])
def test_what_stands_on_a_layer(put: Callable[[nn.Module], None], before: bool) -> None:
    model = EncoderDecoder()
    twin = copy.deepcopy(model)
    x = torch.rand(8, 20)
    if before:
        put(model)
    aefast.accelerate(model)
    model(x)
    if not before:
        put(model)
    put(twin)
    same(model, twin, x)
    same(model.eval(), twin.eval(), x)


def test_a_hook_on_the_model_itself_runs_around_it() -> None:
    model = EncoderDecoder()
    aefast.accelerate(model)
    outputs = []
    model.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    model(torch.rand(8, 20))
    assert len(outputs) == 1
    assert sum(row.served for row in aefast.report(model).rows) == 1


def test_global_hooks_are_called() -> None:
    model = EncoderDecoder()
    aefast.accelerate(model)
    called: list[Any] = []
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, inputs, output: called.append(type(module))
    )
    model(torch.rand(8, 20))
    handle.remove()
    assert nn.Linear in called


class Tripling(TorchFunctionMode):
    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        return 3 * result if function is nn.functional.linear else result


def test_a_function_mode_sees_the_layers() -> None:
    model = EncoderDecoder()
    twin = copy.deepcopy(model)
    aefast.accelerate(model)
    with Tripling():
        same(model, twin, torch.rand(8, 20))
    with torch.device("cpu"):  # a mode, too, which sees new tensors alone
        model(torch.rand(8, 20))
    assert aefast.report(model).replaced[0].served == 1


def test_a_parameter_that_is_a_negative_view() -> None:
    model = EncoderDecoder()
    layer = model.encoder[0]
    layer.weight = nn.Parameter(torch._neg_view(layer.weight.detach()))
    twin = copy.deepcopy(model)
    aefast.accelerate(model)
    same(model, twin, torch.rand(8, 20))


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes(dtype: torch.dtype, before: bool) -> None:
    model = EncoderDecoder()
    twin = copy.deepcopy(model).to(dtype)
    if before:
        model.to(dtype)
    aefast.accelerate(model)
    model.to(dtype)
    same(model, twin, torch.rand(8, 20, dtype=dtype), rtol=0, atol=0)
    model.float(), twin.float()
    same(model, twin, torch.rand(8, 20))
    assert sum(row.served for row in aefast.report(model).rows) > 0


@pytest.mark.parametrize(
    "make", [EncoderDecoder, lambda: Products("tied"), lambda: Products("functions")]
)
def test_autocast(make: Callable[[], nn.Module]) -> None:
    model = make()
    twin = copy.deepcopy(model)
    aefast.accelerate(model)
    with torch.autocast("cpu", torch.bfloat16):
        same(model, twin, torch.rand(8, 20), rtol=0, atol=0)


def test_modes_without_gradients() -> None:
    model = Denoising().eval()
    twin = copy.deepcopy(model)
    aefast.accelerate(model)
    x = torch.rand(8, 20)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            torch.testing.assert_close(model(x), twin(x))


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointing(use_reentrant: bool) -> None:
    model = Denoising()
    twin = copy.deepcopy(model)
    aefast.accelerate(model)
    x = torch.rand(64, 20).requires_grad_()
    gradients = []
    for net in (model, twin):
        torch.manual_seed(0)
        checkpoint(net, x, use_reentrant=use_reentrant).square().sum().backward()
        gradients.append([p.grad for p in net.parameters()])
    for actual, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(actual, expected, rtol=2e-5, atol=2e-6)


def test_transforms_and_traces() -> None:
    model = sequential(20, 12, 20)
    twin = copy.deepcopy(model)
    aefast.accelerate(model)
    x = torch.rand(6, 20)
    torch.testing.assert_close(torch.vmap(model)(x), twin(x))
    jacobians = [torch.func.vmap(torch.func.jacrev(net))(x) for net in (model, twin)]
    torch.testing.assert_close(*jacobians)
    torch.testing.assert_close(torch.jit.trace(model, x)(x + 1), twin(x + 1))
    exported = torch.export.export(model, (x,))
    torch.testing.assert_close(exported.module()(x + 1), twin(x + 1))
    parameters = {name: value + 1 for name, value in model.named_parameters()}
    values = [torch.func.functional_call(net, parameters, (x,)) for net in (model, twin)]
    torch.testing.assert_close(*values)


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("make", [EncoderDecoder, VAE])
def test_compiled(before: bool, make: Callable[[], nn.Module]) -> None:
    model = make()
    twin = copy.deepcopy(model)
    x = torch.rand(8, 20)
    if before:
        aefast.accelerate(model)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    if not before:
        compiled(x)
        aefast.accelerate(model)
    same(compiled, twin, x)


@pytest.fixture
def gloo(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("before", [True, False])
def test_distributed_data_parallel(gloo: None, before: bool) -> None:
    model = EncoderDecoder()
    twin = copy.deepcopy(model)
    if before:
        aefast.accelerate(model)
    wrapped = DistributedDataParallel(model)
    if not before:
        aefast.accelerate(wrapped)
    same(wrapped, twin, torch.rand(8, 20))
    assert sum(row.served for row in aefast.report(wrapped).rows) > 0


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("layers", [True, False])
def test_fully_sharded(gloo: None, before: bool, layers: bool) -> None:
    model = EncoderDecoder()
    twin = copy.deepcopy(model)
    mesh = dist.device_mesh.init_device_mesh("cpu", (1,))
    if before:
        aefast.accelerate(model)
    if layers:
        fully_shard(model.encoder[0], mesh=mesh)
        fully_shard(model.decoder, mesh=mesh)
    fully_shard(model, mesh=mesh)
    if not before:
        aefast.accelerate(model)
    x = torch.rand(8, 20)
    for net in (model, twin):
        net(x).square().sum().backward()
    for actual, expected in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(actual.grad.full_tensor(), expected.grad, rtol=2e-5, atol=2e-6)
    aefast.restore(model)
