"""Top-k codes: a linear layer whose k largest outputs a row are kept, and the layer after it.

Recognized is ``torch.topk`` of the layer's outputs, scattered into zeros, or the outputs times a
mask of ones at its indices, with ReLU before, between or after: all give the same code. Where a
linear layer alone reads the code, no array of all latents is made.
"""

import operator
from time import perf_counter
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from aefast.acceleration.call_counter import CallCounter
from aefast.acceleration.recognition import activation_of, is_call, linear_of
from aefast.acceleration.stack import NO_ROWS, Slot, refusal_of
from aefast.acceleration.writes import Writes
from aefast.functional import sparse_decode, topk_encode

# With fewer rows, or codes that are denser than one latent in 16, torch is as fast: on a Zen 4 with
# 512 rows a forward pass took 1.1 to 2.0 times as long without the kernels, and with 256 rows 0.75
# to 1.05 times (64-256 to 512-4096 latents).
FEWEST_ROWS = 512
LEAST_SPARSITY = 16
FEW_ROWS = "so few rows torch selects as fast"
DENSE = "so many of the latents are kept that torch computes as fast"
OTHER = "not the k largest of a linear layer, scattered into its zeros, read by nothing else"
THRESHOLD = "a threshold keeps all latents that are equal to the k-th; the kernels keep k of them"
TRANSPOSED = "the encoder's weight is [inputs, latents]; the kernels read [latents, inputs]"
COMPARISONS = {
    *(operator.ge, operator.gt, operator.le, operator.lt, torch.ge, torch.gt, torch.le, torch.lt),
    *("ge", "gt", "le", "lt"),
}
SHAPING = ("unsqueeze", "min", "amin", "view", "reshape", "expand", "expand_as", "detach")


class RecognizedCode(NamedTuple):
    """A top-k code.

    Attributes:
        nodes: the nodes that it replaces, in order; the last one is its output.
        input: the node that the encoder reads.
        k: how many latents a row keeps.
        has_relu: whether negative values become 0.
        dims: the dimension of the latents, -1 or 1, as it was written for ``topk`` and for the
            scatter.
        encoder: the weight and the bias.
        decoder: likewise, and whether the weight is used transposed; None where the code itself is
            the output.
    """

    nodes: list[fx.Node]
    input: fx.Node
    k: int
    has_relu: bool
    dims: tuple[int, int]
    encoder: tuple[Slot, Slot | None]
    decoder: tuple[Slot, Slot | None, bool] | None


class TopK:
    """A recognized code, called with the encoder's input.

    Attributes:
        counter: counts the calls.
    """

    def __init__(self, code: RecognizedCode) -> None:
        self.__name__ = "topk"  # torch.fx writes it into the graph's code
        self.code = code
        self.latents, self.inputs = code.encoder[0].tensor.shape
        self.slots = [*code.encoder, *(code.decoder[:2] if code.decoder is not None else ())]
        self.shapes = [None if slot is None else slot.tensor.shape for slot in self.slots]
        self.counter = CallCounter()

    def __str__(self) -> str:
        code = f"{self.inputs}-{self.latents} top {self.code.k}"
        return code if self.code.decoder is None else f"{code}-{self._outputs}"

    @property
    def _outputs(self) -> int:
        assert self.code.decoder is not None
        weight, _, is_tied = self.code.decoder
        return weight.tensor.shape[1 if is_tied else 0]

    def __call__(self, x: Tensor) -> Tensor:
        parameters = [None if slot is None else slot.tensor for slot in self.slots]
        start = perf_counter()
        reason = self.refusal(x, parameters)
        weight, bias, *decoder = parameters
        assert weight is not None
        if reason is not None:
            output = self._decoded(self._plain_code(x, weight, bias), decoder)
        else:
            output = self._run(x, weight, bias, decoder)
        self.counter.count(reason, start)
        return output

    def refusal(self, x: Tensor, parameters: list[Tensor | None]) -> str | None:
        """Why the kernels do not serve a call; None where they do."""
        given = [tensor for tensor in parameters if tensor is not None]
        shapes = [shape for shape in self.shapes if shape is not None]
        reason = refusal_of(x, given, shapes)
        if reason is not None:
            return reason
        if x.dim() < 1 or x.shape[-1] != self.inputs or (1 in self.code.dims and x.dim() != 2):
            return NO_ROWS
        if x.numel() < FEWEST_ROWS * self.inputs:
            return FEW_ROWS
        return DENSE if self.code.k * LEAST_SPARSITY > self.latents else None

    def _run(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, decoder: list[Tensor | None]
    ) -> Tensor:
        values, indices = topk_encode(x, weight, bias, self.code.k)
        values = F.relu(values) if self.code.has_relu else values
        if not decoder:
            return values.new_zeros(*x.shape[:-1], self.latents).scatter(-1, indices, values)
        decoder_weight, decoder_bias = decoder
        assert decoder_weight is not None
        assert self.code.decoder is not None
        is_tied = self.code.decoder[2]
        directions = decoder_weight if is_tied else decoder_weight.t()
        return sparse_decode(values, indices, directions, decoder_bias)

    def _plain_code(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        latents = F.linear(x, weight, bias)
        values, indices = torch.topk(latents, self.code.k, self.code.dims[0])
        values = F.relu(values) if self.code.has_relu else values
        return torch.zeros_like(latents).scatter(self.code.dims[1], indices, values)

    def _decoded(self, code: Tensor, decoder: list[Tensor | None]) -> Tensor:
        """The layer after the code, by PyTorch; without one the code."""
        if not decoder or self.code.decoder is None:
            return code
        weight, bias = decoder
        assert weight is not None
        return F.linear(code, weight.t() if self.code.decoder[2] else weight, bias)


def topk_codes_of(graph: fx.Graph, module: nn.Module) -> list[RecognizedCode]:
    """The top-k codes of a graph."""
    _read_results_of_scatter(graph)
    writes = Writes(graph, module)
    codes = [_code(node, module) for node in graph.nodes if _is_topk(node)]
    return [code for code in codes if code is not None and not writes.are_among(code.nodes)]


def other_topk_of(graph: fx.Graph, module: nn.Module) -> list[str]:
    """For each call of ``topk`` in a graph, why the kernels do not compute it."""
    return [_reason(node, module) for node in graph.nodes if _is_topk(node)]


def _reason(topk: fx.Node, module: nn.Module) -> str:
    if _is_threshold(topk):
        return THRESHOLD
    latents = _arguments(topk, "input").get("input")
    encoder = _encoder(latents, module) if isinstance(latents, fx.Node) else None
    return TRANSPOSED if encoder is not None and encoder[1][3] else OTHER


def _encoder(
    latents: fx.Node, module: nn.Module
) -> tuple[list[fx.Node], tuple[fx.Node, Slot, Slot | None, bool]] | None:
    """The nodes up to the latents, a linear layer and a ReLU or none; and what the layer is made
    of. None where they are no layer's."""
    nodes = [latents]
    if activation_of(latents, module) == "relu":
        nodes.insert(0, _arguments(latents, "input")["input"])
    linear = linear_of(nodes[0], module)
    return None if linear is None else (nodes, linear)


def _is_threshold(topk: fx.Node) -> bool:
    """Whether what is read of the values goes into a comparison."""
    nodes = [topk]
    for node in nodes:
        if is_call(node, *COMPARISONS):
            return True
        if node is topk or is_call(node, operator.getitem, getattr, *SHAPING):
            nodes += node.users
    return False


def _is_topk(node: fx.Node) -> bool:
    return is_call(node, torch.topk, "topk")


def _read_results_of_scatter(graph: fx.Graph) -> None:
    """Let nodes after ``zeros.scatter_(...)`` that read ``zeros`` read its result, the same tensor:
    so the statement and the expression become one graph."""
    before: set[fx.Node] = set()
    for node in graph.nodes:
        before.add(node)
        if node.op == "call_method" and node.target == "scatter_":
            node.args[0].replace_all_uses_with(node, lambda user: user not in before)


def _code(topk: fx.Node, module: nn.Module) -> RecognizedCode | None:
    """The code that a call of ``topk`` selects; None where it is not written as expected."""
    selected = _arguments(topk, "input", "k", "dim", "largest", "sorted")
    latents, k, dim = selected.get("input"), selected.get("k"), selected.get("dim", -1)
    if not (isinstance(latents, fx.Node) and type(k) is int and dim in (-1, 1)):
        return None
    if selected.get("largest", True) is not True:
        return None
    found_encoder = _encoder(latents, module)
    if found_encoder is None:
        return None
    (layer, *relus), encoder = found_encoder
    if encoder[3] or not 1 <= k <= encoder[1].tensor.shape[0]:
        return None
    found = _up_to_scatter(topk, latents, module) or _up_to_mask(topk, latents, dim)
    if found is None or (relus and set(layer.users) != {latents}):
        return None
    between, scatter_dim = found
    nodes = [layer, *relus, *between, *_relu_after(between[-1], module)]
    has_relu = any(activation_of(node, module) == "relu" for node in nodes)
    decoder = _decoder(nodes[-1], encoder[1].tensor.shape[0], module)
    nodes += nodes[-1].users if decoder is not None else ()
    dims = (dim, scatter_dim)
    order = {node: number for number, node in enumerate(topk.graph.nodes)}
    nodes.sort(key=order.__getitem__)
    return RecognizedCode(nodes, encoder[0], k, has_relu, dims, encoder[1:3], decoder)


def _relu_after(node: fx.Node, module: nn.Module) -> list[fx.Node]:
    """The ReLU that alone reads a node; empty where there is none."""
    return [
        user
        for user in node.users
        if len(node.users) == 1 and activation_of(user, module) == "relu"
    ]


# Nodes of a graph, and the dimension of the latents as a scatter among them has it.
Between = tuple[list[fx.Node], int]


def _up_to_scatter(topk: fx.Node, latents: fx.Node, module: nn.Module) -> Between | None:
    """The nodes from a call of ``topk`` to the scatter of its values into zeros. None where there
    is none, or where another node reads any of them."""
    values, indices = _part(topk, 0, "values"), _part(topk, 1, "indices")
    if values is None or indices is None or len(topk.users) != 2:
        return None
    selected = [values, *_relu_after(values, module)]
    if set(selected[-1].users) != set(indices.users):
        return None
    scattered = _scattered(indices, selected[-1], latents)
    if scattered is None:
        return None
    zeros, dim = scattered
    are_alone = set(latents.users) == {topk, *_readers(latents, zeros)}
    return ([topk, *selected, indices, *zeros], dim) if are_alone else None


def _up_to_mask(topk: fx.Node, latents: fx.Node, selected_dim: int) -> Between | None:
    """The nodes from a call of ``topk`` to the product of the latents and a mask, ones scattered
    into zeros of their dtype at its indices. None where there is none, or where another node reads
    any of them."""
    values, indices = _part(topk, 0, "values"), _part(topk, 1, "indices")
    unread = [] if values is None else [values]
    scattered = None if indices is None else _scattered(indices, 1, latents)
    if scattered is None or indices is None or set(topk.users) != {indices, *unread}:
        return None
    zeros, dim = scattered
    has_default_dtype = is_call(zeros[-2], torch.zeros) and "dtype" not in zeros[-2].kwargs
    if has_default_dtype or dim != selected_dim:
        return None
    product = next(iter(zeros[-1].users), None)
    if product is None or len(zeros[-1].users) != 1 or any(node.users for node in unread):
        return None
    is_product = is_call(product, operator.mul, torch.mul, "mul")
    are_alone = set(latents.users) == {topk, product, *_readers(latents, zeros)}
    if not is_product or {*product.args} != {latents, zeros[-1]} or not are_alone:
        return None
    return [topk, *unread, indices, *zeros, product], dim


def _scattered(indices: fx.Node, source: fx.Node | int, latents: fx.Node) -> Between | None:
    """The nodes that scatter a source at the indices into zeros of the latents' shape."""
    if len(indices.users) != 1:
        return None
    (scatter,) = indices.users
    name = "value" if "value" in scatter.kwargs else "src"
    written = _arguments(scatter, "input", "dim", "index", name)
    zeros, dim = written.pop("input", None), written.pop("dim", None)
    if not is_call(scatter, torch.scatter, "scatter", "scatter_") or not isinstance(zeros, fx.Node):
        return None
    made = _zeros_like(zeros, latents)
    if not made or len(zeros.users) != 1 or dim not in (-1, 1):
        return None
    return ([*made, scatter], dim) if written == {"index": indices, name: source} else None


def _zeros_like(zeros: fx.Node, latents: fx.Node) -> list[fx.Node]:
    """The nodes that make zeros of the latents' shape and device, and of their dtype or the
    default one; empty where it is another tensor."""
    if is_call(zeros, torch.zeros_like):
        return [zeros] if zeros.args == (latents,) and not zeros.kwargs else []
    if is_call(zeros, torch.zeros) and zeros.kwargs.keys() in ({"device"}, {"dtype", "device"}):
        sizes, options = zeros.args, zeros.kwargs
    elif is_call(zeros, "new_zeros") and zeros.args[0] is latents:
        sizes, options = zeros.args[1:], zeros.kwargs
    else:
        return []
    arguments = {"shape": sizes[0] if len(sizes) == 1 else None, **options}
    reads = [
        node
        for name, node in arguments.items()
        if isinstance(node, fx.Node) and _reads(node, latents, name)
    ]
    return [*reads, zeros] if len(reads) == len(arguments) else []


def _reads(node: fx.Node, latents: fx.Node, name: str) -> bool:
    """Whether a node reads this attribute of the latents, for a single other node."""
    if len(node.users) != 1:
        return False
    if name == "shape" and is_call(node, "size"):
        return node.args == (latents,) and not node.kwargs
    return is_call(node, getattr) and node.args == (latents, name)


def _readers(latents: fx.Node, nodes: list[fx.Node]) -> list[fx.Node]:
    return [node for node in nodes if latents in node.all_input_nodes]


def _part(topk: fx.Node, number: int, name: str) -> fx.Node | None:
    """The node that reads the values or the indices, where there is one."""
    parts = [
        node
        for node in topk.users
        if node.target in (operator.getitem, getattr) and node.args[1] in (number, name)
    ]
    return parts[0] if len(parts) == 1 else None


def _decoder(
    code: fx.Node, latents: int, module: nn.Module
) -> tuple[Slot, Slot | None, bool] | None:
    """The linear layer that alone reads a code; None where there is none, or where its width does
    not fit: then torch's own operation says so."""
    if len(code.users) != 1:
        return None
    decoder = linear_of(next(iter(code.users)), module)
    if decoder is None or decoder[0] is not code:
        return None
    _, weight, bias, is_tied = decoder
    return (weight, bias, is_tied) if weight.tensor.shape[int(not is_tied)] == latents else None


def _arguments(node: fx.Node, *names: str) -> dict[str, Any]:
    return dict(zip(names, node.args, strict=False)) | node.kwargs
