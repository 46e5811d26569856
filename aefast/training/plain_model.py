"""A plain PyTorch model with its loss, as :func:`aefast.fit` trains it."""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, fx, nn

from aefast.acceleration.objective import NAMED, objective_of
from aefast.acceleration.recognition import RecognizedBlock, block_of, is_call, reads_parameter
from aefast.acceleration.tracing import KEY, Trace, own_forward, trace
from aefast.acceleration.writes import is_write
from aefast.nn.plain import has_hooks
from aefast.nn.step_plan import NOT_TOGETHER, Numbering, PlannedStep, fits_together
from aefast.step.plan import Plan, PlannedLayer, PlannedNorm
from aefast.step.statistics import TrackedNorm

# They do not change rows [B, D] where the next layer takes D units.
RESHAPES = ("view", "reshape", "flatten", torch.flatten, torch.reshape)


class PlainModel:
    """A module without a loss method, with a loss of its output and its input.

    Args:
        module: the model.
        loss: ``loss(output, x)``, or ``loss(outputs[0], x, *outputs[1:])`` of several.
    """

    def __init__(self, module: nn.Module, loss: Callable[..., Tensor]) -> None:
        self.module = module
        self.criterion = loss
        self.objective = objective_of(loss)
        self.kept_trace: Trace | None = None

    @property
    def training(self) -> bool:
        return self.module.training

    def train(self, mode: bool = True) -> None:
        self.module.train(mode)

    def eval(self) -> None:
        self.module.eval()

    def parameters(self) -> Iterator[nn.Parameter]:
        return self.module.parameters()

    def buffers(self) -> Iterator[Tensor]:
        return self.module.buffers()

    def loss(self, x: Tensor, *, seed: int | None = None) -> Tensor:
        """The loss of a batch ``[B, D]``. ``seed`` is not used: torch's generator is drawn from."""
        outputs = self.module(x)
        output, *others = outputs if isinstance(outputs, tuple) else (outputs,)
        is_tensor = isinstance(output, Tensor)
        if self.objective is not None and is_tensor and output.shape != x.shape:
            raise ValueError(
                f"model gives {list(output.shape)} for rows {list(x.shape)}; a loss that is a mean "
                "over elements takes an output of the rows' shape"
            )
        return self.criterion(output, x, *others)

    def planned_step(self) -> PlannedStep | str:
        """The model's step as a plan; or the reason why the kernels cannot take it."""
        if self.objective is None:
            return "the loss is none that the kernels know: mse or bce, means over all elements"
        if has_hooks(self.module):
            return "hooks stand on the model"
        if own_forward(self.module.__dict__) is not None:
            return "the model has a forward of its own"
        traced = self._trace()
        blocks = traced if isinstance(traced, str) else _blocks_in(traced, self.module)
        return blocks if isinstance(blocks, str) else _planned(blocks, self.objective)

    def _trace(self) -> Trace | str:
        """The module's graph. To trace it takes as long as some hundred steps of a small model, so
        an accelerated one's is kept from call to call, while the module is in the same state."""
        keeper = self.module.__dict__.get(KEY, self)
        if keeper.kept_trace is None or not keeper.kept_trace.guard.holds():
            traced = trace(self.module)
            if isinstance(traced, str):
                return traced
            keeper.kept_trace = traced
        return keeper.kept_trace


def plain_model(model: nn.Module, loss: str | Callable[..., Tensor] | None) -> PlainModel | None:
    """The model with ``loss``, by default the one that it was accelerated with, or mse for an
    ``nn.Sequential``. None for another model without a loss."""
    record = model.__dict__.get(KEY) if isinstance(model, nn.Module) else None
    if loss is None and record is None and type(model) is not nn.Sequential:
        return None
    if loss is None:
        loss = "mse" if record is None or record.loss is None else record.loss
    return PlainModel(model, NAMED[loss] if isinstance(loss, str) else loss)


def blocks_of(module: nn.Module) -> list[RecognizedBlock] | str:
    """The layers of a model that is a chain of layers; or the reason why it is not."""
    traced = trace(module)
    return traced if isinstance(traced, str) else _blocks_in(traced, module)


def _blocks_in(traced: Trace, module: nn.Module) -> list[RecognizedBlock] | str:
    recognized = [
        block for node in traced.graph.nodes if (block := block_of(node, module)) is not None
    ]
    by_output = {block.layer.nodes[-1]: block for block in recognized}
    output = next(node for node in traced.graph.nodes if node.op == "output")
    (node,) = output.args
    blocks: list[RecognizedBlock] = []
    while node in by_output and len(node.users) == 1:
        blocks.insert(0, by_output[node])
        node = by_output[node].layer.input
    if not blocks or len(blocks) < len(recognized):
        return "the model is more than layers one after the other"
    layer_nodes = {node for block in blocks for node in block.layer.nodes}
    if (
        len(traced.inputs) != 1
        or not _is_input(node, module)
        or _does_more(traced.graph, layer_nodes, module)
    ):
        return "the model does more than its layers do: noise, or operations between them"
    return blocks


def _does_more(graph: fx.Graph, layer_nodes: set[fx.Node], module: nn.Module) -> bool:
    """Whether a node beside a graph's layers writes to memory, or is there for nobody's reading."""
    others = [node for node in graph.nodes if node not in layer_nodes and node.op != "output"]
    return any(
        is_write(node, module) or not (node.users or reads_parameter(node)) for node in others
    )


def _is_input(node: fx.Node, module: nn.Module) -> bool:
    """Whether a node is the model's input, reshaped to rows or not."""
    while node.op != "placeholder":
        is_flatten = node.op == "call_module" and (
            type(module.get_submodule(str(node.target))) is nn.Flatten
        )
        if not (is_flatten or is_call(node, *RESHAPES)):
            return False
        (node,) = node.args[:1]  # type: ignore[assignment]
    return True


class Planner:
    """Turns the layers of a traced graph into a plan's.

    Attributes:
        numbering: numbers their parameters.
        norms: their batch normalizations with running statistics.
    """

    def __init__(self) -> None:
        self.numbering = Numbering()
        self.norms: list[TrackedNorm] = []

    def layer(self, block: RecognizedBlock) -> PlannedLayer | str:
        """The planned layer; or the reason why the kernels do not compute it."""
        number = self.numbering.number
        weight = block.layer.weight.tensor
        bias = None if block.layer.bias is None else block.layer.bias.tensor
        if weight.dim() != 2:
            return "a layer's weight is no matrix"
        outputs, inputs = weight.shape if not block.layer.is_tied else weight.shape[::-1]
        norm = None if block.norm is None else self._norm(block.norm, block.norm_follows)
        if isinstance(norm, str):
            return norm
        return PlannedLayer(
            inputs,
            outputs,
            block.layer.activation,
            number(weight),
            number(bias),
            block.layer.is_tied,
            norm=norm,
            dropout=block.dropout,
        )

    def layers(self, blocks: Iterable[RecognizedBlock]) -> list[PlannedLayer] | str:
        layers = []
        for block in blocks:
            layer = self.layer(block)
            if isinstance(layer, str):
                return layer
            layers.append(layer)
        return layers

    def _norm(self, module: nn.BatchNorm1d, follows: bool) -> PlannedNorm | str:
        mean, variance, batches = None, None, module.num_batches_tracked
        if module.track_running_stats and module.running_mean is not None:
            mean, variance = module.running_mean, module.running_var
            if batches is None or batches.dtype != torch.int64 or not batches.is_cpu:
                return "a batch normalization counts its batches otherwise than torch's"
        number = self.numbering.number
        scale, shift = number(module.weight), number(module.bias)
        norm = PlannedNorm(scale, shift, number(mean), number(variance), module.eps, follows)
        if mean is not None and batches is not None:
            momentum = module.momentum
            self.norms.append(TrackedNorm(norm.mean, norm.variance, momentum, batches))
        return norm


def _planned(blocks: list[RecognizedBlock], objective: str) -> PlannedStep | str:
    planner = Planner()
    layers = planner.layers(blocks)
    if isinstance(layers, str):
        return layers
    if len(layers) < 2:
        return "one layer is no autoencoder"
    code = _code_of(layers)
    if code is None:
        return "two layers share a parameter"
    if layers[-1].norm is not None or layers[-1].dropout:
        return "batch normalization or dropout is the last of the model"
    last = layers[-1].activation
    if objective != "mse":
        if last != ("sigmoid" if objective == "bce" else "identity"):
            return f"the loss is a cross-entropy, and the last activation {last}"
        layers[-1] = layers[-1]._replace(activation="sigmoid")
    plan = Plan(
        tuple(layers[:code]),
        tuple(layers[code:]),
        planner.numbering.sizes,
        objective="mse" if objective == "mse" else "bce",
    )
    if not fits_together(plan):
        return NOT_TOGETHER
    return PlannedStep(plan, planner.numbering.parameters, tuple(planner.norms))


def _code_of(layers: list[PlannedLayer]) -> int | None:
    """The number of the encoder's layers: those before the first tied layer, or before the layer
    with the fewest inputs. None where layers share parameters in another way than tied weights."""
    tied = [number for number, layer in enumerate(layers) if layer.is_tied]
    narrowest = min(range(1, len(layers)), key=lambda number: layers[number].inputs)
    code = tied[0] if tied else narrowest
    vectors = [(layer.bias, *(layer.norm[:4] if layer.norm else ())) for layer in layers]
    biases = [number for numbers in vectors for number in numbers if number >= 0]
    own = [layer.weight for layer in layers if not layer.is_tied]
    tied_to = [layers[number].weight for number in tied]
    encoder = {layer.weight for layer in layers[:code]}
    is_shared = any(len({*numbers}) < len(numbers) for numbers in (biases, own, tied_to))
    return None if code == 0 or is_shared or not encoder >= {*tied_to} else code
