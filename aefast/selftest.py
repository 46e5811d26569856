"""Whether the kernels of this installation compute what the definitions do: ``aefast selftest``.

Every case of :func:`cases` runs forward and backward, on every backend and device that is here. The
truth is the eager definition in float64 on the same inputs and the same seed. Errors are root mean
squares, in units of the one that the eager definition makes in the kernel's dtype and a quarter of
the last place of the largest element: at most two of them pass, as in the package's own tests.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from aefast import backend
from aefast import functional as F

LIMIT = 2.0


@dataclass(frozen=True)
class Case:
    """A function of tensors, which are rounded to each of the dtypes in turn."""

    op: str  # its folder in aefast.ops
    name: str
    function: Callable[..., Any]
    inputs: tuple[Tensor, ...]
    same_bits: bool = False  # whether a kernel must give eager's own result, to the last bit
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16)


@dataclass(frozen=True)
class Place:
    """Where kernels run."""

    backend: str
    device: str


@dataclass(frozen=True)
class Outcome:
    """How one case went in one dtype."""

    case: Case
    place: Place
    dtype: torch.dtype
    error: float  # in units of eager's; 0 where all bits are eager's
    message: str = ""  # of what the kernel raised

    @property
    def passed(self) -> bool:
        return not self.message and self.error <= (0.0 if self.case.same_bits else LIMIT)


def cases() -> list[Case]:
    """All of them, with at least one for each op; no size is a multiple of anything."""
    draw = torch.Generator().manual_seed(0)
    normal = partial(torch.randn, generator=draw)
    uniform = partial(torch.rand, generator=draw)
    x, weight, bias = uniform(33, 47), normal(31, 47) / 4, normal(31) / 2
    layer = x, weight, bias
    autoencoder = *layer, normal(47, 31) / 3, normal(47) / 2
    deep = *layer, normal(13, 31) / 3, normal(13) / 2
    code, log_var = normal(37, 129), normal(37, 129)
    machine = (uniform(40, 47) < 0.5).float(), weight, normal(47) / 2, bias
    atoms = torch.nn.functional.normalize(normal(19, 47))
    seed = {"seed": 2**40 + 5, "row_offset": 11}
    exact: dict[str, Any] = {"same_bits": True}
    states: dict[str, Any] = {"dtypes": (torch.float32,)}  # drawn states have one dtype
    return [
        Case(
            "corrupt", "masking", lambda x: F.corrupt(x, "masking", 0.3, **seed), (code,), **exact
        ),
        Case(
            "corrupt",
            "salt and pepper, transposed",
            lambda x: F.corrupt(x.t(), "salt_and_pepper", 0.3, low=-0.3, high=0.7, **seed),
            (code,),
            **exact,
        ),
        Case("corrupt", "gaussian", lambda x: F.corrupt(x, "gaussian", 0.7, **seed), (code,)),
        Case("linear_act", "sigmoid", partial(F.linear_act, activation="sigmoid"), layer),
        Case("linear_act", "gelu", partial(F.linear_act, activation="gelu"), layer),
        Case(
            "linear_act",
            "two layers",
            lambda x, w, b, v, c: F.mlp(x, [w, v], [b, c], ["silu", "tanh"]),
            autoencoder,
        ),
        Case("reconstruction", "autoencoder", F.autoencode, autoencoder),
        Case(
            "reconstruction",
            "cross-entropy, masking",
            lambda *inputs: F.reconstruction_loss(
                *inputs,
                output_activation="sigmoid",
                loss="bce",
                corruption="masking",
                corruption_level=0.3,
                **seed,
            ),
            autoencoder,
        ),
        Case(
            "reconstruction",
            "squared error, tied, contractive",
            lambda x, w, b: F.reconstruction_loss(
                x, w, b, activation="tanh", contraction=0.1, reduction="sum"
            ),
            layer,
        ),
        Case("jacobian", "penalty", F.contractive_penalty, layer),
        Case(
            "jacobian",
            "penalty of two layers",
            lambda x, w, b, v, c: F.contractive_penalty(x, [w, v], [b, c], "tanh"),
            deep,
        ),
        Case(
            "jacobian",
            "estimated penalty",
            lambda x, w, b, v, c: F.contractive_penalty(
                x, [w, v], [b, c], method="hutchinson", probes=3, hessian_noise=0.3, **seed
            ),
            deep,
        ),
        Case("jacobian", "jacobian", F.jacobian, layer),
        Case(
            "gibbs",
            "chain",
            lambda *parts: F.gibbs(*parts, k=2, **seed)[:2],
            machine,
            **exact,
            **states,
        ),
        Case(
            "gibbs",
            "probabilities",
            lambda *parts: F.gibbs(*parts, k=2, return_probs=True, **seed)[2:],
            machine,
            **states,
        ),
        Case(
            "gibbs",
            "Gaussian units",
            lambda *parts: F.gibbs(*parts, visible_kind="gaussian", **seed)[:2],
            machine,
            **states,
        ),
        Case(
            "gibbs",
            "contrastive divergence",
            lambda *parts: F.contrastive_divergence(*parts, k=2, **seed),
            machine,
            **states,
        ),
        Case("gibbs", "free energy", F.free_energy, machine, **states),
        Case("gaussian", "sample", lambda m, v: F.reparameterize(m, v, **seed), (code, log_var)),
        Case("gaussian", "divergence", F.gaussian_kl, (code, log_var)),
        Case("sparsity", "kl", lambda code: F.kl_sparsity(code, 0.07), (uniform(257, 131),)),
        Case("sparsity", "l1", F.l1_sparsity, (code,)),
        Case("sparse_coding", "threshold", lambda x: F.soft_threshold(x, 0.3), (code,), **exact),
        Case(
            "sparse_coding",
            "codes",
            lambda x, atoms: F.sparse_encode(x, atoms, 0.1, tolerance=0.0),
            (x, atoms),
        ),
    ]


def places() -> list[Place]:
    """Every backend but the definition itself, on every device that it serves here."""
    devices = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    return [
        Place(name, device)
        for device in devices
        for name in backend.BACKENDS
        if name != "eager" and backend.unavailable(name, torch.device(device).type) is None
    ]


def run(places: Sequence[Place], cases: Sequence[Case]) -> Iterator[Outcome]:
    """Each case, in each of its dtypes, at each place."""
    for place in places:
        for case in cases:
            for dtype in case.dtypes:
                try:
                    yield Outcome(case, place, dtype, error(case, place, dtype))
                except Exception as raised:  # one kernel's failure must not hide another's
                    message = f"{type(raised).__name__}: {raised}"
                    yield Outcome(case, place, dtype, float("inf"), message)


def error(case: Case, place: Place, dtype: torch.dtype) -> float:
    """The largest among the outputs' and the gradients' errors, in units of eager's."""
    found = results(case, place, dtype, dtype)
    definition = Place("eager", place.device)
    same_dtype = results(case, definition, dtype, dtype)
    truth = results(case, definition, dtype, torch.float64)
    ratios = [
        _in_units(*triple)
        for triple in zip(found, same_dtype, truth, strict=True)
        if not torch.equal(triple[0], triple[1])
    ]
    return torch.stack(ratios).max().item() if ratios else 0.0  # a NaN stays one


def results(case: Case, place: Place, rounding: torch.dtype, dtype: torch.dtype) -> list[Tensor]:
    """Outputs and gradients in `dtype` of inputs and incoming gradients rounded to `rounding`."""

    def rounded(tensor: Tensor) -> Tensor:
        return tensor.to(rounding).to(place.device, dtype)

    leaves = [rounded(tensor).requires_grad_() for tensor in case.inputs]
    with backend.use_backend(place.backend):
        outputs = case.function(*leaves)
        outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
        smooth = [output for output in outputs if output.requires_grad]
        if smooth:
            incoming = [
                rounded(torch.linspace(0.5, 2, output.numel())).reshape(output.shape)
                for output in smooth
            ]
            outputs += torch.autograd.grad(smooth, leaves, incoming)
    return [output.detach() for output in outputs]


def _in_units(kernel: Tensor, same_dtype: Tensor, truth: Tensor) -> Tensor:
    last_place = torch.finfo(kernel.dtype).eps * truth.abs().max()
    unit = _root_mean_square(same_dtype - truth) + last_place / 4
    return _root_mean_square(kernel - truth) / unit


def _root_mean_square(tensor: Tensor) -> Tensor:
    return tensor.square().mean().sqrt()
