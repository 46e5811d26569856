"""An autoencoder from its input to the loss: checks, autograd and the registered op.

A backend module has two functions, on LossInputs ``inputs`` and in the dtypes of ``FUSED``:

``reconstruction_loss(inputs, settings, scale, needs_grad) -> (loss, gradients)``
    the summed loss, a number or a 0-d tensor, and ``scale`` times its gradients: a PerInput, None
    for inputs that need none. A weight's or a bias's is float32 or float64 in every dtype.
``pays(inputs) -> bool``
    whether that is quicker than eager PyTorch.

The forward pass computes the gradients, too. Backward multiplies them with the incoming gradient,
which is a number. A loss of every element, or one that cannot be fused, is computed by the kernels
of its parts, one after the other; a small one by eager PyTorch, which is quicker there.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from aefast import backend, random
from aefast.ops.corrupt.noise import KINDS
from aefast.ops.corrupt.op import corrupt_with
from aefast.ops.linear_act.op import ACTIVATIONS
from aefast.ops.linear_act.op import run as linear_act
from aefast.ops.reconstruction import eager
from aefast.ops.reconstruction.settings import Gradients, LossInputs, LossSettings, PerInput
from aefast.ops.shared import checks, dispatch
from aefast.ops.shared.autograd import Context, KernelFunction, SavedGradients, connected, is_one
from aefast.ops.shared.precision import instead_of_autocast, outpaces_autocast
from aefast.ops.shared.registered import registered
from aefast.torch_private import scale_finite

LOSSES = ("mse", "bce")
REDUCTIONS = ("mean", "sum", "none")

# A half-precision product is the vendor's on a CPU; in panels it gains nothing.
FUSED: dict[str, tuple[torch.dtype, ...]] = {
    "cpp": (torch.float32,),
    "numba": (torch.float32,),
    "triton": backend.KERNEL_DTYPES,
    "eager": (),
}
# What a graph is traced for, which may run on another backend than it was traced on.
TRACED = {"cpu": FUSED["cpp"], "cuda": FUSED["triton"]}


def run(inputs: LossInputs, settings: LossSettings, reduction: str, traced: bool) -> Tensor:
    """The loss by the registered op, a backend's kernel or the definition; differentiable.

    ``settings.contraction`` is as the user gave it: for a mean over elements, that of the sum of
    all is D times as much.
    """
    width = inputs.x.shape[-1] if reduction == "mean" else 1
    given = settings.corruption_level, settings.contraction
    settings = settings._replace(contraction=settings.contraction * width)
    if not _is_fused(inputs, settings, reduction, traced):
        return eager.reconstruction_loss(inputs, settings, reduction, linear_act, corrupt_with)
    parameter = inputs.encoder_weight
    inputs, needs_grad = _as_matrices(inputs), _needs_grad(inputs)
    if settings.autocast is not None:
        dtype = _dtype_under_autocast(inputs.x.device, settings.autocast)
        inputs = LossInputs._make(None if tensor is None else tensor.to(dtype) for tensor in inputs)
    if not traced and not _pays(inputs, settings):
        return eager.reconstruction_loss(inputs, settings, reduction, corrupt=corrupt_with)
    if traced:
        seed_tensor = random.seed_tensor(settings.seed, inputs.x.device)
        flags = list(needs_grad)
        level, contraction = settings.corruption_level, settings.contraction
        numbers = dispatch.numbers_in_graph(inputs.x.device, *given)
        if numbers is not None:
            level = contraction = 0.0
            numbers = numbers * numbers.new_tensor([1, width])
        return torch.ops.aefast.reconstruction_loss(
            *inputs, *settings[:4], level, seed_tensor, settings.row_offset, contraction, reduction,
            flags, numbers,
        )[0]  # fmt: skip
    name = backend.select(inputs.x.device, inputs.x.dtype)
    if dispatch.is_differentiated(*inputs):
        return _ReconstructionLoss.apply(
            *inputs, settings, reduction, needs_grad, name, SavedGradients(parameter)
        )
    return _run(inputs, settings, reduction, needs_grad, name)[0]


def check_tensors(inputs: LossInputs) -> None:
    """Dtypes, devices and shapes; under autocast products cast their operands themselves."""
    x, encoder_weight, encoder_bias, decoder_weight, decoder_bias, target = inputs
    checks.check_tensor(x, "x")
    check: Callable[..., None] = checks.check_like
    if dispatch.autocast_dtype(x.device) is not None:
        check = checks.check_castable
    for argument, tensor in zip(inputs._fields[1:], inputs[1:], strict=True):
        if tensor is None and argument != "encoder_weight":
            continue
        check(tensor, argument, x, "x")
    if encoder_weight.dim() != 2:
        raise ValueError(f"encoder_weight has shape {list(encoder_weight.shape)}; it takes [H, D]")
    hidden, visible = encoder_weight.shape
    encoder = f"with encoder_weight's shape [{hidden}, {visible}] it takes"
    if x.dim() < 1 or x.shape[-1] != visible:
        raise ValueError(f"x has shape {list(x.shape)}; {encoder} [..., {visible}]")
    for argument, tensor, shape in (
        ("encoder_bias", encoder_bias, [hidden]),
        ("decoder_weight", decoder_weight, [visible, hidden]),
        ("decoder_bias", decoder_bias, [visible]),
    ):
        if tensor is not None and list(tensor.shape) != shape:
            raise ValueError(f"{argument} has shape {list(tensor.shape)}; {encoder} {shape}")
    if target is not None and target.shape != x.shape:
        raise ValueError(
            f"target has shape {list(target.shape)}; it takes x's shape, {list(x.shape)}"
        )


def check_corruption(x: Tensor, corruption: str | None, level: float) -> float:
    if corruption is not None:
        checks.check_choice(corruption, "corruption", KINDS)
        largest = torch.finfo(x.dtype).max
        most = largest if corruption == "gaussian" else 1
        return checks.check_number(level, "corruption_level", 0, most)
    level = checks.check_number(level, "corruption_level", 0)
    if level != 0:
        kinds = ", ".join(KINDS)
        raise ValueError(
            f"corruption_level is {level} and corruption None; corruption takes one of {kinds}"
        )
    return level


def check_contraction(contraction: float, reduction: str) -> float:
    contraction = checks.check_number(contraction, "contraction", 0)
    if contraction > 0 and reduction == "none":
        raise ValueError(
            f"contraction is {contraction} and reduction 'none'; reduction takes 'mean' or 'sum', "
            "for the penalty is a row's, not an element's"
        )
    return contraction


def _is_fused(inputs: LossInputs, settings: LossSettings, reduction: str, traced: bool) -> bool:
    x, dtype = inputs.x, inputs.x.dtype
    if reduction == "none" or (
        settings.reconstruction == "bce" and settings.output_activation != "sigmoid"
    ):
        return False
    if settings.autocast is not None:
        dtypes = {tensor.dtype for tensor in inputs if tensor is not None}
        if traced or not dtypes.issubset(backend.KERNEL_DTYPES):
            return False  # a graph's products are cast one by one
        dtype = _dtype_under_autocast(x.device, settings.autocast)
    if traced:
        # torch.jit.trace records no list of booleans, as the registered op takes.
        registered = () if torch.jit.is_tracing() else TRACED.get(x.device.type, ())
        return not dispatch.is_defined_in_trace(x, registered)
    if dtype not in FUSED[backend.select(x.device, dtype)]:
        return False
    return 0 not in (x.numel(), inputs.encoder_weight.numel()) and not dispatch.is_transformed(x)


def _dtype_under_autocast(device: torch.device, autocast: torch.dtype) -> torch.dtype:
    """Autocast's where a kernel takes it, else float32."""
    return autocast if autocast in FUSED[backend.select(device, autocast)] else torch.float32


def _pays(inputs: LossInputs, settings: LossSettings) -> bool:
    """Whether the kernels are quicker than eager PyTorch, or were asked for by name."""
    if backend.is_forced():
        return True
    device, dtype = inputs.x.device, inputs.x.dtype
    implementation = backend.implementation("reconstruction", backend.select(device, dtype))
    if settings.autocast is None:
        return implementation.pays(inputs)
    with instead_of_autocast(device.type, settings.autocast):
        return outpaces_autocast(device.type) and implementation.pays(inputs)


def _as_matrices(inputs: LossInputs) -> LossInputs:
    x, target = inputs.x, inputs.target
    if x.dim() == 2:
        return inputs
    if target is not None:
        target = target.reshape(-1, x.shape[-1])
    return inputs._replace(x=x.reshape(-1, x.shape[-1]), target=target)


def _needs_grad(inputs: LossInputs) -> PerInput[bool]:
    enabled = torch.is_grad_enabled()
    return PerInput(*(enabled and t is not None and t.requires_grad for t in inputs))


def _run(
    inputs: LossInputs,
    settings: LossSettings,
    reduction: str,
    needs_grad: PerInput[bool],
    name: str,
    factor: float = 1.0,
) -> tuple[Tensor, Gradients]:
    """The loss, and ``factor`` times the gradients that :func:`_times_incoming` finishes."""
    x = inputs.x
    inputs = LossInputs._make(
        None if tensor is None else dispatch.materialize(tensor, argument)
        for argument, tensor in zip(inputs._fields, inputs, strict=True)
    )
    run = backend.implementation("reconstruction", name).reconstruction_loss
    scale, dtype = factor * _scale(x, reduction), x.dtype
    if settings.autocast is None:
        total, gradients = run(inputs, settings, scale, needs_grad)
    else:
        dtype = torch.float32
        with instead_of_autocast(x.device.type, settings.autocast):
            total, gradients = run(inputs, settings, scale, needs_grad)
    total = total / _count(x, reduction)
    if isinstance(total, Tensor):
        return total.to(dtype), gradients
    return torch.scalar_tensor(total, dtype=torch.float64, device=x.device).to(dtype), gradients


def _count(x: Tensor, reduction: str) -> int:
    return max(x.numel(), 1) if reduction == "mean" else 1


def _scale(x: Tensor, reduction: str) -> float:
    """The factor of gradients in forward; backward multiplies them by the rest of 1 / count.

    A half precision's are divided last, in float32: they could vanish before.
    """
    return 1 / _count(x, reduction) if _accumulation(x.dtype) == x.dtype else 1.0


def _accumulation(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _times_incoming(gradients: Gradients, grad: Tensor, x: Tensor, reduction: str) -> Gradients:
    """The gradients that ``_run`` returns, times the incoming one."""
    if _accumulation(x.dtype) != x.dtype:
        grad = grad.float() / _count(x, reduction)
    return PerInput(*(None if g is None else (g * grad).to(x.dtype) for g in gradients))


def _definition_gradients(
    inputs: LossInputs, settings: LossSettings, grad: Tensor, reduction: str
) -> Gradients:
    """The definition's gradients, times the incoming one: differentiable in their turn."""
    factor = grad.to(_accumulation(grad.dtype)) / _count(inputs.x, reduction)
    gradients = eager.gradients(inputs, settings)
    scaled = ((factor * gradient).to(inputs.x.dtype) for gradient in gradients)
    return PerInput(*connected(scaled, (grad, *inputs)))


def _gradients_are_small(inputs: LossInputs) -> bool:
    """Whether the gradients take no more memory than the code and the reconstruction would."""
    hidden, columns = inputs.encoder_weight.shape
    return 2 * hidden * columns <= inputs.x.shape[0] * (hidden + columns)


class _ReconstructionLoss(KernelFunction):
    """``saved_gradients`` holds the gradients between the two passes.

    Backward gives them away instead of copying them; a second one, through a graph that was
    retained, makes them anew.
    """

    @staticmethod
    def forward(*arguments: Any) -> Tensor:
        *tensors, settings, reduction, needs_grad, name, saved_gradients = arguments
        inputs = LossInputs(*tensors)
        if _gradients_are_small(inputs) or saved_gradients.is_first():
            loss, gradients = _run(inputs, settings, reduction, needs_grad, name)
            saved_gradients.append(gradients)
        else:
            loss, _ = _run(inputs, settings, reduction, PerInput(*(False,) * 6), name)
        return loss

    @staticmethod
    def setup_context(ctx: Context, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.settings, ctx.reduction, ctx.needs_grad, ctx.name, ctx.saved_gradients = (
            inputs
        )
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs = LossInputs(*ctx.saved_tensors)
        if torch.is_grad_enabled() or dispatch.is_traced(grad):
            # The gradient is to be differentiated again, or traced: the definition's can.
            gradients = _definition_gradients(inputs, ctx.settings, grad, ctx.reduction)
        else:
            if not ctx.saved_gradients:
                run = _run(inputs, ctx.settings, ctx.reduction, ctx.needs_grad, ctx.name)
                ctx.saved_gradients.append(run[1])
            gradients = ctx.saved_gradients.pop()
            if inputs.x.dtype != torch.float32 or not is_one(grad):
                gradients = _from_incoming(ctx, inputs, gradients, grad)
        return *_only(gradients, ctx.needs_grad), *(None,) * 5


def _from_incoming(
    ctx: Context, inputs: LossInputs, gradients: Gradients, grad: Tensor
) -> Gradients:
    """The gradients that ``_run`` returned, times the incoming one. Where that is small and they
    were not finite they are computed again, with it as a factor; a GPU is not asked."""
    is_asked = grad.device.type == "cpu" and not dispatch.is_transformed(grad)
    if inputs.x.dtype != torch.float32 or not is_asked:
        return _times_incoming(gradients, grad, inputs.x, ctx.reduction)
    if not scale_finite([g for g in gradients if g is not None], grad):
        factor = grad.item()
        gradients = _run(inputs, ctx.settings, ctx.reduction, ctx.needs_grad, ctx.name, factor)[1]
    return PerInput(*(None if g is None else g.to(inputs.x.dtype) for g in gradients))


def _only(gradients: Gradients, needs_grad: PerInput[bool]) -> Gradients:
    return PerInput(*(g if need else None for g, need in zip(gradients, needs_grad, strict=True)))


@registered("aefast::reconstruction_loss")
def _registered(
    x: Tensor,
    encoder_weight: Tensor,
    encoder_bias: Tensor | None,
    decoder_weight: Tensor | None,
    decoder_bias: Tensor | None,
    target: Tensor | None,
    activation: str,
    output_activation: str,
    reconstruction: str,
    corruption: str | None,
    corruption_level: float,
    seed: Tensor,
    row_offset: int,
    contraction: float,
    reduction: str,
    needs_grad: list[bool],
    numbers: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The loss and, float32, its gradients by the inputs that are needed; the others empty.

    ``numbers``, where it is a tensor, holds ``corruption_level`` and ``contraction``.
    """
    inputs = LossInputs(x, encoder_weight, encoder_bias, decoder_weight, decoder_bias, target)
    settings = LossSettings(
        activation,
        output_activation,
        reconstruction,
        corruption,
        corruption_level,
        seed,
        row_offset,
        contraction,
    )
    settings = _with_numbers(settings, numbers)
    _check_registered(inputs, settings, reduction, needs_grad)
    flags = PerInput(*needs_grad)
    if _is_fused(inputs, settings, reduction, traced=False):
        name = backend.select(x.device, x.dtype)
        value, gradients = _run(inputs, settings, reduction, flags, name)
    else:
        value = eager.reconstruction_loss(inputs, settings, reduction)
        scale = _scale(x, reduction)
        gradients = PerInput(*(scale * g for g in eager.gradients(inputs, settings)))
    return value, *_as_outputs(_only(gradients, flags), x)


def _with_numbers(settings: LossSettings, numbers: Tensor | None) -> LossSettings:
    if numbers is None:
        return settings
    level, contraction = numbers.tolist()
    return settings._replace(corruption_level=level, contraction=contraction)


def _as_outputs(gradients: Gradients, x: Tensor) -> PerInput[Tensor]:
    """A registered op returns tensors only, and of dtypes that its inputs tell."""
    accumulation = _accumulation(x.dtype)
    types = PerInput(x.dtype, accumulation, accumulation, accumulation, accumulation, x.dtype)
    return PerInput(
        *(
            x.new_empty(0, dtype=dtype) if gradient is None else gradient.to(dtype).contiguous()
            for gradient, dtype in zip(gradients, types, strict=True)
        )
    )


def _check_registered(
    inputs: LossInputs, settings: Any, reduction: str, needs_grad: list[bool]
) -> None:
    check_tensors(inputs)
    checks.check_choice(settings.activation, "activation", ACTIVATIONS)
    checks.check_choice(settings.output_activation, "output_activation", ACTIVATIONS)
    checks.check_choice(settings.reconstruction, "reconstruction", LOSSES)
    checks.check_choice(reduction, "reduction", REDUCTIONS[:2])
    check_corruption(inputs.x, settings.corruption, settings.corruption_level)
    check_contraction(settings.contraction, reduction)
    if settings.reconstruction == "bce" and settings.output_activation != "sigmoid":
        raise ValueError(
            f"output_activation is {settings.output_activation!r}; "
            "with reconstruction 'bce' the registered op takes 'sigmoid'"
        )
    if inputs.x.dim() != 2:
        raise ValueError(f"x has shape {list(inputs.x.shape)}; the registered op takes [B, D]")
    checks.check_seed_tensor(settings.seed)
    if len(needs_grad) != len(inputs):
        raise ValueError(f"needs_grad has {len(needs_grad)} flags; it takes {len(inputs)}")


@_registered.register_fake
def _(x: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    inputs, needs_grad = (x, *arguments[:5]), arguments[14]
    gradients = (
        torch.empty_like(tensor, memory_format=torch.contiguous_format) if need else None
        for tensor, need in zip(inputs, needs_grad, strict=True)
    )
    return x.new_empty(()), *_as_outputs(PerInput._make(gradients), x)


def _setup_context(ctx: Context, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors_and_settings, ctx.reduction, ctx.needs_grad, numbers = inputs
    tensors, (*ctx.settings, seed, ctx.row_offset, ctx.contraction) = (
        tensors_and_settings[:6],
        tensors_and_settings[6:],
    )
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(seed, numbers, *tensors, *output[1:])


def _registered_gradients(ctx: Context, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    seed, numbers, *saved = ctx.saved_tensors
    inputs, gradients_at_one = LossInputs(*saved[:6]), saved[6:]
    if any(
        needs_gradient and not computed
        for needs_gradient, computed in zip(ctx.needs_input_grad, ctx.needs_grad, strict=False)
    ):
        raise ValueError("needs_grad names fewer inputs than require a gradient")
    if torch.is_grad_enabled():  # they are to be differentiated again
        settings = LossSettings._make((*ctx.settings, seed, ctx.row_offset, ctx.contraction, None))
        settings = _with_numbers(settings, numbers)
        gradients = _definition_gradients(inputs, settings, grad, ctx.reduction)
    else:
        gradients = _times_incoming(PerInput(*gradients_at_one), grad, inputs.x, ctx.reduction)
    return *_only(gradients, PerInput(*ctx.needs_grad)), *(None,) * 11


_registered.register_autograd(_registered_gradients, setup_context=_setup_context)
