"""The torch.compile backend ``"aefast"``: linear layers become ops, inductor compiles the rest.

torch finds it through the entry point ``torch_dynamo_backends``.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch.fx.node import Argument

from aefast import backend, torch_private
from aefast.acceleration.recognition import activation_of
from aefast.functional import linear_act
from aefast.ops.shared.product_routes import outpaces_vendor

# Products with fewer multiplications take less time than a call from a graph: some 15 us.
FEWEST_PRODUCTS = 1 << 22


def aefast(
    graph_module: fx.GraphModule,
    example_inputs: Sequence[Tensor | int | torch.SymInt],
    *,
    mode: str | None = None,
    options: dict[str, object] | None = None,
) -> Callable[..., object]:
    """Compile a graph of dynamo's, forward or backward.

    A linear layer becomes one op where that is faster. Inductor compiles the rest, with its own
    modes and options.
    """
    inductor = torch_private.inductor(mode, options)
    put_ops_in(graph_module)
    compiled: Callable[..., object] = inductor(graph_module, example_inputs)
    return compiled


def put_ops_in(graph_module: fx.GraphModule) -> int:
    """Replace linear layers, with their activations, by the op where it is faster.

    Returns:
        the number of layers that were replaced.
    """
    layers = [node for node in graph_module.graph.nodes if _pays(node)]
    for node in layers:
        _replace(node, graph_module)
    graph_module.recompile()
    return len(layers)


def _replace(node: fx.Node, graph_module: fx.GraphModule) -> None:
    """Replace one layer, with its activation if that is the next node and the layer's only reader.

    A node between them might write to the layer's input, or switch gradients or autocast.
    """
    last, activation = node, "identity"
    if len(node.users) == 1 and node.next in node.users:
        after = node.next
        name = activation_of(after, graph_module)
        if name is not None and after.args[:1] == (node,):
            last, activation = after, name
    operands = _operands(node)
    with graph_module.graph.inserting_before(last):
        op = graph_module.graph.call_function(linear_act, (*operands, activation))
    op.meta.update(last.meta)
    last.replace_all_uses_with(op)
    for old in {last: None, node: None}:
        graph_module.graph.erase_node(old)


def _pays(node: fx.Node) -> bool:
    """Whether a node is a layer whose product the kernels make faster."""
    if node.op != "call_function" or node.target is not F.linear:
        return False
    x, weight, bias = map(_value, _operands(node))
    if not all(_is_served(value) for value in (x, weight, bias) if value is not None):
        return False
    if x is None or weight is None or weight.dim() != 2:
        return False
    if bias is not None and bias.shape != weight.shape[:1]:  # torch broadcasts it
        return False
    products = _hint(x.numel()) * _hint(weight.shape[0])
    if backend.select(torch.device("cpu"), torch.float32) != "cpp" or products < FEWEST_PRODUCTS:
        return False
    return outpaces_vendor(_hint(weight.numel()))


def _operands(node: fx.Node) -> tuple[Argument, Argument, Argument]:
    """A linear layer's input, weight and bias."""
    arguments = dict(zip(("input", "weight", "bias"), node.args, strict=False)) | node.kwargs
    return arguments["input"], arguments["weight"], arguments.get("bias")


def _value(argument: object) -> Tensor | None:
    """The fake tensor that dynamo recorded for a node: its shape, dtype and device."""
    return argument.meta.get("example_value") if isinstance(argument, fx.Node) else None


def _is_served(value: object) -> bool:
    if not isinstance(value, Tensor):
        return False
    return value.device.type == "cpu" and value.dtype == torch.float32


def _hint(size: int | torch.SymInt) -> int:
    """A size. A symbolic size is what it was when the graph was made."""
    return int(size if isinstance(size, int) else size.node.hint or 0)
