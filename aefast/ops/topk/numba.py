"""Sparse codes over many latents in numba, around the vendor's products of a panel of latents.

A candidate is one number that sorts first what goes first: its upper half falls with the value, and
is 0 of NaN; the lower half is the latent.
"""

import numpy as np
import torch
from numba import njit
from torch import Tensor

from aefast.ops.shared import numba as shared
from aefast.ops.shared.numba import bits_of, float_of

LATENTS_PER_PANEL = 1024
ROWS_PER_TASK, LATENTS_PER_TASK = 32, 256

_f, _i, _w = np.float32, np.int32, np.uint64


def topk_encode(x: Tensor, weight: Tensor, bias: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
    rows, latents = x.shape[0], weight.shape[0]
    inputs, weight = x.detach().float(), weight.detach().float()
    candidates = np.empty((rows, k + LATENTS_PER_PANEL), np.uint64)
    counts = np.zeros(rows, np.int64)
    for first in range(0, latents, LATENTS_PER_PANEL):
        panel_latents = slice(first, first + LATENTS_PER_PANEL)
        panel = inputs @ weight[panel_latents].t()
        if bias is not None:
            panel += bias[panel_latents].detach().float()
        values = panel.contiguous().numpy()

        def add(task: int, values: np.ndarray = values, first: int = first) -> None:
            of = slice(task * ROWS_PER_TASK, (task + 1) * ROWS_PER_TASK)
            _add(values[of], first, k, candidates[of], counts[of])

        shared.parallel_for(-(-rows // ROWS_PER_TASK), add)
    largest = np.empty((rows, k), np.float32)
    _values(candidates[:, :k], largest)
    indices = (candidates[:, :k] & _w(0xFFFFFFFF)).astype(np.int64)
    return torch.from_numpy(largest).to(x.dtype), torch.from_numpy(indices)


@njit(nogil=True, cache=shared.CACHE, error_model="numpy")
def _candidate(value: np.float32, latent: int) -> np.uint64:
    bits = bits_of(value + _f(0))  # -0 is 0
    order = _w(bits if bits < _i(0) else ~bits & _i(0x7FFFFFFF)) & _w(0xFFFFFFFF)
    if value != value:
        order = _w(0)
    return (order << _w(32)) | _w(latent)


@njit(nogil=True, cache=shared.CACHE, error_model="numpy")
def _value(candidate: np.uint64) -> np.float32:
    order = _i(candidate >> _w(32))
    return float_of(order if order < _i(0) else ~order & _i(0x7FFFFFFF))


@njit(nogil=True, cache=shared.CACHE, error_model="numpy")
def _add(
    values: np.ndarray, first: int, k: int, candidates: np.ndarray, counts: np.ndarray
) -> None:
    """Merge those of a panel's pre-activations that beat the least of a row's k best into these."""
    for row in range(values.shape[0]):
        count_before = counts[row]
        threshold = _value(candidates[row, k - 1]) if count_before == k else _f(np.nan)
        count = count_before
        for column in range(values.shape[1]):
            if not values[row, column] <= threshold:
                candidates[row, count] = _candidate(values[row, column], first + column)
                count += 1
        if count > count_before:
            candidates[row, :count].sort()
            counts[row] = min(count, k)


@njit(nogil=True, cache=shared.CACHE, error_model="numpy")
def _values(candidates: np.ndarray, values: np.ndarray) -> None:
    for row in range(values.shape[0]):
        for column in range(values.shape[1]):
            values[row, column] = _value(candidates[row, column])


def sparse_decode(values: Tensor, indices: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    code, latents, matrix = _arrays(values, indices, weight)
    output = torch.zeros(values.shape[0], weight.shape[1], dtype=torch.float32, device="cpu")
    if bias is not None:
        output += bias.detach().float()
    result = output.numpy()

    def decode(task: int) -> None:
        of = slice(task * ROWS_PER_TASK, (task + 1) * ROWS_PER_TASK)
        _decode(code[of], latents[of], matrix, result[of])

    shared.parallel_for(-(-len(result) // ROWS_PER_TASK), decode)
    return output.to(values.dtype)


@njit(nogil=True, cache=shared.CACHE, error_model="numpy")
def _decode(code: np.ndarray, latents: np.ndarray, matrix: np.ndarray, output: np.ndarray) -> None:
    for row in range(code.shape[0]):
        for i in range(code.shape[1]):
            value, source = code[row, i], matrix[latents[row, i]]
            for column in range(output.shape[1]):
                output[row, column] += value * source[column]


def sampled_product(left: Tensor, weight: Tensor, indices: Tensor) -> Tensor:
    rows, latents, matrix = _arrays(left, indices, weight)
    products = torch.empty(indices.shape, dtype=torch.float32, device="cpu")
    result = products.numpy()

    def multiply(task: int) -> None:
        of = slice(task * ROWS_PER_TASK, (task + 1) * ROWS_PER_TASK)
        _sample(rows[of], matrix, latents[of], result[of])

    shared.parallel_for(-(-len(result) // ROWS_PER_TASK), multiply)
    return products.to(left.dtype)


@njit(nogil=True, cache=shared.CACHE, error_model="numpy")
def _sample(
    rows: np.ndarray, matrix: np.ndarray, latents: np.ndarray, products: np.ndarray
) -> None:
    for row in range(products.shape[0]):
        for i in range(products.shape[1]):
            source = matrix[latents[row, i]]
            total = 0.0
            for column in range(rows.shape[1]):
                total += np.float64(rows[row, column]) * np.float64(source[column])
            products[row, i] = total


def latent_sums(
    values: Tensor, indices: Tensor, rows: Tensor, latents: int
) -> tuple[Tensor, Tensor]:
    _check(indices, latents)
    code = values.detach().float().reshape(-1).numpy()
    order = indices.reshape(-1).argsort(stable=True).numpy()
    begin = np.zeros(latents + 1, np.int64)
    begin[1:] = indices.reshape(-1).bincount(minlength=latents).cumsum(0).numpy()
    matrix = rows.detach().float().numpy()
    sums = torch.zeros(latents, rows.shape[1], dtype=torch.float32, device="cpu")
    totals = torch.zeros(latents, dtype=torch.float32, device="cpu")
    all_sums, all_totals = sums.numpy(), totals.numpy()

    def add(task: int) -> None:
        first = task * LATENTS_PER_TASK
        last = min(first + LATENTS_PER_TASK, latents)
        _sum(first, last, begin, order, code, values.shape[1], matrix, all_sums, all_totals)

    shared.parallel_for(-(-latents // LATENTS_PER_TASK), add)
    return sums.to(values.dtype), totals.to(values.dtype)


@njit(nogil=True, cache=shared.CACHE, error_model="numpy")
def _sum(
    first: int,
    last: int,
    begin: np.ndarray,
    order: np.ndarray,
    code: np.ndarray,
    k: int,
    rows: np.ndarray,
    sums: np.ndarray,
    totals: np.ndarray,
) -> None:
    for latent in range(first, last):
        total = 0.0
        for position in range(begin[latent], begin[latent + 1]):
            element = order[position]
            value, source = code[element], rows[element // k]
            total += value
            for column in range(sums.shape[1]):
                sums[latent, column] += value * source[column]
        totals[latent] = total


def _arrays(
    dense: Tensor, indices: Tensor, weight: Tensor
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    _check(indices, weight.shape[0])
    return dense.detach().float().numpy(), indices.numpy(), weight.detach().float().numpy()


def _check(indices: Tensor, latents: int) -> None:
    """The kernels read the rows that indices name, whoever made them."""
    low, high = (bound.item() for bound in indices.aminmax())
    if low < 0 or high >= latents:
        raise IndexError(
            f"indices holds {low if low < 0 else high}; "
            f"of {latents} latents it takes numbers in [0, {latents})"
        )
