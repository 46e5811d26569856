"""A module whose forward is the loss, under what wraps a forward; and losses called past it."""

import copy
import os
import time

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from aefast.nn import (
    RBM,
    Autoencoder,
    ContractiveAutoencoder,
    DenoisingAutoencoder,
    GatedSparseAutoencoder,
    JumpReLUSparseAutoencoder,
    LossModule,
    SparseAutoencoder,
    StochasticAutoencoder,
    TopKSparseAutoencoder,
    VariationalAutoencoder,
)

RANKS = 2
ROWS = 6

FAMILIES = {
    "plain": lambda: Autoencoder(8, 4),
    "deep": lambda: Autoencoder(layers=[8, 6, 4], code_dropout=0.2),
    "tied": lambda: Autoencoder(8, 4, tied=True),
    "denoising": lambda: DenoisingAutoencoder(8, 4),
    "contractive": lambda: ContractiveAutoencoder(8, 4),
    "sparse": lambda: SparseAutoencoder(8, 4),
    "stochastic": lambda: StochasticAutoencoder(8, 4, decoder_kind="gaussian"),
    "variational": lambda: VariationalAutoencoder(8, 4, layers=[5]),
    "top-k": lambda: TopKSparseAutoencoder(8, 12, 3),
    "JumpReLU": lambda: JumpReLUSparseAutoencoder(8, 12),
    "gated": lambda: GatedSparseAutoencoder(8, 12),
    "machine": lambda: RBM(8, 4),
}


def batch():
    return torch.rand(RANKS * ROWS, 8, generator=torch.Generator().manual_seed(3))


def built(family):
    torch.manual_seed(0)
    return FAMILIES[family]()


def gradients(module):
    return [parameter.grad for parameter in module.parameters()]


def alone(model, rank):
    """The gradients that one rank's rows give, without any other."""
    rows = batch()[rank * ROWS : (rank + 1) * ROWS]
    model = copy.deepcopy(model)
    model.loss(rows, seed=5, row_offset=rank * ROWS).backward()
    return gradients(model)


def one_rank(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", store=dist.FileStore(f"{folder}/store", RANKS), rank=rank, world_size=RANKS
    )
    rows = batch()[rank * ROWS : (rank + 1) * ROWS]
    for family in FAMILIES:
        model = built(family)
        every = zip(*(alone(model, other) for other in range(RANKS)), strict=True)
        expected = [sum(pair) / RANKS for pair in every]
        step = DistributedDataParallel(LossModule(model))
        step(rows, seed=5, row_offset=rank * ROWS).backward()
        for actual, mean in zip(gradients(model), expected, strict=True):
            torch.testing.assert_close(actual, mean, msg=f"{family}: {{}}".format)
        with pytest.raises(RuntimeError, match="LossModule"):
            model.loss(rows)
    # Without destructors: a group's waits for gloo's thread, which may wait for the interpreter to
    # let go of its last work.
    os._exit(0)


def test_every_family_has_the_mean_of_the_ranks_gradients(tmp_path):
    torch.multiprocessing.start_processes(one_rank, (str(tmp_path),), RANKS, start_method="fork")


@pytest.fixture
def group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    time.sleep(0.05)
    dist.destroy_process_group()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_loss_past_the_wrapper_is_refused_until_the_wrapper_is_gone(family, group):
    model = built(family)
    wrapper = DistributedDataParallel(model)
    with pytest.raises(RuntimeError, match=r"averages the gradients.*LossModule\(model\)"):
        wrapper.module.loss(batch())
    copy.deepcopy(model).loss(batch()).backward()
    del wrapper
    model.loss(batch()).backward()


def test_what_trains_no_rank_alone_is_not_refused(group):
    class Both(nn.Module):
        """A forward of one's own, in which a model has its loss."""

        def __init__(self):
            super().__init__()
            self.model = Autoencoder(8, 4)

        def forward(self, x):
            return self.model.loss(x)

    wrapper = DistributedDataParallel(Both())
    wrapper(batch()).backward()
    model = wrapper.module.model
    with torch.no_grad():
        model.loss(batch())
    with wrapper.no_sync():
        model.loss(batch()).backward()
    with pytest.raises(RuntimeError, match="LossModule"):
        model.loss(batch())
    Autoencoder(8, 4).loss(batch()).backward()


@pytest.mark.parametrize(
    "family",
    [
        family if family == "denoising" else pytest.param(family, marks=pytest.mark.slow)
        for family in FAMILIES
    ],
)
def test_compiled_whole(family):
    torch.compiler.reset()  # one forward counts what was compiled of every family: eight at most
    step = LossModule(built(family))
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    compiled(batch(), seed=5).backward()
    actual = gradients(step)
    step.zero_grad()
    step(batch(), seed=5).backward()
    for ours, eager in zip(actual, gradients(step), strict=True):
        torch.testing.assert_close(ours, eager)


def test_its_state_is_the_models_under_a_prefix():
    model = Autoencoder(8, 4)
    step = LossModule(model)
    assert list(step.state_dict()) == [f"model.{name}" for name in model.state_dict()]
    other = LossModule(Autoencoder(8, 4))
    other.load_state_dict(step.state_dict())
    other.model.load_state_dict(step.model.state_dict())
    assert step.train(False).model.training is False


def test_a_module_without_a_loss_is_refused():
    with pytest.raises(TypeError, match="model is a Linear; it takes a module with a method loss"):
        LossModule(nn.Linear(3, 2))


def test_a_transcoders_target_goes_to_its_loss():
    torch.manual_seed(0)
    model, x, target = TopKSparseAutoencoder(8, 12, 3, outputs=5), batch(), torch.rand(12, 5)
    loss = LossModule(model.eval())(x, target=target)
    assert torch.equal(loss, model.loss(x, target=target))
    with pytest.raises(TypeError, match="target"):
        LossModule(Autoencoder(8, 4))(x, target=x)
