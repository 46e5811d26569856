"""What every module of ``aefast.nn`` has in common."""

import copy
import inspect

import pytest
import torch

from aefast import nn
from aefast.nn.autoencoder import Architecture
from aefast.nn.dictionary import DictionaryOptions
from aefast.nn.step_fields import StepFields
from aefast.step.plan import Plan

# Constructors' arguments, by their names.
SIZES = {
    "visible": 8,
    "hidden": 4,
    "latent": 4,
    "latents": 12,
    "k": 3,
    "sizes": [8, 6, 4],
    "in_features": 8,
    "out_features": 4,
}
OPTIONS = {
    "RBM": {"visible_kind": "gaussian", "learn_variance": True, "chains": 2},
    "DeepBeliefStack": {"visible_kind": "gaussian", "learn_variance": True, "chains": 2},
    "StochasticAutoencoder": {"decoder_kind": "gaussian"},
    "VariationalAutoencoder": {"decoder_kind": "gaussian"},
}
# They hold other modules' parameters, and are where those are.
HOLDERS = {"Layers", "LossModule", "TiedLinearAct"}

MODULES = [
    name
    for name in nn.__all__
    if isinstance(getattr(nn, name), type)
    and issubclass(getattr(nn, name), torch.nn.Module)
    and name not in HOLDERS
]
AUTOENCODERS = [name for name in MODULES if name.endswith("Autoencoder")]


def build(name, **options):
    torch.manual_seed(0)
    kind = getattr(nn, name)
    sizes = {size: SIZES[size] for size in inspect.signature(kind).parameters if size in SIZES}
    return kind(**sizes, **OPTIONS.get(name, {}), **options)


def rows():
    return torch.rand(6, 8, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", MODULES)
def test_every_constructor_takes_a_device_and_a_dtype(name):
    parameters = inspect.signature(getattr(nn, name)).parameters
    shared = {"architecture": Architecture, "options": DictionaryOptions}
    more = [shared[name].__annotations__ for name in shared if name in parameters]
    assert {"device", "dtype"} <= parameters.keys() | set().union(*more)
    model = build(name, device="meta", dtype=torch.float64)
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    assert tensors
    for key, tensor in tensors.items():
        assert tensor.is_meta, key
        if key == "threshold":  # a running mean, which would stand still in half precision
            continue
        assert tensor.dtype == (torch.float64 if tensor.is_floating_point() else torch.int64), key


@pytest.mark.parametrize("name", MODULES)
def test_a_layer_with_an_activation_is_no_linear_layer(name):
    """What takes an ``nn.Linear`` for x Wt + b would be wrong by the activation."""
    assert not any(isinstance(part, torch.nn.Linear) for part in build(name).modules())


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_the_encoder_and_the_decoder_are_modules(name):
    model, x = build(name).eval(), rows()
    code = model.encoder(x)
    assert isinstance(model.encoder, torch.nn.Module)
    assert isinstance(model.decoder, torch.nn.Module)
    reconstruction = model.decoder(code)
    assert torch.equal(reconstruction, model.decode(model.encode(x)))
    assert torch.equal(reconstruction, model(x))
    for part in (model.encoder, model.decoder):
        assert list(part.parameters())
        actual = {id(parameter) for parameter in model.parameters()}
        assert all(id(parameter) in actual for parameter in part.parameters())
    twin = copy.deepcopy(model)
    model.encoder.requires_grad_(False)
    assert not all(parameter.requires_grad for parameter in model.parameters())
    assert all(parameter.requires_grad for parameter in twin.encoder.parameters())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("Autoencoder", {"code_dropout": 0.5}),
        ("DenoisingAutoencoder", {}),
        ("StochasticAutoencoder", {}),
        ("VariationalAutoencoder", {}),
    ],
)
def test_forward_draws_what_the_loss_draws_and_in_training_alone(name, options):
    model, x = build(name, **options), rows()
    torch.manual_seed(1)
    first, second = model(x), model(x)
    assert not torch.equal(first, second)
    torch.manual_seed(1)
    assert torch.equal(model(x), first)
    model.eval()
    assert torch.equal(model(x), model(x))
    assert torch.equal(model(x), model.decode(model.encode(x)))


@pytest.mark.parametrize(
    "name",
    [
        "ContractiveAutoencoder",
        "SparseAutoencoder",
        "TopKSparseAutoencoder",
        "RBM",
        "DeepBeliefStack",
    ],
)
def test_where_the_loss_draws_nothing_on_the_way_forward_draws_nothing(name):
    model, x = build(name), rows()
    in_training = model(x)
    assert torch.equal(in_training, model.eval()(x))


def test_a_step_s_fields_have_the_types_of_its_plan():
    planned = {name: Plan.__annotations__[name] for name in StepFields.__annotations__}
    assert StepFields.__annotations__ == planned


@pytest.mark.parametrize("name", MODULES)
def test_a_constructor_shows_each_of_its_arguments(name):
    """In help() and on the pages, and by its own name: no ``**options``."""
    parameters = inspect.signature(getattr(nn, name)).parameters
    kinds = {parameter.kind for parameter in parameters.values()}
    assert not kinds & {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}
    assert {"device", "dtype"} <= set(parameters)


def test_a_users_own_constructor_has_its_own_signature():
    class Wider(nn.Autoencoder):
        def __init__(self, visible, *, factor=2, **options):
            super().__init__(visible, factor * visible, **options)

    assert list(inspect.signature(Wider).parameters) == ["visible", "factor", "options"]
    assert Wider(4, tied=True)(torch.rand(2, 4)).shape == (2, 4)
