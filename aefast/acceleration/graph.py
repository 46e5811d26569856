"""The graph of a module in one state, in which the kernels compute layers and draws."""

from collections.abc import Callable
from types import MethodType

from torch import fx, nn

from aefast.acceleration.call_counter import CallCounter
from aefast.acceleration.draws import Draw, draws_as_torch
from aefast.acceleration.recognition import (
    altered_layers,
    draws_of,
    reads_parameter,
    stacks_of,
    torch_draws_of,
)
from aefast.acceleration.stack import Stack, stack_of
from aefast.acceleration.topk import TopK, other_topk_of, topk_codes_of
from aefast.acceleration.tracing import Trace
from aefast.messages import PACKAGE

# A single linear layer with fewer weights is left to torch, which computes one product and one
# activation as fast: there a call of the kernels costs more than it saves.
FEWEST_ALONE = 1 << 18

Operation = Stack | Draw | TopK
# Counts of calls that fell back, with the reasons.
Fallbacks = list[tuple[CallCounter, str]]


class AcceleratedGraph:
    """The graph of a module in one state, training or evaluation mode for instance, with the
    kernels in it.

    Attributes:
        guard: checks that the module is still in that state.
        inputs: the names of the tensors that the graph takes.
        operations: the kernels' calls in it.
        single_layers: the number of single linear layers that were left to torch.
        other_topk: for each call of ``topk`` that is left to torch, why.
        altered: linear layers that torch computes, by name, with the reason.
        torch_draws: the names of the draws that were left to torch.
        run: calls the graph.
        missing: counts of what earlier graphs computed by kernels and this one does not, for the
            model was changed, with the reason.
    """

    def __init__(self, module: nn.Module, traced: Trace, counters: dict[str, CallCounter]) -> None:
        self.guard = traced.guard
        self.inputs = traced.inputs
        self.operations: list[Operation] = []
        self.single_layers = 0
        self.other_topk: list[str] = []
        self.altered: dict[str, str] = {}
        self.replaced: dict[fx.Node, fx.Node] = {}
        self.torch_draws: list[str] = []
        self.run = self._compiled(module, traced)
        self.missing: Fallbacks = []
        self._share_counters(counters)

    def _share_counters(self, counters: dict[str, CallCounter]) -> None:
        """Give equal operations one counter: a report counts training and evaluation together."""
        names: list[str] = []
        for operation in self.operations:
            number = names.count(str(operation)) + 1
            names.append(str(operation))
            name = names[-1] if number == 1 else f"{names[-1]}, number {number}"
            operation.counter = counters.setdefault(name, operation.counter)

    def _compiled(self, module: nn.Module, traced: Trace) -> Callable[..., object]:
        graph = traced.graph
        for code in topk_codes_of(graph, module):
            self._replace(code.nodes[-1], TopK(code), code.input)
            for node in reversed(code.nodes):
                graph.erase_node(node)
        self.other_topk = other_topk_of(graph, module)
        for layers in stacks_of(graph, module):
            stack = stack_of(layers)
            if len(layers) == 1 and stack.largest_product < FEWEST_ALONE:
                self.single_layers += 1
                continue
            nodes = [node for layer in layers for node in layer.nodes]
            self._replace(nodes[-1], stack, layers[0].input)
            for node in reversed(nodes):
                graph.erase_node(node)
        for draw in list(draws_of(graph, module)) if draws_as_torch() else ():
            self._replace(draw.node, Draw(draw.kind, draw.level), draw.x)
            graph.erase_node(draw.node)
        self.torch_draws = torch_draws_of(graph)
        self.altered = altered_layers(graph, module)
        # Remove reads of weights that only the replaced layers had. All other nodes stay, even
        # without readers: they may write.
        graph.eliminate_dead_code(lambda node: not reads_parameter(node))
        python = graph.python_code("self")
        namespace = dict(python.globals)
        # Lines before the definition wrap functions for torch.fx; only tracing would need them.
        source = python.src[python.src.index("def forward") :]
        exec(compile(source, f"{PACKAGE}graph", "exec"), namespace)
        return MethodType(namespace["forward"], module)

    def _replace(self, node: fx.Node, operation: Operation, argument: fx.Node) -> None:
        """Put a kernel's call in a node's place. Its argument may have been replaced before."""
        self.operations.append(operation)
        argument = self.replaced.get(argument, argument)
        with node.graph.inserting_before(node):
            new = node.graph.call_function(operation, (argument,))
        node.replace_all_uses_with(new)
        self.replaced[node] = new
