"""Sparse codes over many latents: every backend against the definition, ties and all."""

import math

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import aefast
from aefast.functional import linear_act, sparse_decode, topk_encode
from aefast.ops.shared.product_routes import outpaces_vendor
from aefast.ops.topk import eager, products
from tests.accuracy import assert_as_accurate_as_torch
from tests.backends import is_interpreted, not_interpreted, same_on_numba

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
ISAS = ["baseline", "avx2", "avx512", "amx"]
# (rows, inputs, latents, k): ones, all latents, chunks of the GPU's, a panel's edges, more than a
# panel.
SHAPES = [(1, 1, 1, 1), (5, 3, 7, 7), (2, 3, 130, 5)]
SHAPES += [(3, 17, 513, 5), (2, 8, 1536, 300), (300, 5, 40, 33)]


def encoder(device, rows, width, latents, dtype=torch.float32):
    x = torch.randn(rows, width, device=device, dtype=dtype)
    weight = (torch.randn(latents, width, device=device) / width**0.5).to(dtype)
    return [t.requires_grad_() for t in (x, weight, torch.randn_like(weight[:, 0]))]


def whole_numbers(device, rows, width, latents, largest=2):
    """Products of these are exact, whatever the order of a sum; many are equal."""
    shapes = (rows, width), (latents, width), (latents,)
    return [
        torch.randint(-largest, largest + 1, shape).float().to(device).requires_grad_()
        for shape in shapes
    ]


def code(device, rows, width, latents, k, dtype=torch.float32):
    values = torch.randn(rows, k, device=device).to(dtype).requires_grad_()
    indices = torch.rand(rows, latents).argsort(1)[:, :k].contiguous().to(device)
    weight = torch.randn(latents, width, device=device).to(dtype).requires_grad_()
    bias = torch.randn(width, device=device).to(dtype).requires_grad_()
    return values, indices, weight, bias


def definition(tensors, k):
    """The k largest of a row as torch sorts them: stable, so that equal ones keep their order."""
    x, weight, bias = (t if t is None else t.detach().double() for t in tensors)
    dense = torch.nn.functional.linear(x, weight, bias)
    values, indices = dense.sort(dim=-1, descending=True, stable=True)
    return values[..., :k], indices[..., :k]


# ---------------------------------------------------------------------------------------- encoding


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.interpreted(shape=SHAPES[:3])
def test_the_selection_is_that_of_a_stable_sort_ties_and_all(device, shape):
    *sizes, k = shape
    tensors = whole_numbers(device, *sizes)
    values, indices = topk_encode(*tensors, k)
    expected, chosen = definition(tensors, k)
    assert torch.equal(indices, chosen)
    assert torch.equal(values.double(), expected)
    assert torch.equal(values, torch.topk(linear_act(*tensors), k).values)


@pytest.mark.parametrize("k", [1, 5, 64])
@pytest.mark.interpreted(k=[5])
def test_equal_rows_name_the_first_latents(device, k):
    x, weight = torch.zeros(2, 4, device=device), torch.ones(1100, 4, device=device)
    values, indices = topk_encode(x, weight, None, k)
    assert torch.equal(indices, torch.arange(k, device=device).expand(2, k))
    assert not values.any()


@pytest.mark.parametrize("order", ["rising", "falling", "rising to the last"])
@pytest.mark.interpreted(order=["rising"])
def test_an_order_that_never_or_always_beats_the_threshold(device, order):
    """Every latent beats all before it: the candidates overflow again and again."""
    latents = 200 if is_interpreted(device) else 6000
    ramp = torch.arange(latents, device=device).float()
    ramp = {"rising": ramp, "falling": -ramp, "rising to the last": ramp // 7}[order]
    tensors = torch.ones(2, 1, device=device), ramp[:, None].contiguous(), None
    values, indices = topk_encode(*tensors, 40)
    expected, chosen = definition(tensors, 40)
    assert torch.equal(values.double(), expected)
    assert torch.equal(indices, chosen)


@pytest.mark.parametrize("k", [1, 3, 6, 8])
def test_nan_goes_first_then_infinity_and_zeros_are_equal(device, k):
    scores = [0.0, math.nan, -0.0, math.inf, -math.inf, math.nan, -1.0, -math.inf]
    bias = torch.tensor(scores, device=device)
    x, weight = torch.zeros(2, 3, device=device), torch.zeros(8, 3, device=device)
    values, indices = topk_encode(x, weight, bias, k)
    expected = torch.tensor([1, 5, 3, 0, 2, 6, 4, 7], device=device)[:k]
    assert torch.equal(indices, expected.expand(2, k))
    assert torch.equal(values.nan_to_num(9), bias[indices].nan_to_num(9))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.interpreted(shape=SHAPES[2:3], dtype=[torch.float32])
@pytest.mark.interpreted(shape=SHAPES[1:2])
def test_values_and_gradients_are_as_accurate_as_torchs(kernel_device, shape, dtype):
    *sizes, k = shape
    tensors = encoder(kernel_device, *sizes, dtype)
    values, indices = topk_encode(*tensors, k)
    gradient = torch.randn_like(values)
    actual = (values.detach(), *torch.autograd.grad(values, tensors, gradient))
    others = []
    for kind in (torch.promote_types(dtype, torch.float32), torch.float64):
        leaves = [t.detach().to(kind).requires_grad_() for t in tensors]
        dense = torch.nn.functional.linear(*leaves)
        best = dense.topk(k).values
        # Where two are nearly equal another may be chosen: it is worth as much.
        chosen = dense.gather(1, indices)
        torch.testing.assert_close(chosen, best, rtol=0, atol=1e-4)
        others.append((chosen.detach(), *torch.autograd.grad(chosen, leaves, gradient.to(kind))))
    for kernel, plain, exact in zip(actual, *others, strict=True):
        assert_as_accurate_as_torch(kernel, plain.to(dtype), exact)


@pytest.mark.parametrize("isa", ISAS)
def test_every_instruction_set_selects_from_its_own_product(instruction_set, isa):
    """Half a panel, several panels, and the vector of latents at their end."""
    instruction_set(isa)
    tensors = encoder("cpu", 70, 90, 1131)
    values, indices = topk_encode(*tensors, 40)
    if outpaces_vendor(tensors[1].numel()):
        dense = linear_act(*tensors)
        expected, chosen = dense.sort(dim=1, descending=True, stable=True)
        assert torch.equal(values, expected[:, :40])
        assert torch.equal(indices, chosen[:, :40])
    exact = torch.nn.functional.linear(*(t.double() for t in tensors)).topk(40).values
    torch.testing.assert_close(values.double(), exact, rtol=0, atol=2e-5)


def test_a_large_k_takes_fewer_rows_at_a_time(threads):
    """20 rows are two blocks then."""
    tensors = whole_numbers("cpu", 20, 3, 30000, largest=9)
    threads(2)
    with aefast.use_backend("cpp"):
        values, indices = topk_encode(*tensors, 17000)
    expected, chosen = definition(tensors, 17000)
    assert torch.equal(indices, chosen)
    assert torch.equal(values.double(), expected)


def test_few_rows_of_many_latents_are_shared_between_threads(threads):
    """Each thread takes a part of the latents, and the parts' best are merged."""
    tensors = whole_numbers("cpu", 3, 4, 20000, largest=9)
    with aefast.use_backend("cpp"):
        for count in (1, 2, 3):
            threads(count)
            values, indices = topk_encode(*tensors, 50)
            expected, chosen = definition(tensors, 50)
            assert torch.equal(indices, chosen)
            assert torch.equal(values.double(), expected)


@pytest.mark.parametrize("leading", [(), (2, 3), (0,), (2, 0)])
def test_any_leading_dimensions(device, leading):
    _, weight, bias = whole_numbers(device, 1, 5, 7)
    x = torch.randint(-2, 3, (*leading, 5), device=device).float()
    values, indices = topk_encode(x, weight, bias, 3)
    expected, chosen = definition((x, weight, bias), 3)
    assert torch.equal(indices, chosen)
    assert torch.equal(values.double(), expected)
    assert sparse_decode(values, indices, weight).shape == (*leading, 5)


def test_any_strides(kernel_device):
    x = torch.randint(-2, 3, (8, 12), device=kernel_device).float().t()[::2, 1:7]
    weight = torch.randint(-2, 3, (6, 40), device=kernel_device).float().t()[::3]
    bias = torch.randint(-2, 3, (28,), device=kernel_device).float()[::2]
    for rows in (x, x[:1].expand(4, 6)):
        actual = topk_encode(rows, weight, bias, 4)
        for a, b in zip(actual, definition((rows, weight, bias), 4), strict=True):
            assert torch.equal(a.double(), b.double())


@pytest.mark.parametrize("nans", [3, 60])
@pytest.mark.interpreted(nans=[3])
def test_nan_and_infinity_that_come_late_beat_the_threshold(device, nans):
    """After hundreds of latents; at the end of a panel; more of them than k."""
    latents, k = 150 if is_interpreted(device) else 1500, 20
    bias = torch.randn(latents, device=device)
    bias[latents // 3 :][:4] = math.inf
    bias[torch.linspace(latents // 4, latents - 1, nans).long()] = math.nan
    x, weight = torch.zeros(2, 3, device=device), torch.zeros(latents, 3, device=device)
    values, indices = topk_encode(x, weight, bias, k)
    expected, chosen = bias.sort(descending=True, stable=True)
    assert torch.equal(indices, chosen[:k].expand(2, k))
    assert torch.equal(values.nan_to_num(9), expected[:k].nan_to_num(9).expand(2, k))


# ------------------------------------------------------------------------------ products of a code


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.interpreted(shape=SHAPES[:2])
def test_decoding_and_its_gradients_are_as_accurate_as_torchs(kernel_device, shape, dtype):
    values, indices, weight, bias = code(kernel_device, *shape, dtype)
    gradient = torch.randn(shape[0], shape[1], device=kernel_device).to(dtype)
    results = []
    for kind, function in (
        (dtype, sparse_decode),
        (torch.promote_types(dtype, torch.float32), eager.sparse_decode),
        (torch.float64, eager.sparse_decode),
    ):
        leaves = [t.detach().to(kind).requires_grad_() for t in (values, weight, bias)]
        output = function(leaves[0], indices, *leaves[1:])
        results.append((output.detach(), *torch.autograd.grad(output, leaves, gradient.to(kind))))
    for kernel, plain, exact in zip(*results, strict=True):
        assert_as_accurate_as_torch(kernel, plain.to(dtype), exact)


def test_a_latent_that_is_named_twice_counts_twice(device):
    values = torch.tensor([[1.0, 2.0], [4.0, 8.0]], device=device, requires_grad=True)
    indices = torch.tensor([[1, 1], [1, 0]], device=device)
    weight = torch.tensor([[1.0, 3.0], [1.0, 5.0]], device=device, requires_grad=True)
    output = sparse_decode(values, indices, weight)
    assert output.tolist() == [[3.0, 15.0], [12.0, 44.0]]
    output.sum().backward()
    assert weight.grad.tolist() == [[8.0, 8.0], [7.0, 7.0]]
    assert values.grad.tolist() == [[6.0, 6.0], [6.0, 4.0]]


def test_any_strides_of_a_code_and_its_gradient(kernel_device):
    values, indices, weight, bias = code(kernel_device, 6, 5, 9, 4)
    lies = [t.detach().t().contiguous().t() for t in (values, weight)]
    leaves = [t.requires_grad_() for t in lies]
    strided = indices.t().contiguous().t()
    plain = sparse_decode(values, indices, weight, bias)
    actual = sparse_decode(leaves[0], strided, leaves[1], bias)
    assert torch.equal(actual, plain)
    for gradient in (torch.ones(1, 1, device=kernel_device).expand(6, 5), torch.randn(5, 6).t()):
        gradient = gradient.to(kernel_device)
        expected = torch.autograd.grad(plain, (values, weight), gradient, retain_graph=True)
        again = torch.autograd.grad(actual, leaves, gradient, retain_graph=True)
        for a, b in zip(again, expected, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("isa", ISAS[:3])
def test_every_instruction_set_decodes(instruction_set, isa):
    instruction_set(isa)
    values, indices, weight, bias = code("cpu", 33, 67, 50, 7)
    output = sparse_decode(values, indices, weight, bias)
    exact = eager.sparse_decode(values.double(), indices, weight.double(), bias.double())
    torch.testing.assert_close(output.double(), exact, rtol=0, atol=1e-5)
    gradient = torch.randn_like(output)
    actual = torch.autograd.grad(output, (values, weight), gradient)
    expected = torch.autograd.grad(exact, (values, weight), gradient.double())
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-5)


def test_an_index_outside_the_latents_is_read_nowhere(kernel_device):
    values, indices, weight, _ = code(kernel_device, 4, 5, 9, 3)
    for wrong in (9, -1, 2**40):
        indices[2, 1] = wrong
        if is_interpreted(kernel_device) or kernel_device.type == "cuda":
            values[2, 1].detach().zero_()
            output = sparse_decode(values, indices, weight)
            expected = sparse_decode(values, indices.clamp(0, 8), weight)
            torch.testing.assert_close(output, expected)
        else:
            with pytest.raises(IndexError, match=rf"indices holds {wrong}; of 9 latents it takes"):
                sparse_decode(values, indices, weight)


# ------------------------------------------------------------------------------- what both promise


def step(tensors, decoder, k):
    """Outputs and all gradients of encoding and decoding."""
    values, indices = topk_encode(*tensors, k)
    output = sparse_decode(values, indices, decoder)
    return indices, output, *torch.autograd.grad(output.square().sum(), [*tensors, decoder])


@not_interpreted
def test_one_and_two_threads_give_the_same_bits(kernel_device, threads):
    tensors = encoder(kernel_device, 300, 130, 700)
    decoder = torch.randn(700, 130, device=kernel_device, requires_grad=True)
    threads(1)
    serial = step(tensors, decoder, 33)
    for count in (2, 3):
        threads(count)
        for a, b in zip(step(tensors, decoder, 33), serial, strict=True):
            assert torch.equal(a, b)


@not_interpreted
def test_a_dense_batch_is_not_held(monkeypatch):
    """The most that torch is asked for at a time is far below [rows, latents]."""
    x, weight = torch.randn(512, 4), torch.randn(4096, 4)
    with aefast.use_backend("cpp"):
        topk_encode(x, weight, None, 8)  # what is allocated once
        with torch.profiler.profile(profile_memory=True) as profiler:
            topk_encode(x, weight, None, 8)
    allocated = sum(max(event.cpu_memory_usage, 0) for event in profiler.events())
    assert allocated < 0.03 * x.shape[0] * weight.shape[0] * 4


def test_gradcheck_and_gradgradcheck_in_float64():
    tensors = [t.detach().double().requires_grad_() for t in encoder("cpu", 4, 3, 9)]
    values, indices, weight, bias = (
        t.detach().double().requires_grad_() if t.is_floating_point() else t
        for t in code("cpu", 4, 3, 9, 2)
    )
    for function, inputs in (
        (lambda *t: topk_encode(*t, 2).values, tensors),
        (lambda v, w, b: sparse_decode(v, indices, w, b), (values, weight, bias)),
    ):
        assert gradcheck(function, inputs)
        assert gradgradcheck(function, inputs)


@not_interpreted
def test_second_order_gradients_are_the_definitions(kernel_device):
    tensors = encoder(kernel_device, 5, 6, 11)
    decoder = torch.randn(11, 6, device=kernel_device, requires_grad=True)
    leaves = [*tensors, decoder]
    results = []
    for name in (None, "eager"):
        with aefast.use_backend(name) if name else torch.enable_grad():
            values, indices = topk_encode(*tensors, 3)
            output = sparse_decode(values, indices, decoder).pow(3).sum()
            first = torch.autograd.grad(output, leaves, create_graph=True)
            norm = sum(g.square().sum() for g in first)
            second = torch.autograd.grad(norm, leaves, create_graph=True)
            third = torch.autograd.grad(sum(g.sum() for g in second), leaves)
            results.append((*first, *second, *third))
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-2)


@not_interpreted
def test_only_the_gradients_asked_for_are_made(device):
    for needed in range(3):
        tensors = [t.detach() for t in encoder(device, 6, 4, 5)]
        tensors[needed].requires_grad_()
        topk_encode(*tensors, 2).values.sum().backward()
        assert [t.grad is not None for t in tensors] == [i == needed for i in range(3)]


@same_on_numba
@not_interpreted
def test_opcheck(device):
    tensors = encoder(device, 6, 4, 5)
    torch.library.opcheck(torch.ops.aefast.topk_encode, (*tensors, 2))
    values, indices, weight, bias = code(device, 6, 4, 5, 2)
    torch.library.opcheck(torch.ops.aefast.sparse_decode, (values, indices, weight, bias))
    torch.library.opcheck(torch.ops.aefast.sampled_product, (tensors[0], weight, indices))
    torch.library.opcheck(torch.ops.aefast.latent_sums, (values, indices, tensors[0], 5))


@same_on_numba
@not_interpreted
def test_torch_compile_in_one_graph_gives_the_same(kernel_device):
    tensors = encoder(kernel_device, 6, 4, 9)
    decoder = torch.randn(9, 4, device=kernel_device, requires_grad=True)

    def loss(x, weight, bias, decoder):
        values, indices = topk_encode(x, weight, bias, 3)
        return sparse_decode(values, indices, decoder).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    actual, expected = compiled(*tensors, decoder), loss(*tensors, decoder)
    assert torch.equal(actual, expected)
    leaves = [*tensors, decoder]
    for a, b in zip(*(torch.autograd.grad(r, leaves) for r in (actual, expected)), strict=True):
        assert torch.equal(a, b)


def test_torch_export():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(4, 9)

        def forward(self, x):
            values, indices = topk_encode(x, self.layer.weight, self.layer.bias, 3)
            return sparse_decode(values, indices, self.layer.weight)

    x, module = torch.randn(6, 4), Model()
    exported = torch.export.export(module, (x,))
    torch.testing.assert_close(exported.module()(x), module(x))


@not_interpreted
def test_torch_func(device):
    x, weight, bias = (t.detach() for t in encoder(device, 6, 4, 9))

    def loss(weight, x):
        values, indices = topk_encode(x, weight, bias, 3)
        return sparse_decode(values, indices, weight).square().sum()

    leaf = weight.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(leaf, x), leaf)
    torch.testing.assert_close(torch.func.grad(loss)(weight, x), expected)
    batched = torch.func.vmap(lambda row: loss(weight, row[None]))(x)
    torch.testing.assert_close(batched, torch.stack([loss(weight, row[None]) for row in x]))
    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(weight, x[:, None])
    torch.testing.assert_close(each.sum(0), expected)


@not_interpreted
def test_autocast_casts_as_torchs_linear_does(device):
    tensors = encoder(device, 6, 4, 9)
    decoder = torch.randn(9, 4, device=device, requires_grad=True)
    with torch.autocast(device.type, torch.bfloat16):
        values, indices = topk_encode(*tensors, 3)
        output = sparse_decode(values, indices, decoder)
    halves = [t.detach().bfloat16() for t in tensors]
    assert values.dtype == output.dtype == torch.bfloat16
    assert torch.equal(indices, topk_encode(*halves, 3).indices)
    output.sum().backward()
    assert decoder.grad.dtype == tensors[1].grad.dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": None}, TypeError, "x is a NoneType; it takes a torch.Tensor"),
        ({"weight": torch.ones(5, 4).half()}, TypeError, "weight has dtype float16"),
        ({"weight": torch.ones(4)}, ValueError, r"weight has shape \[4\]; it takes \[L, D\]"),
        ({"x": torch.ones(6, 3)}, ValueError, r"x has shape \[6, 3\]; .* it takes \[..., 4\]"),
        ({"bias": torch.ones(4)}, ValueError, r"bias has shape \[4\]; .* it takes \[5\]"),
        ({"k": 6}, ValueError, r"k is 6; with weight's shape \[5, 4\] .* int in \[1, 5\]"),
        ({"k": 0}, ValueError, r"k is 0; .* it takes an int in \[1, 5\]"),
        ({"k": -1}, ValueError, "k is -1; it takes an int in"),
        ({"k": 2.0}, TypeError, "k is a float; it takes an int"),
    ],
)
def test_bad_input_of_an_encoder_is_named_at_the_door(change, error, message):
    arguments = {"x": torch.ones(6, 4), "weight": torch.ones(5, 4), "bias": torch.ones(5), "k": 2}
    with pytest.raises(error, match=f"^{message}"):
        topk_encode(**arguments | change)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"values": [1.0]}, TypeError, "values is a list; it takes a torch.Tensor"),
        ({"indices": torch.zeros(6, 2)}, TypeError, "indices has dtype float32; it takes int64"),
        ({"indices": None}, TypeError, "indices is a NoneType; it takes a torch.Tensor"),
        (
            {"indices": torch.zeros(6, 3).long()},
            ValueError,
            r"indices has shape \[6, 3\]; it takes values's, \[6, 2\]",
        ),
        ({"weight": torch.ones(5)}, ValueError, r"weight has shape \[5\]; it takes \[L, D\]"),
        ({"bias": torch.ones(5)}, ValueError, r"bias has shape \[5\]; .* it takes \[4\]"),
    ],
)
def test_bad_input_of_a_decoder_is_named_at_the_door(change, error, message):
    arguments = {"values": torch.ones(6, 2), "indices": torch.zeros(6, 2).long()}
    arguments |= {"weight": torch.ones(5, 4), "bias": torch.ones(4)}
    with pytest.raises(error, match=f"^{message}"):
        sparse_decode(**arguments | change)


def test_the_products_are_those_of_the_dense_code():
    values, indices, weight, _ = (t.detach().double() for t in code("cpu", 5, 4, 9, 3))
    indices, rows = indices.long(), torch.randn(5, 4, dtype=torch.float64)
    dense = torch.zeros(5, 9, dtype=torch.float64).scatter(1, indices, values)
    torch.testing.assert_close(
        products.sparse_decode(values, indices, weight, None), dense @ weight
    )
    expected = (rows @ weight.t()).gather(1, indices)
    torch.testing.assert_close(products.sampled_product(rows, weight, indices), expected)
    sums, totals = products.latent_sums(values, indices, rows, 9)
    torch.testing.assert_close(sums, dense.t() @ rows)
    torch.testing.assert_close(totals, dense.sum(0))
