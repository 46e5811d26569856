"""Which float32 product a CPU's layers take: ours, or that of torch's vendor library.

The choice depends on the processor, the instruction set, the precision and the size of the weight.
It depends on no timing, so that runs are reproducible. It does not depend on the number of rows or
threads either: Gibbs sampling draws from a product's rounded sums, and samples must not change with
them.

:mod:`aefast.ops.shared.product_ratios` holds the measured ratios. A weight takes the ratio of the
measured weight that is nearest in size. Below "highest" our product is always taken with matrix
units (AMX). On a processor that was not measured the vendor's is taken, except on AMD's: the
vendor's library uses no more than AVX2 on any of them, so the figures of the nearest generation
apply.
"""

import math
from functools import cache

from aefast import processors
from aefast.backend import extension
from aefast.ops.shared.precision import product_level
from aefast.ops.shared.product_ratios import RATIOS

# Around the vendor's product a layer's activation is a call and a pass of its own. On a Zen 3 a
# layer of ours with its gradients was 1.00 to 1.23 times as fast as one around the vendor's product
# where the product alone was 0.92 to 1.10 times as fast; but on a Xeon with AMX 0.81 to 0.94 times
# where that was 0.93 to 0.95.
LEAST_RATIO = 0.96
# A whole training step saves more such passes. On a Zen 4 the ordinary loop took 1.14 to 1.39 times
# as long where the product's ratio is 0.86 (200-50, 4096 and 16384 rows), and 0.85 times where it
# is 0.73 (30-16, 65536 rows).
LEAST_RATIO_OF_STEP = 0.8

# Weight sizes and how many times as fast as the vendor's product ours is there.
Ratios = tuple[tuple[int, float], ...]


def outpaces_vendor(weight_size: int, least_ratio: float = LEAST_RATIO) -> bool:
    """Whether ours serves a weight of so many elements."""
    return _outpaces(extension().instruction_set(), product_level("cpu"), weight_size, least_ratio)


def level_of_ours(weight_size: int) -> str | None:
    """The precision that torch's switches ask for, where ours serves a weight of so many elements;
    None elsewhere."""
    level = product_level("cpu")
    serves = _outpaces(extension().instruction_set(), level, weight_size, LEAST_RATIO)
    return level if serves else None


def takes_matrix_units() -> bool:
    """Whether our product is made on matrix units: below "highest", where there are any."""
    return _are_matrix_units(extension().instruction_set(), product_level("cpu"))


def _are_matrix_units(instruction_set: str, precision: str) -> bool:
    return instruction_set == "amx" and precision != "highest"


@cache
def _outpaces(instruction_set: str, precision: str, weight_size: int, least_ratio: float) -> bool:
    if _are_matrix_units(instruction_set, precision):
        return True
    if instruction_set != "avx512":  # without bfloat16 units all precisions are one product
        precision = "highest"
    ratios = measured(processors.kind(), instruction_set, precision)
    if not ratios or not weight_size:
        return False
    _, ratio = min(ratios, key=lambda entry: abs(math.log(entry[0] / weight_size)))
    return ratio >= least_ratio


def measured(processor: str | None, instruction_set: str, precision: str) -> Ratios:
    """The ratios of this processor or of the AMD one that is nearest to it; none of others."""
    known = {
        name: ratios
        for (name, *setting), ratios in RATIOS.items()
        if setting == [instruction_set, precision]
    }
    if processor is None:
        return ()
    if processor in known:
        return known[processor]
    generation = _generation(processor)
    amds = [name for name in known if _generation(name)]
    if not generation or not amds:
        return ()
    return known[min(amds, key=lambda name: abs(_generation(name) - generation))]


def _generation(processor: str) -> int:
    """The generation of AMD's Zen: 1 for the first one, which bears no number; 0 of any other."""
    maker, _, number = processor.partition("AMD Zen")
    return 0 if maker else int(number or 1)
