"""A stack of linear layers with their activations, as one autograd node over one call."""

from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from aefast import backend
from aefast.acceleration.call_counter import CallCounter
from aefast.ops.linear_act.eager import ACTIVATIONS
from aefast.ops.linear_act.op import FROM_PREACTIVATION
from aefast.ops.shared import checks, dispatch
from aefast.ops.shared.autograd import Context, KernelFunction, aliases_of, connected
from aefast.ops.shared.product_routes import outpaces_vendor
from aefast.step import kernels
from aefast.step.plan import PlannedLayer

if TYPE_CHECKING:
    from aefast import _C
    from aefast.acceleration.recognition import RecognizedLayer


# A call of fewer multiplications is left to torch. What Python adds to a call, some 30 us with its
# gradients, is more than the kernels save there: on a Xeon the loop's step of 64-32 and 32 rows
# took 1.05 times as long with them, on a Zen 4 0.95 times, and 784-256 with 128 rows 0.97 and 0.86.
FEWEST_PRODUCTS = 1 << 25


class Slot(NamedTuple):
    """A module's dict of parameters, and a name in it. The tensor is read anew at each call, since
    the module may have been given another."""

    parameters: dict[str, Tensor]
    name: str

    @property
    def tensor(self) -> Tensor:
        return self.parameters[self.name]


class Stack:
    """A chain of linear layers with activations, called with one input.

    Attributes:
        layers: the layers; each holds the index in ``slots`` of its weight and its bias.
        slots: where the modules hold the parameters.
    """

    def __init__(self, layers: list[PlannedLayer], slots: list[Slot]) -> None:
        self.__name__ = "stack"  # torch.fx writes it into the graph's code
        self.layers = layers
        self.slots = slots
        self.shapes = [slot.tensor.shape for slot in slots]
        self.counter = CallCounter()
        products = [layer.inputs * layer.outputs for layer in layers]
        self.largest_product, self.products_of_row = max(products), sum(products)
        # Whether backward reads the output. If not, it is not saved: users may change it in place.
        self.reads_output = layers[-1].activation not in ("identity", *FROM_PREACTIVATION)
        self._kernel: _C.Mlp | None = None

    def __str__(self) -> str:
        sizes = "-".join(str(n) for n in [self.layers[0].inputs, *(y.outputs for y in self.layers)])
        return f"{sizes} {', '.join(layer.activation for layer in self.layers)}"

    def __call__(self, x: Tensor) -> Tensor:
        parameters = [owner[name] for owner, name in self.slots]
        start = perf_counter()
        reason = self.refusal(x, parameters)
        if reason is not None:
            output = self.plain(x, parameters)
        elif x.dim() == 2 and x.stride(1) == 1:
            output = self._run(x, parameters)
        else:
            output = self._run(x.reshape(-1, x.shape[-1]).contiguous(), parameters)
            output = output.reshape(*x.shape[:-1], output.shape[-1])
        self.counter.count(reason, start)
        return output

    def plain(self, x: Tensor, parameters: list[Tensor]) -> Tensor:
        """The layers by PyTorch's operations, as the model's own code calls them."""
        for layer in self.layers:
            weight = parameters[layer.weight]
            bias = parameters[layer.bias] if layer.bias >= 0 else None
            weight = weight.t() if layer.is_tied else weight
            x = ACTIVATIONS[layer.activation](F.linear(x, weight, bias))
        return x

    def refusal(self, x: Tensor, parameters: list[Tensor]) -> str | None:
        """Why the kernels do not serve a call; None where they do."""
        reason = refusal_of(x, parameters, self.shapes)
        if reason is not None:
            return reason
        if x.dim() < 1 or x.shape[-1] != self.layers[0].inputs:
            return NO_ROWS
        rows = x.numel() // x.shape[-1]
        if rows == 1 or rows * self.products_of_row < FEWEST_PRODUCTS:
            return TOO_SMALL
        return None if outpaces_vendor(self.largest_product) else NOT_PAYING

    def _run(self, x: Tensor, parameters: list[Tensor]) -> Tensor:
        if dispatch.is_differentiated(x, *parameters):
            return _Stack.apply(self, x, *parameters)
        return self.forward(x, parameters, None)

    @property
    def kernel(self) -> "_C.Mlp":
        """The layers as C++ reads them."""
        if self._kernel is None:
            layers = list(map(kernels().kernel_layer, self.layers))
            self._kernel = backend.extension().Mlp(layers)
        return self._kernel

    def empty_saved(self, rows: int) -> Tensor:
        """Memory for what forward saves for backward beside its output."""
        return torch.FloatTensor(rows * self.kernel.saved_columns)

    def forward(self, x: Tensor, parameters: list[Tensor], saved: Tensor | None) -> Tensor:
        output = torch.FloatTensor(x.shape[0], self.layers[-1].outputs)
        backend.extension().mlp_forward(
            self.kernel,
            kernels().as_matrix(x),
            [parameter.data_ptr() for parameter in parameters],
            0 if saved is None else saved.data_ptr(),
            output.data_ptr(),
            kernels().precision(),
            torch.get_num_threads(),
        )
        return output

    def backward(
        self,
        grad: Tensor,
        x: Tensor,
        parameters: list[Tensor],
        saved: Tensor,
        output: Tensor | None,
        needs_grad: list[bool],
    ) -> list[Tensor | None]:
        """The gradients by x and by the parameters; None for those that need none.

        ``output`` is None where ``reads_output`` is False: C++ is then given another pointer in
        its place, which it does not read.
        """
        grad = dispatch.materialize(grad, "the incoming gradient")
        if grad.stride(1) != 1:
            grad = grad.contiguous()
        gradients = [
            torch.empty_like(tensor, memory_format=torch.contiguous_format) if need else None
            for tensor, need in zip((x, *parameters), needs_grad, strict=True)
        ]
        pointers = [0 if gradient is None else gradient.data_ptr() for gradient in gradients]
        backend.extension().mlp_backward(
            self.kernel,
            kernels().as_matrix(x),
            [parameter.data_ptr() for parameter in parameters],
            saved.data_ptr(),
            (grad if output is None else output).data_ptr(),
            kernels().as_matrix(grad),
            pointers[0],
            pointers[1:],
            kernels().precision(),
            torch.get_num_threads(),
        )
        return gradients


def refusal_of(x: Tensor, parameters: list[Tensor], shapes: list[torch.Size]) -> str | None:
    """Why no kernel serves a call with x, and with parameters that had these shapes; else None."""
    if dispatch.is_traced(x, *parameters) or dispatch.is_transformed(x):
        return "the call is traced or transformed"
    if x.dtype != torch.float32 or not x.is_cpu:
        return f"it takes float32 on a CPU, not {checks.dtype_name(x)} on {x.device.type}"
    if dispatch.is_in_functorch():
        return "a torch.func transform is at work"
    for parameter, shape in zip(parameters, shapes, strict=True):
        if parameter.dtype != torch.float32 or not parameter.is_cpu:
            return "a parameter is not float32 on the CPU"
        if parameter.shape != shape or not parameter.is_contiguous() or parameter.is_neg():
            return "a parameter has another layout than it had"
        if not parameter.data_ptr():
            return "a parameter has no memory: its storage was freed"
    if not x.numel():
        return NO_ROWS
    if x.is_neg() or not x.data_ptr():
        return "x is a negative view, or has no memory"
    if backend.select(x.device, x.dtype) != "cpp":
        return "the C++ kernels do not serve here"
    return None


NO_ROWS = "x has no row, or is of another width"
TOO_SMALL = "so few rows of so small layers torch computes as fast"
NOT_PAYING = "torch's own products are faster for these layers on this processor"


class _Stack(KernelFunction):
    @staticmethod
    def forward(ctx: Context, *arguments: Any) -> Tensor:
        stack, x, *parameters = arguments
        saved = stack.empty_saved(x.shape[0])
        output = stack.forward(x, parameters, saved)
        read_output = output if stack.reads_output else None
        ctx.save_for_backward(x, saved, read_output, *parameters)
        ctx.stack = stack
        return output

    @staticmethod
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, saved, output, *parameters = ctx.saved_tensors
        needs_grad = list(ctx.needs_input_grad[1:])
        if torch.is_grad_enabled() or dispatch.is_traced(grad) or dispatch.is_transformed(grad):
            return None, *_differentiable(ctx.stack, grad, x, parameters, needs_grad)
        return None, *ctx.stack.backward(grad, x, parameters, saved, output, needs_grad)


def _differentiable(
    stack: Stack, grad: Tensor, x: Tensor, parameters: list[Tensor], needs_grad: list[bool]
) -> list[Tensor | None]:
    """The gradients, computed by PyTorch's own operations, so that they can be differentiated."""
    inputs = [x, *parameters]
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        aliases = aliases_of(inputs)
        differentiated = [alias for alias, need in zip(aliases, needs_grad, strict=True) if need]
        output = stack.plain(aliases[0], aliases[1:])
        gradients = iter(
            torch.autograd.grad(output, differentiated, grad, create_graph=create_graph)
        )
    gradients_of_needed = [next(gradients) if need else None for need in needs_grad]
    return connected(gradients_of_needed, (grad, *inputs))


def stack_of(recognized: "list[RecognizedLayer]") -> Stack:
    """The stack that computes a chain of recognized layers."""
    layers, slots = [], []
    for layer in recognized:
        slots.append(layer.weight)
        weight, bias = len(slots) - 1, -1
        if layer.bias is not None:
            bias = len(slots)
            slots.append(layer.bias)
        layers.append(
            PlannedLayer(layer.inputs, layer.outputs, layer.activation, weight, bias, layer.is_tied)
        )
    return Stack(layers, slots)
