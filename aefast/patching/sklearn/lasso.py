"""scikit-learn's sparse codes by the lasso, exactly, for all rows at once.

The kernels find the active atoms of each row's code and their signs, in float32. Given these the
code is the solution of a linear system, which is solved in float64. It is the lasso's solution if
it meets the conditions of Karush, Kuhn and Tucker: the signs are those assumed, and no other atom's
correlation with the residual exceeds the penalty. Rows that do not meet them after some corrections
are left to scikit-learn's own solver.

scikit-learn's LARS follows the path of solutions as the penalty falls. It stops at a knot, where an
atom enters or leaves, if that is within ``KNOT_REACH`` of the requested penalty. Such rows are left
to it, too.
"""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.decomposition import _dict_learning

from aefast.estimators.conversion import as_tensor, in_default_modes
from aefast.functional import sparse_encode
from aefast.patching.replacement import Replacement, UnsupportedCall

ALGORITHMS = ("lasso_lars", "lasso_cd")

# scikit-learn's default, with which its solvers converge.
ITERATIONS = 1000

# The kernels' most steps: enough to find the active atoms of nearly all rows.
STEPS = 200
TOLERANCE = 1e-5
CORRECTIONS = 4

# The relative rounding error that a correlation may exceed the penalty by.
ROUNDING = 1e-9
LEAST_PENALTY = 1e-4  # of the largest correlation; below it float32 does not tell active atoms
WORST_CONDITION = 1e9
# LARS' equality_tolerance, in units of the penalty over the number of features.
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
        callers=("sklearn.decomposition.MiniBatchDictionaryLearning",),
    )


class Encoder:
    """Replaces ``_sparse_encode_precomputed``.

    Args:
        original: scikit-learn's function, which solves the rows that are left to it.
    """

    def __init__(self, original: Callable[..., np.ndarray]) -> None:
        self.original = original

    def __call__(self, X: np.ndarray, dictionary: np.ndarray, **options: Any) -> np.ndarray:
        penalty = _served_penalty(**options)
        rows, atoms = X.astype(np.float64, copy=False), dictionary.astype(np.float64, copy=False)
        correlations = rows @ atoms.T
        if penalty < LEAST_PENALTY * np.abs(correlations).max(initial=0):
            raise UnsupportedCall("a penalty near 0")
        follows_path = options.get("algorithm", "lasso_lars") == "lasso_lars"
        reach = KNOT_REACH * rows.shape[1] if follows_path else 0.0
        codes, is_solved = _encode(rows, atoms, penalty, atoms @ atoms.T, correlations, reach)
        if (
            X.dtype.kind == "f"
        ):  # scikit-learn before 1.8 passes integers on, whose codes are float64
            codes = codes.astype(X.dtype, copy=False)
        if not is_solved.all():
            codes[~is_solved] = self._original_codes(X, dictionary, options, ~is_solved)
        return codes

    def _original_codes(
        self, X: np.ndarray, dictionary: np.ndarray, options: dict[str, Any], rows: np.ndarray
    ) -> np.ndarray:
        """scikit-learn's codes of the rows that a mask ``[N]`` selects."""
        chosen = dict(options)
        if chosen.get("cov") is not None:
            chosen["cov"] = chosen["cov"][:, rows]
        if chosen.get("init") is not None:
            chosen["init"] = chosen["init"][rows]
        return self.original(X[rows], dictionary, **chosen)


def _served_penalty(
    *,
    algorithm: str = "lasso_lars",
    regularization: float,
    max_iter: int = ITERATIONS,
    verbose: int = 0,
    positive: bool = False,
    **_: object,
) -> float:
    """The penalty of a call.

    Raises:
        UnsupportedCall: the call's options are not supported.
    """
    if algorithm not in ALGORITHMS:
        raise UnsupportedCall(f"algorithm={algorithm!r}")
    if positive:
        raise UnsupportedCall("positive codes")
    if verbose:
        raise UnsupportedCall("verbose, which the original's solver is")
    if max_iter < ITERATIONS:
        raise UnsupportedCall(f"max_iter below {ITERATIONS}")
    return float(regularization)


@in_default_modes
def _encode(
    X: np.ndarray,
    dictionary: np.ndarray,
    penalty: float,
    gram: np.ndarray,
    correlations: np.ndarray,
    reach: float,
) -> tuple[np.ndarray, np.ndarray]:
    """The codes ``[N, K]``, and a mask ``[N]`` of the rows that are solved.

    Rows with a knot within ``reach`` of the penalty count as unsolved.
    """
    scale = float(np.abs(X).max(initial=0)) or 1.0  # scales the rows into float32's range
    guess = sparse_encode(
        as_tensor(X / scale), as_tensor(dictionary), penalty / scale, steps=STEPS,
        tolerance=TOLERANCE,
    )  # fmt: skip
    signs = guess.numpy().astype(float)
    np.sign(signs, out=signs)
    codes, is_solved, is_near_knot = np.zeros_like(signs), *np.zeros((2, len(X)), bool)
    for _ in range(CORRECTIONS):
        rows = np.flatnonzero(~is_solved)
        if not len(rows):
            break
        solved, rates = _solve(signs[rows], correlations[rows], penalty, gram)
        residual_correlations = correlations[rows] - solved @ gram
        next_signs = _corrected(
            solved, signs[rows], correlations[rows], penalty, residual_correlations
        )
        is_right = (next_signs == signs[rows]).all(1)
        codes[rows[is_right]], is_solved[rows[is_right]] = solved[is_right], True
        if reach > 0:
            is_near_knot[rows] = _are_near_knots(
                solved, rates, residual_correlations, penalty, gram, reach
            )
        signs[rows] = next_signs
    return codes, is_solved & ~is_near_knot


def _solve(
    signs: np.ndarray, correlations: np.ndarray, penalty: float, gram: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The codes for given active atoms A and signs ``[N, K]``, and their rates of change as the
    penalty falls: G_AA z_A = s_A - penalty sign_A, and G_AA dz_A = sign_A."""
    counts = np.count_nonzero(signs, axis=1)
    codes, rates = np.zeros((2, *signs.shape))
    most = max(int(counts.max(initial=0)), 1)
    order = np.argsort(counts, kind="stable")  # rows with about as many atoms share a batch
    at_once = max(1, ELEMENTS_AT_ONCE // most**2)
    for rows in np.split(order, range(at_once, len(order), at_once)):
        width = int(counts[rows].max(initial=0))
        if width:
            codes[rows], rates[rows] = _solve_batch(
                signs[rows], correlations[rows], penalty, gram, width
            )
    return codes, rates


def _solve_batch(
    signs: np.ndarray, correlations: np.ndarray, penalty: float, gram: np.ndarray, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """:func:`_solve` of rows that have ``width`` active atoms or fewer."""
    atoms = np.argsort(signs == 0, axis=1, kind="stable")[:, :width]  # active atoms come first
    chosen = np.take_along_axis(signs, atoms, 1)
    is_none = chosen == 0
    systems = gram[atoms[:, :, None], atoms[:, None, :]]
    systems[is_none[:, :, None] | is_none[:, None, :]] = 0
    diagonal = np.arange(width)
    systems[:, diagonal, diagonal] += is_none  # equations z = 0 fill up rows with fewer atoms
    right = np.where(is_none, 0, np.take_along_axis(correlations, atoms, 1) - penalty * chosen)
    probe = np.broadcast_to(np.sin(diagonal + 1), right.shape)  # a fixed vector, no two alike
    codes, rates = np.zeros((2, *signs.shape))
    try:
        values = np.linalg.solve(systems, np.stack([right, chosen, probe], axis=2))
    except np.linalg.LinAlgError:
        values = np.full((*right.shape, 3), np.nan)
    # Linearly dependent atoms have more than one solution: these rows are left to scikit-learn.
    largest = np.abs(values[:, :, 2]).max(1) * np.diagonal(systems, 0, 1, 2).max(1)
    values[~(largest < WORST_CONDITION)] = np.nan
    np.put_along_axis(codes, atoms, values[:, :, 0], 1)
    np.put_along_axis(rates, atoms, values[:, :, 1], 1)
    return codes, rates


def _corrected(
    codes: np.ndarray,
    signs: np.ndarray,
    correlations: np.ndarray,
    penalty: float,
    residual_correlations: np.ndarray,
) -> np.ndarray:
    """The next signs to try; unchanged in rows whose codes are the lasso's solution.

    Atoms whose sign turned leave. If there is none, the atom enters whose correlation with the
    residual exceeds the penalty most.
    """
    turned = codes * signs < 0
    limit = penalty * (1 + ROUNDING) + ROUNDING * np.abs(correlations).max(1, keepdims=True)
    excess = np.where(signs == 0, np.abs(residual_correlations) - limit, -1)
    corrected = np.where(turned, 0, signs)
    worst = excess.argmax(1)
    rows = np.flatnonzero((excess.max(1) > 0) & ~turned.any(1))
    corrected[rows, worst[rows]] = np.sign(residual_correlations[rows, worst[rows]])
    corrected[~np.isfinite(codes).all(1)] = np.nan  # NaN never equals the row's signs: unsolved
    return corrected


def _are_near_knots(
    codes: np.ndarray,
    rates: np.ndarray,
    residual_correlations: np.ndarray,
    penalty: float,
    gram: np.ndarray,
    reach: float,
) -> np.ndarray:
    """Whether a row's path has a knot within ``reach`` of the penalty, where an atom leaves or
    enters: a mask ``[N]``."""
    leaves = (codes != 0) & (np.abs(codes) <= reach * np.abs(rates))
    distance, speed = np.abs(np.abs(residual_correlations) - penalty), 1 + np.abs(rates @ gram)
    enters = (codes == 0) & (distance <= reach * speed)
    return (leaves | enters).any(1)
