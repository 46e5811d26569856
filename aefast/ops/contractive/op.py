"""The contractive penalty, the Jacobian and its tangents: checks, autograd, registered ops.

A backend module has one function:

``primitives() -> PenaltyPrimitives``
    what passes.py and rows.py compose the two passes of; see primitives.py.

A call goes to them in the dtypes of ``FUSED``; in half precisions only one layer's exact penalty,
which makes no intermediate product. All else takes the definition.
"""

import contextlib
import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from aefast import backend, random
from aefast.ops.contractive import eager, passes
from aefast.ops.contractive.passes import NeedsGrad, SavedForBackward
from aefast.ops.contractive.primitives import PenaltyPrimitives
from aefast.ops.contractive.settings import EncoderLayer, PenaltySettings
from aefast.ops.mlp.op import check_layers
from aefast.ops.shared import checks, dispatch
from aefast.ops.shared.autograd import Context, KernelFunction, connected, requiring_gradient
from aefast.ops.shared.precision import instead_of_autocast, outpaces_autocast
from aefast.ops.shared.registered import registered

METHODS = ("exact", "hutchinson")

FUSED: dict[str, tuple[torch.dtype, ...]] = {
    "cpp": (torch.float32,),
    "numba": (torch.float32,),
    "triton": backend.KERNEL_DTYPES,
    "eager": (),
}

# A probe's row is row_offset * probes + its number, below 2**62.
ROW_LIMIT = 2**46
PROBE_LIMIT = 2**16


def as_matrix(x: Tensor) -> Tensor:
    return x if x.dim() == 2 else x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def check_encoder(
    x: Tensor, weights: object, biases: object, activation: object
) -> list[EncoderLayer]:
    """The layers, of one weight or a sequence of them."""
    checks.check_tensor(x, "x")
    if isinstance(weights, Tensor):
        weights, biases = [weights], [biases]
    elif isinstance(weights, Iterable) and not isinstance(weights, str):
        weights = list(weights)
        biases = [None] * len(weights) if biases is None else biases
    if isinstance(weights, list):
        activation = _for_each_layer(activation, len(weights))
    return [EncoderLayer(*layer) for layer in check_layers(x, weights, biases, activation)]


def _for_each_layer(activation: object, count: int) -> list[str]:
    if isinstance(activation, str):
        return [activation] * count
    if isinstance(activation, Tensor) or not isinstance(activation, Iterable):
        raise TypeError(
            f"activation is a {type(activation).__name__}; it takes a name, or one for each layer"
        )
    activation = list(activation)
    if len(activation) != count:
        raise ValueError(
            f"activation has {len(activation)} entries; with {count} weights it takes a name, "
            f"or {count} of them"
        )
    return activation


def check_method(method: str, probes: int, return_error: bool) -> int:
    """The number of probes, 0 for the exact penalty."""
    checks.check_choice(method, "method", METHODS)
    probes = checks.check_integer(probes, "probes", PROBE_LIMIT)
    if probes == 0:
        raise ValueError(f"probes is 0; it takes an int in [1, {PROBE_LIMIT})")
    if method == "exact" and probes != 1:
        raise ValueError(f"probes is {probes} and method 'exact'; method takes 'hutchinson'")
    if return_error and (method == "exact" or probes == 1):
        raise ValueError(
            f"return_error is True with method {method!r} and probes {probes}; "
            "it takes method 'hutchinson' and at least 2 probes"
        )
    return 0 if method == "exact" else probes


def parameters_of(layers: Sequence[EncoderLayer]) -> list[Tensor | None]:
    """The weights, then the biases."""
    return [layer.weight for layer in layers] + [layer.bias for layer in layers]


def _layers(parameters: Sequence[Any], activations: Sequence[str]) -> list[EncoderLayer]:
    count = len(activations)
    return [
        EncoderLayer(*layer)
        for layer in zip(parameters[:count], parameters[count:], activations, strict=True)
    ]


def penalty_of(
    x: Tensor,
    layers: list[EncoderLayer],
    settings: PenaltySettings,
    traced: bool,
    autocast: torch.dtype | None,
) -> tuple[Tensor, Any, Tensor]:
    """The penalty [B], the standard error [B] or None, and the code [B, H]."""
    if autocast is not None:
        if traced or not _serves_autocast(x, layers):
            return eager.contractive_penalty(x, layers, settings)
        x, layers = _cast(x, layers, settings, autocast)
    if not _is_fused(x, layers, settings, traced):
        return eager.contractive_penalty(x, layers, settings)
    activations = [layer.activation for layer in layers]
    parameters = parameters_of(layers)
    if traced:
        weights = parameters[: len(layers)]
        # Autograd looks into a list of tensors only where all are there.
        biases = [
            weight.new_zeros(weight.shape[0]) if bias is None else bias
            for weight, bias, _ in layers
        ]
        settings = settings._replace(seed=random.seed_tensor(settings.seed, x.device))
        hessian = dispatch.numbers_in_graph(
            x.device, settings.hessian_noise, settings.hessian_weight
        )
        if hessian is not None:
            settings = settings._replace(hessian_noise=0.0, hessian_weight=0.0)
        return torch.ops.aefast.contractive_penalty(
            x, weights, biases, ",".join(activations), *settings, hessian
        )
    primitives = _primitives(x)
    primitives.autocast = autocast
    if dispatch.is_differentiated(x, *parameters):
        return _Penalty.apply(x, activations, settings, primitives, [], *parameters)
    penalty, error, saved_pass = _forward(primitives, x, layers, settings, False)
    return penalty, error, saved_pass.encodings[0].code


def _is_fused(
    x: Tensor, layers: list[EncoderLayer], settings: PenaltySettings, traced: bool
) -> bool:
    name = "triton" if x.device.type == "cuda" else "cpp"
    if not traced:
        name = backend.select(x.device, x.dtype)
    if x.dtype not in FUSED[name] or x.device.type not in ("cpu", "cuda"):
        return False
    if x.dtype != torch.float32 and not passes.is_fused(layers, settings):
        return False
    if traced:
        return not dispatch.is_defined_in_trace(x, checks.FLOATING)
    sizes = [x.numel(), *(layer.weight.numel() for layer in layers)]
    return 0 not in sizes and not dispatch.is_transformed(x)


def _serves_autocast(x: Tensor, layers: list[EncoderLayer]) -> bool:
    dtypes = {tensor.dtype for tensor in (x, *parameters_of(layers)) if tensor is not None}
    if not dtypes.issubset(backend.KERNEL_DTYPES):
        return False
    return backend.is_forced() or outpaces_autocast(x.device.type)


def _cast(
    x: Tensor, layers: list[EncoderLayer], settings: PenaltySettings, autocast: torch.dtype
) -> tuple[Tensor, list[EncoderLayer]]:
    """x and the layers in one dtype: autocast's where a kernel takes it, else float32."""
    kernel_dtypes = FUSED[backend.select(x.device, autocast)]
    fits = autocast in kernel_dtypes and passes.is_fused(layers, settings)
    dtype = autocast if fits else torch.float32
    cast = [
        EncoderLayer(weight.to(dtype), None if bias is None else bias.to(dtype), activation)
        for weight, bias, activation in layers
    ]
    return x.to(dtype), cast


def _products(
    primitives: PenaltyPrimitives, device: torch.device
) -> contextlib.AbstractContextManager[object]:
    """The context of products: as torch's switches say, or in the place of autocast's products."""
    if primitives.autocast is None:
        return contextlib.nullcontext()
    return instead_of_autocast(device.type, primitives.autocast)


def _materialize(x: Tensor, layers: Sequence[EncoderLayer]) -> tuple[Tensor, list[EncoderLayer]]:
    """Detached tensors with memory that a pointer reads."""
    materialized = [
        EncoderLayer(
            dispatch.materialize(layer.weight, f"weights[{index}]").detach(),
            None
            if layer.bias is None
            else dispatch.materialize(layer.bias, f"biases[{index}]").detach(),
            layer.activation,
        )
        for index, layer in enumerate(layers)
    ]
    return dispatch.materialize(x, "x").detach(), materialized


def _primitives(x: Tensor) -> PenaltyPrimitives:
    return backend.implementation("contractive", backend.select(x.device, x.dtype)).primitives()


def _primitives_or_plain(
    x: Tensor, layers: list[EncoderLayer], settings: PenaltySettings
) -> PenaltyPrimitives:
    """The primitives for a registered op: in plain PyTorch where no backend serves."""
    return _primitives(x) if _is_fused(x, layers, settings, traced=False) else PenaltyPrimitives()


def _forward(
    primitives: PenaltyPrimitives,
    x: Tensor,
    layers: Sequence[EncoderLayer],
    settings: PenaltySettings,
    differentiated: bool,
) -> tuple[Tensor, Tensor | None, SavedForBackward]:
    x, layers = _materialize(x, layers)
    with _products(primitives, x.device):
        penalty, error, saved_pass = passes.forward(primitives, x, layers, settings, differentiated)
    return penalty.to(x.dtype if primitives.autocast is None else torch.float32), error, saved_pass


def _backward(
    primitives: PenaltyPrimitives,
    grad_penalty: Tensor | None,
    grad_code: Tensor | None,
    saved_pass: SavedForBackward,
    settings: PenaltySettings,
    needs_grad: NeedsGrad,
) -> list[Tensor | None]:
    """The gradients by x, the weights and the biases."""
    if grad_penalty is not None:
        grad_penalty = dispatch.materialize(grad_penalty, "the incoming gradient")
    if grad_code is not None:
        grad_code = dispatch.materialize(grad_code, "the incoming gradient")
    x = saved_pass.encodings[0].inputs[0]
    with _products(primitives, x.device):
        gradients = passes.backward(
            primitives, grad_penalty, grad_code, saved_pass, settings, needs_grad
        )
    return [
        None if gradient is None else gradient.to(x.dtype)
        for gradient in (gradients.x, *gradients.weights, *gradients.biases)
    ]


class _Penalty(KernelFunction):
    """``saved_passes`` holds what forward saves; a second backward computes it anew."""

    @staticmethod
    def forward(
        x: Tensor,
        activations: list[str],
        settings: PenaltySettings,
        primitives: PenaltyPrimitives,
        saved_passes: list[Any],
        *parameters: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        layers = _layers(parameters, activations)
        penalty, error, saved_pass = _forward(primitives, x, layers, settings, True)
        saved_passes.append(saved_pass)
        # Another tensor on the same memory: the output itself would hold its own node.
        return penalty, error, saved_pass.encodings[0].code.detach()

    @staticmethod
    def setup_context(ctx: Context, inputs: tuple[Any, ...], outputs: tuple[Any, ...]) -> None:
        x, ctx.activations, ctx.settings, ctx.primitives, ctx.saved_passes, *parameters = inputs
        if outputs[1] is not None:
            ctx.mark_non_differentiable(outputs[1])
        # The code is saved for the check alone that nobody has changed it in place.
        ctx.save_for_backward(outputs[2], x, *parameters)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Context, *grads: Any) -> tuple[Tensor | None, ...]:
        grad_penalty, _, grad_code = grads
        _, x, *parameters = ctx.saved_tensors
        layers = _layers(parameters, ctx.activations)
        needs = ctx.needs_input_grad
        count = len(layers)
        needs_grad = NeedsGrad(needs[0], list(needs[5 : 5 + count]), list(needs[5 + count :]))
        if grad_penalty is None and grad_code is None:
            return (None,) * len(needs)
        if torch.is_grad_enabled() or any(
            g is not None and (dispatch.is_transformed(g) or dispatch.is_traced(g)) for g in grads
        ):
            # Differentiated again, batched or traced are the definition's gradients.
            flags = [needs_grad.x, *needs_grad.weights, *needs_grad.biases]
            x, *parameters = map(requiring_gradient, (x, *parameters), flags)
            layers = _layers(parameters, ctx.activations)
            gradients = eager.gradients(grad_penalty, grad_code, x, layers, ctx.settings)
            gradients = connected(gradients, (grad_penalty, grad_code, x, *parameters))
        else:
            if not ctx.saved_passes:
                ctx.saved_passes.append(_forward(ctx.primitives, x, layers, ctx.settings, False)[2])
            saved_pass = ctx.saved_passes.pop()
            gradients = _backward(
                ctx.primitives, grad_penalty, grad_code, saved_pass, ctx.settings, needs_grad
            )
        flags = [needs_grad.x, *needs_grad.weights, *needs_grad.biases]
        grad_x, *other_gradients = (
            g if need else None for g, need in zip(gradients, flags, strict=True)
        )
        return grad_x, *(None,) * 4, *other_gradients


@registered("aefast::contractive_penalty")
def _registered(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    activations: str,
    probes: int,
    hessian_noise: float,
    hessian_weight: float,
    seed: Tensor,
    row_offset: int,
    hessian: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The penalty, the standard error (empty without one) and the code. ``hessian``, where it is a
    tensor, holds ``hessian_noise`` and ``hessian_weight``."""
    given = PenaltySettings(probes, hessian_noise, hessian_weight, seed, row_offset)
    layers, settings = _check_registered(x, weights, biases, activations, given, hessian)
    primitives = _primitives_or_plain(x, layers, settings)
    penalty, error, saved_pass = _forward(primitives, x, layers, settings, False)
    return penalty, x.new_empty(0) if error is None else error, saved_pass.encodings[0].code


@_registered.register_fake
def _(
    x: Tensor, weights: Sequence[Tensor], biases: Any, activations: str, probes: int, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    batch = x.shape[0]
    code = x.new_empty(batch, weights[-1].shape[0])
    return x.new_empty(batch), x.new_empty(batch if probes > 1 else 0), code


@registered("aefast::contractive_penalty_backward")
def _registered_backward(
    grad_penalty: Tensor,
    grad_code: Tensor,
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    activations: str,
    probes: int,
    hessian_noise: float,
    hessian_weight: float,
    seed: Tensor,
    row_offset: int,
    needs_grad: Sequence[bool],
    hessian: Tensor | None,
) -> list[Tensor]:
    """The gradients by x, the weights and the biases; empty those that are not needed."""
    given = PenaltySettings(probes, hessian_noise, hessian_weight, seed, row_offset)
    layers, settings = _check_registered(x, weights, biases, activations, given, hessian)
    count = len(layers)
    if len(needs_grad) != 1 + 2 * count:
        raise ValueError(f"needs_grad has {len(needs_grad)} flags; it takes {1 + 2 * count}")
    flags = NeedsGrad(needs_grad[0], list(needs_grad[1 : 1 + count]), list(needs_grad[1 + count :]))
    primitives = _primitives_or_plain(x, layers, settings)
    saved_pass = _forward(primitives, x, layers, settings, False)[2]
    gradients = _backward(primitives, grad_penalty, grad_code, saved_pass, settings, flags)
    return [x.new_empty(0) if gradient is None else gradient for gradient in gradients]


@_registered_backward.register_fake
def _(
    grad_penalty: Tensor,
    grad_code: Tensor,
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Any,
    activations: str,
    probes: int,
    hessian_noise: float,
    hessian_weight: float,
    seed: Tensor,
    row_offset: int,
    needs_grad: Sequence[bool],
    *_: Any,
) -> list[Tensor]:
    widths = [weight.shape[:1] for weight in weights]
    shapes = [x.shape, *(weight.shape for weight in weights), *widths]
    return [
        x.new_empty(shape if need else (0,)) for shape, need in zip(shapes, needs_grad, strict=True)
    ]


def _with_numbers(settings: PenaltySettings, hessian: Tensor | None) -> PenaltySettings:
    if hessian is None:
        return settings
    noise, weight = hessian.tolist()
    return settings._replace(hessian_noise=noise, hessian_weight=weight)


def _check_registered(
    x: Tensor,
    weights: Any,
    biases: Any,
    activations: str,
    given: PenaltySettings,
    hessian: Tensor | None,
) -> tuple[list[EncoderLayer], PenaltySettings]:
    """The layers, and the settings with the numbers of ``hessian``."""
    settings = _with_numbers(given, hessian)
    layers = check_encoder(x, list(weights), list(biases), activations.split(","))
    if x.dim() != 2:
        raise ValueError(f"x has shape {list(x.shape)}; the registered op takes [B, D]")
    checks.check_integer(settings.probes, "probes", PROBE_LIMIT)
    checks.check_number(settings.hessian_noise, "hessian_noise", 0)
    checks.check_number(settings.hessian_weight, "hessian_weight", 0)
    checks.check_integer(settings.row_offset, "row_offset", ROW_LIMIT)
    seed: Any = settings.seed
    checks.check_seed_tensor(seed)
    return layers, settings


def _setup_context(ctx: Context, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weights, biases, ctx.activations, *ctx.settings, seed, ctx.row_offset, hessian = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(seed, hessian, x, *weights, *biases)
    ctx.count = len(weights)


def _registered_gradients(
    ctx: Context, grad_penalty: Tensor, _: Tensor, grad_code: Tensor
) -> tuple[Any, ...]:
    seed, hessian, x, *parameters = ctx.saved_tensors
    weights, biases = parameters[: ctx.count], parameters[ctx.count :]
    tensors = [x, *weights, *biases]
    settings = PenaltySettings._make((*ctx.settings, seed, ctx.row_offset))
    if torch.is_grad_enabled():  # the gradients are to be differentiated again
        settings = _with_numbers(settings, hessian)
        layers = _layers(parameters, ctx.activations.split(","))
        gradients = eager.gradients(grad_penalty, grad_code, x, layers, settings)
        gradients = connected(gradients, (grad_penalty, grad_code, *tensors))
        return gradients[0], gradients[1 : 1 + ctx.count], gradients[1 + ctx.count :], *(None,) * 7
    needs_grad = [tensor is not None and tensor.requires_grad for tensor in tensors]
    gradients = torch.ops.aefast.contractive_penalty_backward(
        grad_penalty, grad_code, x, weights, biases, ctx.activations, *settings, needs_grad,
        hessian,
    )  # fmt: skip
    grad_x, *other_gradients = (
        g if need else None for g, need in zip(gradients, needs_grad, strict=True)
    )
    return grad_x, other_gradients[: ctx.count], other_gradients[ctx.count :], *(None,) * 7


_registered.register_autograd(_registered_gradients, setup_context=_setup_context)
