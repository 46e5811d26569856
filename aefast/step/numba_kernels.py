"""Numba's kernels of a training step: small layers, and the sample of a posterior.

They take the addresses of dense float32 matrices.
"""

import numpy as np
from numba import njit

from aefast.ops.shared import numba as shared
from aefast.ops.variational.numba import STRETCH, draw

# The activations that a kernel of a layer knows, by number.
ACTIVATIONS = ("identity", "relu", "sigmoid", "tanh")


@njit(error_model="numpy", fastmath={"reassoc", "contract"})
def add_product(left: np.ndarray, right: np.ndarray, total: np.ndarray) -> None:
    """total [M, N] += left [M, K] @ right [K, N]; ``right`` and ``total`` by dense rows."""
    depth, columns = right.shape
    for m in range(left.shape[0]):
        for k in range(0, depth - 3, 4):
            a, b, c, d = left[m, k], left[m, k + 1], left[m, k + 2], left[m, k + 3]
            for n in range(columns):
                first = a * right[k, n] + b * right[k + 1, n]
                total[m, n] += first + (c * right[k + 2, n] + d * right[k + 3, n])
        for k in range(depth // 4 * 4, depth):
            a = left[m, k]
            for n in range(columns):
                total[m, n] += a * right[k, n]


@njit(error_model="numpy")
def transposed(matrix: np.ndarray) -> np.ndarray:
    """A copy [N, M] of a matrix [M, N]."""
    copy = np.empty((matrix.shape[1], matrix.shape[0]), np.float32)
    for m in range(matrix.shape[0]):
        for n in range(matrix.shape[1]):
            copy[n, m] = matrix[m, n]
    return copy


@njit(error_model="numpy")
def activate(activation: int, row: np.ndarray) -> None:
    """act(z) in the place of z."""
    if activation == 1:
        for i in range(row.size):
            row[i] = shared.relu(row[i])
    elif activation == 2:
        for i in range(row.size):
            row[i] = shared.sigmoid(row[i])
    elif activation == 3:
        for i in range(row.size):
            row[i] = shared.tanh(row[i])


@njit(error_model="numpy")
def multiply_slopes(activation: int, grad: np.ndarray, output: np.ndarray) -> None:
    """grad act'(z) in the place of grad, of act(z)."""
    if activation == 1:
        for i in range(grad.size):
            grad[i] = shared.relu_backward(grad[i], output[i])
    elif activation == 2:
        for i in range(grad.size):
            grad[i] = shared.sigmoid_backward(grad[i], output[i])
    elif activation == 3:
        for i in range(grad.size):
            grad[i] = shared.tanh_backward(grad[i], output[i])


@njit(nogil=True, cache=shared.CACHE, error_model="numpy")
def activate_rows(output_at: int, rows: int, outputs: int, activation: int) -> None:
    """act(z) in the place of each row z."""
    output = shared.floats_at(output_at, rows, outputs)
    for row in range(rows):
        activate(activation, output[row])


@njit(nogil=True, cache=shared.CACHE, error_model="numpy")
def layer(
    x_at: int,
    weight_at: int,
    bias_at: int,
    output_at: int,
    rows: int,
    inputs: int,
    outputs: int,
    activation: int,
    is_tied: bool,
) -> None:
    """Writes act(x Wt + b). A tied layer's weight is ``[inputs, outputs]``; no bias is at 0."""
    x = shared.floats_at(x_at, rows, inputs)
    output = shared.floats_at(output_at, rows, outputs)
    height, width = (inputs, outputs) if is_tied else (outputs, inputs)
    weight = shared.floats_at(weight_at, height, width)
    bias = shared.floats_at(bias_at, 1, outputs)
    for row in range(rows):
        for i in range(outputs):
            output[row, i] = bias[0, i] if bias_at else np.float32(0)
    add_product(x, weight if is_tied else transposed(weight), output)
    activate_rows(output_at, rows, outputs, activation)


@njit(nogil=True, cache=shared.CACHE, error_model="numpy")
def preactivation_backward(
    grad_at: int, output_at: int, grad_bias_at: int, rows: int, outputs: int, activation: int
) -> None:
    """Puts the gradient by the pre-activation in the place of the incoming one, and writes that by
    the bias, unless it is at 0."""
    grad = shared.floats_at(grad_at, rows, outputs)
    output = shared.floats_at(output_at, rows, outputs)
    totals = np.zeros(outputs)
    for row in range(rows):
        multiply_slopes(activation, grad[row], output[row])
        for i in range(outputs):
            totals[i] += grad[row, i]
    if grad_bias_at:
        grad_bias = shared.floats_at(grad_bias_at, 1, outputs)
        for i in range(outputs):
            grad_bias[0, i] = totals[i]


@njit(nogil=True, cache=shared.CACHE, error_model="numpy")
def layer_backward(
    grad_at: int,
    x_at: int,
    weight_at: int,
    output_at: int,
    grad_weight_at: int,
    grad_bias_at: int,
    grad_x_at: int,
    rows: int,
    inputs: int,
    outputs: int,
    activation: int,
    is_tied: bool,
    is_begun: bool,
) -> None:
    """Writes the gradients by weight, bias and x, those of 0 left out, and in the place of the
    incoming gradient that by the pre-activation. A weight's that was begun is added to."""
    grad, x = shared.floats_at(grad_at, rows, outputs), shared.floats_at(x_at, rows, inputs)
    preactivation_backward(grad_at, output_at, grad_bias_at, rows, outputs, activation)
    height, width = (inputs, outputs) if is_tied else (outputs, inputs)
    weight = shared.floats_at(weight_at, height, width)
    grad_weight = shared.floats_at(grad_weight_at, height, width)
    if not is_begun:
        grad_weight.fill(0)
    if is_tied:
        add_product(x.T, grad, grad_weight)
    else:
        add_product(grad.T, x, grad_weight)
    if grad_x_at:
        grad_x = shared.floats_at(grad_x_at, rows, inputs)
        grad_x.fill(0)
        add_product(grad, transposed(weight) if is_tied else weight, grad_x)


@njit(nogil=True, cache=shared.CACHE, error_model="numpy")
def sample(
    code_at: int,
    sample_at: int,
    noise_at: int,
    rows: int,
    latent: int,
    seed: int,
    first_row: int,
    step: int,
) -> float:
    """Writes the sample, and the noise in it times the deviation. Returns the summed divergence."""
    code = shared.floats_at(code_at, rows, 2 * latent)
    output = shared.floats_at(sample_at, rows, latent)
    noise = shared.floats_at(noise_at, rows, latent)
    words, normals = np.empty(STRETCH, np.uint32), np.empty(STRETCH, np.float32)
    total = 0.0
    for row in range(rows):
        for start in range(0, latent, STRETCH):
            draw(seed, first_row + row, step, start, latent, words, normals)
            for i in range(start, min(start + STRETCH, latent)):
                mean, log_var = code[row, i], code[row, latent + i]
                noise[row, i] = shared.exp(np.float32(0.5) * log_var) * normals[i - start]
                output[row, i] = mean + noise[row, i]
                total += np.float64(mean * mean + shared.exp_remainder(log_var))
    return 0.5 * total


@njit(nogil=True, cache=shared.CACHE, error_model="numpy")
def sample_backward(
    grad_at: int,
    code_at: int,
    noise_at: int,
    grad_code_at: int,
    rows: int,
    latent: int,
    weight: float,
) -> None:
    """Writes the gradient by mean and log variance: that of the sample, and ``weight`` times that
    of the divergence."""
    grad = shared.floats_at(grad_at, rows, latent)
    code = shared.floats_at(code_at, rows, 2 * latent)
    noise = shared.floats_at(noise_at, rows, latent)
    grad_code = shared.floats_at(grad_code_at, rows, 2 * latent)
    factor, half = np.float32(weight), np.float32(0.5)
    for row in range(rows):
        for i in range(latent):
            mean, log_var = code[row, i], code[row, latent + i]
            grad_code[row, i] = grad[row, i] + factor * mean
            of_variance = factor * shared.expm1(log_var)
            grad_code[row, latent + i] = half * (grad[row, i] * noise[row, i] + of_variance)
