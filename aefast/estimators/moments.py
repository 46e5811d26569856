"""The data's count, mean and scatter: all that PCA, PPCA and factor analysis need.

Of fewer samples than features the scatter is kept as a root, with a row a sample: of a few samples
with many features no ``[D, D]`` matrix is ever made.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from torch import Tensor

from aefast.distributed.group import Group
from aefast.distributed.rows import check_widths
from aefast.estimators.conversion import Matrix, as_tensor, row_blocks

# Of each product's float64 rows, which nearly stay in cache; of float32 rows twice as many.
ROWS_AT_ONCE = 2048

# A sum of float32 squares above this has lost nothing to those that are too small for float32.
LEAST_SUM = 2.0**-60


@dataclass(frozen=True, eq=False)
class Moments:
    """The moments of the rows so far, in float64. With n rows x_i of D features:

    ``mean = sum_i x_i / n``, ``scatter = sum_i (x_i - mean) (x_i - mean)^T``.

    Attributes:
        count: n.
        mean: ``[D]``.
        root: while n < D an ``[n, D]`` matrix R with ``R^T R = scatter``, after a merge of one row
            more; then None.
        scatter: from n = D on ``[D, D]``; until then None.

    Reference:
        Chan, Golub, LeVeque, "Algorithms for computing the sample variance: analysis and
        recommendations", The American Statistician 37, 1983: each piece is centered, so that
        nothing cancels however far from 0 the data lie.

    >>> moments = Moments.none(1).including(np.array([[1.0], [3.0]]))
    >>> moments = moments.including(np.array([[8.0]]))
    >>> moments.count, moments.mean, moments.scatter
    (3, array([4.]), array([[26.]]))
    """

    count: int
    mean: np.ndarray
    root: np.ndarray | None
    scatter: np.ndarray | None

    @classmethod
    def none(cls, features: int) -> "Moments":
        """The moments of no rows."""
        return cls(0, np.zeros(features), np.zeros((0, features)), None)

    @property
    def variances(self) -> np.ndarray:
        """The features' variances, divided by n: ``[D]``."""
        if self.scatter is not None:
            return self.scatter.diagonal() / self.count
        with np.errstate(over="ignore"):
            return np.square(self._root()).sum(0) / self.count

    def including(self, X: Matrix, *, single: bool = False) -> "Moments":
        """The moments of these rows and those of X, an array or sparse matrix ``[N, D]``.

        Args:
            single: take the products of centered float32 rows in float32, which is twice as fast.
                Each is a sum of at most 4096 terms; the sums add up in float64. With u = 2**-24 an
                element ij of the scatter is off by at most 4096 u sqrt(scatter_ii scatter_jj).
                Rows whose products leave float32's range are taken in float64.
        """
        samples, features = X.shape
        if samples == 0:  # a rank may have no rows
            return self
        if self.count + samples < features:
            return self._with_few(as_double(X).numpy())
        blocks = (
            row_blocks(X, torch.float32, 2 * ROWS_AT_ONCE)
            if single
            else row_blocks(X, torch.float64, ROWS_AT_ONCE)
        )
        return self.merged(_moments_of_blocks(features, blocks))

    def merged(self, other: "Moments") -> "Moments":
        """The moments of both's rows: to rounding those of all rows taken at once."""
        if self.count == 0 or other.count == 0:
            return other if self.count == 0 else self
        count = self.count + other.count
        shift = other.mean - self.mean
        mean = self.mean + shift * (other.count / count)
        # Both scatters are centered: the difference of the means is one more row.
        row = (self.count * (other.count / count)) ** 0.5 * shift[None]
        if count < len(mean):
            parts = self._root(), other._root(), row
            return Moments(count, mean, np.concatenate(parts), None)
        return Moments(count, mean, None, self._products() + other._products() + _products(row))

    def _products(self) -> np.ndarray:
        """The scatter, ``[D, D]``."""
        return self.scatter if self.scatter is not None else _products(self._root())

    def _with_few(self, rows: np.ndarray) -> "Moments":
        """The moments with these float64 rows, of which there are still fewer than features."""
        samples, count = len(rows), self.count + len(rows)
        center, spread = _centered(rows)
        del rows  # the root may have their memory
        if self.count == 0:
            return Moments(samples, center, spread, None)
        shift = center - self.mean
        # Centered rows sum to 0: their scatter and that of what is added do not mix.
        spread += (self.count / count) ** 0.5 * shift
        root = np.concatenate([self._root(), spread])
        return Moments(count, self.mean + shift * (samples / count), root, None)

    def _root(self) -> np.ndarray:
        assert self.root is not None
        return self.root


def _moments_of_blocks(features: int, blocks: Iterable[Tensor]) -> Moments:
    """The moments of all blocks' rows, with their scatter: that within the blocks, and that of
    their centers."""
    counts, centers, roundings = [], [], []
    scatter = np.zeros((features, features))
    for rows in blocks:
        center, rounding, products = _centered_products(rows.numpy())
        counts.append(len(rows))
        centers.append(center)
        roundings.append(rounding)
        scatter += products
    sizes = np.array(counts, np.float64)
    count = sum(counts)
    mean = sizes @ np.stack(centers) / count
    both = np.concatenate([centers - mean, roundings])
    scatter += (both.T * np.concatenate([sizes, -sizes])) @ both
    return Moments(count, mean, None, scatter)


def _centered(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows' mean, in float64, and the rows less that, as their own dtype rounds it."""
    center = rows.mean(0, dtype=np.float64)
    spread = rows - center.astype(rows.dtype)
    if rows.dtype == np.float64:
        rounding = spread.mean(0)
        center += rounding
        spread -= rounding
    return center, spread


def _products(spread: np.ndarray) -> np.ndarray:
    """``spread^T spread``. numpy takes it by ``syrk``, in half of a product's steps; torch has no
    such function."""
    return spread.T @ spread


def _centered_products(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rows' mean, by how much the center that was taken from them is another, and the products
    of the centered rows; in float64 where those of float32 rows leave its range."""
    with np.errstate(over="ignore", invalid="ignore"):
        center, spread = _centered(rows)
        products = _products(spread)
    if rows.dtype == np.float32:
        sums = products.diagonal()
        if not np.isfinite(sums).all() or spread[:, sums < LEAST_SUM].any():
            return _centered_products(rows.astype(np.float64))
    return center, center - center.astype(rows.dtype), products


def shape_of_all_ranks(group: Group, X: Matrix) -> tuple[int, int]:
    """The number of rows on all ranks, and of features.

    Raises:
        ValueError: the ranks' rows have different numbers of features.
    """
    shapes = group.gather(X.shape)
    check_widths([features for _, features in shapes])
    return sum(samples for samples, _ in shapes), X.shape[1]


def of_all_ranks(group: Group, X: Matrix, *, single: bool = False) -> Moments:
    """The moments of all ranks' rows, of which X are this one's: the same bits on each rank.

    Args:
        single: as :meth:`Moments.including` takes it, of this rank's rows.
    """
    none = Moments.none(X.shape[1])
    local = group.together(lambda: none.including(X, single=single))
    return reduce(Moments.merged, group.gather(local))


def as_double(array: Matrix) -> Tensor:
    return as_tensor(array, torch.float64)
