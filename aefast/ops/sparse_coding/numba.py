"""Sparse coding in numba: the working sets of csrc/ops/sparse_coding/, row by row."""

import numpy as np
import torch
from numba import njit
from torch import Tensor

from aefast.ops.shared import numba as shared
from aefast.ops.sparse_coding import eager
from aefast.ops.sparse_coding.problem import Problem

multiply = eager.multiply

FEWEST_ATOMS, FEWEST_SHARE = 32, 8
INNER_SHARE = 0.1
STEPS_PER_CHECK = 8
SMALLEST_CHANGE = 5e-7
SMALLEST_MEASURED = 1e-8
SMALLEST_CURVATURE = np.finfo(np.float32).tiny  # one divides by it

# Sums may be reordered, so that they are vectorized; NaN and infinity stay.
_vectorized = njit(
    nogil=True, cache=shared.CACHE, error_model="numpy", fastmath={"reassoc", "contract", "nsz"}
)
_plain = njit(nogil=True, cache=shared.CACHE, error_model="numpy")


def soft_threshold(x: Tensor, threshold: float) -> Tensor:
    limit = np.float32(threshold)
    return shared.map_elements(lambda x, out: _soft_thresholds(x, limit, out), x)


def soft_threshold_backward(grad: Tensor, x: Tensor, threshold: float) -> Tensor:
    limit = np.float32(threshold)
    return shared.map_elements(lambda grad, x, out: _passed(grad, x, limit, out), grad, x)


def encode(problem: Problem, start: Tensor) -> Tensor:
    codes = start.clone(memory_format=torch.contiguous_format)
    correlation, gram, energy, penalty, tolerance, steps = problem
    arrays = [tensor.numpy() for tensor in (correlation, energy, codes)]
    gram_array = gram.contiguous().numpy()

    def task(row: int) -> None:
        correlations, energies, rows = arrays
        _encode_row(
            correlations[row], gram_array, energies[row], np.float32(penalty), tolerance, steps,
            rows[row],
        )  # fmt: skip

    shared.parallel_for(len(codes), task)
    return codes


@_plain
def _soft(x: np.float32, threshold: np.float32) -> np.float32:
    magnitude = abs(x) - threshold
    return np.float32(0) if magnitude <= 0 else np.copysign(magnitude, x)


@_plain
def _soft_thresholds(x: np.ndarray, threshold: np.float32, out: np.ndarray) -> None:
    for i in range(x.size):
        out[i] = _soft(x[i], threshold)


@_plain
def _passed(grad: np.ndarray, x: np.ndarray, threshold: np.float32, out: np.ndarray) -> None:
    for i in range(x.size):
        out[i] = np.float32(0) if abs(x[i]) <= threshold else grad[i]


@_vectorized
def _multiply(code: np.ndarray, gram: np.ndarray, product: np.ndarray) -> None:
    """product = code Gram; most codes are 0."""
    product[:] = 0
    for i in range(code.size):
        value = code[i]
        if value != 0:
            for j in range(code.size):
                product[j] += value * gram[i, j]


@_vectorized
def _duality_gap(
    code: np.ndarray,
    correlation: np.ndarray,
    product: np.ndarray,
    energy: np.float32,
    penalty: np.float32,
) -> float:
    """See eager.duality_gap."""
    largest = np.float32(0)
    for i in range(code.size):
        largest = max(largest, abs(correlation[i] - product[i]))
    scale = float(penalty / largest) if largest > penalty else 1.0
    explained = slack = 0.0
    for i in range(code.size):
        residual = correlation[i] - product[i]
        explained += np.float64(code[i]) * (correlation[i] + residual)
        slack += np.float64(abs(code[i])) * penalty - scale * code[i] * residual
    squared_residual = float(energy) - explained
    if squared_residual < 0:
        squared_residual = 0.0
    return (1 - scale) ** 2 / 2 * squared_residual + slack


@_vectorized
def _step(
    code: np.ndarray,
    product: np.ndarray,
    previous: np.ndarray,
    previous_product: np.ndarray,
    correlation: np.ndarray,
    weight: np.float32,
    step_size: np.float32,
    threshold: np.float32,
    following: np.ndarray,
) -> None:
    """``following`` = the next code."""
    for i in range(code.size):
        point = code[i] + weight * (code[i] - previous[i])
        point_product = product[i] + weight * (product[i] - previous_product[i])
        following[i] = _soft(point + step_size * (correlation[i] - point_product), threshold)


@_vectorized
def _measure(
    code: np.ndarray,
    product: np.ndarray,
    previous: np.ndarray,
    previous_product: np.ndarray,
    following: np.ndarray,
    following_product: np.ndarray,
    weight: np.float32,
) -> tuple[np.float32, np.float32, np.float32, np.float32, np.float32]:
    """The sizes of one step, as StepSizes in csrc/ops/sparse_coding/sparse_coding.cpp."""
    square = curvature = norm = change = along = np.float32(0)
    for i in range(code.size):
        moved = following[i] - (code[i] + weight * (code[i] - previous[i]))
        moved_product = following_product[i] - (
            product[i] + weight * (product[i] - previous_product[i])
        )
        changed = following[i] - code[i]
        square += moved * moved
        curvature += moved * moved_product
        norm += following[i] * following[i]
        change += changed * changed
        along += moved * changed
    return square, curvature, norm, change, along


@_plain
def _minimize(
    correlation: np.ndarray,
    gram: np.ndarray,
    energy: np.float32,
    penalty: np.float32,
    code: np.ndarray,
    allowed_gap: float,
    largest_curvature: np.float32,
    steps: int,
) -> tuple[np.ndarray, np.float32, int, bool]:
    """FISTA with backtracking and restart: the code, the largest curvature met, the steps left, and
    whether float32 has more to give."""
    product = np.empty_like(code)
    _multiply(code, gram, product)
    previous, previous_product = code.copy(), product.copy()
    following, following_product = np.empty_like(code), np.empty_like(code)
    one = momentum = np.float32(1)
    weight = np.float32(0)
    last_gap = np.inf
    step = 0
    while steps > 0:
        step += 1
        steps -= 1
        step_size = one / largest_curvature
        _step(
            code, product, previous, previous_product, correlation, weight, step_size,
            step_size * penalty, following,
        )  # fmt: skip
        _multiply(following, gram, following_product)
        square, curvature, norm, change, along = _measure(
            code, product, previous, previous_product, following, following_product, weight
        )
        if square > SMALLEST_MEASURED * norm and curvature > largest_curvature * square:
            largest_curvature = np.float32(1.02) * curvature / square
            momentum, weight = one, np.float32(0)
            continue
        if along < 0:
            momentum, weight = one, np.float32(0)
        else:
            before = momentum
            momentum = (one + np.sqrt(one + np.float32(4) * before * before)) / np.float32(2)
            weight = (before - one) / momentum
        code, previous, following = following, code, previous
        product, previous_product, following_product = following_product, product, previous_product
        if step % STEPS_PER_CHECK != 0:
            continue
        gap = _duality_gap(code, correlation, product, energy, penalty)
        if gap <= allowed_gap:
            break
        if gap >= last_gap and change <= SMALLEST_CHANGE**2 * norm:
            return code, largest_curvature, steps, False
        last_gap = gap
    return code, largest_curvature, steps, True


@_plain
def _encode_row(
    correlation: np.ndarray,
    gram: np.ndarray,
    energy: np.float32,
    penalty: np.float32,
    tolerance: float,
    steps: int,
    code: np.ndarray,
) -> None:
    allowed_gap = tolerance * energy / 2
    largest_curvature = SMALLEST_CURVATURE
    for i in range(code.size):
        largest_curvature = max(largest_curvature, gram[i, i])
    product = np.empty_like(code)
    goes_on = True
    while True:
        _multiply(code, gram, product)
        gap = _duality_gap(code, correlation, product, energy, penalty)
        if gap <= allowed_gap or steps == 0 or not goes_on:
            return
        atoms = _choose_atoms(code, correlation - product, penalty)
        codes_of_atoms, largest_curvature, steps, goes_on = _minimize(
            correlation[atoms], gram[atoms][:, atoms], energy, penalty, code[atoms],
            INNER_SHARE * gap, largest_curvature, steps,
        )  # fmt: skip
        code[atoms] = codes_of_atoms


@_plain
def _choose_atoms(code: np.ndarray, residual: np.ndarray, penalty: np.float32) -> np.ndarray:
    """The nonzero codes' atoms and, of those that would become nonzero, the most correlated."""
    nonzeros = np.flatnonzero(code)
    others = np.flatnonzero((code == 0) & (np.abs(residual) > penalty))
    most = max(FEWEST_ATOMS, code.size // FEWEST_SHARE, 2 * nonzeros.size)
    if nonzeros.size + others.size > most:
        order = np.argsort(-np.abs(residual[others]), kind="mergesort")
        others = others[order[: most - nonzeros.size]]
    return np.concatenate((nonzeros, others))
