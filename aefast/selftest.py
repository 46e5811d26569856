"""Whether the kernels of this installation compute what the definitions do: ``aefast selftest``.

Every case of :func:`cases` runs forward and backward, on every backend and device that is here. The
truth is the eager definition in float64 on the same inputs and the same seed. Errors are root mean
squares, in units of the one that the eager definition makes in the kernel's dtype and a quarter of
the last place of the largest element: at most two of them pass, as in the package's own tests.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from aefast import backend
from aefast import functional as F

LIMIT = 2.0
FEW = 100
SEED: dict[str, Any] = {"seed": 2**40 + 5, "row_offset": 11}
STATES = (torch.float32,)  # a state drawn from a half precision's rounding is another state


@dataclass(frozen=True)
class Case:
    """A function of tensors, which are rounded to each of the dtypes in turn."""

    op: str  # its folder in aefast.ops
    name: str
    function: Callable[..., Any]
    inputs: tuple[Tensor, ...]
    same_bits: bool = False  # whether a kernel must give eager's own result, to the last bit
    dtypes: tuple[torch.dtype, ...] = backend.KERNEL_DTYPES


@dataclass(frozen=True)
class Target:
    """Where kernels run."""

    backend: str
    device: str

    def __str__(self) -> str:
        return f"{self.backend} ({self.device})"


@dataclass(frozen=True)
class Outcome:
    """How one case went in one dtype."""

    case: Case
    target: Target
    dtype: torch.dtype
    error: float  # in units of eager's; 0 where all bits are eager's
    raised: str = ""  # what the kernel ended with instead

    @property
    def passed(self) -> bool:
        return self.error <= (0.0 if self.case.same_bits else LIMIT)

    def __str__(self) -> str:
        what = "other bits" if self.case.same_bits else f"error {self.error:.3g}"
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.case.op}, {self.case.name}, {self.target}, {dtype}: {self.raised or what}"


def cases() -> list[Case]:
    """All of them, op by op, with at least one for each; no size is a multiple of anything."""
    draw = torch.Generator().manual_seed(0)
    normal = partial(torch.randn, generator=draw)
    uniform = partial(torch.rand, generator=draw)
    layer = uniform(33, 47), normal(31, 47) / 4, normal(31) / 2
    autoencoder = *layer, normal(47, 31) / 3, normal(47) / 2
    deep = *layer, normal(13, 31) / 3, normal(13) / 2
    machine = (uniform(40, 47) < 0.5).float(), normal(31, 47) / 4, normal(47) / 2, normal(31) / 2
    code, log_var, activity = normal(37, 129), normal(37, 129), uniform(257, 131)
    sparse = normal(33, 47), torch.nn.functional.normalize(normal(19, 47))

    masking = partial(F.corrupt, kind="masking", level=0.3, **SEED)
    salt = partial(F.corrupt, kind="salt_and_pepper", level=0.3, low=-0.3, **SEED)
    noise = partial(F.corrupt, kind="gaussian", level=0.7, **SEED)
    transposed = (code.t(),)
    entropy = partial(F.reconstruction_loss, output_activation="sigmoid", loss="bce")
    denoising = partial(entropy, corruption="masking", corruption_level=0.3, **SEED)
    contractive = partial(F.reconstruction_loss, contraction=0.1, reduction="sum")
    estimated = partial(F.contractive_penalty, method="hutchinson", probes=3, **SEED)
    chain = partial(F.gibbs, k=2, **SEED)
    gaussian_units = partial(F.gibbs, visible_kind="gaussian", **SEED)
    divergence = partial(F.contrastive_divergence, k=2, **SEED)
    two_layers = partial(F.mlp, activations=["silu", "tanh"])
    codes = partial(F.sparse_encode, penalty=0.1, tolerance=0.0)
    shrink = partial(F.soft_threshold, threshold=0.3)
    largest = layer[0].round(), (2 * layer[1]).round(), (2 * layer[2]).round()
    named = torch.randint(31, (33, 5), generator=draw, dtype=torch.int64, device="cpu")
    return [
        Case("corrupt", "masking", masking, (code,), same_bits=True),
        Case("corrupt", "salt and pepper", salt, (code,), same_bits=True),
        Case("corrupt", "Gaussian noise, transposed", noise, transposed),
        Case("linear_act", "sigmoid", partial(F.linear_act, activation="sigmoid"), layer),
        Case("linear_act", "gelu", partial(F.linear_act, activation="gelu"), layer),
        Case("linear_act", "two layers", _stacked(two_layers), deep),
        Case("reconstruction", "autoencoder", F.autoencode, autoencoder),
        Case("reconstruction", "denoising loss", denoising, autoencoder),
        Case("reconstruction", "contractive loss, tied", contractive, layer),
        Case("contractive", "Jacobian", F.jacobian, layer),
        Case("contractive", "penalty", F.contractive_penalty, layer),
        Case("contractive", "penalty, two layers", _stacked(F.contractive_penalty), deep),
        Case("contractive", "estimated penalty", _stacked(estimated), deep),
        Case("rbm", "chain", chain, machine, same_bits=True, dtypes=STATES),
        Case("rbm", "probabilities", partial(chain, return_probs=True), machine, dtypes=STATES),
        Case("rbm", "Gaussian units", gaussian_units, machine, dtypes=STATES),
        Case("rbm", "contrastive divergence", divergence, machine, dtypes=STATES),
        Case("rbm", "free energy", F.free_energy, machine, dtypes=STATES),
        Case("variational", "sample", partial(F.reparameterize, **SEED), (code, log_var)),
        Case("variational", "divergence", F.gaussian_kl, (code, log_var)),
        Case("sparsity", "divergence", partial(F.kl_sparsity, target=0.07), (activity,)),
        Case("sparsity", "magnitude", F.l1_sparsity, (code,)),
        Case("sparse_coding", "codes", codes, sparse),
        Case("sparse_coding", "threshold", shrink, (code,), same_bits=True),
        Case("topk", "largest", partial(F.topk_encode, k=5), largest),
        Case("topk", "decoded", lambda *t: _decoded(named, *t), (code[:33, :5], *layer[1:2])),
    ]


def _stacked(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, which takes lists, of x, weight, bias, weight and bias."""
    return lambda x, w, b, v, c: function(x, [w, v], [b, c])


def _decoded(latents: Tensor, values: Tensor, weight: Tensor) -> Tensor:
    return F.sparse_decode(values, latents.to(values.device), weight)


def targets() -> list[Target]:
    """Every backend but the definition itself, on every device that it serves here."""
    return [
        Target(name, device)
        for device in ("cpu", *backend.cuda_devices())
        for name in backend.BACKENDS
        if name != "eager" and backend.unavailable(name, device) is None
    ]


def run(targets: Sequence[Target], cases: Sequence[Case]) -> Iterator[Outcome]:
    """Each case at each target, in each of its dtypes."""
    for case in cases:
        for target in targets:
            for dtype in case.dtypes:
                try:
                    yield Outcome(case, target, dtype, error(case, target, dtype))
                except Exception as raised:  # one kernel's failure must not hide another's
                    yield Outcome(case, target, dtype, math.inf, repr(raised))


def error(case: Case, target: Target, dtype: torch.dtype) -> float:
    """The largest among the outputs' and the gradients' errors, in units of eager's."""
    computed = results(case, target, dtype, dtype)
    definition = Target("eager", target.device)
    same_dtype = results(case, definition, dtype, dtype)
    truth = results(case, definition, dtype, torch.float64)
    ratios = [
        _in_units(*triple)
        for triple in zip(computed, same_dtype, truth, strict=True)
        if not torch.equal(triple[0], triple[1])
    ]
    return torch.stack(ratios).max().item() if ratios else 0.0  # a NaN stays one


def results(case: Case, target: Target, rounding: torch.dtype, dtype: torch.dtype) -> list[Tensor]:
    """Outputs and gradients in `dtype` of inputs and incoming gradients rounded to `rounding`."""

    def rounded(tensor: Tensor) -> Tensor:
        return tensor.to(rounding).to(target.device, dtype)

    leaves = [rounded(tensor).requires_grad_() for tensor in case.inputs]
    with backend.use_backend(target.backend):
        outputs = case.function(*leaves)
        outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
        outputs = [output for output in outputs if output is not None]
        smooth = [output for output in outputs if output.requires_grad]
        if smooth:
            incoming = [
                rounded(
                    torch.linspace(0.5, 2, output.numel(), dtype=torch.float32, device="cpu")
                ).reshape(output.shape)
                for output in smooth
            ]
            outputs += torch.autograd.grad(smooth, leaves, incoming)
    return [output.detach() for output in outputs]


def _in_units(kernel: Tensor, same_dtype: Tensor, truth: Tensor) -> Tensor:
    last_place = torch.finfo(kernel.dtype).eps * truth.abs().max()
    # Of a few elements, as of a loss, eager may be exact by luck.
    last_places = 2.0 if truth.numel() < FEW else 0.25
    unit = _root_mean_square(same_dtype - truth) + last_places * last_place
    return _root_mean_square(kernel - truth) / unit


def _root_mean_square(tensor: Tensor) -> Tensor:
    return tensor.square().mean().sqrt()
