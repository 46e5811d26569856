"""The training step of an encoder-decoder as one call: its plan, its definition, its kernels.

A model of :mod:`aefast.nn` describes itself as a :class:`~aefast.step.plan.Plan`. One C++ call then
takes a batch from the rows to the loss and all gradients (``model.loss``), or takes many steps with
the optimizer inside (:func:`aefast.fit`). Without C++ numba's kernels serve a loss. What a plan
cannot say runs op by op. Boltzmann machines and top-k dictionaries have plans of their own.
"""

import importlib
from functools import cache
from types import ModuleType


@cache
def kernels(backend: str = "cpp") -> ModuleType:
    """:mod:`aefast.step.cpp`, which imports the extension; or :mod:`aefast.step.numba`."""
    return importlib.import_module(f"aefast.step.{backend}")
