"""The squared error of what sparse codes reconstruct: every backend against decode and compare."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.functional import embedding, mse_loss

import aefast
from aefast.functional import sparse_decode, sparse_reconstruction_loss
from tests.accuracy import assert_as_accurate_as_torch
from tests.backends import is_interpreted, not_interpreted, same_on_numba

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# (rows, columns, latents, k): ones, a last vector, more columns than a program of the GPU's.
SHAPES = [(1, 1, 1, 1), (5, 7, 9, 3), (3, 513, 6, 5), (70, 33, 40, 9)]


def inputs(device, rows, columns, latents, k, dtype=torch.float32):
    values, weight, bias, target = (
        torch.randn(shape, device=device).to(dtype).requires_grad_()
        for shape in ((rows, k), (latents, columns), (columns,), (rows, columns))
    )
    return values, torch.randint(latents, (rows, k), device=device), weight, bias, target


def leaves(tensors):
    return [t for t in tensors if t is not None and t.requires_grad]


def plain(values, indices, weight, bias, target):
    """In PyTorch's own operators."""
    decoded = (values.unsqueeze(-1) * embedding(indices, weight)).sum(-2)
    return mse_loss(decoded if bias is None else decoded + bias, target)


def as_dtype(tensors, dtype):
    return [
        t.detach().to(dtype).requires_grad_() if t is not None and t.is_floating_point() else t
        for t in tensors
    ]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.interpreted(shape=SHAPES[1:3], dtype=[torch.float32])
@pytest.mark.interpreted(shape=SHAPES[1:2])
def test_loss_and_gradients_are_as_accurate_as_torchs(kernel_device, shape, dtype):
    tensors = inputs(kernel_device, *shape, dtype)
    results = []
    wide = torch.promote_types(dtype, torch.float32)
    for function, kind in (
        (sparse_reconstruction_loss, dtype),
        (plain, wide),
        (plain, torch.float64),
    ):
        own = as_dtype(tensors, kind)
        loss = function(*own)
        results.append((loss.detach(), *torch.autograd.grad(3 * loss, leaves(own))))
    for kernel, expected, exact in zip(*results, strict=True):
        assert kernel.dtype == dtype
        assert_as_accurate_as_torch(kernel, expected.to(dtype), exact)


def test_without_a_bias_and_in_more_dimensions(device):
    values, indices, weight, _, target = inputs(device, 6, 5, 9, 2)
    actual = sparse_reconstruction_loss(
        values.reshape(2, 3, 2), indices.reshape(2, 3, 2), weight, None, target.reshape(2, 3, 5)
    )
    torch.testing.assert_close(actual, plain(values, indices, weight, None, target))


def test_any_strides(device):
    tensors = inputs(device, 6, 5, 9, 4)
    strided = [t if t.dim() == 1 else t.detach().t().contiguous().t() for t in tensors]
    expected = sparse_reconstruction_loss(*tensors)
    assert torch.equal(sparse_reconstruction_loss(*strided), expected)


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set(instruction_set, isa):
    instruction_set(isa)
    tensors = inputs("cpu", 33, 67, 50, 7)
    exact = as_dtype(tensors, torch.float64)
    loss, expected = sparse_reconstruction_loss(*tensors), plain(*exact)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
    actual = torch.autograd.grad(loss, leaves(tensors))
    for a, b in zip(actual, torch.autograd.grad(expected, leaves(exact)), strict=True):
        torch.testing.assert_close(a.double(), b, rtol=0, atol=1e-6)


@not_interpreted
def test_one_and_two_threads_give_the_same_bits(kernel_device, threads):
    tensors = inputs(kernel_device, 300, 130, 70, 33)

    def run():
        loss = sparse_reconstruction_loss(*tensors)
        return loss, *torch.autograd.grad(loss, leaves(tensors))

    threads(1)
    serial = run()
    for count in (2, 3):
        threads(count)
        for a, b in zip(run(), serial, strict=True):
            assert torch.equal(a, b)


def test_gradcheck_and_gradgradcheck_in_float64():
    values, indices, *rest = as_dtype(inputs("cpu", 4, 3, 6, 2), torch.float64)

    def loss(values, *rest):
        return sparse_reconstruction_loss(values, indices, *rest)

    assert gradcheck(loss, (values, *rest))
    assert gradgradcheck(loss, (values, *rest))


@not_interpreted
def test_second_order_gradients_are_the_definitions(kernel_device):
    tensors = inputs(kernel_device, 5, 6, 11, 3)
    results = []
    for name in (None, "eager"):
        with aefast.use_backend(name) if name else torch.enable_grad():
            loss = sparse_reconstruction_loss(*tensors)
            first = torch.autograd.grad(loss.square(), leaves(tensors), create_graph=True)
            norm = sum(g.square().sum() for g in first)
            results.append((*first, *torch.autograd.grad(norm, leaves(tensors))))
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@not_interpreted
def test_only_the_gradients_asked_for_are_made(device):
    for needed in (0, 2, 3, 4):
        tensors = [t.detach() for t in inputs(device, 6, 4, 5, 2)]
        tensors[needed].requires_grad_()
        sparse_reconstruction_loss(*tensors).backward()
        assert [t.grad is not None for t in tensors] == [i == needed for i in range(5)]


@same_on_numba
@not_interpreted
def test_opcheck_and_one_graph(device):
    tensors = inputs(device, 6, 4, 5, 2)
    torch.library.opcheck(torch.ops.aefast.sparse_reconstruction_loss, tensors)
    compiled = torch.compile(sparse_reconstruction_loss, fullgraph=True, backend="aot_eager")
    losses = compiled(*tensors), sparse_reconstruction_loss(*tensors)
    torch.testing.assert_close(*losses)
    for a, b in zip(*(torch.autograd.grad(x, leaves(tensors)) for x in losses), strict=True):
        torch.testing.assert_close(a, b)


@same_on_numba
@not_interpreted
def test_torch_func(device):
    values, indices, weight, bias, target = (t.detach() for t in inputs(device, 6, 4, 9, 2))

    def loss(weight, *row):
        return sparse_reconstruction_loss(row[0], row[1], weight, bias, row[2])

    rows = values[:, None], indices[:, None], target[:, None]
    each = torch.func.vmap(torch.func.grad(loss), (None, 0, 0, 0))(weight, *rows)
    whole = torch.func.grad(loss)(weight, values, indices, target)
    torch.testing.assert_close(each.mean(0), whole)


@same_on_numba
@not_interpreted
def test_under_autocast_it_is_float32_as_torchs_mse_loss(device):
    values, indices, *rest = inputs(device, 6, 4, 9, 2)
    with torch.autocast(device.type, torch.bfloat16):
        loss = sparse_reconstruction_loss(values.bfloat16(), indices, *rest)
    assert loss.dtype == torch.float32
    expected = plain(values.bfloat16().float(), indices, *rest)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert values.grad.dtype == rest[0].grad.dtype == torch.float32


def test_an_index_outside_the_latents_is_read_nowhere(kernel_device):
    values, indices, *rest = inputs(kernel_device, 4, 5, 9, 3)
    inside = indices.clone()
    indices[2, 1], inside[2, 1] = 9, 0
    if is_interpreted(kernel_device) or kernel_device.type == "cuda":
        left_out = values.detach().clone()
        left_out[2, 1] = 0
        actual = sparse_reconstruction_loss(values, indices, *rest)
        torch.testing.assert_close(actual, plain(left_out, inside, *rest))
    else:
        with pytest.raises(IndexError, match="indices holds 9; of 9 latents it takes"):
            sparse_reconstruction_loss(values, indices, *rest)


def test_of_no_rows_the_loss_is_torchs_and_no_gradient_is_infinite(kernel_device):
    tensors = inputs(kernel_device, 0, 4, 5, 3)
    loss = sparse_reconstruction_loss(*tensors)
    assert loss.isnan()
    for gradient in torch.autograd.grad(loss, leaves(tensors)):
        assert not gradient.any()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"values": [1.0]}, TypeError, "values is a list; it takes a torch.Tensor"),
        ({"target": None}, TypeError, "target is a NoneType; it takes a torch.Tensor"),
        ({"target": torch.ones(6, 4).half()}, TypeError, "target has dtype float16"),
        (
            {"target": torch.ones(6, 5)},
            ValueError,
            r"target has shape \[6, 5\]; with values's shape \[6, 2\] and weight's \[5, 4\] it "
            r"takes \[6, 4\]",
        ),
        ({"weight": torch.ones(5)}, ValueError, r"weight has shape \[5\]; it takes \[L, D\]"),
        ({"bias": torch.ones(5)}, ValueError, r"bias has shape \[5\]; .* it takes \[4\]"),
    ],
)
def test_bad_input_is_named_at_the_door(change, error, message):
    arguments = {"values": torch.ones(6, 2), "indices": torch.zeros(6, 2).long()}
    arguments |= {"weight": torch.ones(5, 4), "bias": None, "target": torch.ones(6, 4)}
    with pytest.raises(error, match=f"^{message}"):
        sparse_reconstruction_loss(**arguments | change)


def test_it_is_decoding_and_comparing():
    values, indices, weight, bias, target = inputs("cpu", 8, 6, 9, 3)
    decoded = sparse_decode(values, indices, weight, bias)
    actual = sparse_reconstruction_loss(values, indices, weight, bias, target)
    torch.testing.assert_close(actual, mse_loss(decoded, target))
