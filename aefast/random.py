"""Random numbers: Philox4x32-10, a pure function of (seed, step, row, column).

Every backend draws these numbers bit for bit, so a sample does not depend on block sizes, on the
number of threads or ranks, on the device or on the memory layout. A tensor of more than two
dimensions counts as rows of its last one.

=============  ===================================================================
key            the seed: low 32 bits, high 32 bits
counter        ``column // 4``, row (low 32 bits, high 32 bits), step
words          the four outputs serve columns ``4 i`` to ``4 i + 3``, in order
uniform        ``(word >> 8) * 2**-24``: 24 bits, exact in float32, in [0, 1)
normal         Box-Muller on words (0, 1) and (2, 3): see :func:`normal`
=============  ===================================================================

Every draw has steps of its own, so that one seed given to two of them gives independent numbers:

===============  ===================================================================
2 t, 2 t + 1     the hidden and the visible units of Gibbs sampling's step t < 2**30
2**31 and above  all else, one step each: :class:`DrawStep`
===============  ===================================================================

This module is the definition, in plain PyTorch; the kernels' copies are ``csrc/shared/philox.h``,
``aefast/ops/shared/numba.py`` and ``aefast/ops/shared/triton_device.py``.

Reference: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

import math
from enum import IntEnum, unique
from operator import index
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeVar

import numpy as np
import torch
from torch import Tensor

from aefast.capture import is_captured
from aefast.deprecation import renamed_global

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_INCREMENTS = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
SEED_LIMIT = 2**63

# Of Gibbs sampling, so that its half steps stay below every other draw's step.
MOST_STEPS = 2**30


@unique
class DrawStep(IntEnum):
    """The step of each draw that takes one, past all of Gibbs sampling's."""

    DIRECT = 2**31  # this module's functions, where their caller names no step
    MASKING = 2**31 + 1  # corrupt's kinds, in reconstruction_loss too
    SALT_AND_PEPPER = 2**31 + 2
    GAUSSIAN = 2**31 + 3
    REPARAMETERIZE = 2**31 + 4
    PROBES = 2**31 + 5  # of the estimated contractive penalty
    HESSIAN_NOISE = 2**31 + 6  # of its second-order term
    TANGENTS = 2**31 + 7  # where the search for tangents begins
    DROPOUT = 2**31 + 8  # of an autoencoder's code
    CODE_NOISE = 2**31 + 9  # a stochastic autoencoder's code given x
    LATENT = 2**31 + 10  # a generative model's code from its prior
    VISIBLE = 2**31 + 11  # and its x given that code
    CHAIN_START = 2**31 + 12  # the states that an RBM's chains begin with
    SCORE = 2**31 + 13  # the codes that an estimator's score averages over
    CHILD_SEED = 2**32 - 1  # the seeds that descend from a seed: see child_seed()


if not TYPE_CHECKING:  # to a type checker any name would be one

    def __getattr__(name: str) -> object:
        return renamed_global(__name__, name, {"Step": "DrawStep"})


CPU = torch.device("cpu")

_LOW = 0xFFFFFFFF

Word = TypeVar("Word", int, Tensor)


def philox(
    counter: tuple[Word, Word, Word, Word], key: tuple[Word, Word]
) -> tuple[Word, Word, Word, Word]:
    """Philox4x32-10 on int64 tensors that hold 32-bit words, or on ints.

    Each round multiplies two words to 64 bits; int64 products wrap, and keep the right 64 bits.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        product0 = c0 * MULTIPLIERS[0]
        product1 = c2 * MULTIPLIERS[1]
        c0 = ((product1 >> 32) & _LOW) ^ c1 ^ k0
        c1 = product1 & _LOW
        c2 = ((product0 >> 32) & _LOW) ^ c3 ^ k1
        c3 = product0 & _LOW
        k0 = (k0 + KEY_INCREMENTS[0]) & _LOW
        k1 = (k1 + KEY_INCREMENTS[1]) & _LOW
    return c0, c1, c2, c3


def words(
    seed: int | Tensor,
    rows: int,
    columns: int,
    *,
    step: int = DrawStep.DIRECT,
    row_offset: int = 0,
    device: torch.device = CPU,
) -> Tensor:
    """The 32-bit words of a ``[rows, columns]`` block, as int64; ``step`` is in [0, 2**32)."""
    blocks = -(-columns // 4)
    seed = torch.as_tensor(seed, dtype=torch.int64, device=device).reshape(())
    row = torch.arange(rows, dtype=torch.int64, device=device)[:, None] + row_offset
    column_block = torch.arange(blocks, dtype=torch.int64, device=device)[None, :]
    counter = (column_block, row & _LOW, (row >> 32) & _LOW, torch.full_like(row, step))
    output = philox(counter, (seed & _LOW, (seed >> 32) & _LOW))
    return torch.stack(output, dim=-1).reshape(rows, 4 * blocks)[:, :columns]


def uniform(
    seed: int | Tensor,
    rows: int,
    columns: int,
    *,
    step: int = DrawStep.DIRECT,
    row_offset: int = 0,
    device: torch.device = CPU,
) -> Tensor:
    """Uniforms in [0, 1) with 24 bits, float32 ``[rows, columns]``.

    >>> uniform(0, 2, 3)
    tensor([[0.8660, 0.5133, 0.7007],
            [0.0579, 0.5205, 0.7017]])
    """
    word = words(seed, rows, columns, step=step, row_offset=row_offset, device=device)
    return (word >> 8).to(torch.float32) * 2.0**-24


def normal(
    seed: int | Tensor,
    rows: int,
    columns: int,
    *,
    step: int = DrawStep.DIRECT,
    row_offset: int = 0,
    device: torch.device = CPU,
) -> Tensor:
    """Standard normals by Box-Muller, float32 ``[rows, columns]``.

    Of each pair of words (a, b): ``u = a * 2**-32 + 2**-33`` rounded to float32, in (0, 1], so
    that the tail reaches 6.7 standard deviations, ``v = (b >> 8) * 2**-24``, and the two columns
    are ``sqrt(-2 ln u)`` times ``cos(2 pi v)`` and ``sin(2 pi v)``. The transcendental functions
    are taken in float64 here, where the device has it; float32 ones, a kernel's or those of a
    device without it, differ in the last places only.
    """
    dtype = most_precise(device)
    even = columns + columns % 2
    pairs = words(seed, rows, even, step=step, row_offset=row_offset, device=device)
    first, second = pairs[:, 0::2], pairs[:, 1::2]
    u = (first.to(torch.float32) * 2.0**-32 + 2.0**-33).to(dtype)
    angle = (second >> 8).to(dtype) * (2.0**-24 * 2 * math.pi)
    radius = torch.sqrt(-2 * torch.log(u))
    both = torch.stack((radius * torch.cos(angle), radius * torch.sin(angle)), dim=-1)
    return both.reshape(rows, even)[:, :columns].to(torch.float32)


def most_precise(device: torch.device) -> torch.dtype:
    """float64, where the device has it: Apple's and some of Intel's have none."""
    return torch.float64 if device.type in ("cpu", "cuda", "meta") else torch.float32


def threshold(probability: float) -> int:
    """The integer t with ``uniform < float32(probability)`` exactly where ``word >> 8 < t``.

    >>> threshold(0.5) == 2**23
    True
    """
    return math.ceil(float(np.float32(probability)) * 2**24)


def draw_seed(
    generator: torch.Generator | None, device: torch.device, *, as_tensor: bool = False
) -> int | Tensor:
    """A fresh seed from ``generator``, or from torch's default one.

    It is drawn on the host, so that no device is waited for. Three cases keep it a tensor: where
    the caller asks (a graph is traced: there torch's default generator of the device draws it),
    while a CUDA graph is captured (a replay must draw anew), and where the generator itself lives
    on a device.
    """
    if generator is not None and generator.device.type != "cpu":
        return torch.empty(1, dtype=torch.int64, device=generator.device).random_(
            generator=generator
        )
    if as_tensor:
        home = _in_graph(device) if generator is None else CPU
        return torch.randint(
            SEED_LIMIT - 1, (1,), generator=generator, dtype=torch.int64, device=home
        )
    if is_captured(device):
        return torch.empty(1, dtype=torch.int64, device=device).random_()
    return draw_on_host(generator)


def draw_on_host(generator: torch.Generator | None) -> int:
    """A seed from a generator of the host, or from torch's default one."""
    # This constructor takes half the time of torch.empty, and is on the CPU whatever the default.
    return int(torch.LongTensor(1).random_(generator=generator).item())


def _in_graph(device: torch.device) -> torch.device:
    """Where a seed is, in what is traced for a device: in torch.compile's graph for a GPU it is
    there, since CUDA graphs hold no tensor of the host's."""
    return device if device.type == "cuda" and torch.compiler.is_compiling() else CPU


def child_seed(seed: int, child: int) -> int:
    """The seed of a part of what ``seed`` governs: one of two draws, or one step of many.

    Args:
        seed: an int in [0, 2**63).
        child: which one, an int in [0, 2**64).

    Raises:
        TypeError, ValueError: one is no int, or outside its range.

    >>> child_seed(0, 1) != child_seed(0, 2)
    True
    """
    return _child(_natural(seed, "seed", SEED_LIMIT), _natural(child, "child", 2**64))


def child_seeds(seed: int, first: int, count: int) -> Tensor:
    """The seeds of ``count`` children from ``first`` on, int64: :func:`child_seed` of each.

    >>> child_seeds(0, 5, 3).tolist() == [child_seed(0, child) for child in (5, 6, 7)]
    True
    """
    children = torch.arange(first, first + count, dtype=torch.int64, device="cpu")
    return _child(_natural(seed, "seed", SEED_LIMIT), children)


def _natural(value: SupportsIndex, argument: str, limit: int) -> int:
    """Also of NumPy's ints, in whose widths a product would wrap."""
    number = index(value)
    if not 0 <= number < limit:
        domain = f"[0, 2**{limit.bit_length() - 1})"
        raise ValueError(f"{argument} is {number}; it takes an int in {domain}")
    return number


def _child(seed: int, child: Any) -> Any:
    """The seed of one child, an int, or the seeds of many, an int64 tensor."""
    counter = (0, child & _LOW, child >> 32, DrawStep.CHILD_SEED)
    high, low, _, _ = philox(counter, (seed & _LOW, seed >> 32))
    return (high << 32 | low) & (SEED_LIMIT - 1)


def seed_tensor(seed: int | Tensor, device: torch.device) -> Tensor:
    """A seed as the registered ops on a device take it, an int64 tensor of one element."""
    if isinstance(seed, Tensor):
        return seed
    return torch.scalar_tensor(seed, dtype=torch.int64, device=_in_graph(device))
