"""What the numba kernels share: Philox, Box-Muller, activations, and a pool of threads.

The kernels are serial and release the GIL; a pool of Python threads runs them over parts of the
data. Numba's own threads would end the process: its OpenMP layer after a fork, its work queue
when two threads call at once.

The polynomials are those of csrc/shared/activation.h and csrc/shared/box_muller.h.

Every function divides as numpy does: Python's check for a zero divisor would keep a loop from being
vectorized (a sigmoid took 4.4 ns an element with it, and takes 0.35 without).
"""

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import carray, njit, types, vectorize
from numba.extending import intrinsic
from torch import Tensor

# Fewer elements than this are done before a second thread has woken.
ELEMENTS_PER_TASK = 65536

# Numba widens a constant's type, and with it the whole expression: every constant is cast.
_f, _i, _u, _w = np.float32, np.int32, np.uint32, np.uint64
_FLOAT32, _INT32 = ir.FloatType(), ir.IntType(32)


def _has_place_for_cache() -> bool:
    """Whether numba may write beside the package or in the user's folder; else it would refuse."""
    try:
        njit(cache=True)(_has_place_for_cache)
    except RuntimeError:
        return False
    return True


CACHE = _has_place_for_cache()


def parallel_for(tasks: int, body: Callable[[int], None]) -> None:
    """body(task) for every task, on ``torch.get_num_threads()`` threads."""
    threads = min(torch.get_num_threads(), tasks)
    if threads <= 1:
        for task in range(tasks):
            body(task)
    else:
        list(_pool(os.getpid(), threads).map(body, range(tasks)))


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """A pool for this process: threads do not survive a fork."""
    return ThreadPoolExecutor(threads, thread_name_prefix="aefast")


def map_elements(function: Callable[..., np.ndarray], *tensors: Tensor) -> Tensor:
    """function of the tensors' elements in float32, in parallel over parts of them."""
    output = torch.empty(tensors[0].shape, dtype=torch.float32, device="cpu")
    flat = [t.detach().contiguous().float().numpy().reshape(-1) for t in (*tensors, output)]

    def task(index: int) -> None:
        elements = slice(index * ELEMENTS_PER_TASK, (index + 1) * ELEMENTS_PER_TASK)
        *inputs, result = (array[elements] for array in flat)
        function(*inputs, out=result)

    parallel_for(-(-output.numel() // ELEMENTS_PER_TASK), task)
    return output.to(tensors[0].dtype)


def _pointer_to(element: Any) -> Any:
    """A function of numba that makes a pointer to such elements from an address."""

    @intrinsic
    def pointer(typing_context: Any, address: Any) -> Any:
        def convert(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return types.CPointer(element)(address), convert

    return pointer


_to_floats, _to_words, _to_halves = map(_pointer_to, (types.float32, types.uint32, types.uint16))


# A kernel takes addresses: an array of NumPy's takes a microsecond to make from a tensor.
@njit(error_model="numpy")
def floats_at(address: int, rows: int, columns: int) -> np.ndarray:
    """The float32 matrix that is dense at an address."""
    return carray(_to_floats(address), (rows, columns))


@njit(error_model="numpy")
def words_at(address: int, rows: int, columns: int) -> np.ndarray:
    """The same of 32-bit words."""
    return carray(_to_words(address), (rows, columns))


@njit(error_model="numpy")
def halves_at(address: int, rows: int, columns: int) -> np.ndarray:
    """The same of 16-bit words."""
    return carray(_to_halves(address), (rows, columns))


@njit(nogil=True, cache=CACHE, error_model="numpy")
def fill_words(seed: int, row: int, step: int, first_block: int, words: np.ndarray) -> None:
    """words[4 i ... 4 i + 3]: the output of counter (first_block + i, row, step)."""
    low = _w(0xFFFFFFFF)
    half = _w(32)
    seed64, row64 = _w(seed), _w(row)
    for i in range(words.size // 4):
        c0, c1 = _w(first_block + i) & low, row64 & low
        c2, c3 = row64 >> half, _w(step)
        k0, k1 = seed64 & low, seed64 >> half
        for _ in range(10):
            product0 = c0 * _w(0xD2511F53)
            product1 = c2 * _w(0xCD9E8D57)
            c0 = (product1 >> half) ^ c1 ^ k0
            c1 = product1 & low
            c2 = (product0 >> half) ^ c3 ^ k1
            c3 = product0 & low
            k0 = (k0 + _w(0x9E3779B9)) & low
            k1 = (k1 + _w(0xBB67AE85)) & low
        words[4 * i] = _u(c0)
        words[4 * i + 1] = _u(c1)
        words[4 * i + 2] = _u(c2)
        words[4 * i + 3] = _u(c3)


@njit(nogil=True, cache=CACHE, error_model="numpy")
def fill_normals(words: np.ndarray, normals: np.ndarray) -> None:
    """Box-Muller on pairs of words: see aefast.random.normal."""
    for i in range(words.size // 2):
        radius = box_muller_radius(words[2 * i])
        cosine, sine = box_muller_angle(words[2 * i + 1])
        normals[2 * i] = radius * cosine
        normals[2 * i + 1] = radius * sine


def _coefficients(*values: float) -> tuple[np.float32, ...]:
    return tuple(_f(value) for value in values)


# Highest power first.
_LOG1P = _coefficients(
    -0.078596115,
    0.12881647,
    -0.13128754,
    0.14181192,
    -0.16624554,
    0.20002286,
    -0.2500081,
    0.33333316,
)
_EXP = _coefficients(0.001395172, 0.008369599, 0.041666187, 0.16666512, 0.5)
_ERFCX = _coefficients(
    -0.029205842,
    0.19590314,
    -0.4938495,
    0.5408184,
    -0.27886388,
    0.26911318,
    0.13070008,
    0.21470053,
    0.2249783,
    0.22570556,
)
_SIN = _coefficients(-75.40207, 81.59255, -41.341663, 6.2831855)
_COS = _coefficients(59.220406, -85.442856, 64.939316, -19.739208, 1.0)
_TANH = _coefficients(
    -0.00036252566, 0.0023154754, -0.007965227, 0.02149941, -0.053884108, 0.13332412, -0.333333
)
_ATANH = _coefficients(0.14015637, 0.13998932, 0.20010886, 0.33333206)


@njit(error_model="numpy")
def polynomial(x: np.float32, coefficients: tuple[np.float32, ...]) -> np.float32:
    value = coefficients[0]
    for i in range(1, len(coefficients)):
        value = value * x + coefficients[i]
    return value


@intrinsic
def bits_of(typing_context: Any, value: Any) -> Any:
    """A float32's bits, as int32."""
    signature = types.int32(types.float32)
    return signature, lambda _, builder, __, arguments: builder.bitcast(arguments[0], _INT32)


@intrinsic
def float_of(typing_context: Any, bits: Any) -> Any:
    """The float32 of these bits."""
    signature = types.float32(types.int32)
    return signature, lambda _, builder, __, arguments: builder.bitcast(arguments[0], _FLOAT32)


@njit(error_model="numpy")
def box_muller_radius(word: np.uint32) -> np.float32:
    u = _f(word) * _f(2.0**-32) + _f(2.0**-33)
    root_half = _i(0x3F3504F3)
    shifted = _i(bits_of(u) - root_half)
    exponent = _f(shifted >> _i(23))
    f = float_of(_i((shifted & _i(0x7FFFFF)) + root_half)) - _f(1)
    p = polynomial(f, _LOG1P)
    logarithm = exponent * _f(math.log(2)) + ((p * f - _f(0.5)) * f * f + f)
    return np.sqrt(_f(-2) * logarithm)


@njit(error_model="numpy")
def box_muller_angle(word: np.uint32) -> tuple[np.float32, np.float32]:
    turn = _i(word >> _u(8))
    quarter = _i(turn + _i(0x200000)) >> _i(22)
    r = _f(_i(turn - _i(quarter << _i(22)))) * _f(2.0**-24)
    sine = r * polynomial(r * r, _SIN)
    cosine = polynomial(r * r, _COS)
    odd = (quarter & _i(1)) != 0
    first = sine if odd else cosine
    second = cosine if odd else sine
    first = -first if ((quarter + _i(1)) & _i(2)) != 0 else first
    second = -second if (quarter & _i(2)) != 0 else second
    return first, second


@njit(error_model="numpy")
def exp_remainder_reduced(r: np.float32) -> np.float32:
    """e^r - 1 - r for abs(r) <= ln(2) / 2."""
    return polynomial(r, _EXP) * r * r


@njit(error_model="numpy")
def expm1_reduced(r: np.float32) -> np.float32:
    """e^r - 1 for abs(r) <= ln(2) / 2."""
    return exp_remainder_reduced(r) + r


@njit(error_model="numpy")
def exp_in_range(x: np.float32) -> np.float32:
    """e^x for x in [-104, 89]."""
    magic = _f(12582912)
    shifted = x * _f(1.44269504) + magic
    n = shifted - magic
    r = (x - n * _f(0.693359375)) - n * _f(-2.12194440e-4)
    mantissa = expm1_reduced(r) + _f(1)
    exponent = _i(bits_of(shifted) - bits_of(magic))
    half = exponent >> _i(1)
    return mantissa * power_of_two(half) * power_of_two(_i(exponent - half))


@njit(error_model="numpy")
def exp_nonpositive(x: np.float32) -> np.float32:
    """e^x for x <= 0; 0 below -104."""
    return exp_in_range(_f(-104) if x < _f(-104) else x)


@njit(error_model="numpy")
def exp(x: np.float32) -> np.float32:
    """e^x; 0 below -104, infinity above 89."""
    return exp_nonpositive(_f(89) if x > _f(89) else x)


@njit(error_model="numpy")
def expm1(x: np.float32) -> np.float32:
    """e^x - 1, without cancellation where x is small."""
    return expm1_reduced(x) if abs(x) < _f(0.34657359) else exp(x) - _f(1)


@njit(error_model="numpy")
def exp_remainder(x: np.float32) -> np.float32:
    """e^x - 1 - x, without cancellation where x is small."""
    return exp_remainder_reduced(x) if abs(x) < _f(0.34657359) else expm1(x) - x


@njit(error_model="numpy")
def power_of_two(exponent: np.int32) -> np.float32:
    return float_of(_i(_i(exponent + _i(127)) << _i(23)))


@njit(error_model="numpy")
def sigmoid(z: np.float32) -> np.float32:
    e = exp_nonpositive(-abs(z))
    return (e if z < _f(0) else _f(1)) / (_f(1) + e)


@njit(error_model="numpy")
def tanh(z: np.float32) -> np.float32:
    magnitude = abs(z)
    t = exp_nonpositive(_f(-2) * magnitude)
    large = _f(1) - _f(2) * t / (_f(1) + t)
    large = -large if z < _f(0) else large
    small = z + z * (z * z) * polynomial(z * z, _TANH)
    return small if magnitude < _f(1) else large


@njit(error_model="numpy")
def log1p_exp_negative(magnitude: np.float32) -> np.float32:
    """ln(1 + e^-m) for m >= 0."""
    u = exp_nonpositive(-magnitude)
    s = u / (_f(2) + u)
    q = s * s
    return _f(2) * (s + s * q * polynomial(q, _ATANH))


@njit(error_model="numpy")
def softplus(z: np.float32) -> np.float32:
    soft = (z if z > _f(0) else _f(0)) + log1p_exp_negative(abs(z))
    return z if z > _f(20) else soft


@njit(error_model="numpy")
def normal_cumulative(z: np.float32, density: np.float32) -> np.float32:
    """The normal distribution function, given e^(-z^2 / 2)."""
    t = _f(1) / (_f(1) + _f(0.4 * math.sqrt(0.5)) * abs(z))
    p = polynomial(t, _ERFCX)
    tail = _f(0.5) * p * t * density
    return tail if z < _f(0) else _f(1) - tail


@njit(error_model="numpy")
def gelu(z: np.float32) -> np.float32:
    return z * normal_cumulative(z, exp_nonpositive(_f(-0.5) * z * z))


@njit(error_model="numpy")
def silu(z: np.float32) -> np.float32:
    return z * sigmoid(z)


@njit(error_model="numpy")
def relu(z: np.float32) -> np.float32:
    return _f(0) if z < _f(0) else z


@njit(error_model="numpy")
def leaky_relu(z: np.float32) -> np.float32:
    return z * _f(0.01) if z < _f(0) else z


@njit(error_model="numpy")
def relu_backward(g: np.float32, y: np.float32) -> np.float32:
    return _f(0) if y <= _f(0) else g


@njit(error_model="numpy")
def leaky_relu_backward(g: np.float32, y: np.float32) -> np.float32:
    return g if y > _f(0) else g * _f(0.01)


@njit(error_model="numpy")
def sigmoid_backward(g: np.float32, y: np.float32) -> np.float32:
    return g * (y * (_f(1) - y))


@njit(error_model="numpy")
def tanh_backward(g: np.float32, y: np.float32) -> np.float32:
    return g * (_f(1) - y * y)


@njit(error_model="numpy")
def softplus_backward(g: np.float32, y: np.float32) -> np.float32:
    """g (1 - e^-y), without cancellation where y is small."""
    t = tanh(_f(0.5) * y)
    return g * (_f(2) * t / (_f(1) + t))


@njit(error_model="numpy")
def gelu_backward(g: np.float32, z: np.float32) -> np.float32:
    density = exp_nonpositive(_f(-0.5) * z * z)
    slope = z * density * _f(1 / math.sqrt(2 * math.pi))
    return g * (normal_cumulative(z, density) + slope)


@njit(error_model="numpy")
def silu_backward(g: np.float32, z: np.float32) -> np.float32:
    s = sigmoid(z)
    return g * (s * (_f(1) + z * (_f(1) - s)))


@njit(error_model="numpy")
def sigmoid_curvature(y: np.float32) -> np.float32:
    return y * (_f(1) - y) * (_f(1) - _f(2) * y)


@njit(error_model="numpy")
def tanh_curvature(y: np.float32) -> np.float32:
    return _f(-2) * y * (_f(1) - y * y)


@njit(error_model="numpy")
def softplus_curvature(y: np.float32) -> np.float32:
    return softplus_backward(_f(1), y) * exp_nonpositive(-y)


@njit(error_model="numpy")
def gelu_curvature(z: np.float32) -> np.float32:
    square = z * z
    square = _f(1e8) if square > _f(1e8) else square
    return (_f(2) - square) * exp_nonpositive(_f(-0.5) * square) * _f(1 / math.sqrt(2 * math.pi))


@njit(error_model="numpy")
def silu_curvature(z: np.float32) -> np.float32:
    s = sigmoid(z)
    return s * sigmoid(-z) * (_f(2) + z * (_f(1) - _f(2) * s))


@cache
def activate(activation: str) -> Callable[..., np.ndarray]:
    """The universal function output = act(z)."""
    function = globals()[activation].py_func
    return vectorize(["float32(float32)"], cache=CACHE)(function)


@cache
def activation_backward(activation: str) -> Callable[..., np.ndarray]:
    """The universal function output = gradient * act'(saved)."""
    function = globals()[f"{activation}_backward"].py_func
    return vectorize(["float32(float32, float32)"], cache=CACHE)(function)


@cache
def curvature(activation: str) -> Callable[..., np.ndarray]:
    """The universal function output = act''(saved); of a straight line there is none."""
    function = globals()[f"{activation}_curvature"].py_func
    return vectorize(["float32(float32)"], cache=CACHE)(function)
