"""A sparse dictionary's training step for C++: csrc/step/dictionary_step.cpp."""

from torch import Tensor

from aefast.ops.shared.extension import _C
from aefast.step.dictionary_plan import DictionaryPlan


def kernel_plan(plan: DictionaryPlan, idle: Tensor, threshold: Tensor | None) -> _C.DictionaryPlan:
    """The plan as a C++ object, with the counts ``[L]`` and the threshold that its steps move."""
    fields = plan._asdict()
    fields["selection"] = getattr(_C.LatentSelection, plan.selection)
    fields["estimator"] = getattr(_C.Estimator, plan.estimator)
    address = 0 if threshold is None else threshold.data_ptr()
    return _C.DictionaryPlan(**fields, idle=idle.data_ptr(), threshold=address)
