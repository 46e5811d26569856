"""The fields of a step's plan that a model sets beside its layers."""

from typing import TypedDict


class StepFields(TypedDict, total=False):
    """Fields of :class:`aefast.step.plan.Plan`, under the same names; what is left out has that
    class's default."""

    noise: str | None
    noise_level: float
    code_stage: str
    code_level: float
    divergence_weight: float
    penalty: str
    penalty_weight: float
    penalty_target: float
    objective: str
