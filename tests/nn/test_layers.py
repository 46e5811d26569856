"""A model's encoder and decoder are modules, whose layers are the model's."""

import copy
import pickle

import pytest
import torch
from torch import nn

from aefast.nn import Autoencoder, LinearAct, StochasticAutoencoder, VariationalAutoencoder


@pytest.fixture
def x():
    return torch.rand(6, 8, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(
    "model",
    [
        Autoencoder(layers=[8, 5, 3], activation="tanh"),
        Autoencoder(layers=[8, 5, 3], tied=True),
        StochasticAutoencoder(8, 3),
        VariationalAutoencoder(8, 3, layers=[5]),
    ],
)
def test_they_encode_and_decode(model, x):
    code = model.encode(x)
    assert torch.equal(model.encoder(x), code)
    assert torch.equal(model.decoder(code), model.decode(code))
    assert torch.equal(nn.Sequential(model.encoder, model.decoder)(x), model.decode(code))


def test_a_variational_encoder_gives_the_log_variance_as_well(x):
    model = VariationalAutoencoder(8, 3, layers=[5])
    both = torch.cat(model.encoder(x, with_log_var=True), -1)
    assert torch.equal(model.encoder[-1](model.encoder[0](x)), both)
    assert torch.equal(both, torch.cat(model.posterior(x), -1))
    assert torch.equal(nn.Sequential(*model.encoder[:])(x), both)


def test_they_are_no_modules_of_the_model_twice():
    model = Autoencoder(layers=[8, 5, 3])
    names = [f"{number}.{kind}" for number in (0, 2, 4, 6) for kind in ("weight", "bias")]
    assert list(model.state_dict()) == names
    assert [name for name, _ in model.named_parameters()] == names
    assert [name for name, _ in model.named_children()] == ["0", "2", "4", "6"]


def test_they_are_indexed_as_lists():
    model = Autoencoder(layers=[8, 5, 3])
    first, second = model.encoder
    assert model.encoder[0] is first is model.get_submodule("0")
    assert model.encoder[-1] is second is model.encoder[1:][0]
    assert list(reversed(model.encoder)) == [second, first]
    assert len(model.decoder) == 2
    assert model.decoder[1] is model.get_submodule("6")
    with pytest.raises(IndexError):
        model.encoder[2]


def test_freezing_and_modes_reach_the_layers(x):
    model = Autoencoder(layers=[8, 5, 3])
    model.encoder.requires_grad_(False).eval().double()
    assert [p.requires_grad for p in model.parameters()] == 4 * [False] + 4 * [True]
    assert not model.encoder[0].training
    assert model.decoder[0].training
    assert model.encoder[0].weight.dtype == torch.float64
    assert list(model.encoder.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]


@pytest.mark.parametrize("way", ["index", "attribute", "add_module", "the model's"])
def test_a_layer_in_anothers_place_is_in_both(way, x):
    model = Autoencoder(layers=[8, 5, 3])
    layer = nn.Linear(5, 3)
    if way == "index":
        model.encoder[-1] = layer
    elif way == "attribute":
        setattr(model.encoder, "1", layer)
    elif way == "add_module":
        model.encoder.add_module("1", layer)
    else:
        model.add_module("2", layer)
    assert model.encoder[1] is layer is model.get_submodule("2")
    assert torch.equal(model.encode(x), layer(model.encoder[0](x)))


def test_the_number_of_layers_stays():
    model = Autoencoder(layers=[8, 5, 3])
    with pytest.raises(KeyError, match="'2' is not in this part; it takes one of 0, 1"):
        model.encoder.add_module("2", nn.Linear(3, 3))
    with pytest.raises(TypeError, match="'1' can't be removed"):
        del model.encoder._modules["1"]


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_s_encoder_is_the_copy_s(duplicate, x):
    model = Autoencoder(layers=[8, 5, 3], tied=True)
    twin = duplicate(model)
    assert torch.equal(twin.encoder(x), model.encoder(x))
    with torch.no_grad():
        model.encoder[0].weight.zero_()
    assert twin.encoder[0] is twin.get_submodule("0")
    assert twin.encoder[0].weight.any()
    assert twin.decoder[-1].weight.any()


def test_a_replica_s_encoder_is_the_replica_s():
    """As ``DataParallel`` makes them: their layers are put in one by one."""
    replica = Autoencoder(layers=[8, 3])._replicate_for_data_parallel()
    replica._modules["0"] = layer = LinearAct(8, 3)
    assert replica.encoder[0] is layer


@pytest.mark.parametrize("kind", [Autoencoder, StochasticAutoencoder, VariationalAutoencoder])
def test_hooks_on_them_run_with_the_model_and_its_loss(kind, x):
    model, hooked = kind(8, 3), []
    model.loss(x)  # whose plan is kept
    model.encoder.register_forward_hook(lambda *call: hooked.append("encoder"))
    model.decoder.register_forward_hook(lambda *call: hooked.append("decoder"))
    model(x)
    model.loss(x)
    assert hooked == 2 * ["encoder", "decoder"]


def test_a_part_is_not_put_aside():
    """It would be kept beside the model's layers, and never called."""
    model = Autoencoder(8, 3)
    with pytest.raises(AttributeError, match="encoder is made of the model's layers"):
        model.encoder = nn.Sequential(nn.Linear(8, 3))
