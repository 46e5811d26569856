"""A code in few bits: uniform quantization, unit by unit."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from aefast.ops.shared import checks


@dataclass(frozen=True, eq=False)
class CompressedCode:
    """Codes of B rows, each element in a few bits: all that the model needs to decode them.

    Attributes:
        payload: the levels, row by row, ``bits`` each, without gaps.
        low: the lowest value of each unit, float32 ``[H]``.
        step: what one level adds, float32 ``[H]``.
        rows: B.
        bits: of an element of the code.
        visible: D, the size of the rows that were encoded.
    """

    payload: bytes
    low: Tensor
    step: Tensor
    rows: int
    bits: int
    visible: int

    @property
    def nbytes(self) -> int:
        """What it takes to store: the payload and the two numbers of each unit."""
        return len(self.payload) + self.low.nbytes + self.step.nbytes

    @property
    def bits_per_element(self) -> float:
        """The bits for an element of the rows that were encoded; for an image, the bits per
        pixel."""
        return 8 * self.nbytes / max(1, self.rows * self.visible)


def quantize(code: Tensor, bits: int, visible: int) -> CompressedCode:
    """Each unit of the code ``[B, H]`` on 2**bits even levels from its lowest to its highest.

    The rounding error is at most half a step: (highest - lowest) / (2**bits - 1) / 2.

    Raises:
        ValueError: ``bits`` is none of 1 to 16, or the code is not finite.
    """
    bits = checks.check_integer(bits, "bits", 2**31)
    if not 1 <= bits <= 16:
        raise ValueError(f"bits is {bits}; it takes an int in [1, 16]")
    if not code.isfinite().all():
        raise ValueError("the code of x is not finite; compression takes finite codes")
    # float64: the range of two float32 numbers may be infinite in their own precision.
    code = code.cpu().double()
    low = code.amin(0) if len(code) else code.new_zeros(code.shape[1])
    high = code.amax(0) if len(code) else low
    step = (high - low) / (2**bits - 1)
    levels = torch.where(step > 0, (code - low) / step, 0).round()
    payload = _pack(levels.numpy().astype("<u2"), bits)
    return CompressedCode(payload, low.float(), step.float(), len(code), bits, visible)


def dequantize(compressed: CompressedCode) -> Tensor:
    """The codes, float32 ``[B, H]``.

    Raises:
        ValueError: the payload is not as long as its rows, units and bits make it.
    """
    rows, units, bits = compressed.rows, len(compressed.low), compressed.bits
    expected = -(-rows * units * bits // 8)
    if len(compressed.payload) != expected:
        raise ValueError(
            f"payload has {len(compressed.payload)} bytes; {rows} rows of {units} units in {bits} "
            f"bits take {expected}"
        )
    levels = _unpack(compressed.payload, rows * units, bits).reshape(rows, units)
    above_low = torch.from_numpy(levels.astype(np.float64)) * compressed.step
    return (compressed.low + above_low).float()


def _pack(levels: np.ndarray, bits: int) -> bytes:
    """The low bits of 16-bit numbers, one after the other, the lowest first."""
    as_bits = np.unpackbits(levels.reshape(-1, 1).view(np.uint8), axis=1, bitorder="little")
    return np.packbits(as_bits[:, :bits], bitorder="little").tobytes()


def _unpack(payload: bytes, count: int, bits: int) -> np.ndarray:
    packed = np.frombuffer(payload, np.uint8)
    as_bits = np.zeros((count, 16), np.uint8)
    as_bits[:, :bits] = np.unpackbits(packed, count=count * bits, bitorder="little").reshape(
        count, bits
    )
    return np.packbits(as_bits, axis=1, bitorder="little").view("<u2")[:, 0]
