"""A torch optimizer's settings and state, handed to the kernels that take its steps."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from aefast.backend import extension
from aefast.step.unit_rows import Dictionary, UnitNorm
from aefast.torch_private import OPTIMIZER_HOOKS, is_scheduled

if TYPE_CHECKING:
    from aefast import _C

KINDS: dict[type, str] = {SGD: "sgd", Adam: "adam", AdamW: "adamw"}

# The state tensors of each optimizer that have the parameter's shape.
AVERAGES: dict[type, tuple[str, ...]] = {
    SGD: ("momentum_buffer",),
    Adam: ("exp_avg", "exp_avg_sq"),
    AdamW: ("exp_avg", "exp_avg_sq"),
}


def refusal(optimizer: Optimizer, parameters: Sequence[Tensor]) -> str | None:
    """Why the kernels cannot take this optimizer's steps; None where they can."""
    name = type(optimizer).__name__
    if type(optimizer) not in KINDS:
        return f"the optimizer is {name}; the kernels take SGD, Adam, AdamW and DictionaryAdam"
    if _has_hooks(optimizer) or not _steps_as_its_class(optimizer):
        return "hooks stand on the optimizer's step"
    unit_rows = {id(directions) for directions in _unit_rows(optimizer)}
    if unit_rows and not unit_rows <= _trained(optimizer, parameters):
        return "the optimizer keeps the norm of directions that are none of the step's"
    if any(map(_has_gradient_hooks, parameters)):
        return "hooks stand on a parameter's gradient"
    parameter_ids = {id(parameter) for parameter in parameters}
    for group in optimizer.param_groups:
        for option in ("amsgrad", "differentiable", "capturable"):
            if group.get(option):
                return f"{name} has {option}=True"
        for parameter in group["params"]:
            if id(parameter) not in parameter_ids and parameter.requires_grad:
                return "the optimizer holds parameters that are none of the step's"
            state = optimizer.state.get(parameter)
            if state and not is_plain(state, parameter, AVERAGES[type(optimizer)]):
                return "the optimizer's state is not what it keeps: float32 like the parameter"
    if not any(p.requires_grad for group in optimizer.param_groups for p in group["params"]):
        return "none of the optimizer's parameters requires a gradient"
    return None


def _has_hooks(optimizer: Optimizer) -> bool:
    """Whether there are hooks other than those that keep a dictionary's directions at unit norm."""
    hooks = *_hooks(optimizer), *(hook for kind in OPTIMIZER_HOOKS for hook in kind.values())
    return not all(isinstance(getattr(hook, "__self__", None), UnitNorm) for hook in hooks)


def _hooks(optimizer: Optimizer) -> list[Callable[..., object]]:
    """Those on an optimizer's step."""
    before, after = optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks
    return [*before.values(), *after.values()]


def _unit_rows(optimizer: Optimizer) -> list[Tensor | None]:
    """The parameters whose rows an optimizer's steps keep at unit norm, for dictionaries; None for
    one that does it its own way."""
    dictionaries: list[Dictionary] = [*getattr(optimizer, "dictionaries", ())]
    dictionaries += [hook.__self__.dictionary for hook in _hooks(optimizer)]  # type: ignore[attr-defined]
    return [dictionary._own_directions() for dictionary in dictionaries]


def _trained(optimizer: Optimizer, parameters: Sequence[Tensor]) -> set[int]:
    """The ids of those of the parameters that an optimizer moves."""
    ids = {id(parameter) for parameter in parameters}
    held = (parameter for group in optimizer.param_groups for parameter in group["params"])
    return {id(one) for one in held if one.requires_grad and id(one) in ids}


def unprofiled(step: Any) -> Any:
    """A class's ``step`` as it was defined: its first instance puts torch's profiler around it."""
    return step.__wrapped__ if getattr(step, "hooked", False) else step


# As torch.optim has them: a group's settings, and the state of each parameter.
Group = dict[str, Any]
States = Mapping[Tensor, dict[str, Tensor]]

# Each class's step, with the profiler or without: the class's attribute may be replaced later.
_STEPS: dict[type, Callable[..., object]] = {cls: cls.step for cls in (SGD, Adam, AdamW)}


def note_alike(cls: type[Optimizer], known: type[Optimizer]) -> None:
    """Note a class whose steps and state are those of a known one, to rounding."""
    KINDS[cls], AVERAGES[cls], _STEPS[cls] = KINDS[known], AVERAGES[known], cls.step


def _steps_as_its_class(optimizer: Optimizer) -> bool:
    """Whether ``step`` is the method that torch's class was defined with, and ``zero_grad`` is its
    class's. A scheduler's wrapper only counts the steps."""
    step: Any = optimizer.step
    if is_scheduled(step):
        step = step.__wrapped__
    cls = type(optimizer)
    if getattr(step, "__func__", step) is not cls.step or "zero_grad" in optimizer.__dict__:
        return False
    if _STEPS[cls] is cls.step:
        return True
    if unprofiled(cls.step) is not unprofiled(_STEPS[cls]):
        return False
    _STEPS[cls] = cls.step
    return True


def _has_gradient_hooks(parameter: Tensor) -> bool:
    return bool(
        parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None)
    )


def is_plain(state: dict[str, object], parameter: Tensor, averages: Sequence[str]) -> bool:
    """Whether the kernels can read a parameter's state: a loaded state dict may hold anything.

    A parameter on a GPU may have its count of steps there or on the CPU.
    """
    if not state.keys() >= {*averages}:
        return False
    sizes = dict.fromkeys(averages, parameter.shape)
    if averages == AVERAGES[SGD]:
        sizes = {name: size for name, size in sizes.items() if state[name] is not None}
    else:
        sizes["step"] = torch.Size()  # a scalar that the kernels increase in place
    return all(
        isinstance(tensor := state.get(name), Tensor)
        and tensor.dtype == torch.float32
        and (tensor.device == parameter.device or (name == "step" and tensor.is_cpu))
        and tensor.is_contiguous()
        and tensor.shape == size
        for name, size in sizes.items()
    )


class OptimizerSteps:
    """The updates that a torch optimizer makes, with its state, for the kernels.

    Args:
        optimizer: one for which :func:`refusal` returned None.
        parameters: the step's parameters. Those that the optimizer does not hold, or that require
            no gradient, are not updated.
        by_rows: whether many rows of the matrices do not move, as a sparse dictionary's.
    """

    def __init__(
        self, optimizer: Optimizer, parameters: Sequence[Tensor], by_rows: bool = False
    ) -> None:
        self.optimizer = optimizer
        self.by_rows = by_rows
        self._parameter_numbers = {id(p): number for number, p in enumerate(parameters)}
        self.trained: list[tuple[Group, Tensor, int]] = []
        self._without_state: list[Tensor] = []  # parameters whose state updates() created

    @property
    def numbers(self) -> list[int]:
        """The index, among the step's parameters, of each updated parameter."""
        return [number for _, _, number in self.trained]

    def updates(self) -> "list[_C.ParameterUpdate]":
        """An update for each parameter that requires a gradient, with the current settings."""
        numbers = self._parameter_numbers
        self.trained = [
            (group, parameter, numbers[id(parameter)])
            for group in self.optimizer.param_groups
            for parameter in group["params"]
            if id(parameter) in numbers and parameter.requires_grad
        ]
        unit_rows = {id(directions) for directions in _unit_rows(self.optimizer)}
        make = adam_update if type(self.optimizer) is not SGD else _sgd
        self._without_state = [p for _, p, _ in self.trained if not self.optimizer.state.get(p)]
        kind = getattr(extension().OptimizerKind, KINDS[type(self.optimizer)])
        return [
            make(
                kind,
                group,
                parameter,
                self.optimizer.state,
                parameter.shape[1] if self.by_rows and parameter.dim() == 2 else 0,
                id(parameter) in unit_rows,
            )
            for group, parameter, _ in self.trained
        ]

    def advance(self, steps: int) -> None:
        """Record so many steps in what the kernels do not update themselves.

        Adam's count of steps is the kernels': otherwise an interrupt between their call and this
        one would leave parameters that had taken more steps than were counted.
        """
        if steps == 0:
            for parameter in self._without_state:
                self.optimizer.state.pop(parameter, None)
            return
        torch.autograd.graph.increment_version([parameter for _, parameter, _ in self.trained])
        # A scheduler reads it: if False, it warns that it stepped before the optimizer.
        self.optimizer._opt_called = True  # type: ignore[attr-defined]


def adam_update(
    kind: "_C.OptimizerKind",
    group: Group,
    parameter: Tensor,
    states: States,
    columns: int = 0,
    has_unit_rows: bool = False,
) -> "_C.ParameterUpdate":
    """Adam's or AdamW's update of a parameter, whose state is made where there is none. With
    ``columns`` nothing is written to rows of so many elements that do not move; ``has_unit_rows``
    keeps their norm."""
    state = states[parameter]
    if not state:
        averages = (torch.zeros_like(parameter) for _ in range(2))
        count = torch.zeros((), dtype=torch.float32, device="cpu")
        state.update(zip(("step", "exp_avg", "exp_avg_sq"), (count, *averages), strict=True))
    beta1, beta2 = group["betas"]
    decoupled = kind == extension().OptimizerKind.adamw or group.get("decoupled_weight_decay")
    return extension().ParameterUpdate(
        kind=extension().OptimizerKind.adamw if decoupled else kind,
        parameter=parameter.data_ptr(),
        first=state["exp_avg"].data_ptr(),
        second=state["exp_avg_sq"].data_ptr(),
        size=parameter.numel(),
        learning_rate=float(group["lr"]),
        weight_decay=float(group["weight_decay"]),
        maximize=bool(group["maximize"]),
        beta1=float(beta1),
        beta2=float(beta2),
        epsilon=float(group["eps"]),
        step=int(state["step"]) + 1,
        count=state["step"].data_ptr(),
        columns=columns,
        has_unit_rows=has_unit_rows,
    )


def _sgd(
    kind: "_C.OptimizerKind",
    group: Group,
    parameter: Tensor,
    states: States,
    columns: int,
    has_unit_rows: bool,
) -> "_C.ParameterUpdate":
    momentum = float(group["momentum"])
    buffer, is_first = None, False
    if momentum != 0:
        state = states[parameter]
        is_first = state.get("momentum_buffer") is None
        if is_first:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer = state["momentum_buffer"]
    return extension().ParameterUpdate(
        kind=kind,
        parameter=parameter.data_ptr(),
        first=0 if buffer is None else buffer.data_ptr(),
        size=parameter.numel(),
        learning_rate=float(group["lr"]),
        weight_decay=float(group["weight_decay"]),
        momentum=momentum,
        dampening=float(group["dampening"]),
        nesterov=bool(group["nesterov"]),
        maximize=bool(group["maximize"]),
        is_first=is_first,
        columns=columns,
        has_unit_rows=has_unit_rows,
    )
