"""The torch.compile backend ``"aefast"``: layers become ops, inductor compiles the rest.

Found by torch through the entry point ``torch_dynamo_backends``.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from aefast import backend, torch_private
from aefast.acceleration.recognition import activation_of
from aefast.functional import linear_act
from aefast.ops.shared.product_routes import outpaces_vendor

# Products with fewer multiplications take less time than a call from a graph: some 15 us.
FEWEST_PRODUCTS = 1 << 22


def aefast(
    graph_module: fx.GraphModule,
    example_inputs: Sequence[Any],
    *,
    mode: str | None = None,
    options: dict[str, Any] | None = None,
) -> Callable[..., Any]:
    """A backend of torch.compile's: layers become one op each where that pays, forward and
    backward; inductor compiles the rest, with its own modes and options."""
    inductor, compile_fx = torch_private.inductor()
    put_ops_in(graph_module)
    patches = inductor.list_mode_options(mode) if mode else {}
    compiled: Any = compile_fx(
        graph_module, example_inputs, config_patches=patches | (options or {})
    )
    return compiled


def put_ops_in(graph_module: fx.GraphModule) -> int:
    """Replace the linear layers, with their activations, that the op serves; how many."""
    layers = [node for node in graph_module.graph.nodes if _pays(node)]
    for node in layers:
        _replace(node, graph_module)
    graph_module.recompile()
    return len(layers)


def _replace(node: fx.Node, graph_module: fx.GraphModule) -> None:
    """One layer, with its activation, where that comes next and nobody else reads the layer.

    What stands between them may write to what the layer reads, or switch gradients or autocast.
    """
    last, activation = node, "identity"
    if len(node.users) == 1 and node.next in node.users:
        after = node.next
        name = activation_of(after, graph_module)
        if name is not None and after.args[:1] == (node,):
            last, activation = after, name
    arguments = dict(zip(("input", "weight", "bias"), node.args, strict=False)) | node.kwargs
    operands = arguments["input"], arguments["weight"], arguments.get("bias")
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
    values = [_value(argument) for argument in (*node.args, *node.kwargs.values())]
    if not all(_is_served(value) for value in values if value is not None):
        return False
    x, weight = values[:2]
    if x is None or weight is None or weight.dim() != 2:
        return False
    products = _hint(x.numel()) * _hint(weight.shape[0])
    if backend.select(torch.device("cpu"), torch.float32) != "cpp" or products < FEWEST_PRODUCTS:
        return False
    return outpaces_vendor(_hint(weight.numel()))


def _value(argument: Any) -> Tensor | None:
    """What a node is, as far as the graph's makers know it: a fake tensor."""
    return argument.meta.get("example_value") if isinstance(argument, fx.Node) else None


def _is_served(value: object) -> bool:
    if not isinstance(value, Tensor):
        return False
    return value.device.type == "cpu" and value.dtype == torch.float32


def _hint(size: Any) -> int:
    """A size, or the one that a symbol had when its graph was made."""
    return int(size if isinstance(size, int) else size.node.hint or 0)
