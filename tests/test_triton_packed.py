"""Calls that find an earlier one's launch launch as they would have been planned."""

from types import SimpleNamespace

import pytest
import torch

from aefast import cubins
from aefast.ops.linear_act import triton as linear_act
from aefast.ops.reconstruction import triton as reconstruction
from aefast.ops.reconstruction.settings import LossInputs, LossSettings, PerInput
from aefast.ops.shared import triton as shared
from aefast.ops.shared import triton_activation, triton_compiled, triton_gemm, triton_packed
from aefast.ops.shared.triton import Descriptor, Variant
from aefast.ops.shared.triton_packed import ByKey, PackedLaunches

GPU = torch.device("cuda", 0)


class Launches(list):
    """What is launched: a kernel's name, programs and arguments, whether planned or packed."""

    def __init__(self):
        super().__init__()
        self.names = {}  # of the tensors that a caller has, by address
        self.packed = 0

    def name(self, **tensors):
        self.names = {tensor.data_ptr(): name for name, tensor in tensors.items()}

    def plan(self, variant, programs, arguments):
        self.append((variant.name, programs, *map(self.shown, arguments)))

    def shown(self, argument):
        if isinstance(argument, Descriptor):
            tensor, block, rounds = argument
            return self.shown(tensor), tuple(tensor.shape), tensor.stride(), tuple(block), rounds
        if isinstance(argument, torch.Tensor):
            return self.names.get(argument.data_ptr(), "new"), argument.dtype
        return argument

    def extension(self):
        """A module whose packed launch keeps the arguments that it was made of."""
        launches = self

        class PackedLaunch:
            def __init__(self, variant, programs, device, arguments):
                self.variant, self.programs, self.arguments = variant, programs, arguments

            def launch(self, stream, *tensors):
                given = iter(tensors)
                arguments = [self.replaced(argument, given) for argument in self.arguments]
                assert next(given, None) is None
                launches.plan(self.variant, self.programs, arguments)
                launches.packed += 1

            def replaced(self, argument, given):
                if isinstance(argument, Descriptor):
                    tensor = next(given)
                    size = argument.tensor.shape, argument.tensor.stride()
                    return argument._replace(tensor=tensor.as_strided(*size))
                return next(given) if isinstance(argument, torch.Tensor) else argument

        return SimpleNamespace(PackedLaunch=PackedLaunch)


@pytest.fixture
def launches(monkeypatch):
    launched = Launches()
    monkeypatch.setattr(Variant, "launch_in_order", lambda *arguments: launched.plan(*arguments))
    monkeypatch.setattr(triton_compiled, "loaded", lambda variant, device: variant)
    monkeypatch.setattr(triton_packed, "cuda_stream", lambda device: 0)
    monkeypatch.setattr(cubins, "extension", launched.extension)
    for module in (triton_gemm, triton_activation, reconstruction):
        monkeypatch.setattr(module, "_packed", PackedLaunches())
    monkeypatch.setattr(triton_activation, "_packed_sums", PackedLaunches())
    monkeypatch.setattr(linear_act, "_packed", ByKey())
    return launched


def layer(
    rows=48,
    inputs=64,
    units=32,
    dtype=torch.bfloat16,
    activation="tanh",
    needs=("x", "weight"),
    **changed,
):
    """A layer's call, forward and backward."""
    generator = torch.Generator().manual_seed(0)
    x, weight, bias, grad = (
        torch.rand(*shape, generator=generator).to(dtype)
        for shape in ((rows, inputs), (units, inputs), (units,), (rows, units))
    )
    tensors = {"x": x, "weight": weight, "bias": bias, "grad": grad, "saved": None} | changed

    def call(launches):
        launches.name(**{name: t for name, t in tensors.items() if t is not None})
        x, weight, bias, grad, given = tensors.values()
        keeps = activation in ("gelu", "silu")
        output, preactivation = linear_act.forward(x, weight, bias, activation, keeps)
        saved = None if activation == "identity" else preactivation if keeps else output
        saved = saved if given is None else given
        x, weight = x if "weight" in needs else None, weight if "x" in needs else None
        linear_act.backward(grad, x, weight, saved, activation, bias is not None)

    return call


def loss(rows=48, inputs=64, units=32, dtype=torch.bfloat16, needs=(True,) * 6, **changed):
    """A loss's call with its gradients."""
    generator = torch.Generator().manual_seed(0)
    reconstructed, scale = changed.pop("reconstruction", "mse"), changed.pop("scale", 0.5)
    settings = LossSettings("sigmoid", "sigmoid", reconstructed, None, 0.0, 0, 0)
    shapes = (rows, inputs), (units, inputs), (units,), (inputs, units), (inputs,), (rows, inputs)
    tensors = [torch.rand(*shape, generator=generator).to(dtype) for shape in shapes]
    inputs_ = LossInputs(*tensors)._replace(**changed)

    def call(launches):
        launches.name(**{n: t for n, t in inputs_._asdict().items() if t is not None})
        reconstruction.reconstruction_loss(inputs_, settings, scale, PerInput(*needs))

    return call


def every_other(*shape, dtype=torch.bfloat16):
    return torch.rand(shape[0], 2 * shape[1]).to(dtype)[:, ::2]


def shifted(*shape, dtype=torch.bfloat16):
    """A tensor that does not start at a multiple of 16 bytes."""
    return torch.rand(shape[0] * shape[1] + 1).to(dtype)[1:].view(shape)


CALLS = {
    "layer": layer(),
    "more rows": layer(rows=80),
    "more inputs": layer(inputs=128),
    "more units": layer(units=64),
    "odd units": layer(units=33),
    "many rows": layer(rows=9000),
    "float16": layer(dtype=torch.float16),
    "float32": layer(dtype=torch.float32),
    "another activation": layer(activation="relu"),
    "of the pre-activation": layer(activation="gelu"),
    "no activation": layer(activation="identity"),
    "no bias": layer(bias=None),
    "bias with strides": layer(bias=torch.rand(64).bfloat16()[::2]),
    "weight's gradient alone": layer(needs=("weight",)),
    "x's gradient alone": layer(needs=("x",)),
    "bias's gradient alone": layer(needs=()),
    "x with strides": layer(x=every_other(48, 64)),
    "x by columns": layer(x=torch.rand(64, 48).bfloat16().t()),
    "x shifted": layer(x=shifted(48, 64)),
    "weight shifted": layer(weight=shifted(32, 64)),
    "weight by columns": layer(weight=torch.rand(64, 32).bfloat16().t()),
    "gradient shifted": layer(grad=shifted(48, 32)),
    "output with strides": layer(saved=every_other(48, 32)),
    "gradient of one number": layer(grad=torch.ones(1).bfloat16().expand(48, 32)),
    "loss": loss(),
    "loss of more rows": loss(rows=80),
    "loss of odd inputs": loss(inputs=63),
    "loss in float16": loss(dtype=torch.float16),
    "loss in float32": loss(dtype=torch.float32),
    "loss with another scale": loss(scale=0.25),
    "cross entropy": loss(reconstruction="bce"),
    "no target": loss(target=None),
    "tied": loss(decoder_weight=None),
    "no decoder bias": loss(decoder_bias=None),
    "decoder shifted": loss(decoder_weight=shifted(64, 32)),
    "target shifted": loss(target=shifted(48, 64)),
    "decoder alone": loss(needs=(False, False, False, True, True, False)),
    "target's gradient left out": loss(needs=(True,) * 5 + (False,)),
}


def test_a_call_like_an_earlier_one_launches_what_it_would_have_planned(
    launches, monkeypatch, matmul_precision
):
    def run_all():
        launches.clear()
        for precision in ("highest", "high"):
            matmul_precision(precision)
            for call in CALLS.values():
                call(launches)
        return list(launches)

    expected = run_all()
    assert launches.packed == 0
    monkeypatch.setattr(triton_packed, "gpu_of", lambda tensor: GPU)
    assert run_all() == expected
    packed_at_first = launches.packed
    assert run_all() == expected
    assert launches.packed - packed_at_first > len(expected) / 2


def test_the_oldest_launches_are_forgotten_where_there_are_too_many(launches, monkeypatch):
    monkeypatch.setattr(triton_packed, "gpu_of", lambda tensor: GPU)
    monkeypatch.setattr(triton_packed, "MOST", 3)
    for rows in range(16, 16 * 40, 16):
        layer(rows=rows)(launches)
    assert len(triton_gemm._packed._by_key) <= 3


def test_what_triton_launches_is_not_packed(launches, monkeypatch):
    monkeypatch.setattr(triton_packed, "gpu_of", lambda tensor: GPU)
    monkeypatch.setattr(triton_compiled, "loaded", lambda variant, device: None)
    for _ in range(2):
        layer()(launches)
    assert launches.packed == 0
    assert launches[: len(launches) // 2] == launches[len(launches) // 2 :]


def test_a_tensor_of_the_current_device_needs_no_context():
    assert shared.device_of(torch.zeros(1)) is shared.device_of(torch.ones(1))
