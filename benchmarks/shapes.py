"""The shapes that the suite, its quick form and the report's heat maps share.

A new line in ``WIDTHS`` is measured for every model and op that takes its cases from here.
"""

from dataclasses import dataclass

# From the data to the code.
WIDTHS = {
    "tables": [(30, 16), (200, 50)],
    "digits": [(64, 32)],
    "MNIST": [(784, 64), (784, 256), (784, 512), (784, 1024)],
    "cells": [(2000, 128)],
}
BATCHES = (1, 16, 128, 1024)


@dataclass(frozen=True)
class Shape:
    """The rows of a batch, and the widths that they go through."""

    batch: int
    widths: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.batch}x{'-'.join(map(str, self.widths))}"


ALL_WIDTHS = [widths for group in WIDTHS.values() for widths in group]
SHAPES = [Shape(batch, widths) for widths in ALL_WIDTHS for batch in BATCHES]

SMALL, MIDDLE = (64, 32), (784, 256)
# What the grid leaves out: rows of ratings, which are zeros but for a few; codes of embeddings,
# narrower and wider than one would make a model of two layers; and batches of a whole data set.
RATINGS, EMBEDDINGS, DICTIONARY = (20000, 200), (768, 2048), (768, 16384)
LARGE = [Shape(128, widths) for widths in (RATINGS, EMBEDDINGS, DICTIONARY)]
LARGE += [Shape(16384, widths) for widths in (SMALL, MIDDLE)]
# Every width at one batch, every batch at two widths: for what the whole grid would take too long.
CROSS = [shape for shape in SHAPES if shape.batch == 128 or shape.widths in (SMALL, MIDDLE)]
# An op's: at each of its settings, and at the one that training takes.
OP_SHAPES = [("cpu", 128, 784, 256), ("cpu", 1024, 784, 512), ("cpu", 4096, 784, 1024)]
CROSS_SHAPES = [("cpu", shape.batch, *shape.widths) for shape in CROSS]
MORE_OP_SHAPES = [shape for shape in CROSS_SHAPES if shape not in OP_SHAPES]

# What bench_step.py measures in `--quick`.
QUICK = [Shape(128, SMALL), Shape(128, MIDDLE)]
# Where torch.compile of a whole step, which takes ten seconds, is a baseline.
COMPILED = [Shape(128, SMALL)]
# On one thread, and with the C library's allocator as it comes.
ONE_THREAD = [Shape(128, SMALL), Shape(128, MIDDLE), Shape(1024, (784, 512))]
LARGE_TENSORS = ONE_THREAD[-1:]
