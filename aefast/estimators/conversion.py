"""scikit-learn's arrays as torch's tensors, and the checks that the estimators share."""

import contextlib
import inspect
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, ParamSpec, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy import sparse
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags, check_array, check_random_state, gen_batches
from torch import Tensor

from aefast.data.dataset import reading
from aefast.data.elements import check_elements
from aefast.nn.initialization import on_cpu
from aefast.ops.shared import checks

DTYPES = (np.float64, np.float32)
ROWS_AT_ONCE = 4096
LARGEST_SEED = 2**31 - 1

# As scikit-learn takes it: a seed, a generator, or None for NumPy's global one.
RandomState = int | np.random.RandomState | None

# As scikit-learn takes rows, and as its checks return them.
MatrixLike: TypeAlias = ArrayLike | sparse.spmatrix
Matrix: TypeAlias = np.ndarray | sparse.csr_matrix

P = ParamSpec("P")
R = TypeVar("R")

_NUMPY_DTYPES = {torch.float32: np.float32, torch.float64: np.float64}


def in_default_modes(method: Callable[P, R]) -> Callable[P, R]:
    """Run a method with gradients on, outside of inference mode and autocast, and on the CPU.

    Its first argument, X, is checked: its elements are numbers, and if it is mapped from a file,
    the file is not cut meanwhile.
    """
    names = [name for name in inspect.signature(method).parameters if name != "self"]
    first, place = (names or [""])[0], int("self" in inspect.signature(method).parameters)

    @wraps(method)
    def run(*arguments: P.args, **options: P.kwargs) -> R:
        plain = torch.autocast("cpu", enabled=False)
        X = arguments[place] if len(arguments) > place else options.get(first)
        check_elements(X, first)
        with torch.inference_mode(False), torch.enable_grad(), plain, on_cpu(), reading(X, first):
            return method(*arguments, **options)

    return run


def check_mergeable(estimator: BaseEstimator, other: object, learned: str, missing: str) -> None:
    """Check that another estimator is of the same class, and that both have the attribute that
    ``merge`` adds up.

    Raises:
        TypeError: it is of another class.
        ValueError: one lacks it; ``missing`` says what that means.
    """
    if type(other) is not type(estimator):
        raise TypeError(
            f"other is a {type(other).__name__}; it takes a {type(estimator).__name__}, as this is"
        )
    for name, one in (("this estimator", estimator), ("other", other)):
        if not hasattr(one, learned):
            raise ValueError(f"{name} {missing}")


@contextlib.contextmanager
def all_or_nothing(estimator: BaseEstimator) -> Iterator[None]:
    """If the block raises, restore the estimator's attributes and the states of its generators.

    Tensors are not copied: a step that fails has not changed them in place.
    """
    before = vars(estimator).copy()
    generators = [value for value in before.values() if isinstance(value, np.random.RandomState)]
    states = [generator.get_state() for generator in generators]
    try:
        yield
    except BaseException:
        vars(estimator).clear()
        vars(estimator).update(before)
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
        raise


def as_tensor(X: Any, dtype: torch.dtype = torch.float32) -> Tensor:
    """An array, sparse matrix or tensor as a dense tensor, float32 or float64."""
    if isinstance(X, Tensor):
        return X.to(dtype)
    X = X.toarray() if sparse.issparse(X) else X
    array = np.ascontiguousarray(X, dtype=_NUMPY_DTYPES[dtype])
    # An array from a memory map may be read-only; torch has no read-only tensors.
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def row_blocks(
    X: Matrix, dtype: torch.dtype = torch.float32, at_once: int | None = None
) -> Iterator[Tensor]:
    """The rows of X as tensors of ``at_once`` rows, by default ``ROWS_AT_ONCE``, one after the
    other."""
    return (as_tensor(X[rows], dtype) for rows in gen_batches(X.shape[0], at_once or ROWS_AT_ONCE))


class FloatTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """A transformer of dense or sparse rows, which gives float32 for float32."""

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def check_codes(X: ArrayLike, columns: int, unit: str) -> np.ndarray:
    """Check codes ``(n_samples, columns)``; a message calls the columns ``unit``."""
    codes: np.ndarray = check_array(X, dtype=DTYPES, input_name="X")
    if codes.shape[1] != columns:
        raise ValueError(
            f"X has {codes.shape[1]} columns; it takes one for each of the {columns} {unit}"
        )
    return codes


def check_verbose(verbose: object) -> None:
    """
    Raises:
        TypeError, ValueError: it is neither True, False nor an int from 0.
    """
    if not isinstance(verbose, bool | np.bool_):
        checks.check_integer(verbose, "verbose", 2**31)


def draw_sample_seed(n_samples: int, random_state: RandomState) -> int:
    """Check both arguments, and draw a seed for the samples."""
    checks.check_integer(n_samples, "n_samples", 2**31, low=1)
    return int(check_random_state(random_state).randint(LARGEST_SEED))


def largest(X: Matrix) -> float:
    """The largest absolute value in X."""
    return float(max(-X.min(), X.max()))


def without_nan(result: np.ndarray, X: Matrix, takes: str) -> np.ndarray:
    """A result of finite rows X, in which NaN means that a product overflowed.

    Raises:
        ValueError: it holds NaN; the message says what the model takes, ``takes``.
    """
    if np.isnan(result).any():
        raise ValueError(
            f"X holds numbers up to {largest(X):g}, whose products leave the range of the model's "
            f"dtype; it takes {takes}"
        )
    return result


def outside_unit_interval(X: Matrix) -> float | None:
    """A number of X outside [0, 1], or None. A scaler's 1 + 2e-16 counts as 1, which it is in the
    float32 that models compute in."""
    low, high = float(X.min()), float(X.max())
    if low >= 0 and np.float32(min(high, 2)) <= 1:
        return None
    return low if low < 0 else high


def check_unit_interval(X: Matrix, reason: str) -> None:
    """
    Args:
        reason: what takes numbers in [0, 1], for the message: "Bernoulli units take".

    Raises:
        ValueError: X holds a number outside [0, 1].
    """
    wrong = outside_unit_interval(X)
    if wrong is not None:
        raise ValueError(f"X holds {checks.shown_outside(wrong)}; {reason} numbers in [0, 1]")
