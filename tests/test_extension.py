"""The compiled module aefast._C: its stub, how it reads matrices, and its errors."""

import ast
import re
from importlib.resources import files

import pytest
import torch

_C = pytest.importorskip("aefast._C", reason="needs the C++ extension")

from aefast.ops.shared.cpp import ELEMENT_TYPES, as_matrix  # noqa: E402


def gemm(left, right, output):
    identity, highest = _C.Activation.identity, _C.Precision.highest
    _C.gemm(left, right, 0, 0, identity, output.data_ptr(), 0, False, highest, 1)
    return output


def test_a_matrix_of_any_layout_is_its_address_shape_and_strides():
    left, right = torch.arange(12.0).view(4, 3).t(), torch.arange(10.0).view(5, 2)[:4, :1]
    right = right.expand(4, 4)
    product = gemm(as_matrix(left), as_matrix(right), torch.empty(3, 4))
    torch.testing.assert_close(product, left @ right.t(), rtol=0, atol=0)


def test_shapes_that_do_not_agree_are_named():
    left, right = torch.ones(2, 3), torch.ones(4, 5)
    with pytest.raises(ValueError, match=r"right is \[4, 5\]; it takes \[4, 3\]"):
        gemm(as_matrix(left), as_matrix(right), torch.empty(2, 4))


@pytest.mark.parametrize(
    "number", [None, 1.0, 1 << 64, -(1 << 64)], ids=["None", "float", "large", "small"]
)
def test_a_matrix_of_other_numbers_is_refused(number):
    matrix = as_matrix(torch.ones(2, 3))
    for position in range(5):
        other = (*matrix[:position], number, *matrix[position + 1 :])
        with pytest.raises(TypeError, match="Matrix"):
            gemm(other, matrix, torch.empty(2, 2))


@pytest.mark.parametrize("kind", [list, lambda numbers: numbers[:4], lambda numbers: (*numbers, 1)])
def test_what_is_no_tuple_of_five_is_refused(kind):
    matrix = as_matrix(torch.ones(2, 3))
    with pytest.raises(TypeError, match="Matrix"):
        gemm(kind(matrix), matrix, torch.empty(2, 2))


def test_a_layout_that_a_kernel_does_not_read_is_refused():
    values, output = torch.ones(3, 4), torch.empty(4, 3)
    element_type = ELEMENT_TYPES[torch.float32]
    with pytest.raises(ValueError, match="values: the elements of a row must lie side by side"):
        _C.scaled_sign(as_matrix(values.t()), output.data_ptr(), element_type, 2.0, 1)
    with pytest.raises(ValueError, match="values: rows must lie side by side"):
        _C.fingerprint(as_matrix(values[:, :3]), 1)


def test_a_matrix_of_one_column_or_row_has_every_layout():
    values = torch.ones(3, 4)
    for part in (values[:1, :3], torch.ones(4, 1).as_strided((4, 1), (1, 7))):
        _C.fingerprint(as_matrix(part), 1)


def described_by_stub(body):
    """The names in a stub, each with those of its arguments or members."""
    described = {}
    for node in body:
        if isinstance(node, ast.FunctionDef):
            arguments = [*node.args.args, *node.args.kwonlyargs]
            is_property = bool(node.decorator_list)
            described[node.name] = (
                None if is_property else [each.arg for each in arguments if each.arg != "self"]
            )
        elif isinstance(node, ast.ClassDef):
            described[node.name] = described_by_stub(node.body)
        elif isinstance(node, ast.AnnAssign) and not node.target.id.startswith("_"):
            described[node.target.id] = None
    return described


def described_by_module(owner):
    """The same for the extension or one of its classes, by the signatures in docstrings."""
    described = {}
    for name, value in vars(owner).items():
        if hasattr(value, "__members__"):
            described[name] = dict.fromkeys(value.__members__)
        elif isinstance(value, type):
            is_error = issubclass(value, Exception)
            described[name] = {} if is_error else described_by_module(value)
        elif name == "__init__" or not name.startswith("_"):
            described[name] = argument_names(name, value.__doc__) if callable(value) else None
    return described


def argument_names(name, signatures):
    listed = re.findall(rf"^(?:\d+\. )?{name}\((.*)\) ->", signatures, re.MULTILINE)
    names = [re.findall(r"(?:^|, )(\w+): ", arguments) for arguments in listed]
    assert names
    assert all(each == names[0] for each in names), "overloads name their arguments alike"
    return [each for each in names[0] if each != "self"]


def test_the_stub_describes_what_was_built():
    stub = ast.parse(files("aefast").joinpath("_C.pyi").read_text())
    assert described_by_stub(stub.body) == described_by_module(_C)
