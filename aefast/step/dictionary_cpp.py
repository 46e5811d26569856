"""A sparse dictionary's training step for C++: csrc/step/dictionary_step.cpp."""

from torch import Tensor

from aefast.ops.shared.extension import _C
from aefast.step.dictionary_plan import DictionaryPlan


def kernel_plan(plan: DictionaryPlan, idle: Tensor) -> _C.DictionaryPlan:
    """The plan as a C++ object, with the counts ``[L]`` that its steps move."""
    return _C.DictionaryPlan(**plan._asdict(), idle=idle.data_ptr())
