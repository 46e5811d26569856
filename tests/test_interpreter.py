"""Triton's interpreter as the tests quicken it: a reduction by a function of one's own."""

import functools
import operator

import numpy as np
import pytest

triton = pytest.importorskip("triton")
interpreter = pytest.importorskip("triton.runtime.interpreter")


class Minus:
    """Not associative: a changed order shows."""

    @staticmethod
    def fn(a, b):
        data = a.handle.data - b.handle.data
        return triton.language.tensor(interpreter.TensorHandle(data, a.dtype), a.type)


@pytest.mark.parametrize("keep_dims", [False, True])
@pytest.mark.parametrize(
    ("shape", "axis"), [((4,), 0), ((2, 4), 0), ((2, 4), 1), ((2, 4, 8), 1), ((2, 4), None)]
)
def test_a_reduction_goes_from_the_first_to_the_last(shape, axis, keep_dims):
    data = np.random.default_rng(0).integers(-99, 99, shape, dtype=np.int32)
    element = triton.language.int32
    block = triton.language.block_type(element, list(shape))
    x = triton.language.tensor(interpreter.TensorHandle(data, element), block)
    (found,) = interpreter.ReduceOps(axis, Minus, keep_dims).generic_reduce((x,))
    slices = data.ravel() if axis is None else np.moveaxis(data, axis, 0)
    expected = np.asarray(functools.reduce(operator.sub, slices))
    if keep_dims:
        every = tuple(range(data.ndim))
        expected = np.expand_dims(expected, every if axis is None else axis)
    assert np.array_equal(found.handle.data, np.atleast_1d(expected))
    assert found.handle.data.dtype == np.int32
    assert tuple(found.shape) == expected.shape
