"""LinearAct and MLP: PyTorch's initial parameters, and the plain layers' outputs and gradients."""

import doctest

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aefast.nn import DenoisingAutoencoder, LinearAct, denoising, linear
from aefast.ops.linear_act.eager import ACTIVATIONS as DEFINITIONS
from aefast.ops.linear_act.op import ACTIVATIONS


def plain_sequential() -> nn.Sequential:
    return nn.Sequential(nn.Linear(12, 5), nn.Sigmoid(), nn.Linear(5, 12), nn.Sigmoid())


@pytest.fixture
def x() -> Tensor:
    return torch.rand(9, 12, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("bias", [True, False])
def test_linear_act_is_a_linear_layer_and_its_activation(
    activation: str, bias: bool, x: Tensor
) -> None:
    layer = LinearAct(12, 5, bias=bias, activation=activation)
    plain = nn.Linear(12, 5, bias=bias)
    plain.load_state_dict(layer.state_dict())
    actual, expected = layer(x), DEFINITIONS[activation](plain(x))
    torch.testing.assert_close(actual, expected)
    actual.square().sum().backward()
    expected.square().sum().backward()
    for ours, theirs in zip(layer.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_linear_act_starts_with_the_parameters_of_nn_linear() -> None:
    torch.manual_seed(0)
    plain = nn.Linear(7, 3)
    torch.manual_seed(0)
    layer = LinearAct(7, 3, activation="relu")
    assert torch.equal(layer.weight, plain.weight)
    assert torch.equal(layer.bias, plain.bias)


def test_linear_act_loads_the_state_of_nn_linear() -> None:
    plain, layer = nn.Linear(7, 3), LinearAct(7, 3)
    layer.load_state_dict(plain.state_dict())
    assert torch.equal(layer.weight, plain.weight)


def test_linear_act_takes_any_leading_dimensions() -> None:
    assert LinearAct(7, 3)(torch.rand(2, 4, 7)).shape == (2, 4, 3)


def test_linear_act_says_its_activation() -> None:
    assert "in_features=7, out_features=3, bias=False, activation='tanh'" in repr(
        LinearAct(7, 3, bias=False, activation="tanh")
    )


def test_linear_act_refuses_an_unknown_activation_when_it_is_made() -> None:
    with pytest.raises(ValueError, match=r"activation is 'swish'; .* silu"):
        LinearAct(7, 3, activation="swish")


def test_the_autoencoder_and_a_plain_sequential_load_each_other(x: Tensor) -> None:
    plain, model = plain_sequential(), DenoisingAutoencoder(12, 5)
    model.load_state_dict(plain.state_dict())
    torch.testing.assert_close(model.eval()(x), plain(x))

    another = plain_sequential()
    another.load_state_dict(model.state_dict())
    assert torch.equal(another(x), plain(x))


def test_the_autoencoder_decodes_its_code(x: Tensor) -> None:
    model = DenoisingAutoencoder(12, 5, activation="tanh", output_activation="identity").eval()
    code = model.encode(x)
    assert code.shape == (9, 5)
    assert code.min() < 0  # tanh, where a sigmoid is positive
    assert torch.equal(model.decode(code), model(x))


def test_the_autoencoder_corrupts_in_training_only(x: Tensor) -> None:
    model = DenoisingAutoencoder(12, 5, corruption_level=1.0)
    assert torch.equal(model(x), model.decode(model.encode(torch.zeros_like(x))))
    assert torch.equal(model.eval()(x), model.decode(model.encode(x)))


@pytest.mark.parametrize("corruption", ["masking", "salt_and_pepper", "gaussian"])
def test_torch_manual_seed_governs_the_corruption(corruption: str, x: Tensor) -> None:
    model = DenoisingAutoencoder(12, 5, corruption=corruption, corruption_level=0.5)
    torch.manual_seed(1)
    first, second = model(x), model(x)
    torch.manual_seed(1)
    assert torch.equal(model(x), first)
    assert not torch.equal(first, second)


def test_the_loss_compares_with_the_clean_input(x: Tensor) -> None:
    model = DenoisingAutoencoder(12, 5, corruption_level=1.0)
    reconstruction = model.decode(model.encode(torch.zeros_like(x)))
    torch.testing.assert_close(model.loss(x), F.mse_loss(reconstruction, x))


def test_training_lowers_the_loss(x: Tensor) -> None:
    torch.manual_seed(0)
    model = DenoisingAutoencoder(12, 5, corruption_level=0.1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    before = model.eval().loss(x).item()
    model.train()
    for _ in range(150):
        optimizer.zero_grad()
        model.loss(x).backward()
        optimizer.step()
    assert model.eval().loss(x).item() < before / 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"corruption": "poisson"}, "corruption is 'poisson'"),
        ({"corruption_level": 1.5}, "corruption_level is 1.5"),
        ({"corruption": "gaussian", "corruption_level": -1.0}, "corruption_level is -1.0"),
        ({"corruption_level": float("nan")}, "corruption_level is nan"),
        ({"activation": "swish"}, "activation is 'swish'"),
        ({"output_activation": "swish"}, "output_activation is 'swish'"),
    ],
)
def test_the_autoencoder_refuses_bad_arguments_when_it_is_made(
    arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        DenoisingAutoencoder(12, 5, **arguments)


def test_gaussian_noise_may_pass_a_level_of_one() -> None:
    assert DenoisingAutoencoder(12, 5, corruption="gaussian", corruption_level=2).training


@pytest.mark.parametrize("module", [linear, denoising])
def test_the_examples_in_the_docstrings_run(module: object) -> None:
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0
