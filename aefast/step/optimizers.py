"""A torch optimizer as the kernels take it: its settings and state, parameter by parameter."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim import optimizer as torch_optimizer

from aefast.backend import extension

KINDS: dict[type, str] = {SGD: "sgd", Adam: "adam", AdamW: "adamw"}


def refusal(optimizer: Optimizer, parameters: Sequence[Tensor]) -> str | None:
    """Why the kernels cannot take this optimizer's steps; None where they can."""
    name = type(optimizer).__name__
    if type(optimizer) not in KINDS:
        return f"the optimizer is {name}; the kernels take SGD, Adam and AdamW"
    if _has_hooks(optimizer):
        return "hooks stand on the optimizer's step"
    known = {id(parameter) for parameter in parameters}
    for group in optimizer.param_groups:
        for option in ("amsgrad", "differentiable", "capturable"):
            if group.get(option):
                return f"{name} has {option}=True"
        for parameter in group["params"]:
            if id(parameter) not in known and parameter.requires_grad:
                return "the optimizer holds parameters that are none of the step's"
            for state in optimizer.state.get(parameter, {}).values():
                if isinstance(state, Tensor) and not _is_plain(state):
                    return "the optimizer's state is not float32 on the CPU, or not contiguous"
    return None


def _has_hooks(optimizer: Optimizer) -> bool:
    return bool(
        optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or torch_optimizer._global_optimizer_pre_hooks
        or torch_optimizer._global_optimizer_post_hooks
    )


def _is_plain(state: Tensor) -> bool:
    return state.dtype == torch.float32 and state.device.type == "cpu" and state.is_contiguous()


class OptimizerSteps:
    """The updates of an optimizer's parameters, which its state goes along with.

    Args:
        optimizer: one that :func:`refusal` has nothing against.
        parameters: the step's; those that the optimizer does not hold, or that require no
            gradient, stay as they are.
    """

    def __init__(self, optimizer: Optimizer, parameters: Sequence[Tensor]) -> None:
        self.optimizer = optimizer
        numbers = {id(parameter): number for number, parameter in enumerate(parameters)}
        self.trained = [
            (group, parameter, numbers[id(parameter)])
            for group in optimizer.param_groups
            for parameter in group["params"]
            if id(parameter) in numbers and parameter.requires_grad
        ]
        self._unused: list[Tensor] = []  # whose state the last updates() began

    @property
    def numbers(self) -> list[int]:
        """Which of the step's parameters each update is of."""
        return [number for _, _, number in self.trained]

    def updates(self) -> list[Any]:
        """The updates as they stand: learning rates may have changed since the last call."""
        make = _adam if type(self.optimizer) is not SGD else _sgd
        self._unused = [p for _, p, _ in self.trained if not self.optimizer.state.get(p)]
        kind = getattr(extension().OptimizerKind, KINDS[type(self.optimizer)])
        return [
            make(kind, group, parameter, self.optimizer.state)
            for group, parameter, _ in self.trained
        ]

    def advance(self, steps: int) -> None:
        """What so many steps leave beside what the kernels keep themselves.

        They count Adam's steps, too: an interrupt between their call and this one would leave an
        optimizer that had taken steps it did not count.
        """
        if steps == 0:
            for parameter in self._unused:
                self.optimizer.state.pop(parameter, None)
            return
        torch.autograd.graph.increment_version([parameter for _, parameter, _ in self.trained])
        # What a scheduler asks before it warns that it stepped first.
        self.optimizer._opt_called = True  # type: ignore[attr-defined]


def _adam(kind: Any, group: dict[str, Any], parameter: Tensor, states: Any) -> Any:
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
    )


def _sgd(kind: Any, group: dict[str, Any], parameter: Tensor, states: Any) -> Any:
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
    )
