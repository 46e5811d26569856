"""aefast.functional collects the public functions of the ops' folders."""

import ast
import inspect
import pickle
from pathlib import Path

import pytest
import torch

from aefast import functional, ops


def test_it_offers_what_the_folders_name():
    assert functional.__all__ == sorted(ops.public_functions())


def test_type_checkers_read_a_line_of_every_folder():
    """Type checkers do not run the code that finds the ops' folders."""
    lines = ast.walk(ast.parse(Path(functional.__file__).read_text()))
    starred = [
        line for line in lines if isinstance(line, ast.ImportFrom) and line.names[0].name == "*"
    ]
    read = [line.module for line in starred]
    assert [name for name in read if name.startswith("aefast.ops.")] == [
        f"aefast.ops.{name}" for name in ops.names()
    ]


def test_what_torch_compiles_of_one_function_does_not_count_for_another():
    """dynamo compiles a code object eight times at most; with fullgraph one more is an error."""
    x, limit = torch.rand(2, 3), torch._dynamo.config.recompile_limit
    functions = [functional.corrupt, functional.l1_sparsity, functional.soft_threshold]
    arguments = [("masking", 0.5), (), (0.1,)]
    torch.compiler.reset()
    for function, rest in zip(functions, arguments, strict=True):
        compiled = torch.compile(function, backend="eager", fullgraph=True, dynamic=False)
        for rows in range(1, limit):
            compiled(x[:1].expand(rows, 3).contiguous(), *rest)
    torch.compiler.reset()


@pytest.mark.parametrize("name", functional.__all__)
def test_a_function_is_pickled_by_its_public_name_and_shows_its_source(name):
    function = getattr(functional, name)
    assert b"aefast.functional" in pickle.dumps(function)
    assert pickle.loads(pickle.dumps(function)) is function
    assert Path(inspect.getsourcefile(function)).parent.parent == Path(ops.__file__).parent
    assert ">>> " in function.__doc__
