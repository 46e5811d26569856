"""The models that the command line trains: constructors, options and defaults of each."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from aefast.nn import (
    RBM,
    Autoencoder,
    BatchTopKSparseAutoencoder,
    ContractiveAutoencoder,
    DeepBeliefStack,
    DenoisingAutoencoder,
    DictionaryAdam,
    GatedSparseAutoencoder,
    JumpReLUSparseAutoencoder,
    MatryoshkaSparseAutoencoder,
    SparseAutoencoder,
    StochasticAutoencoder,
    TopKSparseAutoencoder,
    VariationalAutoencoder,
)
from aefast.nn.dictionary import SparseDictionary
from aefast.nn.initialization import initialized, outlined
from aefast.training.config import Config

MOMENTUM = 0.5

ARCHITECTURE = {
    "activation": "sigmoid",
    "code_activation": None,
    "output_activation": None,
    "tied": False,
    "code_dropout": 0.0,
    "reconstruction": "mse",
}
DICTIONARY = {"aux_k": 0, "dead_after": 10_000_000, "normalize_activations": "none"}
MACHINE = {"visible_kind": "bernoulli", "learn_variance": False, "k": 1, "chains": 0}

Parameters = Iterable[nn.Parameter]
Sizes = dict[str, int | list[int]]  # a constructor's arguments
Sampler = Callable[[Any, int, int], Tensor]


def adam(parameters: Parameters, learning_rate: float) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, learning_rate, fused=True)


def dictionary_adam(parameters: Parameters, learning_rate: float) -> torch.optim.Optimizer:
    return DictionaryAdam(parameters, learning_rate, fused=True)


def gradient_descent(parameters: Parameters, learning_rate: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, learning_rate, MOMENTUM, fused=True)


def sample_model(model: Any, samples: int, seed: int) -> Tensor:
    return model.sample(samples, seed=seed)


def sample_stack(stack: DeepBeliefStack, samples: int, seed: int) -> Tensor:
    """Samples ``[N, D]``: Gibbs steps in the top machine, then the means of the lower ones."""
    *lower, top = stack
    visible = top.sample(samples, seed=seed)
    for machine in reversed(lower):
        visible = machine.visible_mean(visible)
    return visible


@dataclass(frozen=True)
class Kind:
    """A kind of model that the command line trains.

    Attributes:
        module: its class.
        sizes: turns D, H_1, ..., H_L into the constructor's arguments; ValueError for a wrong
            number of sizes.
        options: the constructor's other arguments that are options of the command line, with their
            defaults. An output activation of None depends on the data.
        unit_interval: an option and the value of it that requires data in [0, 1]; None if no
            option does.
        learning_rate: the default.
        optimizer: makes an optimizer of parameters and a learning rate.
        sample: from the model, a number of samples and a seed to ``[samples, D]``; None for a
            model that is no distribution over its data.
        hidden: the default of H_1, ..., H_L.
        rows: the name of a row in metrics, samples or tokens.
    """

    module: Callable[..., nn.Module]
    sizes: Callable[[list[int]], Sizes]
    options: Mapping[str, object]
    unit_interval: tuple[str, str] | None
    learning_rate: float = 3e-3
    optimizer: Callable[[Parameters, float], torch.optim.Optimizer] = adam
    sample: Sampler | None = None
    hidden: tuple[int, ...] = (128,)
    rows: str = "samples"


def autoencoder(module: type[nn.Module], **options: object) -> Kind:
    return Kind(
        module,
        lambda sizes: {"layers": sizes},
        {**ARCHITECTURE, **options},
        ("reconstruction", "bce"),
    )


def dictionary(module: type[SparseDictionary], **options: object) -> Kind:
    return Kind(
        module,
        dictionary_sizes,
        {**options, **DICTIONARY},
        None,
        learning_rate=3e-4,
        optimizer=dictionary_adam,
        hidden=(16384,),
        rows="tokens",
    )


def dictionary_sizes(sizes: list[int]) -> Sizes:
    if len(sizes) != 2:
        raise ValueError(f"hidden is {sizes[1:]}; a sparse dictionary takes one number of latents")
    return {"visible": sizes[0], "latents": sizes[1]}


def machine_sizes(sizes: list[int]) -> Sizes:
    if len(sizes) != 2:
        raise ValueError(f"hidden is {sizes[1:]}; rbm takes one size, dbn several")
    return {"visible": sizes[0], "hidden": sizes[1]}


def variational_sizes(sizes: list[int]) -> Sizes:
    return {"visible": sizes[0], "layers": sizes[1:-1], "latent": sizes[-1]}


MODELS = {
    "ae": autoencoder(Autoencoder),
    "dae": autoencoder(DenoisingAutoencoder, corruption="masking", corruption_level=0.3),
    "cae": autoencoder(ContractiveAutoencoder, contraction=3e-3),
    "sae": autoencoder(SparseAutoencoder, penalty="kl", sparsity_weight=1e-3, sparsity_target=0.05),
    "stochastic": Kind(
        StochasticAutoencoder,
        lambda sizes: {"layers": sizes},
        {"activation": "tanh", "decoder_kind": "bernoulli", "code_noise": 0.3},
        ("decoder_kind", "bernoulli"),
        sample=sample_model,
    ),
    "vae": Kind(
        VariationalAutoencoder,
        variational_sizes,
        {
            "activation": "tanh",
            "decoder_kind": "bernoulli",
            "variance": "shared",
            "bound": "elbo",
            "samples": 1,
            "kl_weight": 1.0,
        },
        ("decoder_kind", "bernoulli"),
        sample=sample_model,
        hidden=(128, 16),
    ),
    "rbm": Kind(
        RBM,
        machine_sizes,
        {**MACHINE, "sparsity_target": None, "sparsity_weight": 1.0},
        ("visible_kind", "bernoulli"),
        learning_rate=0.1,
        optimizer=gradient_descent,
        sample=sample_model,
    ),
    "dbn": Kind(
        DeepBeliefStack,
        lambda sizes: {"sizes": sizes},
        MACHINE,
        ("visible_kind", "bernoulli"),
        learning_rate=0.1,
        optimizer=gradient_descent,
        sample=sample_stack,
        hidden=(128, 64),
    ),
    "topk": dictionary(TopKSparseAutoencoder, k=32, rescale_acts_by_decoder_norm=False),
    "batchtopk": dictionary(BatchTopKSparseAutoencoder, k=32),
    "jumprelu": dictionary(JumpReLUSparseAutoencoder, sparsity_weight=None, bandwidth=0.05),
    "gated": dictionary(GatedSparseAutoencoder, sparsity_weight=None),
    "matryoshka": dictionary(MatryoshkaSparseAutoencoder, k=32, prefixes=None),
}

DICTIONARIES = [name for name, kind in MODELS.items() if kind.sizes is dictionary_sizes]


def build(config: Config) -> nn.Module:
    """The model of a run, initialized from its seed; torch's own generator does not change.

    Raises:
        TypeError, ValueError: as the model's constructor.
    """
    return initialized(partial(_construct, config), config.seed)


def outline(config: Config) -> nn.Module:
    """The model of a run on the meta device: shapes without memory.

    Raises:
        TypeError, ValueError: as the model's constructor.
    """
    return outlined(partial(_construct, config))


def _construct(config: Config) -> nn.Module:
    kind = MODELS[config.model]
    if config.options.keys() != kind.options.keys():
        raise ValueError(f"options are not those of {config.model}: {', '.join(kind.options)}")
    outputs = {} if config.targets is None else {"outputs": config.outputs}
    return kind.module(**kind.sizes(config.sizes), **outputs, **config.options)


def encode(model: Any, x: Tensor) -> Tensor:
    """The code, or a stack's topmost features: ``[B, D]`` to ``[B, H]``."""
    if isinstance(model, SparseDictionary):
        return model.encode_dense(x)
    return model(x) if isinstance(model, RBM | DeepBeliefStack) else model.encode(x)


def decode(model: Any, code: Tensor) -> Tensor:
    """The reconstruction, or the visible units' mean: ``[B, H]`` to ``[B, D]``.

    Raises:
        ValueError: a dictionary normalizes each row by itself.
    """
    if isinstance(model, SparseDictionary):
        return model.restore(model.decode(code))
    if not isinstance(model, RBM | DeepBeliefStack):
        return model.decode(code)
    machines = [model] if isinstance(model, RBM) else list(model)
    for machine in reversed(machines):
        code = machine.visible_mean(code)
    return code
