"""Rows like those of real data: a digit's image is black but for a fifth of its pixels, a user has
rated one film of a hundred."""

from typing import Any

import torch
from torch import Tensor

INK, RATED = 0.2, 0.01
# From so many columns on a row is one of ratings.
FEWEST_ITEMS = 10000


def samples(count: int, columns: int, *, binary: bool = False, **options: Any) -> Tensor:
    """[count, columns] from 0 to 1, most of them 0; of ``binary`` ones 0 or 1.

    Args:
        options: dtype and device.
    """
    share = RATED if columns >= FEWEST_ITEMS else INK
    present = torch.rand(count, columns, **options) < share
    values = torch.ones_like if binary else torch.rand_like
    return present * values(torch.empty(count, columns, **options))
