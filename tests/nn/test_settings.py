"""What a loss reads of a model is checked whenever it is set."""

import copy
import math
import pickle

import pytest
import torch

from aefast import nn
from aefast.nn.settings import Setting

MODELS = {
    "autoencoder": lambda: nn.Autoencoder(6, 4, output_activation="sigmoid"),
    "sparse": lambda: nn.SparseAutoencoder(6, 4),
    "denoising": lambda: nn.DenoisingAutoencoder(6, 4),
    "contractive": lambda: nn.ContractiveAutoencoder(6, 4),
    "stochastic": lambda: nn.StochasticAutoencoder(6, 4),
    "variational": lambda: nn.VariationalAutoencoder(6, 4),
    "top-k": lambda: nn.TopKSparseAutoencoder(6, 8, 2),
    "matryoshka": lambda: nn.MatryoshkaSparseAutoencoder(6, 8, 2),
    "gated": lambda: nn.GatedSparseAutoencoder(6, 8),
    "jumprelu": lambda: nn.JumpReLUSparseAutoencoder(6, 8),
    "rbm": lambda: nn.RBM(6, 4),
}


def settings_of(model):
    classes = type(model).__mro__
    return {name for cls in classes for name, value in vars(cls).items() if type(value) is Setting}


@pytest.mark.parametrize("kind", MODELS)
def test_no_setting_takes_what_it_has_no_meaning_for(kind):
    model = MODELS[kind]()
    numbers = {name for name, value in vars(model).items() if type(value) in (int, float)}
    facts = {
        "visible",
        "hidden",
        "latent",
        "latents",
        "outputs",
        "depth",
    }  # of the parameters' shapes
    assert numbers - facts <= settings_of(model)
    wrong = math.nan, math.inf, -1, True, "none", [1.0], torch.tensor(0.5)
    for name in settings_of(model):
        before = getattr(model, name)
        for value in (*wrong, torch.nn.Parameter(torch.tensor(0.5))):
            if value is True and type(before) is bool:
                continue  # a flag
            if isinstance(value, str) and value == before:
                continue  # a choice
            with pytest.raises((TypeError, ValueError), match=r"(?s) is .*(takes|made with)"):
                setattr(model, name, value)
            assert getattr(model, name) is before
    model.loss(torch.rand(3, 6)).backward()


@pytest.mark.parametrize(
    ("model", "name", "value"),
    [
        (nn.VariationalAutoencoder(6, 4, bound="importance"), "kl_weight", 0.5),
        (nn.VariationalAutoencoder(6, 4, kl_weight=0.5), "bound", "importance"),
        (nn.DenoisingAutoencoder(6, 4, corruption_level=0.5), "corruption_level", 2),
        (nn.DenoisingAutoencoder(6, 4, corruption="gaussian", corruption_level=2),
         "corruption", "masking"),
        (nn.Autoencoder(6, 4), "reconstruction", "bce"),
        (nn.SparseAutoencoder(6, 4, penalty="l1", activation="relu"), "penalty_kind", "kl"),
        (nn.RBM(6, 4, visible_kind="gaussian"), "visible_kind", "bernoulli"),
        (nn.TopKSparseAutoencoder(6, 8, 2), "k", 9),
    ],
)  # fmt: skip
def test_settings_that_exclude_each_other_are_refused_whichever_is_set_last(model, name, value):
    with pytest.raises(ValueError, match=r"takes|made with"):
        setattr(model, name, value)


def test_a_layers_activation_may_change_to_another():
    model = nn.SparseAutoencoder(6, 4)
    layers = model.encoder[0], nn.Autoencoder(6, 4, tied=True).decoder[0]
    for layer in layers:
        with pytest.raises(ValueError, match="activation is 'elu'; it takes one of identity"):
            layer.activation = "elu"
    x = torch.rand(3, 6)
    model.loss(x)
    model.encoder[0].activation = "softplus"  # a code that is no probability
    with torch.no_grad():
        model.encoder[0].bias.fill_(3)
    with pytest.raises(ValueError, match=r"code holds .*; the KL penalty takes numbers in"):
        model.loss(x)


def test_a_copy_has_its_own_settings():
    model = nn.ContractiveAutoencoder(6, 4)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        twin.contraction = 2
        assert (twin.contraction, model.contraction) == (2.0, 0.003)
        with pytest.raises(ValueError, match="contraction is nan"):
            twin.contraction = math.nan
