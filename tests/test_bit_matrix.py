"""csrc/bit_matrix/: matrix products whose left operand is binary, one bit for each element."""

import pytest
import torch

from aefast import backend

pytestmark = pytest.mark.skipif(
    backend.unavailable("cpp", "cpu") is not None, reason="needs the C++ extension"
)

SIZES = [1, 7, 8, 31, 33, 64, 65, 129]


@pytest.fixture(params=["baseline", "avx2", "avx512"])
def isa(request, instruction_set):
    instruction_set(request.param)


def bits_of(matrix):
    from aefast.ops.rbm.cpp import BitMatrix

    return BitMatrix.pack(matrix)


def binary(rows, columns):
    return (torch.rand(rows, columns) < 0.4).float()


def product(left, right, bias=None):
    from aefast.ops.rbm.cpp import _bit_matrix_product

    return _bit_matrix_product(bits_of(left)[0], right, bias)


def added_product(left, right, total=None):
    from aefast.ops.rbm.cpp import _BitPrimitives

    return _BitPrimitives().add_product(left, bits_of(right)[0], total)


@pytest.mark.parametrize("columns", SIZES)
def test_packing_and_unpacking_give_the_matrix_back(isa, columns):
    matrix = binary(9, columns)
    bits, is_binary = bits_of(matrix)
    assert is_binary.all()
    assert torch.equal(bits.unpack(), matrix)
    # BitMatrix past the last column are 0, as the products take them to be.
    assert bits.words.view(torch.uint8).numpy().tobytes() == pack_by_hand(matrix)


def pack_by_hand(matrix):
    rows = []
    for row in matrix.int().tolist():
        words = -(-len(row) // 64)
        value = sum(bit << i for i, bit in enumerate(row))
        rows.append(value.to_bytes(8 * words, "little"))
    return b"".join(rows)


@pytest.mark.parametrize("grey", [0.5, -1.0, 2.0, float("nan"), float("inf")])
@pytest.mark.parametrize("column", [0, 36, 69])
def test_packing_tells_which_rows_are_binary(isa, grey, column):
    matrix = binary(5, 70)
    matrix[3, column] = grey
    assert bits_of(matrix)[1].tolist() == [True, True, True, False, True]


@pytest.mark.parametrize("rows", SIZES)
@pytest.mark.parametrize("columns", SIZES)
def test_the_transpose(isa, rows, columns):
    matrix = binary(rows, columns)
    transposed, counts = bits_of(matrix)[0].transposed
    assert torch.equal(transposed.unpack(), matrix.t())
    assert torch.equal(counts, matrix.sum(0))


@pytest.mark.parametrize("rows", SIZES)
@pytest.mark.parametrize("columns", SIZES)
@pytest.mark.parametrize("depth", [1, 63, 64, 200])
def test_a_product_is_as_accurate_as_torchs(isa, rows, columns, depth):
    left, right, bias = binary(rows, depth), torch.randn(columns, depth), torch.randn(columns)
    exact = left.double() @ right.double().t() + bias.double()
    torchs = (torch.nn.functional.linear(left, right, bias).double() - exact).abs().max()
    # Two roundings of the largest sum of magnitudes, where torch's happen to leave none.
    magnitudes = left.double() @ right.double().abs().t() + bias.double().abs()
    least = torch.finfo(torch.float32).eps * magnitudes.max()
    for matrix in (right, right.t().contiguous().t(), torch.stack([right, right], 2)[:, :, 0]):
        actual = product(left, matrix, bias)
        assert (actual.double() - exact).abs().max() <= 2 * torchs + least


def test_more_rows_than_a_block_takes(isa):
    left, right = binary(1500, 70), torch.randn(40, 70)
    torch.testing.assert_close(product(left, right), left @ right.t(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("batch", SIZES)
@pytest.mark.parametrize("units", [1, 33, 70])
def test_the_transposed_product_adds_to_a_total(isa, batch, units):
    left, right = torch.randn(batch, 37), binary(batch, units)
    expected = left.double().t() @ right.double()
    torch.testing.assert_close(added_product(left, right).double(), expected, rtol=1e-5, atol=1e-5)
    total = torch.randn(37, units)
    actual = added_product(left, right, total.clone())
    torch.testing.assert_close(actual.double(), total + expected, rtol=1e-5, atol=1e-5)


def test_a_row_does_not_depend_on_the_others_nor_on_the_threads(isa, threads):
    left, right = binary(200, 150), torch.randn(90, 150)
    threads(1)
    whole = product(left, right)
    assert torch.equal(torch.cat([product(left[:3], right), product(left[3:], right)]), whole)
    threads(3)
    assert torch.equal(product(left, right), whole)


@pytest.mark.parametrize("special", [float("nan"), float("inf"), -float("inf")])
def test_infinities_and_nans_come_out_as_torchs_do(isa, special):
    left, right = binary(20, 40), torch.randn(10, 40)
    right[4, 7] = special
    expected = left @ right.t()
    torch.testing.assert_close(product(left, right), expected, equal_nan=True)


def test_the_largest_numbers_do_not_overflow_unchosen(isa):
    left, right = torch.zeros(3, 8), torch.full((2, 8), 3e38)
    left[:, 5] = 1
    assert torch.equal(product(left, right), torch.full((3, 2), 3e38))
