"""Layers whose parameters are sharded (FSDP2) until they are called."""

import pytest
import torch

from aefast import functional as F
from aefast.nn import (
    RBM,
    Autoencoder,
    ContractiveAutoencoder,
    DenoisingAutoencoder,
    LinearAct,
    LossModule,
    SparseAutoencoder,
    StochasticAutoencoder,
    TopKSparseAutoencoder,
    VariationalAutoencoder,
)

distributed = pytest.importorskip("torch.distributed")
fsdp = pytest.importorskip("torch.distributed.fsdp")

MAKERS = {
    "autoencoder": lambda: Autoencoder(8, 4),
    "deep": lambda: Autoencoder(
        layers=[8, 6, 4], output_activation="sigmoid", reconstruction="bce"
    ),
    "tied": lambda: Autoencoder(8, 4, tied=True),
    "denoising": lambda: DenoisingAutoencoder(8, 4),
    "contractive": lambda: ContractiveAutoencoder(8, 4),
    "deep contractive": lambda: ContractiveAutoencoder(layers=[8, 6, 4], tied=True),
    "sparse": lambda: SparseAutoencoder(8, 4),
    "stochastic": lambda: StochasticAutoencoder(8, 4),
    "variational": lambda: VariationalAutoencoder(8, 4, layers=[5]),
    "gaussian": lambda: VariationalAutoencoder(8, 4, decoder_kind="gaussian"),
    "top-k": lambda: TopKSparseAutoencoder(8, 12, 3),
    "machine": lambda: RBM(8, 4, chains=2),
}


@pytest.fixture(scope="module")
def mesh():
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield distributed.device_mesh.init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


@pytest.fixture
def x():
    return torch.rand(6, 8, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("each_layer", [False, True])
@pytest.mark.parametrize("kind", MAKERS)
def test_a_sharded_step_has_the_gradients_of_one_process(kind, each_layer, mesh, x):
    torch.manual_seed(0)
    plain = MAKERS[kind]()
    torch.manual_seed(0)
    model = MAKERS[kind]()
    if each_layer:
        for layer in model.modules():
            if isinstance(layer, LinearAct):
                fsdp.fully_shard(layer, mesh=mesh)
    step = LossModule(model)
    fsdp.fully_shard(step, mesh=mesh)
    step(x, seed=1).backward()
    plain.loss(x, seed=1).backward()
    for actual, expected in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(actual.grad.full_tensor(), expected.grad)


@pytest.mark.parametrize("is_registered", [False, True])
@pytest.mark.parametrize("kind", MAKERS)
def test_the_loss_of_a_sharded_model_gathers_its_parameters(kind, is_registered, mesh, x):
    torch.manual_seed(0)
    plain = MAKERS[kind]()
    torch.manual_seed(0)
    model = MAKERS[kind]()
    fsdp.fully_shard(model, mesh=mesh)
    if is_registered:
        fsdp.register_fsdp_forward_method(model, "loss")
    for _ in range(2):
        model.zero_grad()
        plain.zero_grad()
        model.loss(x, seed=1).backward()
        plain.loss(x, seed=1).backward()
        for actual, expected in zip(model.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(actual.grad.full_tensor(), expected.grad)


def test_a_loss_that_is_kept_gathers_in_every_step(mesh, x):
    model = Autoencoder(8, 4)
    fsdp.fully_shard(model, mesh=mesh)
    loss = model.loss
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(2):
        loss(x).backward()
        optimizer.step()
    assert loss(x).item() == model.loss(x).item()


def test_a_sharded_output_layer_gives_the_logits_themselves(mesh):
    """Those of a saturated sigmoid would not come back from its output."""
    model = VariationalAutoencoder(8, 4)
    with torch.no_grad():
        model.decoder[0].bias.fill_(30)
    expected = model.preactivation(torch.zeros(1, 4))
    fsdp.fully_shard(model.decoder[0], mesh=mesh)
    torch.testing.assert_close(model.preactivation(torch.zeros(1, 4)), expected)


def test_a_hook_on_a_sharded_layer_has_its_say(mesh, x):
    """The penalty is of what calling the layer gives."""
    model = ContractiveAutoencoder(8, 4)
    expected = 4 * model.penalty(x)
    model.encoder[0].register_forward_hook(lambda layer, inputs, output: 2 * output)
    fsdp.fully_shard(model.encoder[0], mesh=mesh)
    torch.testing.assert_close(model.penalty(x), expected)


def has_gradient_of_topk(sharded):
    """PyTorch 2.11 has none of a sharded tensor's ``topk``."""
    try:
        sharded.detach().requires_grad_().topk(2)[0].sum().backward()
    except RuntimeError:
        return False
    return True


def test_ops_take_sharded_tensors(mesh, x):
    """How results are sharded is known of PyTorch's operators alone: the definition's."""
    tensor = pytest.importorskip("torch.distributed.tensor")
    weight, bias = torch.randn(3, 8), torch.randn(3)
    calls = [
        lambda x, weight, bias: F.linear_act(x, weight, bias, "gelu"),
        lambda x, weight, bias: F.reconstruction_loss(x, weight, bias),
        lambda x, weight, bias: F.contractive_penalty(x, weight, bias),
    ]
    if has_gradient_of_topk(tensor.distribute_tensor(x, mesh, [tensor.Shard(0)])):
        calls.append(lambda x, weight, bias: F.topk_encode(x, weight, bias, 2)[0])
    for call in calls:
        plain = weight.clone().requires_grad_()
        expected = call(x, plain, bias)
        expected.sum().backward()
        placements = [tensor.Shard(0)], [tensor.Shard(1)], [tensor.Replicate()]
        sharded = [
            tensor.distribute_tensor(part, mesh, placement)
            for part, placement in zip((x, weight, bias), placements, strict=True)
        ]
        sharded[1].requires_grad_()
        output = call(*sharded).full_tensor()
        output.sum().backward()
        torch.testing.assert_close(output, expected)
        torch.testing.assert_close(sharded[1].grad.full_tensor(), plain.grad)
