"""Models and ops exported to ONNX have the same numbers there, or one clear error."""

import pytest
import torch

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

from onnx.reference import ReferenceEvaluator

import aefast.functional as F
from aefast import nn
from tests.ops.test_onlookers import OPS, WEIGHT

pytestmark = pytest.mark.filterwarnings("ignore")

# How many of them are active is seen in the values, and how many steps are needed.
REFUSED = {"batch_topk_encode", "sparse_encode"}

MODELS = {
    "Autoencoder": nn.Autoencoder(layers=[4, 5, 3], activation="gelu", code_activation="tanh"),
    "tied": nn.Autoencoder(4, 3, tied=True),
    "DenoisingAutoencoder": nn.DenoisingAutoencoder(4, 3),
    "ContractiveAutoencoder": nn.ContractiveAutoencoder(4, 3),
    "SparseAutoencoder": nn.SparseAutoencoder(4, 3),
    "StochasticAutoencoder": nn.StochasticAutoencoder(4, 3),
    "VariationalAutoencoder": nn.VariationalAutoencoder(4, 2, layers=[3]),
    "RBM": nn.RBM(4, 3),
    "Gaussian RBM": nn.RBM(4, 3, visible_kind="gaussian"),
    "DeepBeliefStack": nn.DeepBeliefStack([4, 3, 2]),
    "TopKSparseAutoencoder": nn.TopKSparseAutoencoder(4, 9, 2),
    "transcoder": nn.TopKSparseAutoencoder(4, 9, 2, outputs=5),
    "JumpReLUSparseAutoencoder": nn.JumpReLUSparseAutoencoder(4, 9),
    "GatedSparseAutoencoder": nn.GatedSparseAutoencoder(4, 9),
}

# Philox has hundreds of nodes, which take seconds to export.
DRAWS = {
    "corrupt",
    "reconstruction_loss",
    "contractive_penalty of two layers",
    "gibbs",
    "gibbs of gaussian units",
    "contrastive_divergence",
    "reparameterize",
}

CALLS = {name: op for name, op in OPS.items() if name not in REFUSED | DRAWS} | {
    name: model.eval() for name, model in MODELS.items()
}
# Of equal pre-activations the first are selected.
CALLS["ties"] = lambda x: F.topk_encode(x, torch.cat([WEIGHT, WEIGHT]), None, 5)


class Calls(torch.nn.Module):
    """The outputs of several calls, one after the other."""

    def __init__(self, calls):
        super().__init__()
        self.calls = calls
        self.models = torch.nn.ModuleList(c for c in calls if isinstance(c, torch.nn.Module))

    def forward(self, x):
        return [output for call in self.calls for output in outputs_of(call, x)]


def outputs_of(call, x):
    outputs = call(x)
    outputs = [outputs] if isinstance(outputs, torch.Tensor) else outputs
    return [output for output in outputs if output is not None]


def exported(*calls):
    """The graph of calls, of any number of rows."""
    rows = torch.export.Dim.DYNAMIC
    options = {"dynamo": True, "verbose": False, "dynamic_shapes": ({0: rows},)}
    return torch.onnx.export(Calls(calls).eval(), (torch.rand(6, 4),), **options)


def evaluated(calls):
    """Of each call its outputs in ONNX, beside the expected ones."""
    program = exported(*calls.values())
    assert {node.domain for node in program.model.graph} == {""}
    x = torch.rand(9, 4, generator=torch.Generator().manual_seed(0))
    (argument,) = program.model_proto.graph.input
    outputs = iter(ReferenceEvaluator(program.model_proto).run(None, {argument.name: x.numpy()}))
    with torch.no_grad():
        expected = {name: outputs_of(call, x) for name, call in calls.items()}
    return {
        name: [(torch.from_numpy(next(outputs)), tensor) for tensor in tensors]
        for name, tensors in expected.items()
    }


@pytest.fixture(scope="module")
def of_one_graph():
    """What :func:`evaluated` gives of all calls: each by itself would take a second to export."""
    return evaluated(CALLS)


@pytest.mark.parametrize("name", CALLS)
def test_the_numbers_are_the_same_in_onnx(name, of_one_graph):
    check_outputs(of_one_graph[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(DRAWS))
def test_draws_of_a_seed_are_the_same_in_onnx(name):
    check_outputs(evaluated({name: OPS[name]})[name])


def check_outputs(pairs):
    assert pairs
    for actual, expected in pairs:
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (nn.BatchTopKSparseAutoencoder(4, 9, 2).eval(), "how wide a batch's top-k code is depends"),
        (lambda x: F.sparse_encode(x, WEIGHT, 0.1), "sparse_encode takes as many steps as x's val"),
        (lambda x: F.corrupt(x, "masking", 0.3), "seed is None, and is drawn at each call; it ta"),
    ],
)
def test_what_has_no_graph_is_one_clear_error(call, message):
    with pytest.raises(Exception, match=message) as caught:
        exported(call)
    cause = caught.value
    while cause.__cause__ is not None:
        cause = cause.__cause__
    assert isinstance(cause, RuntimeError)
    assert str(cause).startswith(message)
    assert str(cause).endswith("ONNX has no graph of it")
