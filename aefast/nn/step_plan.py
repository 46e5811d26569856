"""A model's training step as a plan, for the kernels that take it in one call."""

import sys
from collections.abc import Callable, Iterable
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from aefast import backend, random
from aefast.nn.cached_step import CachedStep
from aefast.nn.linear import LinearAct, TiedLinearAct
from aefast.ops.shared import checks, dispatch
from aefast.ops.shared.product_routes import takes_matrix_units
from aefast.random import CPU
from aefast.step import dictionary_plan, machine_loss, optimizers
from aefast.step.dictionary_plan import DictionaryPlan
from aefast.step.loss import (
    MOST_PRODUCTS,
    EncoderDecoderCall,
    kernel_of,
    refusal,
    step_loss,
    unsuitable_memory,
)
from aefast.step.loss_node import StepCall, loss_of
from aefast.step.machine_loss import MachineCall
from aefast.step.machine_plan import MachinePlan
from aefast.step.parameters import unsuitable, unsuitable_call
from aefast.step.plan import Plan, PlannedLayer
from aefast.step.statistics import TrackedNorm, Updates, WithStatistics

if TYPE_CHECKING:
    from aefast import _C

# Whose kernels take a loss in one call.
LOSS_BACKENDS = "cpp", "numba"

NOT_TOGETHER = "its parameters' shapes do not fit together"

# The objectives of numbers in [0, 1].
UNIT_INTERVAL_REASONS = {"bce": "the cross-entropy takes", "bernoulli": "Bernoulli units take"}


class PlannedStep(NamedTuple):
    """A plan, and the tensors that are its parameters now.

    Attributes:
        norms: whose running statistics, which are among the parameters, the steps move.
    """

    plan: Plan
    parameters: list[Tensor]
    norms: tuple[TrackedNorm, ...] = ()

    @property
    def width(self) -> int:
        """D, the numbers of a row."""
        return self.plan.encoder[0].inputs

    @property
    def draws(self) -> bool:
        """Whether the loss draws random numbers."""
        return self.plan.draws

    def call_of(self) -> Callable[[Tensor, int, int], StepCall]:
        """A function of x ``[B, D]``, a seed and the row offset: the call of the kernels."""
        return partial(EncoderDecoderCall, self.plan, kernel_of(self.plan, "cpp"), self.parameters)

    @property
    def most_rows(self) -> int:
        """So many rows are served without another look."""
        return MOST_PRODUCTS // self.plan.largest_product

    @property
    def questions(self) -> tuple[Callable[[], object], ...]:
        """What a call is asked of this step: each answers with no where the kernels may serve."""
        return ()

    @property
    def unit_interval_reason(self) -> str | None:
        """What requires numbers in [0, 1], for a message; None if nothing does."""
        return UNIT_INTERVAL_REASONS.get(self.plan.objective)

    def refusal(self, x: Tensor) -> str | None:
        """Why the kernels do not serve rows like x; None where they do."""
        return refusal(self.plan, self.parameters, x)

    def kernel_plan(self) -> "_C.StepPlan":
        """The plan as C++ reads it."""
        from aefast.step import cpp

        return cpp.kernel_plan(self.plan)

    def updates(self, optimizer: torch.optim.Optimizer) -> Updates:
        """What moves the parameters after each step."""
        steps = optimizers.OptimizerSteps(optimizer, self.parameters)
        return WithStatistics(steps, self.parameters, self.norms) if self.norms else steps

    def advance(self, steps: int) -> None:
        """Called after so many steps: only the parameters change, so there is nothing to do."""

    @property
    def has_norm_or_dropout(self) -> bool:
        """Whether there is batch normalization or dropout between its layers."""
        return any(layer.norm or layer.dropout for layer in self.plan.layers)

    @property
    def one_row_error(self) -> str:
        """torch's message for a batch of one row, which has no variance to normalize by."""
        normalized = next(layer for layer in self.plan.layers if layer.norm is not None)
        size = torch.Size([1, normalized.outputs])
        return f"Expected more than 1 value per channel when training, got input size {size}"


class Numbering:
    """Numbers the parameters of a plan, each once.

    Attributes:
        parameters: in the order of their numbers.
    """

    def __init__(self) -> None:
        self.parameters: list[Tensor] = []
        self._numbers: dict[int, int] = {}

    def number(self, parameter: Tensor | None) -> int:
        """A parameter's number; -1 for None."""
        if parameter is None:
            return -1
        if id(parameter) not in self._numbers:
            self._numbers[id(parameter)] = len(self.parameters)
            self.parameters.append(parameter)
        return self._numbers[id(parameter)]

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(parameter.numel() for parameter in self.parameters)


class PlannedMachine(NamedTuple):
    """A planned step of a restricted Boltzmann machine, with its persistent chains.

    Attributes:
        chain: ``[C, D]``, which the steps move in place; or None.
        training_steps: how many have been taken, a scalar.
    """

    plan: MachinePlan
    parameters: list[Tensor]
    chain: Tensor | None
    training_steps: Tensor

    @property
    def width(self) -> int:
        return self.plan.visible

    @property
    def draws(self) -> bool:
        return True

    def call_of(self) -> Callable[[Tensor, int, int], StepCall]:
        assert self.chain is None  # persistent ones move on between the calls
        return partial(MachineCall, self.plan, None, None, self.kernel_plan(), self.parameters)

    @property
    def most_rows(self) -> int:
        return sys.maxsize

    @property
    def questions(self) -> tuple[Callable[[], object], ...]:
        """The precision, too, may be another one at a later call."""
        return (takes_matrix_units,) if "amx" in backend.cpu_features() else ()

    @property
    def unit_interval_reason(self) -> str | None:
        return "Bernoulli units take" if self.plan.visible_kind == "bernoulli" else None

    def refusal(self, x: Tensor) -> str | None:
        return machine_loss.refusal(self.plan, self.parameters, x, self.chain)

    def kernel_plan(self) -> "_C.MachinePlan":
        from aefast.step import machine_cpp

        if self.chain is not None and self.unit_interval_reason is not None:
            checks.check_unit_interval(self.chain, "chain", self.unit_interval_reason)
        return machine_cpp.kernel_plan(self.plan, self.chain, self.chain)

    def updates(self, optimizer: torch.optim.Optimizer) -> Updates:
        return optimizers.OptimizerSteps(optimizer, self.parameters)

    def advance(self, steps: int) -> None:
        self.training_steps.add_(steps)
        if self.chain is not None and steps:
            torch.autograd.graph.increment_version([self.chain])


class PlannedDictionary(NamedTuple):
    """A planned step of a sparse dictionary.

    Attributes:
        idle: the rows since each latent was active, int64 ``[L]``, which the steps move in place.
        threshold: a batch's, which they move as well; or a JumpReLU's, which count as 0 where they
            are below; or None.
    """

    plan: DictionaryPlan
    parameters: list[Tensor]
    idle: Tensor
    threshold: Tensor | None = None

    @property
    def width(self) -> int:
        return self.plan.visible

    @property
    def unit_interval_reason(self) -> str | None:
        return None

    def refusal(self, x: Tensor) -> str | None:
        return dictionary_plan.refusal(self.parameters, self.idle, self.threshold)

    def kernel_plan(self) -> "_C.DictionaryPlan":
        from aefast.step import dictionary_cpp

        return dictionary_cpp.kernel_plan(self.plan, self.idle, self.threshold)

    def updates(self, optimizer: torch.optim.Optimizer) -> Updates:
        return optimizers.OptimizerSteps(optimizer, self.parameters, by_rows=True)

    def advance(self, steps: int) -> None:
        if steps:
            moved = [self.idle] if self.threshold is None else [self.idle, self.threshold]
            torch.autograd.graph.increment_version(moved)
        if self.plan.selection == "jumprelu":
            self.parameters[-1].detach().clamp_(min=0)  # as the next loss would


AnyPlanned = PlannedStep | PlannedMachine | PlannedDictionary


def check_width(width: int, step: AnyPlanned, argument: str = "data") -> None:
    """
    Raises:
        ValueError: the model takes rows of another width.
    """
    if width != step.width:
        raise ValueError(f"{argument} has rows of {width} numbers; the model takes {step.width}")


def plan_of(model: Any) -> AnyPlanned | str:
    """The step of a model as it stands; or why the kernels cannot take it in one call.

    A class says with ``step_fields`` what its loss adds to its layers, by its settings and whether
    it trains, or with ``planned_step`` all of it. A subclass, whose loss may be another, says it
    anew. A plan is kept until something about the model is another one.
    """
    if "planned_step" in type(model).__dict__:
        return model.planned_step()
    if "step_fields" not in type(model).__dict__:
        return f"{type(model).__name__} has no plan of its step"
    cached = model.__dict__.get("_kept_step")
    if cached is not None and cached.is_current(model):
        return cached.step
    fields = model.step_fields()
    if isinstance(fields, str):
        return fields
    if not model.is_plain:
        return "a layer has a hook, a parametrization or an adapter"
    encoder, decoder = map(list, model.step_layers())
    if _share_parameters([*encoder, *decoder]):
        return "two layers share a parameter"
    step = _planned(encoder, decoder, model._parameters.get("log_var"), fields)
    if isinstance(step, str):
        return step
    keep(model, step)
    return step


def keep(model: nn.Module, step: PlannedStep | PlannedMachine) -> None:
    """Keep a step for the model's next losses, of the same model.

    One of tensors that the kernels do not read, as those on a GPU, is not kept: it would never be
    found to be current.
    """
    cached = model.__dict__.get("_kept_step")
    if cached is not None and cached.is_current(model):
        return
    if unsuitable(step.parameters) is not None:
        model.__dict__.pop("_kept_step", None)
        return
    model.__dict__["_kept_step"] = CachedStep(step, model)


def _share_parameters(layers: Iterable[nn.Module]) -> bool:
    """Whether two layers share a parameter, whose gradient is then a sum over both. A tied layer
    has no weight of its own."""
    ids = [id(p) for layer in layers for p in layer._parameters.values() if p is not None]
    return len(set(ids)) < len(ids)


def _planned(
    encoder: list[Any], decoder: list[Any], log_var: Tensor | None, fields: dict[str, Any]
) -> PlannedStep | str:
    if fields.get("penalty") == "kl" and encoder[-1].activation != "sigmoid":
        return "the penalty is a divergence, and the code's activation no sigmoid"
    for module in (*encoder, *decoder):
        weight = module._tied[0].weight if isinstance(module, TiedLinearAct) else module.weight
        if weight is None or weight.dim() != 2:
            return "a layer's weight is no matrix"
        if module.bias is not None and module.bias.dim() != 1:
            return "a layer's bias is no vector"
    numbering = Numbering()
    number = numbering.number

    def layer(module: LinearAct | TiedLinearAct) -> PlannedLayer:
        parameters: Any = module._parameters
        if isinstance(module, TiedLinearAct):
            weight: Any = module._tied[0]._parameters["weight"]
            inputs, outputs = weight.shape
        else:
            weight = parameters["weight"]
            outputs, inputs = weight.shape
        is_tied = isinstance(module, TiedLinearAct)
        return PlannedLayer(
            inputs, outputs, module.activation, number(weight), number(parameters["bias"]), is_tied
        )

    layers = tuple(map(layer, encoder)), tuple(map(layer, decoder))
    if log_var is not None:
        fields = {**fields, "log_var": number(log_var)}
    plan = Plan(*layers, numbering.sizes, **fields)
    return PlannedStep(plan, numbering.parameters) if fits_together(plan) else NOT_TOGETHER


def fits_together(plan: Plan) -> bool:
    """Whether the layers' widths match, and the biases' and variances' sizes. Parameters may have
    been replaced, and the kernels read as many numbers as the plan says."""
    code = plan.encoder[-1].outputs
    if plan.code_stage == "posterior":
        if code % 2:
            return False
        code //= 2

    def fits(layer: PlannedLayer) -> bool:
        heads = 1 if layer.log_var_weight < 0 else 2
        expected_sizes = {
            layer.bias: layer.outputs // heads,
            layer.log_var_bias: layer.outputs // heads,
        }
        expected_sizes[layer.log_var_weight] = layer.inputs * layer.outputs // heads
        expected_sizes |= dict.fromkeys(layer.norm[:4] if layer.norm else (), layer.outputs)
        return all(
            number < 0 or plan.sizes[number] == size for number, size in expected_sizes.items()
        )

    neighbors = (*pairwise(plan.encoder), *pairwise(plan.decoder))
    visible = plan.encoder[0].inputs
    return (
        min(plan.sizes) > 0
        and all(before.outputs == after.inputs for before, after in neighbors)
        and plan.decoder[0].inputs == code
        and plan.decoder[-1].outputs == visible
        and all(map(fits, plan.layers))
        and (plan.log_var < 0 or plan.sizes[plan.log_var] in (1, visible))
    )


def loss_in_one_call(
    model: nn.Module,
    x: Tensor,
    seed: int | None,
    generator: torch.Generator | None,
    row_offset: int,
) -> Tensor | None:
    """The model's loss of x ``[..., D]`` as one autograd node over one call; None where that does
    not serve."""
    if torch.compiler.is_compiling():
        return None
    loss = loss_of_kept_step(model, x, seed, generator, row_offset)
    if loss is not None:
        return loss
    if not isinstance(x, Tensor) or x.dim() == 0 or unsuitable_call(x, LOSS_BACKENDS):
        return None
    step = plan_of(model)
    if not isinstance(step, PlannedStep):
        return None
    plan, parameters, _ = step
    rows = x if x.dim() == 2 else x.reshape(-1, x.shape[-1])
    if unsuitable_memory(plan, parameters, rows) is not None:
        return None
    if step.unit_interval_reason is not None:
        checks.check_unit_interval(rows, "x", step.unit_interval_reason)
    drawn = host_seed(seed, generator) if plan.draws else 0
    return step_loss(plan, parameters, rows, drawn, row_offset)


def loss_of_kept_step(
    model: nn.Module,
    x: Tensor,
    seed: int | None,
    generator: torch.Generator | None,
    row_offset: int,
) -> Tensor | None:
    """The loss of x, where the model's kept step serves it; else None. It is not compiled."""
    cached = model.__dict__.get("_kept_step")
    if cached is None or not cached.serves(model, x):
        return None
    drawn = host_seed(seed, generator) if cached.draws else 0
    return loss_of(cached.call_of(x, drawn, row_offset))


def host_seed(seed: int | None, generator: torch.Generator | None) -> int:
    """The seed given, or one drawn from ``generator`` or torch's default one."""
    if seed is None and generator is None:
        return random.draw_on_host(None)
    return int(dispatch.resolve_seed(seed, generator, CPU, False))
