"""A fused loss serves plain layers alone: where something stands on them, they are called."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune
from torch.nn.utils import spectral_norm as spectral_norm_by_hook
from torch.nn.utils import weight_norm as weight_norm_by_hook
from torch.nn.utils.parametrizations import orthogonal, spectral_norm, weight_norm
from torch.utils.flop_counter import FlopCounterMode

from aefast.functional import contractive_penalty
from aefast.nn import (
    RBM,
    Autoencoder,
    ContractiveAutoencoder,
    DeepBeliefStack,
    DenoisingAutoencoder,
    LinearAct,
    SparseAutoencoder,
    StochasticAutoencoder,
    VariationalAutoencoder,
)
from aefast.nn.encoder_decoder import EncoderDecoder
from aefast.nn.plain import is_plain


class Adapter(nn.Module):
    """A low-rank adapter around a layer, as those of fine-tuning libraries."""

    def __init__(self, base):
        super().__init__()
        self.base = base
        inputs, outputs = (base.in_features, base.out_features)
        self.down = nn.Parameter(torch.randn(2, inputs) / 10)
        self.up = nn.Parameter(torch.randn(outputs, 2) / 10)

    def forward(self, x):
        return self.base(x) + x @ self.down.t() @ self.up.t()


class Doubled(LinearAct):
    def forward(self, x):
        return 2 * super().forward(x)


def modify(layer):
    """Of the function that makes one layer from another: it takes the other's place."""

    def change(model):
        model.encoder[0] = layer(model.encoder[0])

    return change


def doubled(layer):
    module = Doubled(layer.in_features, layer.out_features, activation=layer.activation)
    module.load_state_dict(layer.state_dict())
    return module


def on_the_instance(model):
    layer = model.encoder[0]
    layer.forward = lambda x: LinearAct.forward(layer, x) / 2


def double_output(module, arguments, output):
    return 2 * output


CHANGES = {
    "pruned": lambda model: prune.l1_unstructured(model.encoder[0], "weight", 0.5),
    "weight norm, a hook": lambda model: weight_norm_by_hook(model.encoder[0]),
    "spectral norm, a hook": lambda model: spectral_norm_by_hook(model.encoder[0]),
    "weight norm": lambda model: weight_norm(model.encoder[0]),
    "spectral norm": lambda model: spectral_norm(model.encoder[0]),
    "orthogonal": lambda model: orthogonal(model.encoder[0]),
    "adapter": modify(Adapter),
    "subclass": modify(doubled),
    "forward of the instance": on_the_instance,
    "forward hook": lambda model: model.encoder[0].register_forward_hook(double_output),
    "pre-hook": lambda model: model.encoder[0].register_forward_pre_hook(
        lambda module, arguments: (arguments[0] / 2,)
    ),
    "backward hook": lambda model: model.decoder[0].register_full_backward_hook(
        lambda module, inputs, outputs: (2 * inputs[0],)
    ),
    "hook on the encoder": lambda model: model.encoder.register_forward_hook(double_output),
    "pruned decoder": lambda model: prune.l1_unstructured(model.decoder[0], "weight", 0.5),
    "hook on the decoder's layer": lambda model: model.decoder[0].register_forward_hook(
        lambda module, arguments, output: output.sqrt()
    ),
}


@pytest.fixture
def x():
    return torch.rand(6, 8, generator=torch.Generator().manual_seed(3))


def leaves(model):
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def assert_the_losses_are_one(actual, expected, model):
    torch.testing.assert_close(actual, expected)
    gradients = [torch.autograd.grad(loss, leaves(model)) for loss in (actual, expected)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert any(bool(gradient.any()) for gradient in gradients[0])


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_the_loss_is_that_of_the_calls(change, tied, x):
    """After a pass without gradients, as validation makes one, and after a step."""
    if tied and change in ("pruned decoder", "orthogonal"):
        pytest.skip("a tied decoder has no weight, and an orthogonal one is tested untied")
    torch.manual_seed(0)
    model = Autoencoder(8, 3, output_activation="sigmoid", tied=tied)
    assert is_plain(model)
    CHANGES[change](model)
    assert not is_plain(model)
    model.eval()  # spectral norms go on iterating in training
    with torch.no_grad():
        model(x)
    for _ in range(2):
        assert_the_losses_are_one(model.loss(x), F.mse_loss(model(x), x), model)
        with torch.no_grad():
            for parameter in leaves(model):
                parameter.mul_(1.1)


@pytest.mark.parametrize("change", CHANGES)
def test_cross_entropies_are_of_the_calls(change, x):
    torch.manual_seed(0)
    model = Autoencoder(8, 3, output_activation="sigmoid", reconstruction="bce").eval()
    CHANGES[change](model)
    assert_the_losses_are_one(model.loss(x), F.binary_cross_entropy(model(x), x), model)


@pytest.mark.parametrize("change", CHANGES)
def test_the_penalty_is_of_the_calls(change, x):
    torch.manual_seed(0)
    model = ContractiveAutoencoder(8, 3, output_activation="sigmoid").eval()
    CHANGES[change](model)
    x.requires_grad_()
    jacobian = torch.stack(
        [torch.autograd.grad(unit.sum(), x, create_graph=True)[0] for unit in model.encode(x).T], 1
    )
    expected = jacobian.square().sum((1, 2))
    if change != "backward hook":  # which changes the backward passes of the definition, too
        torch.testing.assert_close(model.penalty(x.detach()), expected)
        values = model.tangents(x.detach(), n=2).values
        torch.testing.assert_close(values, torch.linalg.svdvals(jacobian)[:, :2])
    loss = F.mse_loss(model(x), x.detach()) + model.contraction * expected.mean()
    torch.testing.assert_close(model.loss(x.detach()), loss)
    with torch.inference_mode():
        torch.testing.assert_close(model.loss(x.clone()), loss)
        torch.testing.assert_close(model.tangents(x.detach(), n=2), model.tangents(x.clone(), n=2))


def test_the_penalty_of_plain_layers_is_the_ops(x):
    model = ContractiveAutoencoder(8, 3)
    layer = model.encoder[0]
    assert torch.equal(model.penalty(x), contractive_penalty(x, layer.weight, layer.bias))


def test_a_saturated_unit_keeps_its_logit_under_a_hook_before_it(x):
    """A probability of 1 - 1e-9 has no float32 of its own; its logit, 20, has one."""
    model = Autoencoder(8, 3, output_activation="sigmoid", reconstruction="bce")
    with torch.no_grad():
        model.decoder[0].weight.zero_()
        model.decoder[0].bias.fill_(20.0)
    expected = model.loss(x)
    prune.identity(model.decoder[0], "weight")
    torch.testing.assert_close(model.loss(x), expected)


def test_a_cross_entropy_refuses_what_is_no_probability(x):
    model = Autoencoder(8, 3, output_activation="sigmoid", reconstruction="bce")
    model.decoder[0].register_forward_hook(double_output)
    with torch.no_grad():
        model.decoder[0].bias.fill_(3.0)
    with pytest.raises(ValueError, match=r"output holds 1\.9.* in \[0, 1\]"):
        model.loss(x)


@pytest.mark.parametrize("kind", [DenoisingAutoencoder, SparseAutoencoder])
def test_every_kind_calls_its_layers(kind, x):
    torch.manual_seed(0)
    model = kind(8, 3).eval()
    plain = copy.deepcopy(model)
    weight_norm(model.encoder[0])
    torch.testing.assert_close(model.loss(x), plain.loss(x))
    model.train(), plain.train()
    torch.testing.assert_close(model.loss(x, seed=1), plain.loss(x, seed=1))
    model.loss(x).backward()
    assert model.encoder[0].parametrizations.weight.original1.grad.any()


@pytest.mark.parametrize("decoder_kind", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("kind", [StochasticAutoencoder, VariationalAutoencoder])
def test_likelihoods_are_of_the_calls(kind, decoder_kind, x):
    torch.manual_seed(0)
    model = kind(8, 3, decoder_kind=decoder_kind)
    last = model.decoder[-1]
    plain = model.loss(x, seed=1)
    weight_norm_by_hook(last)
    with torch.no_grad():
        model(x)
    torch.testing.assert_close(model.loss(x, seed=1), plain)
    model.loss(x).backward()
    assert last.weight_v.grad.any()
    last.register_forward_hook(lambda module, arguments, output: output / 2)
    assert not torch.isclose(model.loss(x, seed=1), plain)


@pytest.mark.parametrize(
    "model",
    [
        Autoencoder(layers=[8, 5, 3], tied=True),
        DenoisingAutoencoder(8, 3),
        ContractiveAutoencoder(8, 3),
        SparseAutoencoder(8, 3),
        StochasticAutoencoder(8, 3, decoder_kind="gaussian"),
        VariationalAutoencoder(8, 3, layers=[5]),
        RBM(8, 3, chains=4),
        DeepBeliefStack([8, 5, 3]),
        nn.Sequential(LinearAct(8, 3, bias=False)),
    ],
    ids=lambda model: type(model).__name__,
)
def test_every_model_is_plain_until_something_stands_on_it(model):
    assert is_plain(model)
    hook = list(model.modules())[-1].register_forward_hook(double_output)
    assert not is_plain(model)
    hook.remove()
    assert is_plain(model)
    hook = model.register_forward_pre_hook(double_output)
    assert not is_plain(model)
    hook.remove()
    assert is_plain(copy.deepcopy(model))


def test_all_modules_hooks_are_called(x):
    model, hooked = Autoencoder(8, 3), []
    hook = nn.modules.module.register_module_forward_hook(lambda *call: hooked.append(call[0]))
    try:
        assert not is_plain(model)
        model.loss(x)
    finally:
        hook.remove()
    assert model.encoder[0] in hooked
    assert model.decoder[0] in hooked
    assert is_plain(model)


def test_a_subclass_s_encode_is_called(x):
    class Scaled(Autoencoder):
        def encode(self, x):
            return super().encode(x / 2)

    model = Scaled(8, 3)
    torch.testing.assert_close(model.loss(x), F.mse_loss(model(x), x))
    model = Autoencoder(8, 3)
    model.decode = lambda code: 2 * Autoencoder.decode(model, code)
    torch.testing.assert_close(model.loss(x), F.mse_loss(model(x), x))


@pytest.mark.parametrize("method", ["preactivation", "compare"])
def test_a_method_replaced_on_one_model_is_called(method, x):
    """Also by a model whose step was planned before."""
    torch.manual_seed(0)
    model = Autoencoder(8, 3, output_activation="sigmoid", reconstruction="bce")
    before = model.loss(x)
    ordinary = getattr(model, method)
    setattr(model, method, lambda *arguments: 2 * ordinary(*arguments))
    assert not model.is_plain
    if method == "compare":
        torch.testing.assert_close(model.loss(x), 2 * before)
    else:
        expected = F.binary_cross_entropy_with_logits(2 * ordinary(model.encode(x)), x)
        torch.testing.assert_close(model.loss(x), expected)


@pytest.mark.parametrize(
    ("kind", "owner", "method"),
    [
        (Autoencoder, LinearAct, "forward"),
        (Autoencoder, EncoderDecoder, "encode"),
        (ContractiveAutoencoder, LinearAct, "forward"),
        (SparseAutoencoder, Autoencoder, "compare"),
        (StochasticAutoencoder, StochasticAutoencoder, "decode"),
        (StochasticAutoencoder, StochasticAutoencoder, "log_likelihood"),
        (VariationalAutoencoder, VariationalAutoencoder, "elbo"),
    ],
)
def test_a_method_replaced_on_a_class_is_called(kind, owner, method, x, monkeypatch):
    """After a first loss, which kept its plan."""
    model = kind(8, 3)
    model.loss(x)
    own, called = getattr(owner, method), []

    def replaced(self, *arguments, **keywords):
        called.append(self)
        return own(self, *arguments, **keywords)

    monkeypatch.setattr(owner, method, replaced)
    model.loss(x)
    assert called


def test_a_subclass_s_compare_is_called(x):
    class DoubledError(Autoencoder):
        def compare(self, code, x):
            return 2 * super().compare(code, x)

    model = DoubledError(8, 3)
    torch.testing.assert_close(model.loss(x), 2 * F.mse_loss(model(x), x))


def test_a_counter_of_flops_gets_the_contracted_loss(x):
    """Its hooks stand on all modules, and only watch."""
    model = ContractiveAutoencoder(8, 3, contraction=0.1)
    expected = torch.autograd.grad(model.loss(x), leaves(model))
    with FlopCounterMode(display=False) as counter:
        loss = model.loss(x)
        gradients = torch.autograd.grad(loss, leaves(model))
    torch.testing.assert_close(gradients, expected)
    product = 2 * 6 * 8 * 3
    # Two products forward and three backward; the slopes' has one of each.
    assert product * 7 <= counter.get_total_flops() < product * 8
    prune.l1_unstructured(model.encoder[0], "weight", 0.5)
    expected = model.penalty(x)
    with FlopCounterMode(display=False):
        torch.testing.assert_close(model.penalty(x), expected)


def test_a_tied_decoder_keeps_to_its_layer(x):
    """Also when another takes that layer's place in the encoder."""
    model = Autoencoder(8, 3, tied=True)
    model.encoder[0] = LinearAct(8, 3)
    assert not model.is_plain
    torch.testing.assert_close(model.loss(x), F.mse_loss(model(x), x))


def test_parameters_that_are_no_plain_tensors_are_not_plain():
    class Marked(torch.Tensor):
        pass

    model = Autoencoder(8, 3)
    weight = model.encoder[0].weight
    model.encoder[0]._parameters["weight"] = torch.Tensor._make_subclass(Marked, weight.data)
    assert not is_plain(model)
    model = Autoencoder(8, 3)
    del model.encoder[0].weight
    model.encoder[0].weight = torch.rand(3, 8)
    assert not is_plain(model)


def test_low_rank_adapters_and_quantizers_find_no_linear_layer(x):
    """They would take the layer for W x + b: adapted behind its activation, it merges wrongly."""
    model = Autoencoder(8, 3)
    assert not any(isinstance(module, nn.Linear) for module in model.modules())
    quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear, LinearAct})
    assert torch.equal(quantized.loss(x), model.loss(x))


def test_a_tied_decoder_makes_a_pruned_weight_anew(x):
    """Also where nothing was encoded since the last step."""
    model = Autoencoder(8, 3, tied=True)
    layer = model.encoder[0]
    prune.l1_unstructured(layer, "weight", 0.5)
    code = model.encode(x).detach()
    with torch.no_grad():
        layer.weight_orig.mul_(2)
    expected = code @ (layer.weight_orig * layer.weight_mask) + model.decoder[0].bias
    torch.testing.assert_close(model.decode(code), expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_quantized_layers_are_called_or_refused(x):
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        pytest.skip("no quantized products here")
    model = ContractiveAutoencoder(8, 3)
    model.encoder[0] = nn.Linear(8, 3)
    model = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
    assert not isinstance(model.encoder[0], nn.Linear)
    torch.testing.assert_close(Autoencoder.loss(model, x), F.mse_loss(model(x), x))
    with pytest.raises(TypeError, match="layers have no derivative"):
        model.loss(x)
    assert model.decompress(model.compress(x)).isfinite().all()
