"""TF32 products on the GPU whose right operand is transposed in memory, not in their loop."""

import pytest
import torch

from aefast import backend
from aefast.functional import linear_act
from tests.launched import note_launches

pytestmark = pytest.mark.skipif(
    backend.unavailable("triton", "cpu") is not None and not torch.cuda.is_available(),
    reason="needs Triton",
)
if not pytestmark.args[0]:
    from aefast.ops.shared import triton_gemm

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ROWS = 70


@pytest.fixture
def launched(monkeypatch, matmul_precision):
    """Operands used in ROWS sums are transposed; the value is the names of what is launched."""
    names = note_launches(monkeypatch)
    monkeypatch.setattr(triton_gemm, "chip", lambda device: (90, 4))
    monkeypatch.setattr(triton_gemm, "LEAST_USES_TRANSPOSED", ROWS)
    matmul_precision("high")
    return names


@pytest.mark.parametrize(("rows", "columns"), [(64, 128), (65, 3), (130, 67), (1, 1)])
def test_a_matrix_is_transposed_and_padded_with_zeros(rows, columns):
    wide = torch.randn(rows, columns + 5, device=DEVICE)
    actual = triton_gemm.transposed(wide[:, :columns])
    assert torch.equal(actual[:, :rows], wide[:, :columns].T)
    assert actual.shape == (columns, triton_gemm.padded(rows, torch.float32))
    assert not actual[:, rows:].any()


@pytest.mark.parametrize(("columns", "depth"), [(29, 77), (64, 32), (130, 6)])
def test_a_right_operand_by_depth_is_read_by_rows(columns, depth, launched):
    """The product is the one that the loop's own transposition makes, to the bit."""
    left, right = (torch.randn(n, depth, device=DEVICE) for n in (ROWS, columns))
    right = right.T.contiguous().T
    in_memory = triton_gemm.multiply(left, right)[0]
    assert [name.split()[0] for name in launched] == ["transpose_kernel", "gemm_kernel"]
    assert "RIGHT_BY_DEPTH=False" in launched[1]
    in_the_loop = triton_gemm.multiply(left[1:], right)[0]  # fewer rows than make up for the copy
    assert [name.split()[0] for name in launched[2:]] == ["gemm_kernel"]
    assert "RIGHT_BY_DEPTH=True" in launched[2]
    assert torch.equal(in_memory[1:], in_the_loop)


def test_a_layers_backward_pass_transposes_its_weight_alone(launched):
    x = torch.randn(ROWS, 9, device=DEVICE, requires_grad=True)
    weight = torch.randn(11, 9, device=DEVICE, requires_grad=True)
    with backend.use_backend("triton"):
        linear_act(x, weight).sum().backward()
    assert sum(name.startswith("transpose_kernel") for name in launched) == 1
    torch.testing.assert_close(x.grad, weight.sum(0).expand(ROWS, 9), rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(weight.grad, x.sum(0).expand(11, 9), rtol=2e-3, atol=2e-2)
