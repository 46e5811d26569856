"""Finds in a graph what the kernels compute: stacks of linear layers, and random draws."""

import operator
from collections.abc import Iterator
from types import BuiltinFunctionType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from aefast.acceleration.stack import Slot
from aefast.acceleration.writes import Writes
from aefast.nn.plain import has_own_forward, note_forwards, own_hooks

TENSORS = (nn.Parameter, Tensor)

# Activation modules: our name for each, and the settings for which ours computes the same.
MODULES: dict[type, tuple[str, dict[str, object]]] = {
    nn.Identity: ("identity", {}),
    nn.ReLU: ("relu", {}),
    nn.LeakyReLU: ("leaky_relu", {"negative_slope": 0.01}),
    nn.Sigmoid: ("sigmoid", {}),
    nn.Tanh: ("tanh", {}),
    nn.Softplus: ("softplus", {"beta": 1, "threshold": 20}),
    nn.GELU: ("gelu", {"approximate": "none"}),
    nn.SiLU: ("silu", {}),
}
# Activation functions: likewise, with the arguments besides the tensor.
FUNCTIONS: dict[object, tuple[str, dict[str, object]]] = {
    torch.relu: ("relu", {}),
    F.relu: ("relu", {}),
    F.leaky_relu: ("leaky_relu", {"negative_slope": 0.01}),
    torch.sigmoid: ("sigmoid", {}),
    F.sigmoid: ("sigmoid", {}),
    torch.tanh: ("tanh", {}),
    F.tanh: ("tanh", {}),
    F.softplus: ("softplus", {"beta": 1, "threshold": 20}),
    F.gelu: ("gelu", {"approximate": "none"}),
    F.silu: ("silu", {}),
}
# The names of a matrix product and of a sum: functions, and methods of a tensor.
PRODUCTS = (operator.matmul, torch.matmul, "matmul")
SUMS = (operator.add, torch.add, "add")
STATISTICS = {"running_mean", "running_var", "num_batches_tracked"}
METHODS = {"relu": "relu", "sigmoid": "sigmoid", "tanh": "tanh", "relu_": "relu"}

note_forwards(nn.Linear, nn.BatchNorm1d, nn.Dropout, *MODULES)

# Positively homogeneous: f(c x) = c f(x) for c > 0. They commute with dropout, which multiplies by
# a factor that is 0 or positive.
HOMOGENEOUS = ("identity", "relu", "leaky_relu")


class RecognizedLayer(NamedTuple):
    """A linear layer with its activation.

    Attributes:
        nodes: the nodes that it replaces; the last one is its output.
        input: the node that it reads.
        weight: where its module holds the weight.
        bias: where its module holds the bias; None for a layer without one.
        activation: the activation's name.
        is_tied: whether the weight is used transposed.
    """

    nodes: list[fx.Node]
    input: fx.Node
    weight: Slot
    bias: Slot | None
    activation: str
    is_tied: bool

    @property
    def inputs(self) -> int:
        return self.weight.tensor.shape[0 if self.is_tied else 1]

    @property
    def outputs(self) -> int:
        return self.weight.tensor.shape[1 if self.is_tied else 0]


class RecognizedBlock(NamedTuple):
    """A linear layer in training mode, with batch normalization and dropout.

    Attributes:
        layer: the linear layer, with all nodes up to the block's output.
        norm: the batch normalization; None for a block without one.
        norm_follows: whether the normalization comes after the activation.
        dropout: the probability that a unit is dropped.
    """

    layer: RecognizedLayer
    norm: nn.BatchNorm1d | None
    norm_follows: bool
    dropout: float


def stacks_of(graph: fx.Graph, module: nn.Module) -> list[list[RecognizedLayer]]:
    """The linear layers of a graph. A list holds a chain: each layer is the only reader of the one
    before.

    A chain is computed at the place of its last node. So it does not extend past a node that
    writes to memory, which its first layers may read.
    """
    writes = Writes(graph, module)
    layers = [layer for node in graph.nodes if (layer := _layer(node, module, writes)) is not None]
    by_input = {layer.input: layer for layer in layers}
    ends = {layer.nodes[-1] for layer in layers if len(layer.nodes[-1].users) == 1}
    stacks = []
    for layer in layers:
        if layer.input in ends:
            continue
        stack = [layer]
        stacks.append(stack)
        while stack[-1].nodes[-1] in ends and (after := by_input.get(stack[-1].nodes[-1])):
            nodes = [node for layer in (*stack, after) for node in layer.nodes]
            # Where the widths do not fit, torch's own operation says so.
            if writes.are_among(nodes) or stack[-1].outputs != after.inputs:
                stack = [after]
                stacks.append(stack)
            else:
                stack.append(after)
    return stacks


def _layer(node: fx.Node, module: nn.Module, writes: Writes) -> RecognizedLayer | None:
    linear = linear_of(node, module)
    if linear is None:
        return None
    nodes, activation = [node], "identity"
    while activation == "identity" and len(nodes[-1].users) == 1:
        (after,) = nodes[-1].users
        name = activation_of(after, module)
        if name is None or after.args[:1] != (nodes[-1],) or writes.are_among([*nodes, after]):
            break
        nodes.append(after)
        activation = name
    return RecognizedLayer(nodes, *linear[:3], activation, linear[3])


def block_of(node: fx.Node, module: nn.Module) -> RecognizedBlock | None:
    """The longest block that begins with a node; None where the node is no linear layer."""
    linear = linear_of(node, module)
    if linear is None:
        return None
    nodes, activation, norm, norm_follows, dropout = [node], "identity", None, False, 0.0
    while len(nodes[-1].users) == 1:
        (after,) = nodes[-1].users
        if after.args[:1] != (nodes[-1],):
            break
        name, level = activation_of(after, module), _dropout_level(after, module)
        batch_norm = _batch_norm(after, module)
        if name is not None:
            is_second = activation != "identity" or norm_follows
            if name != "identity" and (is_second or (dropout and name not in HOMOGENEOUS)):
                break
            activation = name if name != "identity" else activation
        elif batch_norm is not None and norm is None and not dropout:
            norm, norm_follows = batch_norm, activation != "identity"
        elif level is not None and not dropout and level < 1:
            dropout = level
        else:
            break
        nodes.append(after)
    layer = RecognizedLayer(nodes, *linear[:3], activation, linear[3])
    return RecognizedBlock(layer, norm, norm_follows, dropout)


def _batch_norm(node: fx.Node, module: nn.Module) -> nn.BatchNorm1d | None:
    """The batch normalization that a node calls, in training mode and without hooks; or None."""
    if node.op != "call_module" or len(node.args) != 1 or node.kwargs:
        return None
    called = module.get_submodule(str(node.target))
    attributes = called.__dict__
    if type(called) is not nn.BatchNorm1d or own_hooks(attributes) or has_own_forward(called):
        return None
    parameters, buffers = attributes["_parameters"], attributes["_buffers"]
    tensors = [*parameters.values(), *buffers.values()]
    is_plain = all(tensor is None or type(tensor) in TENSORS for tensor in tensors)
    is_whole = parameters.keys() == {"weight", "bias"} and buffers.keys() == STATISTICS
    return called if called.training and is_plain and is_whole else None


def write_products_as_linear(graph: fx.Graph, module: nn.Module) -> None:
    """Write ``x @ weight.t() + bias`` and ``x @ weight``, as tied decoders are often written, as
    the linear layers that they are."""
    writes = Writes(graph, module)
    for node in list(graph.nodes):
        if not is_call(node, *PRODUCTS) or len(node.args) != 2 or node.kwargs:
            continue
        x, matrix = node.args
        read, is_transposed = _untransposed(matrix)
        weight = _parameter(read, module)
        if weight is None or weight.tensor.dim() != 2:
            continue
        x, read = _node(x), _node(read)
        outputs = weight.tensor.shape[:1] if is_transposed else weight.tensor.shape[1:]
        last, bias = _with_bias(node, outputs, weight.tensor.dtype, module)
        if writes.are_among([node, last]):
            last, bias = node, None
        with graph.inserting_before(last):
            transposed = read if is_transposed else graph.call_method("t", (read,))
            linear = graph.call_function(F.linear, (x, transposed, bias))
        last.replace_all_uses_with(linear)
        for old in dict.fromkeys((last, node)):
            graph.erase_node(old)
        if is_transposed and not _node(matrix).users:  # a node without readers is taken for a write
            graph.erase_node(_node(matrix))


def _with_bias(
    product: fx.Node, outputs: torch.Size, dtype: torch.dtype, module: nn.Module
) -> tuple[fx.Node, fx.Node | None]:
    """The node that alone reads a product and adds a bias, and the bias; the product itself and
    None where there is none."""
    (after,) = product.users if len(product.users) == 1 else (product,)
    if not is_call(after, *SUMS) or len(after.args) != 2 or after.kwargs:
        return product, None
    others = [argument for argument in after.args if argument is not product]
    bias = others[0] if len(others) == 1 else None
    slot = _parameter(bias, module)
    if not isinstance(bias, fx.Node) or slot is None:
        return product, None
    is_bias = slot.tensor.shape == outputs and slot.tensor.dtype == dtype
    return (after, bias) if is_bias else (product, None)


def is_call(node: fx.Node, *targets: object) -> bool:
    """Whether a node calls one of these functions, or a tensor's method of one of these names. A
    module of the model may have such a name, too."""
    return node.op in ("call_function", "call_method") and node.target in targets


def linear_of(node: fx.Node, module: nn.Module) -> tuple[fx.Node, Slot, Slot | None, bool] | None:
    """A linear layer's input, weight and bias, and whether the weight is used transposed."""
    if node.op == "call_module":
        layer = module.get_submodule(str(node.target))
        if not is_plain_linear(layer) or len(node.args) != 1 or node.kwargs:
            return None
        parameters = layer.__dict__["_parameters"]
        weight = Slot(parameters, "weight")
        bias = Slot(parameters, "bias") if parameters["bias"] is not None else None
        return (_node(node.args[0]), weight, bias, False) if _fits(weight, bias, 0) else None
    if node.op != "call_function" or node.target is not F.linear:
        return None
    arguments = dict(zip(("input", "weight", "bias"), node.args, strict=False)) | node.kwargs
    read, is_tied = _untransposed(arguments.get("weight"))
    slots = [_parameter(read, module), _parameter(arguments.get("bias"), module)]
    if slots[0] is None or (slots[1] is None and arguments.get("bias") is not None):
        return None
    if not _fits(slots[0], slots[1], int(is_tied)):
        return None
    return _node(arguments["input"]), slots[0], slots[1], is_tied


def _fits(weight: Slot, bias: Slot | None, outputs: int) -> bool:
    """Whether a weight is a matrix, and a bias has a number for each of its outputs, which are this
    dimension. torch broadcasts other biases; the kernels read as many numbers as there are outputs.
    """
    shape = weight.tensor.shape
    if len(shape) != 2:
        return False
    return bias is None or bias.tensor.shape == shape[outputs : outputs + 1]


def _node(argument: object) -> fx.Node:
    """An argument that is a node, as every tensor is."""
    assert isinstance(argument, fx.Node)
    return argument


def is_plain_linear(layer: nn.Module) -> bool:
    """Whether a layer is torch's own nn.Linear, without hooks, parametrizations or adapters."""
    attributes = layer.__dict__
    if type(layer) is not nn.Linear or own_hooks(attributes) or has_own_forward(layer):
        return False
    parameters = attributes["_parameters"]
    return parameters.keys() == {"weight", "bias"} and all(
        parameter is None or type(parameter) in TENSORS for parameter in parameters.values()
    )


def is_altered(layer: nn.Module) -> bool:
    """Whether something stands on an nn.Linear: hooks, a parametrization, another class."""
    return isinstance(layer, nn.Linear) and not is_plain_linear(layer)


def altered_layers(graph: fx.Graph, module: nn.Module) -> dict[str, str]:
    """The altered linear layers that a graph calls, by name, with what stands on them."""
    names = [str(node.target) for node in graph.nodes if node.op == "call_module"]
    called = {name: module.get_submodule(name) for name in names}
    return {
        name: "hooks stand on it"
        if own_hooks(layer.__dict__)
        else f"it is a {type(layer).__name__}"
        for name, layer in called.items()
        if is_altered(layer)
    }


def _untransposed(node: object) -> tuple[object, bool]:
    """The node that a transpose transposes, and True; any other node itself, and False."""
    if not isinstance(node, fx.Node):
        return node, False
    if node.op == "call_method" and (
        (node.target == "t" and len(node.args) == 1)
        or (node.target == "transpose" and {*node.args[1:]} in ({0, 1}, {-2, -1}))
    ):
        return node.args[0], True
    is_attribute = node.op == "call_function" and node.target is getattr
    if is_attribute and node.args[1] in ("T", "mT"):
        return node.args[0], True
    if node.op == "call_function" and node.target is torch.t and len(node.args) == 1:
        return node.args[0], True
    return node, False


def reads_parameter(node: fx.Node) -> bool:
    """Whether a node reads a parameter, or transposes one. Without readers it can be removed."""
    source = _untransposed(node)[0]
    return isinstance(source, fx.Node) and source.op == "get_attr"


def _parameter(node: object, module: nn.Module) -> Slot | None:
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    *path, name = str(node.target).split(".")
    owner = module.get_submodule(".".join(path))
    parameters = owner.__dict__["_parameters"]
    return Slot(parameters, name) if type(parameters.get(name)) in TENSORS else None


def activation_of(node: fx.Node, module: nn.Module) -> str | None:
    """The activation that a node applies to its first argument; None where it applies none.

    Dropout in evaluation mode is the identity.
    """
    if node.op == "call_module":
        called = module.get_submodule(str(node.target))
        attributes = called.__dict__
        if own_hooks(attributes) or has_own_forward(called) or len(node.args) != 1 or node.kwargs:
            return None
        if type(called) is nn.Dropout and not called.training:
            return "identity"
        name, settings = MODULES.get(type(called), (None, {}))
        return (
            name if all(attributes.get(key) == value for key, value in settings.items()) else None
        )
    if node.op == "call_method":
        return METHODS.get(str(node.target)) if len(node.args) == 1 and not node.kwargs else None
    if node.op != "call_function":
        return None
    if node.target is F.dropout and _dropout_arguments(node)["training"] is False:
        return "identity"
    if node.target not in FUNCTIONS:
        return None
    name, defaults = FUNCTIONS[node.target]
    arguments = dict(zip(("input", *defaults), node.args, strict=False)) | node.kwargs
    arguments.pop("inplace", None)
    if node.target in (F.relu, F.silu) and len(node.args) == 2:
        return name  # in place
    is_ours = arguments.keys() <= {"input", *defaults} and len(node.args) <= 1 + len(defaults)
    return name if is_ours and all(arguments.get(k, v) == v for k, v in defaults.items()) else None


OF_SHAPE = {torch.rand: "rand", torch.randn: "randn"}
# Names of functions, of tensor methods and of distributions' methods that draw random numbers.
DRAWS = {
    *("bernoulli", "bernoulli_", "multinomial", "normal", "normal_", "rand", "rand_like", "randn"),
    *("randn_like", "rsample", "sample", "uniform_"),
}
LIKE = {torch.rand_like: "rand_like", torch.randn_like: "randn_like"}


class RecognizedDraw(NamedTuple):
    """A node that draws from torch's generator, and the draw of ours that replaces it.

    Attributes:
        node: the node.
        kind: of :class:`aefast.acceleration.draws.Draw`.
        x: the node whose shape the numbers have, or that dropout is applied to.
        level: the probability that dropout drops an element; 0 for other kinds.
    """

    node: fx.Node
    kind: str
    x: fx.Node
    level: float


def draws_of(graph: fx.Graph, module: nn.Module) -> Iterator[RecognizedDraw]:
    """Dropout that is on, ``torch.rand_like`` and ``torch.randn_like``, and ``torch.rand`` and
    ``torch.randn`` of a tensor's shape."""
    for node in graph.nodes:
        dropout = _dropout(node, module)
        if dropout is not None and 0 < dropout[1] < 1:
            yield RecognizedDraw(node, "dropout", *dropout)
        is_function = node.op == "call_function" and node.target in LIKE
        if is_function and len(node.args) == 1 and not node.kwargs:
            yield RecognizedDraw(node, LIKE[node.target], node.args[0], 0.0)
        shaped = _shaped_like(node)
        if shaped is not None:
            yield RecognizedDraw(node, OF_SHAPE[node.target], shaped, 0.0)


def torch_draws_of(graph: fx.Graph) -> list[str]:
    """The names of the draws in a graph that torch makes itself, without our kernels."""
    methods = {str(node.target) for node in graph.nodes if node.op == "call_method"}
    targets = [node.target for node in graph.nodes if node.op == "call_function"]
    functions = {target.__name__ for target in targets if isinstance(target, BuiltinFunctionType)}
    return sorted(DRAWS & (methods | functions))


def _shaped_like(node: fx.Node) -> fx.Node | None:
    """The tensor ``x`` of ``torch.rand(x.shape)`` or ``torch.randn(x.size())``; or None."""
    if node.op != "call_function" or node.target not in OF_SHAPE:
        return None
    size = node.args[0] if len(node.args) == 1 and not node.kwargs else None
    if not isinstance(size, fx.Node) or size.kwargs:
        return None
    is_size = size.op == "call_method" and size.target == "size" and len(size.args) == 1
    is_shape = size.op == "call_function" and size.target is getattr and size.args[1] == "shape"
    return size.args[0] if is_size or is_shape else None  # type: ignore[return-value]


def _dropout_arguments(node: fx.Node) -> dict[str, Any]:
    names = ("input", "p", "training", "inplace")
    defaults: dict[str, Any] = {"p": 0.5, "training": True, "inplace": False}
    return defaults | dict(zip(names, node.args, strict=False)) | node.kwargs


def _dropout(node: fx.Node, module: nn.Module) -> tuple[fx.Node, float] | None:
    """The argument and level of dropout that is on and not in place; None for other nodes."""
    level = _dropout_level(node, module)
    if level is None:
        return None
    if node.op == "call_module":
        is_in_place = module.get_submodule(str(node.target)).inplace
        return None if is_in_place else (_node(node.args[0]), level)
    arguments = _dropout_arguments(node)
    return None if arguments["inplace"] else (arguments["input"], level)


def _dropout_level(node: fx.Node, module: nn.Module) -> float | None:
    """The level of dropout that is on; None where a node is no dropout, or is off."""
    if node.op == "call_module":
        called = module.get_submodule(str(node.target))
        attributes = called.__dict__
        is_on = type(called) is nn.Dropout and called.training
        if not is_on or own_hooks(attributes) or has_own_forward(called) or node.kwargs:
            return None
        return float(called.__dict__["p"])
    if node.op != "call_function" or node.target is not F.dropout:
        return None
    arguments = _dropout_arguments(node)
    is_on = arguments["training"] is True and isinstance(arguments["p"], float)
    return arguments["p"] if is_on else None
