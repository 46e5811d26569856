"""Every op on every backend at sizes 1 to 4 of each dimension, against the definition in float64.

There strides and blocks degenerate. Each size of each dimension occurs with each layout, not each
size with every other.
"""

import pytest
import torch

from aefast import functional as F
from aefast import use_backend
from aefast.ops.contractive import rows
from aefast.ops.jumprelu.gated import gated
from aefast.ops.reconstruction import panels
from tests.accuracy import assert_as_accurate_as_torch
from tests.backends import is_interpreted

LAYOUTS = {
    "dense": lambda m: m,
    "transposed": lambda m: m.mT.contiguous().mT,
    "sliced": lambda m: m.repeat_interleave(2, -2).repeat_interleave(3, -1)[..., ::2, ::3],
}
# (batch, visible, hidden, hidden below or steps): all sizes, shifted from column to column. The
# interpreter, which is slow, takes the first four.
SHAPES = [(1, 2, 3, 4), (2, 3, 4, 1), (3, 4, 1, 2), (4, 1, 2, 3), (1, 1, 1, 1), (3, 4, 4, 1)]


def data(batch, visible):
    return (torch.arange(batch * visible).reshape(batch, visible) % 3 == 0).float()


def matrix(rows, columns):
    return torch.randn(rows, columns)


def reconstruction(tied, loss, activation, corruption=None):
    def inputs(batch, visible, hidden, _):
        decoder = matrix(visible, hidden)
        parts = [data(batch, visible), matrix(hidden, visible), matrix(1, hidden)[0]]
        return [*parts, matrix(1, visible)[0], *([] if tied else [decoder])]

    def call(x, weight, bias, decoder_bias, decoder=None):
        noise = {"corruption": corruption, "corruption_level": 0.3} if corruption else {}
        output = {"mse": "identity", "bce": "sigmoid"}[loss]
        return F.reconstruction_loss(
            x, weight, bias, decoder, decoder_bias, activation=activation,
            output_activation=output, reconstruction=loss, seed=1, **noise,
        )  # fmt: skip

    return inputs, call


def penalty(depth, **options):
    def inputs(batch, visible, hidden, below):
        widths = [visible, below, hidden, below][: depth + 1] if depth > 1 else [visible, hidden]
        pairs = list(zip(widths[1:], widths[:-1], strict=True))
        return [torch.randn(batch, visible), *(matrix(*pair) for pair in pairs)]

    def call(x, *weights):
        return F.contractive_penalty(x, list(weights), None, "sigmoid", seed=1, **options)

    return inputs, call


def machine(batch, visible, hidden, below):
    states = data(batch, visible)
    return [states, matrix(hidden, visible), matrix(1, visible)[0], matrix(1, hidden)[0]]


def divergence(with_chain, k=1):
    def call(states, weight, visible_bias, hidden_bias):
        states = states.detach()
        chain = 1 - states[:1].expand(3, -1) if with_chain else None
        actual, end = F.contrastive_divergence(
            states, weight, visible_bias, hidden_bias, k, chain=chain, seed=1
        )
        return actual, end.detach()

    return machine, call


def gibbs(**options):
    def call(states, weight, visible_bias, hidden_bias):
        k = 5 - len(states)
        sample = F.gibbs(states, weight, visible_bias, hidden_bias, k, seed=1, **options)
        return sample.visible, sample.hidden

    return machine, call


def one_matrix(function):
    return lambda batch, visible, *_: [matrix(batch, visible)], function


def noise(kind):
    return one_matrix(lambda x: F.corrupt(x, kind, 0.4, seed=1))


def code(batch, visible, *_):
    return [torch.rand(batch, visible) * 0.8 + 0.1]


def gaussian(function):
    return lambda batch, visible, *_: [matrix(batch, visible), matrix(batch, visible)], function


def lasso_objective(x, dictionary):
    """A code may be far from another whose objective is as low."""
    code = F.sparse_encode(x, dictionary, 0.2, tolerance=1e-6)
    return 0.5 * (x - code @ dictionary).square().sum().detach() + 0.2 * code.abs().sum()


OPS = {
    "linear_act": (
        lambda batch, visible, hidden, _: [
            matrix(batch, visible), matrix(hidden, visible), matrix(1, hidden)[0],
        ],
        lambda *tensors: F.linear_act(*tensors, "tanh"),
    ),
    "linear_act without bias": (
        lambda batch, visible, hidden, _: [matrix(batch, visible), matrix(hidden, visible)],
        F.linear_act,
    ),
    "tied reconstruction": reconstruction(True, "mse", "sigmoid"),
    "noisy reconstruction": reconstruction(False, "bce", "gelu", "masking"),
    "penalty": penalty(1),
    "deep penalty": penalty(3),
    "estimated penalty": penalty(2, method="hutchinson", probes=2),
    "penalty of second order": penalty(1, hessian_noise=0.5),
    "contrastive divergence": divergence(with_chain=False),
    "persistent contrastive divergence": divergence(with_chain=True),
    "gibbs": gibbs(),
    "gaussian gibbs": gibbs(visible_kind="gaussian"),
    "free energy": (machine, F.free_energy),
    "masking": noise("masking"),
    "salt and pepper": noise("salt_and_pepper"),
    "gaussian noise": noise("gaussian"),
    "reparameterize": gaussian(lambda *pair: F.reparameterize(*pair, seed=1)),
    "gaussian_kl": gaussian(F.gaussian_kl),
    "kl_sparsity": (code, lambda x: F.kl_sparsity(x, 0.2)),
    "l1_sparsity": one_matrix(F.l1_sparsity),
    "soft_threshold": one_matrix(lambda x: F.soft_threshold(x, 0.3)),
    "sparse_encode": (
        lambda batch, visible, hidden, _: [matrix(batch, visible), matrix(hidden, visible)],
        lasso_objective,
    ),
    "topk_encode": (
        lambda batch, visible, hidden, _: [matrix(batch, visible), matrix(hidden, visible)],
        lambda x, weight: F.topk_encode(x, weight, None, min(3, len(weight))).values,
    ),
    "batch_topk_encode": (
        lambda batch, visible, hidden, _: [matrix(batch, visible), matrix(hidden, visible)],
        lambda x, weight: F.batch_topk_encode(x, weight, None, min(3, len(weight))).values,
    ),
    "jumprelu_encode": (
        lambda batch, visible, hidden, _: [
            matrix(batch, visible), matrix(hidden, visible), torch.rand(hidden),
        ],
        lambda x, weight, threshold: F.jumprelu_encode(x, weight, None, threshold, 2.0),
    ),
    "gated_encode": (
        lambda batch, visible, hidden, _: [
            matrix(batch, visible), matrix(hidden, visible), *matrix(3, hidden),
        ],
        F.gated_encode,
    ),
    "gated": (
        lambda batch, visible, *_: [matrix(batch, visible), *matrix(3, visible)],
        gated,
    ),
}  # fmt: skip


def results(call, tensors):
    """Outputs, and the gradients of a sum that weighs each element differently."""
    tensors = [tensor.detach().requires_grad_() for tensor in tensors]
    outputs = call(*tensors)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    total = sum(
        (torch.linspace(0.5, 2, max(o.numel(), 1), dtype=o.dtype).reshape(o.shape) * o).sum()
        for o in outputs
    )
    if not total.requires_grad:
        return outputs
    return *outputs, *torch.autograd.grad(total, tensors, materialize_grads=True)


@pytest.fixture
def panels_of_two_rows(monkeypatch):
    """So that gradients are added up in place, and the last panel may hold one row."""

    def pairs(batch):
        return [slice(start, min(start + 2, batch)) for start in range(0, batch, 2)]

    monkeypatch.setattr(rows.Norms, "_panels", lambda self, batch: pairs(batch))
    monkeypatch.setattr(panels, "panels_of", lambda x, *_: pairs(len(x)))


@pytest.mark.parametrize("op", OPS)
@pytest.mark.interpreted(
    op=[
        "linear_act",
        "tied reconstruction",
        "deep penalty",
        "persistent contrastive divergence",
        "gibbs",
        "salt and pepper",
        "reparameterize",
        "gaussian_kl",
        "kl_sparsity",
        "l1_sparsity",
        "soft_threshold",
        "jumprelu_encode",
        "gated",
    ]
)
def test_every_op_at_sizes_one_to_four(kernel_device, panels_of_two_rows, op):
    inputs, call = OPS[op]
    for index, shape in enumerate(SHAPES[:4] if is_interpreted(kernel_device) else SHAPES):
        layout = list(LAYOUTS.values())[index % len(LAYOUTS)]
        dense = inputs(*shape)
        tensors = [layout(t) if t.dim() > 1 else t for t in dense]
        actual = results(call, [tensor.to(kernel_device) for tensor in tensors])
        with use_backend("eager"):
            same_dtype = results(call, dense)
            exact = results(call, [tensor.double() for tensor in dense])
        for kernel, torch_result, reference in zip(actual, same_dtype, exact, strict=True):
            assert_as_accurate_as_torch(kernel.cpu(), torch_result, reference)
