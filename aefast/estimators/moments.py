"""The data's count, mean and scatter: all that PCA and its probabilistic kin ask of it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aefast.estimators.conversion import as_tensor, row_pieces


@dataclass(frozen=True, eq=False)
class Moments:
    """Of the rows seen so far, in float64. With n rows x_i of D features:

    ``mean = sum_i x_i / n``, ``scatter = sum_i (x_i - mean) (x_i - mean)^T``.

    Attributes:
        count: n.
        mean: ``[D]``.
        scatter: ``[D, D]``.

    Reference:
        Chan, Golub, LeVeque, "Algorithms for computing the sample variance: analysis and
        recommendations", The American Statistician 37, 1983: each piece is centered at its own
        mean, so that nothing cancels however far from 0 the data lie.

    >>> moments = Moments.none(1).including(np.array([[1.0], [3.0]]))
    >>> moments = moments.including(np.array([[8.0]]))
    >>> moments.count, moments.mean, moments.scatter
    (3, array([4.]), array([[26.]]))
    """

    count: int
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def none(cls, features: int) -> "Moments":
        """Of no rows."""
        return cls(0, np.zeros(features), np.zeros((features, features)))

    def including(self, X: Any) -> "Moments":
        """With the rows of X too, an array or sparse matrix ``[N, D]``."""
        count, mean, scatter = self.count, as_double(self.mean), as_double(self.scatter)
        for rows in row_pieces(X, torch.float64):
            before, count = count, count + len(rows)
            center = rows.mean(0)
            shift = center - mean
            centered = rows - center
            scatter = torch.addmm(scatter, centered.T, centered)
            scatter.addr_(shift, shift, alpha=before * len(rows) / count)
            mean = mean + shift * (len(rows) / count)
        return Moments(count, mean.numpy(), scatter.numpy())


def as_double(array: Any) -> Tensor:
    return as_tensor(array, torch.float64)
