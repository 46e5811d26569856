"""Sparse coding with a learned dictionary as a scikit-learn transformer."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags, check_array, check_random_state, gen_batches
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor
from torch.nn.functional import normalize

from aefast.distributed.agreement import agree
from aefast.distributed.group import Group, group_of
from aefast.distributed.interrupts import noted_interrupts, stop_together
from aefast.distributed.rows import DistributedRows
from aefast.estimators.conversion import (
    DTYPES,
    Matrix,
    MatrixLike,
    RandomState,
    all_or_nothing,
    as_tensor,
    check_mergeable,
    in_default_modes,
    largest,
    row_blocks,
    without_nan,
)
from aefast.functional import sparse_encode
from aefast.nn.likelihood import floored
from aefast.ops.shared import checks
from aefast.ops.sparse_coding import STEPS
from aefast.ops.sparse_coding.op import check_settings

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

# The squares of larger numbers, summed over rows and features, leave float32's range.
LARGEST = 2.0**50

# Nor does float64 hold the squares of these.
RANGE = "some up to 1e150"

# An atom is replaced when its codes' mean square is below this share of the largest one's.
UNUSED = 1e-6


class SparseCoding(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """A dictionary of unit-norm atoms in which the data have sparse codes.

    It minimizes, over the dictionary D and the codes z,

        mean over the rows x of 1/2 ||x - z D||^2 + penalty ||z||_1,  ||D_k|| = 1

    by online dictionary learning: the codes of a batch, by
    :func:`aefast.functional.sparse_encode`, are added to the statistics mean(zt z) and mean(zt x),
    in which older batches fade, and one pass over the atoms minimizes the objective that these
    make, an atom after the other. All is computed in float32.

    Natural images ask for patches without their mean, whitened as a rule.

    Args:
        n_components: K, the number of atoms.
        penalty: of the codes' absolute values, above 0.
        batch_size: rows a step.
        n_iter: passes over the data.
        max_iter: the same, as scikit-learn names it; None takes ``n_iter``.
        tolerance: of a code's relative duality gap: see ``sparse_encode``.
        random_state: an int, a ``numpy.random.RandomState``, or None.

    Attributes:
        components_: the dictionary D, float32 ``(n_components, n_features)``, its rows of norm 1.
        n_steps_: the number of batches seen.
        n_iter_: how many passes fit took.
        n_features_in_: the number of features seen in fit.
        feature_names_in_: their names, where they have any.

    References:
        Olshausen, Field, "Emergence of simple-cell receptive field properties by learning a sparse
        code for natural images", Nature 381, 1996; Mairal, Bach, Ponce, Sapiro, "Online learning
        for matrix factorization and sparse coding", JMLR 11, 2010, algorithms 1 and 2 and section
        3.4.2.

    >>> import numpy as np
    >>> from aefast.estimators import SparseCoding
    >>> X = np.array([[2.0, 0.0], [0.0, 3.0], [4.0, 0.0], [0.0, -2.0]])
    >>> model = SparseCoding(n_components=2, penalty=0.5, random_state=0).fit(X)
    >>> model.transform(X).shape
    (4, 2)
    """

    def __init__(
        self,
        n_components: int = 128,
        penalty: float = 1.0,
        *,
        batch_size: int = 256,
        n_iter: int = 10,
        max_iter: int | None = None,
        tolerance: float = 1e-6,
        random_state: RandomState = None,
    ) -> None:
        self.n_components = n_components
        self.penalty = penalty
        self.batch_size = batch_size
        self.n_iter = n_iter
        self.max_iter = max_iter
        self.tolerance = tolerance
        self.random_state = random_state

    @in_default_modes
    def fit(
        self, X: MatrixLike, y: object = None, *, process_group: "ProcessGroup | None" = None
    ) -> "SparseCoding":
        """Learn from X, an array ``(n_samples, n_features)``.

        Args:
            X: the rows.
            y: ignored.
            process_group: None learns from these rows alone. Of a
                ``torch.distributed.ProcessGroup``, such as ``torch.distributed.group.WORLD``, all
                ranks make the call, each with rows of its own, which may be none; and all get what
                one would from all the rows, one rank's after another's, to rounding. What is drawn
                is rank 0's.

        Raises:
            TypeError, ValueError: a parameter is of a wrong type or outside its range, or X holds
                numbers whose squares leave float32's. An error of one rank is raised on all.
        """
        group = group_of(process_group)
        X = group.together(lambda: self._checked(X, 1 if group.size == 1 else 0))
        settings = self.get_params()
        del settings["random_state"]
        agree(group, settings)
        rng = group.broadcast_object(group.together(lambda: check_random_state(self.random_state)))
        rows = DistributedRows.joined(group, as_tensor(X))
        self._start(rows, rng)
        self.n_iter_ = self.n_iter if self.max_iter is None else self.max_iter
        with noted_interrupts(group) as interrupts:
            for _ in range(self.n_iter_):
                order = torch.from_numpy(rng.permutation(rows.count))
                for batch in gen_batches(rows.count, self.batch_size):
                    stop_together(group, interrupts)
                    with interrupts.whole_step():
                        self._step(rows.batch(order[batch]), rng)
        return self

    @in_default_modes
    def partial_fit(self, X: MatrixLike, y: object = None) -> "SparseCoding":
        """One step on X, an array ``(n_samples, n_features)``."""
        with all_or_nothing(self):
            self._check_parameters()
            first = not hasattr(self, "components_")
            X = validate_data(self, X, dtype=DTYPES, reset=first)
            _check_size(X)
            rows = DistributedRows.joined(Group(), as_tensor(X))
            if not hasattr(self, "random_state_"):
                self.random_state_ = check_random_state(self.random_state)
            if first:
                self._start(rows, self.random_state_)
            self._step(rows, self.random_state_)
            return self

    @in_default_modes
    def merge(self, other: "SparseCoding") -> "SparseCoding":
        """Take this estimator's last step with the rows of another one's last step, too.

        A step's sums over its rows add up where both began at the same dictionary. So copies of one
        estimator, each after one ``partial_fit`` on a part of a batch, anywhere, by joblib or Dask,
        are merged in any order to what one ``partial_fit`` on the whole batch gives, to rounding.
        Estimators that learned on their own from there are not: their codes are of other
        dictionaries. An atom that no row uses is drawn from this estimator's rows.

        Args:
            other: a copy of what this was before its last step, after a step of its own; it stays
                as it is.

        Raises:
            TypeError, ValueError: it is not, or has other parameters.

        >>> import copy
        >>> import numpy as np
        >>> from aefast.estimators import SparseCoding
        >>> X = np.random.default_rng(0).normal(size=(60, 4))
        >>> before = SparseCoding(n_components=3, penalty=0.1, random_state=0).partial_fit(X[:20])
        >>> first, second, whole = (copy.deepcopy(before) for _ in range(3))
        >>> merged = first.partial_fit(X[20:40]).merge(second.partial_fit(X[40:]))
        >>> np.allclose(merged.components_, whole.partial_fit(X[20:]).components_, atol=1e-5)
        True
        """
        missing = "has taken no step; it takes one after partial_fit"
        check_mergeable(self, other, "_last_step", missing)
        for name, value in self.get_params().items():
            if name != "random_state" and getattr(other, name) != value:
                raise ValueError(f"{name} of other is {getattr(other, name)}, and {value} here")
        step, other_step = self._last_step, other._last_step
        if not step.begins_as(other_step):
            raise ValueError(
                "other's last step began at another dictionary; it takes copies of one estimator, "
                "each after one partial_fit"
            )
        own_atoms = as_tensor(self.components_)
        self._take(step.with_rows_of(other_step), lambda unused: own_atoms[unused])
        return self

    @in_default_modes
    def transform(self, X: MatrixLike) -> np.ndarray:
        """The codes of the rows of X: ``(n_samples, n_components)``, in X's dtype.

        Raises:
            ValueError: X holds numbers whose squares leave float64's range.
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=DTYPES, reset=False)
        dictionary = as_tensor(self.components_)
        codes = [self._encode(rows, dictionary).numpy() for rows in _blocks(X)]
        return without_nan(np.concatenate(codes), X, RANGE).astype(X.dtype, copy=False)

    @in_default_modes
    def inverse_transform(self, X: ArrayLike) -> np.ndarray:
        """Reconstructions ``(n_samples, n_features)`` of codes ``(n_samples, n_components)``."""
        check_is_fitted(self)
        codes: np.ndarray = check_array(X, dtype=DTYPES)
        if codes.shape[1] != len(self.components_):
            raise ValueError(
                f"X has {codes.shape[1]} columns; it takes codes of {len(self.components_)} "
                "components"
            )
        return codes @ self.components_.astype(codes.dtype, copy=False)

    @in_default_modes
    def score_samples(self, X: MatrixLike) -> np.ndarray:
        """The negative objective of every row with its code, ``(n_samples,)``.

        Raises:
            ValueError: as :meth:`transform`.
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=DTYPES, reset=False)
        dictionary = as_tensor(self.components_)
        scores = torch.cat([self._score(rows, dictionary) for rows in _blocks(X)])
        return without_nan(floored(scores).numpy(), X, RANGE)

    def score(self, X: MatrixLike, y: object = None) -> float:
        """The mean of :meth:`score_samples`: higher is better, at one penalty."""
        return float(self.score_samples(X).mean())

    def _checked(self, X: Matrix, least_samples: int) -> np.ndarray:
        self._check_parameters()
        X = validate_data(self, X, dtype=DTYPES, ensure_min_samples=least_samples)
        _check_size(X)
        return X

    def _check_parameters(self) -> None:
        for name in ("n_components", "batch_size"):
            checks.check_integer(getattr(self, name), name, 2**31, low=1)
        checks.check_integer(self.n_iter, "n_iter", 2**31)
        if self.max_iter is not None:
            checks.check_integer(self.max_iter, "max_iter", 2**31)
        check_settings(self.penalty, STEPS, self.tolerance)

    def _encode(self, rows: Tensor, dictionary: Tensor) -> Tensor:
        dictionary = dictionary.to(rows.dtype)
        return sparse_encode(rows, dictionary, self.penalty, tolerance=self.tolerance)

    def _score(self, rows: Tensor, dictionary: Tensor) -> Tensor:
        codes = self._encode(rows, dictionary).double()
        residuals = rows.double() - codes @ dictionary.double()
        return -residuals.square().sum(1) / 2 - self.penalty * codes.abs().sum(1)

    def _start(self, rows: DistributedRows, rng: np.random.RandomState) -> None:
        self.components_ = _drawn_atoms(rows, self.n_components, rng).numpy()
        self.n_steps_ = 0
        self._n_features_out = self.n_components
        self._code_products = np.zeros((self.n_components,) * 2, np.float32)
        self._data_products = np.zeros_like(self.components_)

    def _step(self, rows: DistributedRows, rng: np.random.RandomState) -> None:
        codes = rows.group.together(lambda: self._encode(rows.local, as_tensor(self.components_)))
        step = _Step(
            self.components_,
            self._code_products,
            self._data_products,
            self.n_steps_,
            rows.sum(codes.t() @ codes).numpy(),
            rows.sum(codes.t() @ rows.local).numpy(),
            rows.count,
        )
        self._take(step, lambda unused: _drawn_atoms(rows, int(unused.sum()), rng))

    def _take(self, step: "_Step", atoms_for: Callable[[Tensor], Tensor]) -> None:
        """Take a step, whose unused atoms, a boolean ``[K]``, give way to other ones."""
        self.n_steps_ = step.n_steps + 1
        fading = _fading(self.n_steps_, self.batch_size)
        code_products = fading * as_tensor(step.code_products) + (
            as_tensor(step.code_sums) / step.rows
        )
        data_products = fading * as_tensor(step.data_products) + (
            as_tensor(step.data_sums) / step.rows
        )
        dictionary = as_tensor(step.dictionary).clone()
        weights = code_products.diagonal()
        used = weights > UNUSED * weights.max()
        _update(dictionary, code_products, data_products, used.nonzero().flatten().tolist())
        if not used.all():
            dictionary[~used] = atoms_for(~used)
        arrays = (tensor.numpy() for tensor in (dictionary, code_products, data_products))
        self.components_, self._code_products, self._data_products = arrays
        self._last_step = step

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


class _Step(NamedTuple):
    """What a step begins with, and its sums over the rows.

    Attributes:
        dictionary, code_products, data_products, n_steps: the estimator's before the step.
        code_sums: zt z, ``[K, K]``.
        data_sums: zt x, ``[K, D]``.
        rows: the number of rows.
    """

    dictionary: np.ndarray
    code_products: np.ndarray
    data_products: np.ndarray
    n_steps: int
    code_sums: np.ndarray
    data_sums: np.ndarray
    rows: int

    def begins_as(self, other: "_Step") -> bool:
        return (
            self.n_steps == other.n_steps
            and np.array_equal(self.dictionary, other.dictionary)
            and np.array_equal(self.code_products, other.code_products)
            and np.array_equal(self.data_products, other.data_products)
        )

    def with_rows_of(self, other: "_Step") -> "_Step":
        return self._replace(
            code_sums=self.code_sums + other.code_sums,
            data_sums=self.data_sums + other.data_sums,
            rows=self.rows + other.rows,
        )


def _check_size(X: np.ndarray) -> None:
    if len(X) and largest(X) > LARGEST:
        raise ValueError(
            f"X holds numbers up to {largest(X):g}; it takes some up to {LARGEST:g}: scale it"
        )


def _blocks(X: np.ndarray) -> Iterator[Tensor]:
    """The rows of X in blocks: float32, or float64 where a number is too large for it."""
    return row_blocks(X, torch.float64 if largest(X) > LARGEST else torch.float32)


def _fading(step: int, batch_size: int) -> float:
    """The factor of the earlier steps' statistics (Mairal et al., section 3.4.2)."""
    rows = step * batch_size if step < batch_size else batch_size**2 + step - batch_size
    return (rows + 1 - batch_size) / (rows + 1)


def _update(
    dictionary: Tensor, code_products: Tensor, data_products: Tensor, atoms: list[int]
) -> None:
    """One pass of coordinate descent over some atoms, in place; the objective's part that depends
    on D is trace(1/2 Dt A D - Dt B) for the statistics A and B."""
    weights = code_products.diagonal().tolist()
    for k in atoms:
        gradient = code_products[k] @ dictionary - data_products[k]
        atom = dictionary[k] - gradient / weights[k]
        dictionary[k] = normalize(atom, dim=0)


def _drawn_atoms(data: DistributedRows, count: int, rng: np.random.RandomState) -> Tensor:
    """Rows of the data with norm 1, and a little noise, so that no two are equal."""
    rows = data.take(torch.from_numpy(rng.choice(data.count, count, replace=count > data.count)))
    noise = torch.from_numpy(rng.normal(0, 0.01, rows.shape).astype(np.float32))
    return normalize(normalize(rows) + noise)
