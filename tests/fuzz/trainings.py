"""Random trainings: aefast.fit of a random model against the loop that one writes."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

import aefast
from aefast import backend, data, use_backend
from aefast.ops.corrupt.noise import KINDS
from aefast.ops.linear_act.op import ACTIVATIONS
from aefast.random import child_seed
from aefast.training.arguments import rows_of
from aefast.training.engines import DivergenceError

# Rounding of float32, over a few steps. A machine's loss is a difference of energies, which may be
# a hundred times as large.
RELATIVE, ABSOLUTE, ABSOLUTE_LOSS = 1e-4, 1e-6, 2e-5
SEEDS_TRIED = 3

WIDTHS = st.one_of(st.integers(1, 5), st.sampled_from([8, 16, 17, 33]))
TAME_ACTIVATIONS = st.sampled_from([name for name in ACTIVATIONS if name != "relu"])
# Adam's epsilon is large, so that a gradient that is nothing but rounding is not a whole step.
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.05),
    "momentum": lambda p: torch.optim.SGD(p, 0.02, momentum=0.9, dampening=0.1, weight_decay=0.01),
    "nesterov": lambda p: torch.optim.SGD(p, 0.02, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, 1e-3, eps=1e-2, weight_decay=0.01),
    "fused": lambda p: torch.optim.Adam(p, 1e-3, eps=1e-2, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, 1e-3, eps=1e-2, weight_decay=0.1),
    "adagrad": lambda p: torch.optim.Adagrad(p, 1e-3, eps=1e-2),  # which only the loop takes
}


@dataclass(frozen=True)
class Training:
    """A model, and how it is trained."""

    kind: str
    sizes: tuple[int, ...]
    options: dict[str, Any]
    values: str  # of the data: "unit", "binary", "normal" or "bytes"
    rows: int
    batch_size: int
    epochs: int
    optimizer: str
    seed: int
    threads: int
    instruction_set: str | None

    def model(self) -> nn.Module:
        torch.manual_seed(self.seed)
        return getattr(aefast.nn, self.kind)(*self.sizes, **self.options)

    def data(self) -> Tensor:
        visible = self.options["layers"][0] if not self.sizes else self.sizes[0]
        generator = torch.Generator().manual_seed(self.seed)
        normal = torch.randn(self.rows, visible, generator=generator)
        if self.values == "normal":
            return normal
        unit = torch.special.ndtr(normal)
        if self.values == "bytes":
            return (255 * unit).to(torch.uint8)
        return unit.round() if self.values == "binary" else unit


def _layered(draw: Any) -> dict[str, Any]:
    """An encoder and decoder of one hidden layer or more."""
    options = {
        "layers": draw(st.lists(WIDTHS, min_size=2, max_size=4)),
        "activation": draw(TAME_ACTIVATIONS),
        "code_activation": draw(st.one_of(st.none(), TAME_ACTIVATIONS)),
        "tied": draw(st.booleans()),
        "code_dropout": draw(st.sampled_from([0.0, 0.0, 0.3])),
        "reconstruction": draw(st.sampled_from(["mse", "bce"])),
    }
    is_bce = options["reconstruction"] == "bce"
    return options | {"output_activation": "sigmoid" if is_bce else draw(TAME_ACTIVATIONS)}


def autoencoder_arguments(draw: Any) -> Any:
    return (), _layered(draw)


def denoising_arguments(draw: Any) -> Any:
    options = _layered(draw) | {"corruption": draw(st.sampled_from(list(KINDS)))}
    return (), options | {"corruption_level": draw(st.sampled_from([0.0, 0.3, 1.0]))}


def contractive_arguments(draw: Any) -> Any:
    return (), _layered(draw) | {"contraction": draw(st.sampled_from([0.0, 0.003, 0.1]))}


def sparse_arguments(draw: Any) -> Any:
    penalty = draw(st.sampled_from(["kl", "l1"]))
    options = _layered(draw) | {"penalty": penalty, "sparsity_weight": 0.01}
    return (), options | ({"code_activation": "sigmoid"} if penalty == "kl" else {})


def stochastic_arguments(draw: Any) -> Any:
    return (), {
        "layers": draw(st.lists(WIDTHS, min_size=2, max_size=4)),
        "activation": draw(TAME_ACTIVATIONS),
        "code_noise": draw(st.sampled_from([0.1, 0.3, 1.0])),
        "decoder_kind": draw(st.sampled_from(["bernoulli", "gaussian"])),
    }


def variational_arguments(draw: Any) -> Any:
    bound = draw(st.sampled_from(["elbo", "elbo", "importance"]))
    return (draw(WIDTHS), draw(WIDTHS)), {
        "layers": draw(st.lists(WIDTHS, max_size=2)),
        "activation": draw(TAME_ACTIVATIONS),
        "decoder_kind": draw(st.sampled_from(["bernoulli", "gaussian"])),
        "variance": draw(st.sampled_from(["shared", "units"])),
        "bound": bound,
        "samples": draw(st.integers(1, 3)),
        "kl_weight": 1.0 if bound == "importance" else draw(st.sampled_from([0.0, 0.5, 1.0])),
    }


def machine_arguments(draw: Any) -> Any:
    kind = draw(st.sampled_from(["bernoulli", "gaussian"]))
    return (draw(WIDTHS), draw(WIDTHS)), {
        "visible_kind": kind,
        "learn_variance": kind == "gaussian" and draw(st.booleans()),
        "k": draw(st.integers(1, 2)),
        "chains": draw(st.sampled_from([0, 0, 5])),
        "sparsity_target": draw(st.sampled_from([None, 0.1])),
    }


def _dictionary(draw: Any, latents: int) -> dict[str, Any]:
    """Options of all dictionaries. Few rows make a latent dead, so that some are."""
    return {
        "aux_k": draw(st.integers(0, latents)),
        "aux_weight": draw(st.sampled_from([0.03, 0.5])),
        "dead_after": draw(st.sampled_from([0, 10, 100])),
        "normalize_activations": draw(st.sampled_from(["none", "none", "constant_norm_rescale"])),
    }


def topk_arguments(draw: Any) -> Any:
    latents = draw(WIDTHS)
    options = {"rescale_acts_by_decoder_norm": draw(st.booleans())}
    sizes = draw(WIDTHS), latents, draw(st.integers(1, latents))
    return sizes, options | _dictionary(draw, latents)


def batch_topk_arguments(draw: Any) -> Any:
    latents = draw(WIDTHS)
    sizes = draw(WIDTHS), latents, draw(st.sampled_from([0.5, 1.0, float(latents)]))
    return sizes, _dictionary(draw, latents)


def jumprelu_arguments(draw: Any) -> Any:
    latents = draw(WIDTHS)
    options = {
        "sparsity_weight": draw(st.sampled_from([0.0, 0.1])),
        "bandwidth": draw(st.sampled_from([0.05, 1.0])),
        "estimator": draw(st.sampled_from(["rectangle", "tanh"])),
    }
    return (draw(WIDTHS), latents), options | _dictionary(draw, latents)


def gated_arguments(draw: Any) -> Any:
    latents = draw(WIDTHS)
    options = {"sparsity_weight": draw(st.sampled_from([0.0, 0.1]))}
    return (draw(WIDTHS), latents), options | _dictionary(draw, latents)


MODELS = {
    "Autoencoder": autoencoder_arguments,
    "DenoisingAutoencoder": denoising_arguments,
    "ContractiveAutoencoder": contractive_arguments,
    "SparseAutoencoder": sparse_arguments,
    "StochasticAutoencoder": stochastic_arguments,
    "VariationalAutoencoder": variational_arguments,
    "RBM": machine_arguments,
    "TopKSparseAutoencoder": topk_arguments,
    "BatchTopKSparseAutoencoder": batch_topk_arguments,
    "MatryoshkaSparseAutoencoder": batch_topk_arguments,
    "JumpReLUSparseAutoencoder": jumprelu_arguments,
    "GatedSparseAutoencoder": gated_arguments,
}


@st.composite
def trainings(draw: Any) -> Training:
    kind = draw(st.sampled_from(list(MODELS)))
    sizes, options = MODELS[kind](draw)
    is_unit = options.get("reconstruction") == "bce" or options.get("decoder_kind") == "bernoulli"
    is_unit |= options.get("visible_kind") == "bernoulli"
    values = ["unit", "binary", "bytes"] if is_unit else ["unit", "normal", "bytes"]
    return Training(
        kind,
        sizes,
        options,
        draw(st.sampled_from(values)),
        rows=draw(st.integers(1, 40)),
        batch_size=draw(st.integers(1, 50)),
        epochs=draw(st.integers(0, 3)),
        optimizer=draw(st.sampled_from(list(OPTIMIZERS))),
        seed=draw(st.integers(0, 2**31)),
        threads=draw(st.integers(1, 3)),
        instruction_set=draw(st.sampled_from(sorted(backend.cpu_features()) or [None])),
    )


def fitted(training: Training, seed: int) -> tuple[nn.Module, list[float]]:
    model = training.model()
    optimizer = OPTIMIZERS[training.optimizer](model.parameters())
    history = aefast.fit(
        model,
        training.data(),
        optimizer,
        epochs=training.epochs,
        batch_size=training.batch_size,
        seed=seed,
    )
    return model, history.losses.tolist()


def looped(training: Training, seed: int) -> tuple[nn.Module, list[float]]:
    """As the documentation of aefast.fit writes it."""
    model, losses = training.model(), []
    optimizer = OPTIMIZERS[training.optimizer](model.parameters())
    samples = rows_of(training.data(), "data", model)
    for epoch in range(training.epochs):
        minibatches = data.batches(samples, training.batch_size, seed=seed, epoch=epoch)
        for number, x in enumerate(minibatches):
            optimizer.zero_grad()
            loss = model.loss(x, seed=child_seed(child_seed(seed, epoch), number))
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return model, losses


def difference(training: Training, seed: int) -> str:
    """What fit does otherwise than the loop, or nothing."""
    with use_backend("eager"):
        other, expected = looped(training, seed)
    try:
        model, losses = fitted(training, seed)
    except DivergenceError as error:
        is_right = not all(map(math.isfinite, expected))
        return "" if is_right else f"{error}, where the loop's losses are {expected}"
    if len(losses) != len(expected):
        return f"{len(losses)} steps, not {len(expected)}"
    if not close(torch.tensor(losses), torch.tensor(expected), ABSOLUTE_LOSS):
        return f"losses {losses}, not {expected}"
    others = dict(other.named_parameters())
    for name, parameter in model.named_parameters():
        if not close(parameter.detach(), others[name].detach()):
            error = (parameter - others[name]).abs().max().item()
            return f"{name} is off by {error:.3g}"
    return ""


def close(actual: Tensor, expected: Tensor, absolute: float = ABSOLUTE) -> bool:
    return torch.allclose(actual, expected, rtol=RELATIVE, atol=absolute, equal_nan=True)


def check(training: Training) -> None:
    """Train; raises AssertionError where fit ends elsewhere than the loop, whatever the seed: a
    state that rounding decides is met with one, and not with the next."""
    torch.set_num_threads(training.threads)
    if training.instruction_set is not None:
        backend.extension().cap_instruction_set(training.instruction_set)
    for seed in range(training.seed, training.seed + SEEDS_TRIED):
        message = difference(training, seed)
        if not message:
            return
    raise AssertionError(message)
