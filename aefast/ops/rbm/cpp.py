"""Gibbs sampling in C++: csrc/ops/rbm/, around the products of csrc/bit_matrix/ and csrc/gemm/.

Bernoulli states travel as bits, and a product with them adds up the weights that they choose: three
times the rate of multiply-adds, and float32's accuracy without matrix units. A row that is not
0 and 1, of grey data, takes the ordinary product. Which of the two a row takes depends on that row
alone, so that a batch may be split anywhere.
"""

from functools import cached_property

import torch
from torch import Tensor

from aefast.ops.rbm.primitives import ChainPrimitives, Operand, States
from aefast.ops.rbm.settings import ChainSettings, Machine
from aefast.ops.shared import cpp as shared
from aefast.ops.shared.extension import _C
from aefast.ops.shared.product_routes import takes_matrix_units

WORD_BITS = 64


def primitives(machine: Machine, settings: ChainSettings) -> ChainPrimitives:
    # Below "highest" the matrix units take one or three products, fewer than any other way.
    return _Primitives() if takes_matrix_units() else _BitPrimitives()


class _Primitives(ChainPrimitives):
    """States as float tensors."""

    def operand(self, right: Tensor) -> Operand:
        return shared.packed_operand(right)

    def linear(self, left: States, right: Operand, bias: Tensor | None) -> Tensor:
        # A single row would take the vendor's product, which is rounded otherwise.
        rows = left if left.shape[0] > 1 else left.expand(2, -1)
        return shared.linear_act(rows, right, bias, "identity", False)[0][: left.shape[0]]

    def sample_units(
        self,
        values: Tensor,
        deviation: Tensor | None,
        factor: Tensor | None,
        keep: bool,
        settings: ChainSettings,
        step: int,
    ) -> Tensor | None:
        means = torch.empty_like(values) if keep else None
        _C.draw(
            shared.as_matrix(values),
            0 if means is None else means.data_ptr(),
            0 if deviation is None else deviation.data_ptr(),
            0 if factor is None else factor.data_ptr(),
            (int(settings.seed), settings.row_offset, step),
            torch.get_num_threads(),
        )
        return means

    def statistics(
        self, states: States, weight: Operand, bias: Tensor | None, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        values = self.linear(states, weight, bias)
        sums = values.new_empty(values.shape[1])
        energy = _C.measure_phase(
            shared.as_matrix(values), sums.data_ptr(), scale, torch.get_num_threads()
        )
        return torch.scalar_tensor(energy, dtype=torch.float64, device="cpu").float(), values, sums

    def add_product(self, probabilities: Tensor, states: States, total: Tensor | None) -> Tensor:
        return shared.add_transposed_product(probabilities, states, total)


class BitMatrix:
    """A binary matrix [rows, columns], a bit an element, each row in whole words of 64."""

    def __init__(self, words: Tensor, columns: int) -> None:
        self.words = words
        self.shape = words.shape[0], columns

    @staticmethod
    def zeros(rows: int, columns: int) -> "BitMatrix":
        words = torch.zeros(rows, -(-columns // WORD_BITS), dtype=torch.int64, device="cpu")
        return BitMatrix(words, columns)

    @property
    def view(self) -> _C.BitMatrixView:
        return _C.BitMatrixView(self.words.data_ptr(), *self.shape)

    @staticmethod
    def pack(values: Tensor) -> tuple["BitMatrix", Tensor]:
        """The bits of a matrix, and which of its rows [rows] are binary."""
        values = values if values.stride(1) == 1 else values.contiguous()
        bits = BitMatrix.zeros(*values.shape)
        is_binary = torch.empty(values.shape[0], dtype=torch.bool, device="cpu")
        _C.pack_bits(
            shared.as_matrix(values),
            bits.words.data_ptr(),
            is_binary.data_ptr(),
            torch.get_num_threads(),
        )
        return bits, is_binary

    def unpack(self) -> Tensor:
        values = torch.FloatTensor(*self.shape)
        _C.unpack_bits(self.view, values.data_ptr(), torch.get_num_threads())
        return values

    @cached_property
    def transposed(self) -> tuple["BitMatrix", Tensor]:
        """The transpose, and how many bits of each column [columns] are set."""
        rows, columns = self.shape
        bits = BitMatrix.zeros(columns, rows)
        counts = torch.FloatTensor(columns)
        _C.transpose_bits(
            self.view, bits.words.data_ptr(), counts.data_ptr(), torch.get_num_threads()
        )
        return bits, counts


class _BitPrimitives(_Primitives):
    """Bernoulli states as bits; as float tensors only what is grey or Gaussian."""

    def operand(self, right: Tensor) -> Tensor:
        return right

    def states(self, visible: Tensor) -> BitMatrix | Tensor:
        bits, is_binary = BitMatrix.pack(visible)
        return bits if is_binary.all() else visible

    def tensor(self, states: BitMatrix | Tensor) -> Tensor:
        return states.unpack() if isinstance(states, BitMatrix) else states

    def clamp(self, sampled: States, initial: States, mask: Tensor) -> BitMatrix | Tensor:
        if not isinstance(sampled, BitMatrix):
            return torch.where(mask, initial, sampled)
        return self.states(torch.where(mask, self.tensor(initial), sampled.unpack()))

    def linear(self, left: BitMatrix | Tensor, right: Operand, bias: Tensor | None) -> Tensor:
        if isinstance(left, BitMatrix):
            return _bit_matrix_product(left, right, bias)
        bits, is_binary = BitMatrix.pack(left)
        # Ours on every processor: the vendor's product may round a row otherwise beside others.
        grey = shared.RightOperand(right, _C.Precision.highest)
        if not is_binary.any():
            return super().linear(left, grey, bias)
        values = _bit_matrix_product(bits, right, bias)
        if not is_binary.all():
            values[~is_binary] = super().linear(left[~is_binary], grey, bias)
        return values

    def sample_bernoulli(
        self,
        left: BitMatrix | Tensor,
        right: Tensor,
        bias: Tensor | None,
        beta: Tensor | None,
        keep: bool,
        settings: ChainSettings,
        step: int,
    ) -> tuple[BitMatrix, Tensor | None]:
        if not isinstance(left, BitMatrix):
            values, means = super().sample_bernoulli(left, right, bias, beta, keep, settings, step)
            return BitMatrix.pack(values)[0], means
        sampled = BitMatrix.zeros(left.shape[0], right.shape[0])
        means = right.new_empty(sampled.shape) if keep else None
        bias = None if bias is None else bias.contiguous()
        _C.draw_bits(
            left.view,
            shared.as_matrix(right),
            0 if bias is None else bias.data_ptr(),
            0 if beta is None else beta.data_ptr(),
            sampled.words.data_ptr(),
            0 if means is None else means.data_ptr(),
            (int(settings.seed), settings.row_offset, step),
            torch.get_num_threads(),
        )
        return sampled, means

    def add_product(
        self, probabilities: Tensor, states: BitMatrix | Tensor, total: Tensor | None
    ) -> Tensor:
        if not isinstance(states, BitMatrix):
            return super().add_product(probabilities, states, total)
        if total is not None and not total.is_contiguous():
            return total.add_(self.add_product(probabilities, states, None))
        columns, width = probabilities.shape[1], states.shape[1]
        output = probabilities.new_empty(columns, width) if total is None else total
        _C.transposed_bit_matrix_product(
            states.transposed[0].view,
            shared.as_matrix(probabilities.t()),
            output.data_ptr(),
            total is not None,
            torch.get_num_threads(),
        )
        return output

    def row_sum(self, states: BitMatrix | Tensor) -> Tensor:
        return states.transposed[1] if isinstance(states, BitMatrix) else states.sum(0)


def _bit_matrix_product(left: BitMatrix, matrix: Tensor, bias: Tensor | None) -> Tensor:
    """left [B, K] @ matrix.T + bias."""
    output = matrix.new_empty(left.shape[0], matrix.shape[0])
    bias = None if bias is None else bias.contiguous()
    _C.bit_matrix_product(
        left.view,
        shared.as_matrix(matrix),
        0 if bias is None else bias.data_ptr(),
        output.data_ptr(),
        torch.get_num_threads(),
    )
    return output
