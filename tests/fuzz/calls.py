"""Random calls of every op on every backend, each against its definition in float64."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from aefast import backend, functional, random, use_backend
from aefast.backend import BackendUnavailableError
from aefast.ops.corrupt.noise import KINDS
from aefast.ops.linear_act.op import ACTIVATIONS
from aefast.random import SEED_LIMIT

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
LAYOUTS = ["contiguous", "transposed", "every second", "unaligned", "expanded"]

# Torch's own error in the same dtype is met by luck: a kernel may be so many times as far off, and
# so many units in the last place of the largest element.
TIMES, UNITS = 8, 64
TINY = 1e-30


@dataclass(frozen=True)
class TensorSpec:
    """A tensor, as its values are drawn and laid out."""

    shape: tuple[int, ...]
    values: str = "normal"
    layout: str = "contiguous"

    def tensor(self, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
        normal = torch.randn(self.shape, generator=generator, dtype=torch.float32)
        values = {
            "normal": lambda: normal,
            "small": lambda: normal * 1e-3,
            "large": lambda: normal * 1e3,
            "zeros": lambda: normal * 0,
            "unit": lambda: torch.special.ndtr(normal),
            "binary": lambda: (normal > 0).float(),
            "special": lambda: torch.where(normal.abs() > 2, normal.sign() / 0, normal),
            "holes": lambda: torch.where(normal > 2, torch.nan, normal),
        }
        return laid_out(values[self.values]().to(dtype), self.layout)


def laid_out(values: Tensor, layout: str) -> Tensor:
    if layout == "transposed" and values.dim() > 1:
        return values.transpose(-1, -2).contiguous().transpose(-1, -2)
    if layout == "every second" and values.dim() > 0:
        wide = torch.full((*values.shape, 2), torch.nan, dtype=values.dtype)
        wide[..., 0] = values
        return wide[..., 0]
    if layout == "unaligned":
        flat = torch.full((values.numel() + 3,), torch.nan, dtype=values.dtype)
        flat[3:] = values.flatten()
        return flat[3:].view(values.shape)
    if layout == "expanded" and values.dim() > 0 and values.shape[0] > 0:
        return values[:1].expand(values.shape)
    return values


@dataclass(frozen=True)
class Call:
    """A call: of which op, where it runs, and its arguments."""

    op: str
    backend: str
    dtype: str
    tensors: dict[str, TensorSpec]
    options: dict[str, Any]
    seed: int
    threads: int = 1
    instruction_set: str | None = None

    def inputs(self) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(self.seed)
        dtype = DTYPES[self.dtype]
        return {name: spec.tensor(dtype, generator) for name, spec in self.tensors.items()}


@dataclass(frozen=True)
class Op:
    """How an op is called, its possible arguments, and which of its outputs are states.

    ``run`` takes tensors by name and options, and returns tensors. Of a minimum, which the
    definition may not have reached after its steps, a smaller one is no fault.
    """

    run: Callable[..., Any]
    arguments: Callable[..., tuple[dict[str, TensorSpec], dict[str, Any]]]
    states: tuple[int, ...] = ()
    gradients: bool = True
    slack: float = 1.0
    is_minimum: bool = False


SIZES = st.one_of(st.integers(0, 5), st.sampled_from([7, 8, 16, 17, 31, 33, 64, 65, 130]))
SEEDS = st.one_of(st.integers(0, 9), st.integers(0, SEED_LIMIT - 1))
OFFSETS = st.sampled_from([0, 0, 1, 5, 2**32 - 1, 2**40])
NUMBERS = st.sampled_from(["normal", "normal", "normal", "small", "large", "zeros", "special"])
TAME = st.sampled_from(["normal", "normal", "small", "zeros"])
LEVELS = st.sampled_from([0.0, 1e-3, 0.3, 0.5, 0.9, 1.0])


def matrix(draw: Any, rows: int, columns: int, values: Any = TAME) -> TensorSpec:
    return TensorSpec((rows, columns), draw(values), draw(st.sampled_from(LAYOUTS)))


def vector(draw: Any, units: int, values: Any = TAME) -> TensorSpec:
    return TensorSpec((units,), draw(values), draw(st.sampled_from(LAYOUTS)))


def biases(draw: Any, **units: int) -> dict[str, TensorSpec]:
    return {name: vector(draw, count) for name, count in units.items() if draw(st.booleans())}


def any_shape(draw: Any, values: Any = NUMBERS) -> TensorSpec:
    shape = tuple(draw(st.lists(SIZES, max_size=3)))
    while len(shape) > 1 and torch.Size(shape).numel() > 20000:
        shape = shape[1:]
    return TensorSpec(shape, draw(values), draw(st.sampled_from(LAYOUTS)))


def corrupt_arguments(draw: Any) -> Any:
    kind = draw(st.sampled_from(list(KINDS)))
    options = {"kind": kind, "level": draw(LEVELS), "seed": draw(SEEDS)}
    options |= {"low": draw(st.sampled_from([0.0, -2.5])), "row_offset": draw(OFFSETS)}
    return {"x": any_shape(draw)}, options


def linear_act_arguments(draw: Any) -> Any:
    rows, columns, units = draw(SIZES), draw(SIZES), draw(SIZES)
    tensors = {"x": matrix(draw, rows, columns, NUMBERS), "weight": matrix(draw, units, columns)}
    return tensors | biases(draw, bias=units), {"activation": draw(st.sampled_from(ACTIVATIONS))}


def autoencoder(draw: Any, values: Any = TAME) -> dict[str, TensorSpec]:
    rows, visible, hidden = draw(SIZES), draw(SIZES), draw(SIZES)
    tensors = {
        "x": matrix(draw, rows, visible, values),
        "encoder_weight": matrix(draw, hidden, visible),
    }
    if draw(st.booleans()):
        tensors["decoder_weight"] = matrix(draw, visible, hidden)
    return tensors | biases(draw, encoder_bias=hidden, decoder_bias=visible)


def autoencode_arguments(draw: Any) -> Any:
    names = ("activation", "output_activation")
    return autoencoder(draw), {name: draw(st.sampled_from(ACTIVATIONS)) for name in names}


def reconstruction_loss_arguments(draw: Any) -> Any:
    loss = draw(st.sampled_from(["mse", "bce"]))
    values = st.just("unit") if loss == "bce" else TAME
    tensors = autoencoder(draw, values)
    options = {
        "reconstruction": loss,
        "activation": draw(st.sampled_from(ACTIVATIONS)),
        "output_activation": "sigmoid" if loss == "bce" else draw(st.sampled_from(ACTIVATIONS)),
        "reduction": draw(st.sampled_from(["mean", "sum", "none"])),
    }
    if draw(st.booleans()):
        tensors["target"] = matrix(draw, *tensors["x"].shape, values)
    if draw(st.booleans()):
        options |= {"corruption": draw(st.sampled_from(list(KINDS))), "seed": draw(SEEDS)}
        options |= {"corruption_level": draw(LEVELS), "row_offset": draw(OFFSETS)}
    if options["reduction"] != "none" and draw(st.booleans()):
        options["contraction"] = draw(st.sampled_from([0.1, 2.0]))
    return tensors, options


def encoder(draw: Any) -> dict[str, TensorSpec]:
    widths = draw(st.lists(SIZES.filter(lambda size: size < 40), min_size=2, max_size=4))
    tensors = {"x": matrix(draw, draw(SIZES.filter(lambda size: size < 40)), widths[0])}
    for layer, (low, high) in enumerate(pairwise(widths)):
        tensors[f"weight_{layer}"] = matrix(draw, high, low)
        tensors |= biases(draw, **{f"bias_{layer}": high})
    return tensors


def layers(tensors: dict[str, Tensor]) -> tuple[list[Tensor], list[Tensor | None]]:
    count = sum(name.startswith("weight_") for name in tensors)
    return (
        [tensors[f"weight_{layer}"] for layer in range(count)],
        [tensors.get(f"bias_{layer}") for layer in range(count)],
    )


def contractive_penalty_arguments(draw: Any) -> Any:
    options = {"activation": draw(st.sampled_from(ACTIVATIONS)), "seed": draw(SEEDS)}
    if draw(st.booleans()):
        options |= {"method": "hutchinson", "probes": draw(st.integers(1, 4))}
    if draw(st.booleans()):
        options["hessian_noise"] = 0.3
    return encoder(draw), options | {"row_offset": draw(OFFSETS)}


def encoder_arguments(draw: Any) -> Any:
    return encoder(draw), {"activation": draw(st.sampled_from(ACTIVATIONS))}


def mlp_arguments(draw: Any) -> Any:
    tensors = encoder(draw)
    count = len(layers(dict.fromkeys(tensors))[0])
    activations = [draw(st.sampled_from(ACTIVATIONS)) for _ in range(count)]
    return tensors, {"activations": activations}


def machine(draw: Any) -> tuple[dict[str, TensorSpec], dict[str, Any]]:
    rows, visible, hidden = draw(SIZES), draw(SIZES), draw(SIZES)
    kind = draw(st.sampled_from(["bernoulli", "bernoulli", "gaussian"]))
    values = ["binary", "binary", "unit"] if kind == "bernoulli" else ["normal"]
    tensors = {
        "visible": matrix(draw, rows, visible, st.sampled_from(values)),
        "weight": matrix(draw, hidden, visible),
        **biases(draw, visible_bias=visible, hidden_bias=hidden),
    }
    if kind == "gaussian" and draw(st.booleans()):
        tensors["log_var"] = vector(draw, visible)
    return tensors, {"visible_kind": kind}


def gibbs_arguments(draw: Any) -> Any:
    tensors, options = machine(draw)
    options |= {"k": draw(st.integers(1, 3)), "seed": draw(SEEDS), "row_offset": draw(OFFSETS)}
    options["beta"] = draw(st.sampled_from([None, 1.0, 0.5]))
    return tensors, options


def contrastive_divergence_arguments(draw: Any) -> Any:
    tensors, options = machine(draw)
    options |= {"k": draw(st.integers(1, 2)), "seed": draw(SEEDS), "row_offset": draw(OFFSETS)}
    if draw(st.booleans()):
        values = "binary" if options["visible_kind"] == "bernoulli" else "normal"
        tensors["chain"] = matrix(
            draw, draw(st.integers(1, 40)), tensors["visible"].shape[1], st.just(values)
        )
    return tensors, options


def code_arguments(draw: Any) -> Any:
    mean = any_shape(draw)
    return {
        "mean": mean,
        "log_var": TensorSpec(mean.shape, draw(NUMBERS), draw(st.sampled_from(LAYOUTS))),
    }, {}


def reparameterize_arguments(draw: Any) -> Any:
    tensors, _ = code_arguments(draw)
    return tensors, {"seed": draw(SEEDS), "row_offset": draw(OFFSETS)}


def rows_of_a_code_arguments(draw: Any) -> Any:
    shape = (*draw(st.lists(st.integers(0, 4), max_size=2)), draw(SIZES))
    pair = (TensorSpec(shape, draw(NUMBERS), draw(st.sampled_from(LAYOUTS))) for _ in range(2))
    return dict(zip(("mean", "log_var"), pair, strict=True)), {}


def soft_threshold_arguments(draw: Any) -> Any:
    return {"x": any_shape(draw)}, {"threshold": draw(st.sampled_from([0.0, 0.1, 0.7, 1e3]))}


def sparse_encode_arguments(draw: Any) -> Any:
    rows, columns, atoms = (draw(st.integers(0, 12)) for _ in range(3))
    tensors = {"x": matrix(draw, rows, columns), "dictionary": matrix(draw, atoms, columns)}
    return tensors, {"penalty": draw(st.sampled_from([0.1, 0.7])), "steps": 300}


def topk_encode_arguments(draw: Any) -> Any:
    rows, columns, latents = draw(SIZES), draw(SIZES), draw(st.integers(1, 40))
    tensors = {"x": matrix(draw, rows, columns), "weight": matrix(draw, latents, columns)}
    return tensors | biases(draw, bias=latents), {"k": draw(st.integers(1, latents))}


def topk_values(bias: Tensor | None = None, **arguments: Any) -> Tensor:
    """Without the latents: of nearly equal ones another may be chosen."""
    return functional.topk_encode(bias=bias, **arguments).values


def sparse_decode_arguments(draw: Any) -> Any:
    rows, active, latents, columns = (draw(st.integers(1, 12)) for _ in range(4))
    tensors = {"values": matrix(draw, rows, active), "weight": matrix(draw, latents, columns)}
    return tensors | biases(draw, bias=columns), {"seed": draw(st.integers(0, 9))}


def decoded(values: Tensor, weight: Tensor, seed: int, bias: Tensor | None = None) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return functional.sparse_decode(
        values, torch.randint(len(weight), values.shape, generator=draw), weight, bias
    )


def sparse_reconstruction_loss_arguments(draw: Any) -> Any:
    tensors, options = sparse_decode_arguments(draw)
    rows, columns = tensors["values"].shape[0], tensors["weight"].shape[1]
    return tensors | {"target": matrix(draw, rows, columns)}, options


def error_of_decoded(
    values: Tensor, weight: Tensor, target: Tensor, seed: int, bias: Tensor | None = None
) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    indices = torch.randint(len(weight), values.shape, generator=draw)
    return functional.sparse_reconstruction_loss(values, indices, weight, bias, target)


def activities_arguments(draw: Any) -> Any:
    code = matrix(draw, draw(SIZES), draw(SIZES), st.sampled_from(["unit", "unit", "zeros"]))
    return {"code": code}, {}


def kl_sparsity_arguments(draw: Any) -> Any:
    return activities_arguments(draw)[0], {"target": draw(st.sampled_from([0.05, 0.5, 0.9]))}


def objective(x: Tensor, dictionary: Tensor, penalty: float, **options: Any) -> Tensor:
    """What a sparse code minimizes: there may be many, but they are worth the same."""
    code = functional.sparse_encode(x, dictionary, penalty, **options).double()
    residual = x.double() - code @ dictionary.double()
    return residual.square().sum(-1) / 2 + penalty * code.abs().sum(-1)


def on_layers(function: Callable[..., Any]) -> Callable[..., Any]:
    def run(**arguments: Any) -> Any:
        parts = {n: g for n, g in arguments.items() if n.startswith(("weight_", "bias_"))}
        options = {n: g for n, g in arguments.items() if n not in ("x", *parts)}
        return function(arguments["x"], *layers(parts), **options)

    return run


def of_autoencoder(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda **arguments: function(**{"encoder_bias": None} | arguments)


def of_machine(function: Callable[..., Any], **fixed: Any) -> Callable[..., Any]:
    return lambda **arguments: function(
        **{"visible_bias": None, "hidden_bias": None} | arguments | fixed
    )


OPS = {
    "corrupt": Op(functional.corrupt, corrupt_arguments),
    "linear_act": Op(functional.linear_act, linear_act_arguments),
    "autoencode": Op(of_autoencoder(functional.autoencode), autoencode_arguments),
    "reconstruction_loss": Op(
        of_autoencoder(functional.reconstruction_loss), reconstruction_loss_arguments
    ),
    "contractive_penalty": Op(
        on_layers(functional.contractive_penalty), contractive_penalty_arguments, slack=4
    ),
    "jacobian": Op(on_layers(functional.jacobian), encoder_arguments, slack=4),
    "mlp": Op(on_layers(functional.mlp), mlp_arguments),
    "gibbs": Op(
        of_machine(functional.gibbs, return_probs=True), gibbs_arguments, (0, 1), gradients=False
    ),
    "contrastive_divergence": Op(
        of_machine(functional.contrastive_divergence), contrastive_divergence_arguments, (1,)
    ),
    "free_energy": Op(of_machine(functional.free_energy), machine),
    "reparameterize": Op(functional.reparameterize, reparameterize_arguments),
    "gaussian_kl": Op(functional.gaussian_kl, rows_of_a_code_arguments),
    "soft_threshold": Op(functional.soft_threshold, soft_threshold_arguments),
    "sparse_encode": Op(
        objective, sparse_encode_arguments, gradients=False, slack=100, is_minimum=True
    ),
    "topk_encode": Op(topk_values, topk_encode_arguments, gradients=False),
    "sparse_decode": Op(decoded, sparse_decode_arguments),
    "sparse_reconstruction_loss": Op(error_of_decoded, sparse_reconstruction_loss_arguments),
    "kl_sparsity": Op(functional.kl_sparsity, kl_sparsity_arguments),
    "l1_sparsity": Op(functional.l1_sparsity, activities_arguments),
}


@cache
def backends() -> list[str]:
    """The kernels that run here; Triton's interpreter seldom, for it is slow."""
    often = [name for name in ("cpp", "numba") if backend.unavailable(name, "cpu") is None]
    seldom = [name for name in ("triton",) if backend.unavailable(name, "cpu") is None]
    return often * 8 + seldom


@st.composite
def calls(draw: Any) -> Call:
    op = draw(st.sampled_from(list(OPS)))
    name = draw(st.sampled_from(backends()))
    tensors, options = OPS[op].arguments(draw)
    if name == "triton" and sum(torch.Size(g.shape).numel() for g in tensors.values()) > 600:
        name = "cpp"
    return Call(
        op,
        name,
        draw(st.sampled_from(["float32", "float32", *DTYPES])),
        tensors,
        options,
        draw(st.integers(0, 2**31)),
        draw(st.integers(1, 3)),
        draw(st.sampled_from(sorted(backend.cpu_features()))) if name == "cpp" else None,
    )


@dataclass
class Outcome:
    """What a call gave: its outputs and gradients, or the error that it raised."""

    tensors: list[Tensor] = field(default_factory=list)
    error: Exception | None = None


def outcome(call: Call, where: str, dtype: torch.dtype | None = None) -> Outcome:
    """Of the call on a backend, in another dtype if one is named."""
    op = OPS[call.op]
    inputs = call.inputs()
    before = {name: tensor.clone() for name, tensor in inputs.items()}
    converted = {n: tensor if dtype is None else tensor.to(dtype) for n, tensor in inputs.items()}
    leaves = {
        name: tensor.detach().requires_grad_(op.gradients) for name, tensor in converted.items()
    }
    try:
        with use_backend(where):
            outputs = op.run(**leaves, **call.options)
            outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
            gradients = gradients_of(outputs, leaves, call.seed) if op.gradients else []
    except Exception as error:
        return Outcome(error=error)
    for name, tensor in inputs.items():
        assert torch.equal(tensor.nan_to_num(), before[name].nan_to_num()), f"{name} was written to"
    return Outcome([output.detach() for output in outputs] + gradients)


def gradients_of(outputs: list[Tensor], leaves: dict[str, Tensor], seed: int) -> list[Tensor]:
    differentiable = [output for output in outputs if output.requires_grad]
    generator = torch.Generator().manual_seed(seed + 1)
    incoming = [
        torch.randn(output.shape, generator=generator).to(output.dtype) for output in differentiable
    ]
    if not differentiable:
        return []
    return list(
        torch.autograd.grad(differentiable, list(leaves.values()), incoming, materialize_grads=True)
    )


def check(call: Call) -> None:
    """Run the call; raises AssertionError where the kernel does other than its definition."""
    torch.set_num_threads(call.threads)
    if call.instruction_set is not None:
        backend.extension().cap_instruction_set(call.instruction_set)
    actual = outcome(call, call.backend)
    if isinstance(actual.error, BackendUnavailableError):
        return
    same_dtype = outcome(call, "eager")
    if actual.error or same_dtype.error:
        check_errors(actual.error, same_dtype.error)
        return
    exact = outcome(call, "eager", torch.float64)
    assert exact.error is None, repr(exact.error)
    if is_undecided(call):
        return
    op, eps = OPS[call.op], torch.finfo(DTYPES[call.dtype]).eps
    states = op.states if call.options.get("visible_kind") == "bernoulli" else ()
    for index, results in enumerate(
        zip(actual.tensors, same_dtype.tensors, exact.tensors, strict=True)
    ):
        actual_output, same, exact_output = results
        if op.is_minimum:
            actual_output = torch.maximum(actual_output, exact_output.to(actual_output.dtype))
        check_output(actual_output, same, exact_output, index in states, op.slack, eps)


def check_errors(actual: Exception | None, expected: Exception | None) -> None:
    """Both refuse, and at the door."""
    assert isinstance(actual, (TypeError, ValueError)), repr(actual or expected)
    assert repr(actual) == repr(expected)


def is_undecided(call: Call) -> bool:
    """Whether a probability lies so near its uniform that rounding decides the state; of a chain
    of several steps the earlier ones' are not known."""
    if call.op not in ("gibbs", "contrastive_divergence"):
        return False
    options, inputs = call.options, call.inputs()
    if options["k"] > 1:
        return True
    inputs["visible"] = inputs.pop("chain", inputs["visible"])
    inputs = {name: tensor.double() for name, tensor in inputs.items()}
    with use_backend("eager"):
        sample = OPS["gibbs"].run(**inputs, **options)
    drawn = [sample.hidden_prob]
    if options["visible_kind"] == "bernoulli":
        drawn.append(sample.visible_prob)
    near = 1e-4 if call.dtype == "float32" else 2e-2
    draws = {"row_offset": options["row_offset"]}
    return any(
        bool(
            ((random.uniform(options["seed"], *p.shape, step=step, **draws) - p).abs() < near).any()
        )
        for step, p in enumerate(drawn)
    )


def check_output(
    actual: Tensor, same: Tensor, exact: Tensor, is_state: bool, slack: float, eps: float
) -> None:
    assert actual.shape == exact.shape, f"shape {list(actual.shape)}, not {list(exact.shape)}"
    assert actual.dtype == same.dtype, f"dtype {actual.dtype}, not {same.dtype}"
    actual, same = actual.double(), same.double()
    if is_state:
        assert torch.equal(actual, exact), "other states"
        return
    both = same.isnan() & exact.isnan()
    assert actual[both].isnan().all(), "a number where torch has NaN"
    infinite = same.isinf() & (same == exact)
    assert torch.equal(actual[infinite], exact[infinite]), "not torch's infinity"
    finite = same.isfinite() & exact.isfinite()
    actual, same, exact = actual[finite], same[finite], exact[finite]
    assert actual.isfinite().all(), "not finite where torch is"
    if exact.numel() == 0:
        return
    error = (actual - exact).abs().max().item()
    allowed = TIMES * (same - exact).abs().max().item() + UNITS * eps * exact.abs().max().item()
    assert error <= slack * allowed + TINY, f"off by {error:.3g}; rounding is {allowed:.3g}"
