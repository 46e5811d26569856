"""The data's count, mean and scatter: all that PCA and its probabilistic kin ask of it.

The scatter is kept as a root, with as many rows as there are samples or features, whichever are
fewer: of a few samples with many features no ``[D, D]`` matrix is ever made.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aefast.estimators.conversion import as_tensor, row_pieces


@dataclass(frozen=True, eq=False)
class Moments:
    """Of the rows seen so far, in float64. With n rows x_i of D features:

    ``mean = sum_i x_i / n``, ``root^T root = sum_i (x_i - mean) (x_i - mean)^T``.

    Attributes:
        count: n.
        mean: ``[D]``.
        root: ``[min(n, D), D]``.

    References:
        Chan, Golub, LeVeque, "Algorithms for computing the sample variance: analysis and
        recommendations", The American Statistician 37, 1983: each piece is centered at its own
        mean, so that nothing cancels however far from 0 the data lie. Golub, Van Loan, "Matrix
        Computations", Johns Hopkins, 2013, section 6.5: rows are added to a QR factorization.

    >>> moments = Moments.none(1).including(np.array([[1.0], [3.0]]))
    >>> moments = moments.including(np.array([[8.0]]))
    >>> moments.count, moments.mean, np.square(moments.root).round(9)
    (3, array([4.]), array([[26.]]))
    """

    count: int
    mean: np.ndarray
    root: np.ndarray

    @classmethod
    def none(cls, features: int) -> "Moments":
        """Of no rows."""
        return cls(0, np.zeros(features), np.zeros((0, features)))

    def including(self, X: Any) -> "Moments":
        """With the rows of X too, an array or sparse matrix ``[N, D]``."""
        count, mean, root = self.count, as_double(self.mean), as_double(self.root)
        for rows in row_pieces(X, torch.float64):
            before, count = count, count + len(rows)
            center = rows.mean(0)
            shift = center - mean
            # The centered rows sum to 0: their scatter and that of what is added do not mix.
            spread = rows - center + (before / count) ** 0.5 * shift
            root = torch.cat([root, spread])
            if len(root) > len(mean):
                root = torch.linalg.qr(root, mode="r").R
            mean = mean + shift * (len(rows) / count)
        return Moments(count, mean.numpy(), root.numpy())


def as_double(array: Any) -> Tensor:
    return as_tensor(array, torch.float64)
