"""A code in few bits: uniform quantization, unit by unit."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from aefast.ops.shared import contract


@dataclass(frozen=True)
class CompressedCode:
    """Codes of B rows, each element in a few bits; nothing else is needed to decode them.

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
        """Of an element of the rows that were encoded; of an image, the bits per pixel."""
        return 8 * self.nbytes / max(1, self.rows * self.visible)


def quantize(code: Tensor, bits: int, visible: int) -> CompressedCode:
    """Each unit of the code ``[B, H]`` on 2**bits even levels from its lowest to its highest.

    The rounding error is at most half a step: (highest - lowest) / (2**bits - 1) / 2.

    Raises:
        ValueError: ``bits`` is none of 1 to 16, or the code is not finite.
    """
    bits = contract.check_integer(bits, "bits", 2**31)
    if not 1 <= bits <= 16:
        raise ValueError(f"bits is {bits}; it takes an int in [1, 16]")
    if not code.isfinite().all():
        raise ValueError("the code of x is not finite; compression takes finite codes")
    code = code.float()
    low = code.amin(0) if len(code) else code.new_zeros(code.shape[1])
    high = code.amax(0) if len(code) else low
    step = (high - low) / (2**bits - 1)
    levels = torch.where(step > 0, (code - low) / step, 0).round().to(torch.int32)
    payload = np.packbits(_as_bits(levels.cpu().numpy(), bits)).tobytes()
    return CompressedCode(payload, low.cpu(), step.cpu(), len(code), bits, visible)


def dequantize(compressed: CompressedCode) -> Tensor:
    """The codes, float32 ``[B, H]``."""
    units = len(compressed.low)
    count = compressed.rows * units * compressed.bits
    drawn = np.unpackbits(np.frombuffer(compressed.payload, np.uint8), count=count)
    places = 1 << np.arange(compressed.bits)
    levels = drawn.reshape(compressed.rows, units, compressed.bits) @ places
    return compressed.low + torch.from_numpy(levels).float() * compressed.step


def _as_bits(levels: np.ndarray, bits: int) -> np.ndarray:
    """[B, H, bits], the lowest first."""
    return (levels[..., None] >> np.arange(bits) & 1).astype(np.uint8)
