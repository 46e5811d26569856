"""What a public function returns is imported from where the function is."""

import importlib
import inspect
import typing

import pytest

import aefast

MODULES = ["aefast", "aefast.nn", "aefast.functional", "aefast.data"]
# What is returned; what its own methods return is read, not made.
RESULTS = {aefast.Report}
# Of the protocol between models and what takes their steps.
PROTOCOL = {"planned_step"}


def classes(hint):
    if isinstance(hint, type):
        yield hint
    for argument in typing.get_args(hint):
        yield from classes(argument)


def public_functions(module):
    for name in module.__all__:
        value = getattr(module, name)
        if not inspect.isclass(value) or value in RESULTS:
            yield name, value
            continue
        for method, _ in inspect.getmembers(value):
            function = inspect.getattr_static(value, method)
            function = getattr(function, "fget", function)
            if not method.startswith("_") and method not in PROTOCOL:
                yield f"{name}.{method}", function


@pytest.mark.parametrize("name", [*MODULES, "aefast.estimators"])
def test_result_types_are_beside_the_functions(name):
    if name == "aefast.estimators":
        pytest.importorskip("sklearn")
    module = importlib.import_module(name)
    count = 0
    for label, function in public_functions(module):
        if not inspect.isfunction(inspect.unwrap(function)):
            continue
        function = inspect.unwrap(function)
        returned = function.__annotations__.get("return")
        if isinstance(returned, str):
            returned = eval(returned, function.__globals__)
        for kind in classes(returned):
            if kind.__module__.startswith("aefast."):
                count += 1
                types = [vars(scope).get(kind.__name__) for scope in (module, aefast, aefast.nn)]
                assert kind in types, f"{label} returns {kind.__module__}.{kind.__name__}"
    assert count or name == "aefast.estimators"


def test_a_results_signature_names_its_fields():
    assert list(inspect.signature(aefast.functional.SparseCode).parameters) == ["values", "indices"]
