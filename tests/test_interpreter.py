"""The tests' faster Triton interpreter: a reduction by a user's function keeps its order."""

import functools
import operator

import numpy as np
import pytest

triton = pytest.importorskip("triton")
interpreter = pytest.importorskip("triton.runtime.interpreter")


class Minus:
    """Subtraction is not associative, so a changed order shows."""

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
    (actual,) = interpreter.ReduceOps(axis, Minus, keep_dims).generic_reduce((x,))
    slices = data.ravel() if axis is None else np.moveaxis(data, axis, 0)
    expected = np.asarray(functools.reduce(operator.sub, slices))
    if keep_dims:
        every = tuple(range(data.ndim))
        expected = np.expand_dims(expected, every if axis is None else axis)
    assert np.array_equal(actual.handle.data, np.atleast_1d(expected))
    assert actual.handle.data.dtype == np.int32
    assert tuple(actual.shape) == expected.shape


def block(shape, element=triton.language.int32):
    data = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    kind = triton.language.block_type(element, list(shape))
    return triton.language.tensor(interpreter.TensorHandle(data, element), kind)


def test_types_of_other_elements_and_shapes_stay_apart():
    language = triton.language
    elements = [language.int32, language.float32, language.pointer_type(language.float32)]
    elements += [language.pointer_type(language.float32, 3)]
    shapes = [(4,), (8,), (4, 1), (1, 4)]
    for element in elements:
        for shape in shapes:
            tensor = block(shape, element)
            assert tensor.dtype == tensor.type.element_ty == element
            assert getattr(tensor.dtype, "address_space", 0) == getattr(element, "address_space", 0)
            assert [size.value for size in tensor.shape] == list(tensor.type.shape) == list(shape)
            assert tensor.numel.value == int(np.prod(shape))


def test_blocks_of_any_two_shapes_are_broadcast():
    semantic, left = interpreter.interpreter_semantic, block((2, 4))
    for other in (block((2, 4)), block((1, 4)), block((2, 1)), block((1, 1))):
        for pair in ((left, other), (other, left)):
            actual = semantic.broadcast_impl_value(*pair)
            expected = np.broadcast_arrays(*(each.handle.data for each in pair))
            for each, values in zip(actual, expected, strict=True):
                assert list(each.type.shape) == [2, 4]
                assert np.array_equal(each.handle.data, values)
