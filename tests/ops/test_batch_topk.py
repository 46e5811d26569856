"""The largest of a batch: every backend against a stable sort of all pre-activations."""

import math

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.fx.experimental.proxy_tensor import make_fx

from aefast.functional import batch_topk_encode, sparse_decode, sparse_reconstruction_loss
from aefast.ops.topk import batch
from tests.backends import not_interpreted
from tests.ops.test_topk import encoder, whole_numbers


def dense(code, latents):
    """[B, L], and that what a row has less is 0."""
    values, indices = code
    return values.new_zeros(len(values), latents).scatter_add(1, indices, values)


def definition(tensors, k):
    """All pre-activations in float64, where they are among the batch's largest; 0 elsewhere."""
    x, weight, bias = (t if t is None else t.detach().double() for t in tensors)
    all_values = torch.nn.functional.linear(x, weight, bias)
    order = all_values.flatten().sort(descending=True, stable=True).indices
    chosen = order[: max(1, int(k * len(x)))]
    is_chosen = torch.zeros_like(all_values.flatten(), dtype=torch.bool).index_fill(0, chosen, 1)
    return torch.where(is_chosen.view_as(all_values), all_values, 0)


@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1), (3, 2, 9, 2), (7, 3, 30, 4), (6, 3, 300, 2.5), (9, 5, 40, 0.3)], ids=str
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.interpreted(shape=[(3, 2, 9, 2)], dtype=[torch.bfloat16])
def test_the_selection_is_that_of_a_stable_sort_ties_and_all(device, shape, dtype):
    *shape, k = shape
    tensors = [t.to(dtype) for t in whole_numbers(device, *shape)]
    code = batch_topk_encode(*tensors, k)
    assert code.values.dtype == dtype
    assert torch.equal(dense(code, shape[2]).double(), definition(tensors, k))
    assert (code.values.diff(dim=1) <= 0).logical_or(code.values[:, 1:] == 0).all()


@not_interpreted
def test_one_row_may_have_all_of_a_batch(device):
    """Its code is widened until it is whole."""
    x = torch.tensor([[1.0], [100.0], [1.0], [0.0]], device=device)
    weight = torch.arange(1, 61, device=device)[:, None].float()
    code = batch_topk_encode(x, weight, None, 12)
    assert code.values.shape == (4, 48)
    assert torch.equal(dense(code, 60).double(), definition((x, weight, None), 12))


@not_interpreted
def test_nan_is_above_all_and_equal_rows_give_to_the_first(device):
    x = torch.zeros(2, 1, device=device)
    weight = torch.zeros(4, 1, device=device)
    bias = torch.tensor([1.0, math.nan, math.inf, 1.0], device=device)
    values, indices = batch_topk_encode(x, weight, bias, 2.5)
    assert indices[:, 0].tolist() == [1, 1]
    assert values.isnan().sum(1).tolist() == [1, 1]
    assert values[0, 1:].tolist() == [math.inf, 1.0]
    assert values[1, 1:].tolist() == [math.inf, 0.0]


@not_interpreted
@pytest.mark.parametrize("leading", [(), (2, 3), (0,), (2, 0)])
def test_any_leading_dimensions(device, leading):
    _, weight, bias = whole_numbers(device, 1, 5, 7)
    values, indices = batch_topk_encode(torch.ones(*leading, 5, device=device), weight, bias, 3)
    assert values.shape == indices.shape == (*leading, values.shape[-1])
    assert sparse_decode(values, indices, weight).shape == (*leading, 5)


@not_interpreted
def test_gradients_of_both_orders_are_the_dense_ones(device):
    tensors = whole_numbers(device, 5, 4, 30)
    is_chosen = definition(tensors, 3) != 0
    output = sparse_decode(*batch_topk_encode(*tensors, 3), tensors[1])
    expected = (torch.nn.functional.linear(*tensors) * is_chosen) @ tensors[1]
    actual = torch.autograd.grad(output.pow(3).sum(), tensors, create_graph=True)
    expected_gradients = torch.autograd.grad(expected.pow(3).sum(), tensors, create_graph=True)
    for a, b in zip(actual, expected_gradients, strict=True):
        torch.testing.assert_close(a, b)
    seconds = (
        torch.autograd.grad(sum(g.square().sum() for g in gradients), tensors)
        for gradients in (actual, expected_gradients)
    )
    for a, b in zip(*seconds, strict=True):
        torch.testing.assert_close(a, b)


def test_gradcheck_and_gradgradcheck_in_float64():
    tensors = [t.detach().double().requires_grad_() for t in encoder("cpu", 3, 2, 7)]
    assert gradcheck(lambda *t: batch_topk_encode(*t, 2).values, tensors)
    assert gradgradcheck(lambda *t: batch_topk_encode(*t, 2).values, tensors)


@not_interpreted
def test_what_is_above_a_threshold(device):
    x, weight, bias = whole_numbers(device, 6, 3, 50)
    values, indices = batch.encode(x, weight, bias, 0.5, torch.tensor(1.0, device=device))
    everything = torch.nn.functional.linear(x, weight, bias)
    assert torch.equal(dense((values, indices), 50), torch.where(everything > 1, everything, 0))
    none = batch.encode(x, weight, bias, 0.5, torch.tensor(1e9, device=device))[0]
    assert none.shape == (6, 1)
    assert not none.any()


@pytest.mark.parametrize("threshold", [None, 0.5])
def test_the_registered_op_passes_opcheck(threshold):
    tensors = encoder("cpu", 6, 5, 40)
    limit = None if threshold is None else torch.tensor(threshold)
    operator = torch.ops.aefast.batch_topk_encode.default
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(operator, (*tensors, 3.0, limit), test_utils=checks)


def test_a_compiled_and_an_exported_call_have_a_dynamic_width():
    def decoded(x, weight, bias):
        return sparse_decode(*batch_topk_encode(x, weight, bias, 3), weight)

    class Module(torch.nn.Module):
        def forward(self, x, weight, bias):
            return decoded(x, weight, bias)

    tensors = whole_numbers("cpu", 6, 5, 40)
    compiled = torch.compile(decoded, fullgraph=True, backend="eager")
    exported = torch.export.export(Module(), tuple(t.detach() for t in tensors)).module()
    for scale in (1, -3):
        scaled = scale * tensors[0].detach(), *tensors[1:]
        assert torch.equal(compiled(*scaled), decoded(*scaled))
        assert torch.equal(exported(*scaled), decoded(*scaled))


def loss_and_gradients(x, weight, bias):
    code = batch_topk_encode(x, weight, bias, 3)
    loss = sparse_reconstruction_loss(*code, weight, None, x)
    return *code, sparse_decode(*code, weight), *torch.autograd.grad(loss, [weight, bias])


@pytest.mark.parametrize("pre_dispatch", [False, True])
def test_a_graph_of_make_fx_serves_batches_of_another_width(pre_dispatch):
    x, weight, bias = whole_numbers("cpu", 6, 5, 40)
    call = loss_and_gradients
    if pre_dispatch:  # a graph before autograd, which takes no backward pass
        call = lambda *tensors: sparse_decode(*batch_topk_encode(*tensors, 3), weight)  # noqa: E731
    graph = make_fx(call, pre_dispatch=pre_dispatch)(x, weight, bias)
    x = x * torch.tensor([50.0, 1, 1, 1, 1, 1])[:, None]
    assert batch_topk_encode(x, weight, bias, 3).values.shape[1] > 10
    torch.testing.assert_close(graph(x, weight, bias), call(x, weight, bias), rtol=0, atol=0)


def test_a_graph_of_make_fx_of_more_dimensions_has_no_width():
    x, weight, bias = whole_numbers("cpu", 6, 5, 40)

    def decoded(x):
        return sparse_decode(*batch_topk_encode(x, weight, bias, 3), weight)

    x = x.detach().reshape(2, 3, 5)
    graph = make_fx(decoded)(x)
    x[0, 0] *= 50
    assert torch.equal(graph(x), decoded(x))


@pytest.mark.parametrize("k", [0, -1, 8, math.nan])
def test_a_wrong_k_is_named(k):
    with pytest.raises(ValueError, match=r"^k is "):
        batch_topk_encode(torch.ones(2, 3), torch.ones(7, 3), None, k)
