"""Layers whose parameters are sharded (FSDP2) until they are called."""

import pytest
import torch
from torch import nn

from aefast.nn import RBM, Autoencoder, LinearAct, StochasticAutoencoder, VariationalAutoencoder

distributed = pytest.importorskip("torch.distributed")
fsdp = pytest.importorskip("torch.distributed.fsdp")

MAKERS = {
    "autoencoder": lambda: Autoencoder(8, 4),
    "deep": lambda: Autoencoder(layers=[8, 6, 4], output_activation="sigmoid", loss="bce"),
    "tied": lambda: Autoencoder(8, 4, tied=True),
    "stochastic": lambda: StochasticAutoencoder(8, 4),
    "variational": lambda: VariationalAutoencoder(8, 4, layers=[5]),
    "machine": lambda: RBM(8, 4, chains=2),
}


class Step(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model.loss(x, seed=1)


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
    if kind == "tied" and each_layer:
        pytest.skip("refused: the next test")
    torch.manual_seed(0)
    plain = MAKERS[kind]()
    torch.manual_seed(0)
    model = MAKERS[kind]()
    if each_layer:
        for layer in model.modules():
            if isinstance(layer, LinearAct):
                fsdp.fully_shard(layer, mesh=mesh)
    step = Step(model)
    fsdp.fully_shard(step, mesh=mesh)
    step(x).backward()
    plain.loss(x, seed=1).backward()
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad.full_tensor(), theirs.grad)


def test_weights_that_are_not_there_are_refused(mesh, x):
    """A loss is no forward; and a tied decoder reads a weight that its layer has put away."""
    model = Autoencoder(8, 4)
    fsdp.fully_shard(model, mesh=mesh)
    with pytest.raises(RuntimeError, match=r"mixed torch\.Tensor and DTensor"):
        model.loss(x)
    fsdp.register_fsdp_forward_method(model, "loss")
    model.loss(x).backward()
    tied = Step(Autoencoder(8, 4, tied=True))
    fsdp.fully_shard(tied.model.encoder[0], mesh=mesh)
    fsdp.fully_shard(tied, mesh=mesh)
    with pytest.raises(RuntimeError, match=r"mixed torch\.Tensor and DTensor"):
        tied(x)
