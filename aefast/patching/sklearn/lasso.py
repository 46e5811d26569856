"""scikit-learn's sparse codes by the lasso: all rows at once, and exact.

The kernels find which atoms a row's code holds, in float32; given these and their signs the code
is the solution of a linear system, which is solved in float64. A row's code is the lasso's where
the signs are right and no other atom's slope exceeds the penalty (Karush, Kuhn and Tucker): where
they are not after some corrections, scikit-learn's own code takes the row.

scikit-learn's LARS follows a code along its penalty, and where an atom comes or goes within
``KNOT_REACH`` of the penalty that is asked for, it ends there. Such a row is its own, too.
"""

import inspect
from typing import Any

import numpy as np
from sklearn.decomposition import _dict_learning

from aefast.estimators.conversion import as_tensor, in_default_modes
from aefast.functional import sparse_encode
from aefast.patching.replacement import Replacement, StepAside

ALGORITHMS = ("lasso_lars", "lasso_cd")

# scikit-learn's default: with it these algorithms end where they have converged.
ITERATIONS = 1000

# Of the kernels: enough to find the atoms of nearly all rows, where they can be found at all.
STEPS = 200
TOLERANCE = 1e-5
CORRECTIONS = 4

# What a slope may exceed the penalty by, as a share of it and of the numbers that it is made of.
ROUNDING = 1e-9
LEAST_PENALTY = 1e-4  # of the largest slope of a code of 0; below it the float32 atoms are guesses
WORST_CONDITION = 1e9
# Of the penalty over the features, which LARS counts in: its equality_tolerance.
KNOT_REACH = float(np.finfo(np.float32).eps)
ELEMENTS_AT_ONCE = 1 << 21


def replacement() -> Replacement:
    original = inspect.unwrap(_dict_learning._sparse_encode_precomputed)
    return Replacement(
        "sklearn.decomposition.sparse_encode",
        _dict_learning,
        "_sparse_encode_precomputed",
        (
            *("X", "dictionary", "gram", "cov", "algorithm", "regularization"),
            *("copy_cov", "init", "max_iter", "verbose", "positive"),
        ),
        Encoder(original),
    )


class Encoder:
    """What runs in place of ``_sparse_encode_precomputed``.

    Args:
        original: which takes the rows that are left.
    """

    def __init__(self, original: Any) -> None:
        self.original = original

    def __call__(self, X: np.ndarray, dictionary: np.ndarray, **options: Any) -> np.ndarray:
        penalty = _served_penalty(**options)
        rows, atoms = X.astype(np.float64, copy=False), dictionary.astype(np.float64, copy=False)
        slopes = rows @ atoms.T
        if penalty < LEAST_PENALTY * np.abs(slopes).max(initial=0):
            raise StepAside("a penalty near 0")
        follows_path = options.get("algorithm", "lasso_lars") == "lasso_lars"
        reach = KNOT_REACH * rows.shape[1] if follows_path else 0.0
        codes, is_solved = _encode(rows, atoms, penalty, atoms @ atoms.T, slopes, reach)
        codes = codes.astype(X.dtype, copy=False)
        if not is_solved.all():
            codes[~is_solved] = self._left(X, dictionary, options, ~is_solved)
        return codes

    def _left(
        self, X: np.ndarray, dictionary: np.ndarray, options: dict[str, Any], rows: np.ndarray
    ) -> np.ndarray:
        """The original's codes of these rows."""
        chosen = dict(options)
        if chosen.get("cov") is not None:
            chosen["cov"] = chosen["cov"][:, rows]
        if chosen.get("init") is not None:
            chosen["init"] = chosen["init"][rows]
        return self.original(X[rows], dictionary, **chosen)


def _served_penalty(
    *,
    algorithm: str = "lasso_lars",
    regularization: Any = None,
    max_iter: int = ITERATIONS,
    verbose: Any = 0,
    positive: bool = False,
    **_: Any,
) -> float:
    if algorithm not in ALGORITHMS:
        raise StepAside(f"algorithm={algorithm!r}")
    if positive:
        raise StepAside("positive codes")
    if verbose:
        raise StepAside("verbose, which the original's solver is")
    if max_iter < ITERATIONS:
        raise StepAside(f"max_iter below {ITERATIONS}")
    return float(regularization)


@in_default_modes
def _encode(
    X: np.ndarray,
    dictionary: np.ndarray,
    penalty: float,
    gram: np.ndarray,
    slopes: np.ndarray,
    reach: float,
) -> tuple[np.ndarray, np.ndarray]:
    """The codes ``[N, K]``, and which rows they were found of: of none whose atoms are others at a
    penalty within ``reach``."""
    scale = float(np.abs(X).max(initial=0)) or 1.0  # of float32's range, whatever the data's
    guess = sparse_encode(
        as_tensor(X / scale), as_tensor(dictionary), penalty / scale, steps=STEPS,
        tolerance=TOLERANCE,
    )  # fmt: skip
    signs = guess.numpy().astype(float)
    np.sign(signs, out=signs)
    codes, is_solved, is_near_knot = np.zeros_like(signs), *np.zeros((2, len(X)), bool)
    for _ in range(CORRECTIONS):
        left = np.flatnonzero(~is_solved)
        if not len(left):
            break
        solved, rates = _solve(signs[left], slopes[left], penalty, gram)
        rest = slopes[left] - solved @ gram
        next_signs = _corrected(solved, signs[left], slopes[left], penalty, rest)
        is_right = (next_signs == signs[left]).all(1)
        codes[left[is_right]], is_solved[left[is_right]] = solved[is_right], True
        if reach > 0:
            is_near_knot[left] = _are_near_knots(solved, rates, rest, penalty, gram, reach)
        signs[left] = next_signs
    return codes, is_solved & ~is_near_knot


def _solve(
    signs: np.ndarray, slopes: np.ndarray, penalty: float, gram: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The codes whose atoms and signs ``[N, K]`` are given: G_AA z_A = s_A - penalty sign_A. And
    their rates of change as the penalty falls."""
    counts = np.count_nonzero(signs, axis=1)
    codes, rates = np.zeros((2, *signs.shape))
    most = max(int(counts.max(initial=0)), 1)
    order = np.argsort(counts, kind="stable")  # rows of about as many atoms are solved together
    at_once = max(1, ELEMENTS_AT_ONCE // most**2)
    for rows in np.split(order, range(at_once, len(order), at_once)):
        width = int(counts[rows].max(initial=0))
        if width:
            codes[rows], rates[rows] = _solve_piece(signs[rows], slopes[rows], penalty, gram, width)
    return codes, rates


def _solve_piece(
    signs: np.ndarray, slopes: np.ndarray, penalty: float, gram: np.ndarray, width: int
) -> tuple[np.ndarray, np.ndarray]:
    atoms = np.argsort(signs == 0, axis=1, kind="stable")[:, :width]  # the code's come first
    chosen = np.take_along_axis(signs, atoms, 1)
    is_none = chosen == 0
    systems = gram[atoms[:, :, None], atoms[:, None, :]]
    systems[is_none[:, :, None] | is_none[:, None, :]] = 0
    diagonal = np.arange(width)
    systems[:, diagonal, diagonal] += is_none  # a row with fewer atoms is filled up by z = 0
    right = np.where(is_none, 0, np.take_along_axis(slopes, atoms, 1) - penalty * chosen)
    probe = np.broadcast_to(np.sin(diagonal + 1), right.shape)  # as good as any, and never the same
    codes, rates = np.zeros((2, *signs.shape))
    try:
        values = np.linalg.solve(systems, np.stack([right, chosen, probe], axis=2))
    except np.linalg.LinAlgError:
        values = np.full((*right.shape, 3), np.nan)
    # Of atoms that depend on each other there is more than one code: the original takes the row.
    largest = np.abs(values[:, :, 2]).max(1) * np.diagonal(systems, 0, 1, 2).max(1)
    values[~(largest < WORST_CONDITION)] = np.nan
    np.put_along_axis(codes, atoms, values[:, :, 0], 1)
    np.put_along_axis(rates, atoms, values[:, :, 1], 1)
    return codes, rates


def _corrected(
    codes: np.ndarray, signs: np.ndarray, slopes: np.ndarray, penalty: float, rest: np.ndarray
) -> np.ndarray:
    """The signs that the codes ask for; the same where they are the lasso's. An atom whose sign
    turned leaves; else the one whose slope, in ``rest``, exceeds the penalty most comes in."""
    turned = codes * signs < 0
    limit = penalty * (1 + ROUNDING) + ROUNDING * np.abs(slopes).max(1, keepdims=True)
    excess = np.where(signs == 0, np.abs(rest) - limit, -1)
    corrected = np.where(turned, 0, signs)
    worst = excess.argmax(1)
    rows = np.flatnonzero((excess.max(1) > 0) & ~turned.any(1))
    corrected[rows, worst[rows]] = np.sign(rest[rows, worst[rows]])
    corrected[~np.isfinite(codes).all(1)] = np.nan  # which equals nothing
    return corrected


def _are_near_knots(
    codes: np.ndarray,
    rates: np.ndarray,
    rest: np.ndarray,
    penalty: float,
    gram: np.ndarray,
    reach: float,
) -> np.ndarray:
    """Whether at a penalty within ``reach`` an atom leaves a row's code, or another one's slope is
    as large as the penalty: ``[N]``."""
    leaves = (codes != 0) & (np.abs(codes) <= reach * np.abs(rates))
    distance, speed = np.abs(np.abs(rest) - penalty), 1 + np.abs(rates @ gram)
    comes = (codes == 0) & (distance <= reach * speed)
    return (leaves | comes).any(1)
