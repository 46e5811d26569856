"""A module's device, dtype, copies and state dict, and what a loss changes in it."""

import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils import weight_norm as weight_norm_by_hook
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from aefast import fit
from aefast.backend import use_backend
from aefast.nn import (
    RBM,
    Autoencoder,
    BatchTopKSparseAutoencoder,
    ContractiveAutoencoder,
    DeepBeliefStack,
    DenoisingAutoencoder,
    JumpReLUSparseAutoencoder,
    LinearAct,
    SparseAutoencoder,
    StochasticAutoencoder,
    TopKSparseAutoencoder,
    VariationalAutoencoder,
    annealed_importance_sampling,
    exact_log_partition,
)

MAKERS = {
    "layer": lambda **options: LinearAct(8, 4, **options),
    "autoencoder": lambda **options: Autoencoder(layers=[8, 6, 4], tied=True, **options),
    "denoising": lambda **options: DenoisingAutoencoder(8, 4, **options),
    "contractive": lambda **options: ContractiveAutoencoder(8, 4, **options),
    "sparse": lambda **options: SparseAutoencoder(8, 4, **options),
    "stochastic": lambda **options: StochasticAutoencoder(8, 4, decoder_kind="gaussian", **options),
    "variational": lambda **options: VariationalAutoencoder(
        8, 4, layers=[5], decoder_kind="gaussian", **options
    ),
    "machine": lambda **options: RBM(
        8, 4, chains=3, visible_kind="gaussian", learn_variance=True, **options
    ),
    "stack": lambda **options: DeepBeliefStack([8, 6, 4], chains=2, **options),
}


@pytest.fixture
def x():
    return torch.rand(6, 8, generator=torch.Generator().manual_seed(3))


@pytest.fixture(params=MAKERS)
def make(request):
    return MAKERS[request.param]


def run(model, x):
    """A loss of one seed, or of a model without one its output."""
    return model.loss(x, seed=1) if hasattr(model, "loss") else model(x)


def tensors(model):
    return {name: value for name, value in model.state_dict().items() if name != "training_steps"}


def floating(model):
    return [value for value in model.state_dict().values() if value.is_floating_point()]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_every_constructor_takes_a_dtype(make, dtype, x):
    model = make(dtype=dtype)
    assert {value.dtype for value in floating(model)} == {dtype}
    assert run(model, x.to(dtype)).isfinite().all()


def test_the_default_dtype_and_device_are_obeyed(make):
    torch.set_default_dtype(torch.float64)
    try:
        assert {value.dtype for value in floating(make())} == {torch.float64}
        assert {value.dtype for value in floating(make(dtype=torch.float32))} == {torch.float32}
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.device("meta"):
        assert all(value.is_meta for value in make().state_dict().values())
        model = make(device="cpu")
    assert not any(value.is_meta for value in model.state_dict().values())


def test_a_model_made_without_memory_gets_it_and_its_first_parameters(make, x):
    torch.manual_seed(0)
    expected = make()
    model = make(device="meta")
    assert all(value.is_meta for value in model.state_dict().values())
    run(model, x.to("meta"))
    model.to_empty(device="cpu")
    for value in model.state_dict().values():
        value.fill_(99)
    torch.manual_seed(0)
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    for name, value in tensors(expected).items():
        assert torch.equal(value, model.state_dict()[name]), name


def through_a_file(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)), through_a_file]
)
def test_a_copy_is_the_same_and_apart(make, duplicate, x):
    model = make().eval()
    twin = duplicate(model)
    expected = run(model, x)
    assert torch.equal(run(twin, x), expected)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert torch.equal(run(twin, x), expected)


def test_a_half_model_is_cast_whole(make, x):
    model = make().half()
    assert {value.dtype for value in floating(model)} == {torch.float16}
    assert run(model, x.half()).isfinite().all()


def test_a_machines_chains_go_through_a_state_dict():
    model = RBM(8, 4, chains=3)
    twin = RBM(8, 4, chains=3)
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin.chain, model.chain)


@pytest.mark.parametrize("assign", [False, True])
def test_chains_are_taken_however_many(assign):
    model, fewer = RBM(8, 4, chains=7), RBM(8, 4, chains=2)
    fewer.load_state_dict(model.state_dict(), assign=assign)
    assert torch.equal(fewer.chain, model.chain)
    stack, other = DeepBeliefStack([8, 6, 4], chains=5), DeepBeliefStack([8, 6, 4], chains=2)
    other.load_state_dict(stack.state_dict(), assign=assign)
    assert [len(machine.chain) for machine in other] == [5, 5]


def test_an_older_dict_leaves_the_chains_where_they_are():
    model = RBM(8, 4, chains=7)
    start = model.chain.clone()
    state = RBM(8, 4).state_dict()
    del state["training_steps"]
    model.load_state_dict(state)
    assert torch.equal(model.chain, start)
    assert torch.equal(model.weight, state["weight"])


def test_chains_that_a_model_has_no_place_for_are_refused():
    with pytest.raises(RuntimeError, match=r'Unexpected key.*: "chain"'):
        RBM(8, 4).load_state_dict(RBM(8, 4, chains=7).state_dict())
    with pytest.raises(RuntimeError, match="size mismatch for chain"):
        RBM(8, 4, chains=7).load_state_dict(RBM(9, 4, chains=7).state_dict())
    RBM(8, 4).load_state_dict(RBM(8, 4, chains=7).state_dict(), strict=False)


@pytest.mark.parametrize("last", ["rbm.machine_loss", "rbm.kl_sparsity"])
def test_an_interrupted_loss_is_no_step(monkeypatch, x, last):
    """In one call and op by op, up to the last thing that either computes."""
    model = RBM(8, 4, chains=3, sparsity_target=0.1)
    start = model.chain.clone()

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"aefast.nn.{last}", interrupt)
    in_one_call = last == "rbm.machine_loss"
    with use_backend("cpp" if in_one_call else "eager"), pytest.raises(KeyboardInterrupt):
        model.loss(x)
    assert torch.equal(model.chain, start)
    assert model.training_steps == 0


def test_an_interrupted_fit_leaves_the_mode(monkeypatch, x):
    stack = DeepBeliefStack([8, 6, 4]).eval()

    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(RBM, "loss", interrupt)
    with use_backend("eager"), pytest.raises(KeyboardInterrupt):  # where a step calls the loss
        stack.fit(x)
    assert not any(module.training for module in stack.modules())


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("kind", ["bernoulli", "gaussian"])
def test_checkpointed_divergences_are_the_same(kind, use_reentrant, x):
    model = RBM(8, 4, visible_kind=kind)
    actual = []
    for checkpointed in (False, True):
        torch.manual_seed(1)
        rows = x.clone().requires_grad_()  # which the reentrant form takes
        if checkpointed:
            with set_checkpoint_early_stop(False):  # or what follows the last op is not run again
                loss = checkpoint(model.loss, rows, use_reentrant=use_reentrant)
        else:
            loss = model.loss(rows)
        actual.append(torch.autograd.grad(loss, rows)[0] if not use_reentrant else None)
        if use_reentrant:
            model.zero_grad()
            loss.backward()
            actual[-1] = model.weight.grad
    assert torch.equal(*actual)
    assert model.training_steps == 2


def test_checkpointing_refuses_chains_that_move(x):
    model = RBM(8, 4, chains=3)
    start = model.chain.clone()
    with pytest.raises(RuntimeError, match=r"persistent chains .* it takes chains=0"):
        checkpoint(model.loss, x, use_reentrant=False)
    assert torch.equal(model.chain, start)
    checkpoint(model.eval().loss, x, use_reentrant=False).backward()  # where they don't


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointed_losses_count_a_row_once(use_reentrant, x):
    for model in JumpReLUSparseAutoencoder(8, 12), BatchTopKSparseAutoencoder(8, 12, 3):
        plain = copy.deepcopy(model)
        plain.loss(x)
        with set_checkpoint_early_stop(False):
            rows = x.clone().requires_grad_()  # which the reentrant form takes
            checkpoint(model.loss, rows, use_reentrant=use_reentrant).backward()
        for actual, expected in zip(model.buffers(), plain.buffers(), strict=True):
            assert torch.equal(actual, expected)


def test_a_loss_under_the_reentrant_checkpoint_has_its_dead_latents(x):
    """They are counted before the loss of the first run, which has no gradients."""
    losses = []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        model = TopKSparseAutoencoder(x.shape[1], 20, k=2, aux_k=3, dead_after=len(x) - 1)
        rows = x.clone().requires_grad_()
        loss = (
            checkpoint(model.loss, rows, use_reentrant=True) if checkpointed else model.loss(rows)
        )
        loss.backward()
        assert model.dead.any()
        losses.append((loss.detach(), model.idle, rows.grad, model.encoder_weight.grad))
    torch.testing.assert_close(losses[1], losses[0])


def test_checkpointing_refuses_latents_that_die(x):
    model = TopKSparseAutoencoder(8, 12, 3, aux_k=2)
    with pytest.raises(RuntimeError, match=r"dead latents are counted .* it takes aux_k=0"):
        checkpoint(model.loss, x, use_reentrant=False)
    assert not model.idle.any()
    checkpoint(model.eval().loss, x, use_reentrant=False).backward()  # where they don't


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_refuses_a_generator_that_it_cannot_set_back(x, use_reentrant):
    model, generator = DenoisingAutoencoder(8, 4), torch.Generator()
    rows = x.clone().requires_grad_()  # the reentrant form takes no other
    with pytest.raises(RuntimeError, match=r"generator is given under .*checkpoint"):
        checkpoint(lambda x: model.loss(x, generator=generator), rows, use_reentrant=use_reentrant)
    actual = checkpoint(lambda x: model.loss(x, seed=1), rows, use_reentrant=use_reentrant)
    torch.testing.assert_close(actual, model.loss(rows, seed=1))


def pruned(model):
    prune.l1_unstructured(model, "weight", 0.5)
    return model


@pytest.mark.parametrize("change", [pruned, weight_norm_by_hook, weight_norm])
def test_a_reparametrized_machine_computes_with_its_weight(change):
    """Its methods are no forward: no hook of PyTorch's makes the weight before them."""
    torch.manual_seed(0)
    data = (torch.rand(6, 8) < 0.5).float()
    model = change(RBM(8, 4))
    with torch.no_grad():
        model(data)
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    for _ in range(3):
        optimizer.zero_grad()
        model.loss(data, seed=0).backward()
        optimizer.step()
    plain = RBM(8, 4)
    # What each method computes with, at first and not after a call.
    energy, mean = model.free_energy(data), model.visible_mean(torch.ones(2, 4))
    likelihood, states = model.pseudo_log_likelihood(data), model.sample(3, k=2, seed=0)
    log_partition = exact_log_partition(model)
    estimate = annealed_importance_sampling(model, data, chains=2, betas=3, seed=0)
    model(data)
    with torch.no_grad():
        plain.weight.copy_(model.weight)
        plain.visible_bias.copy_(model.visible_bias)
        plain.hidden_bias.copy_(model.hidden_bias)
    assert plain.weight.norm() > 0.2
    torch.testing.assert_close(energy, plain.free_energy(data))
    torch.testing.assert_close(mean, plain.visible_mean(torch.ones(2, 4)))
    torch.testing.assert_close(likelihood, plain.pseudo_log_likelihood(data))
    assert torch.equal(states, plain.sample(3, k=2, seed=0))
    assert abs(log_partition - exact_log_partition(plain)) < 1e-5
    assert estimate == annealed_importance_sampling(plain, data, chains=2, betas=3, seed=0)


def test_a_reparametrized_stack_trains_and_unrolls(x):
    stack = DeepBeliefStack([8, 4])
    (machine,) = stack
    weight_norm(machine)
    before = machine.weight.detach().clone()
    stack.fit(x, epochs=1, batch_size=3)
    assert not torch.equal(machine.weight, before)
    assert torch.equal(stack.unroll()[0].weight, machine.weight)


def test_a_parametrization_that_is_no_normalization_is_read(x):
    class Positive(nn.Module):
        def forward(self, weight):
            return F.softplus(weight)

    model = RBM(8, 4)
    parametrize.register_parametrization(model, "weight", Positive())
    model.loss(x).backward()
    assert model.parametrizations.weight.original.grad.any()


def generator():
    return torch.Generator("cpu").manual_seed(5)


def estimate(machine, rows):
    return torch.tensor(
        annealed_importance_sampling(machine, rows, chains=5, betas=5, seed=0),
        dtype=torch.float64,
        device="cpu",
    )


def unrolled(stack, rows):
    stack.fit(rows, epochs=1, batch_size=3, generator=generator())
    return stack.unroll()(rows)


CALLS = {
    "dropout": (
        lambda: Autoencoder(8, 4, code_dropout=0.5),
        lambda model, rows: model.loss(rows, generator=generator()),
    ),
    "compression": (
        lambda: Autoencoder(8, 4),
        lambda model, rows: model.decompress(model.compress(rows)),
    ),
    "noise": (
        lambda: DenoisingAutoencoder(8, 4, corruption="gaussian"),
        lambda model, rows: model.loss(rows, generator=generator()),
    ),
    "tangents": (
        lambda: ContractiveAutoencoder(layers=[8, 6, 4]),
        lambda model, rows: model.tangents(rows, 2).vectors,
    ),
    "a Markov chain": (
        lambda: StochasticAutoencoder(8, 4),
        lambda model, rows: model.sample(3, 5, seed=1),
    ),
    "generation": (
        lambda: VariationalAutoencoder(8, 4, decoder_kind="gaussian"),
        lambda model, rows: model.sample(3, draw=True, seed=1),
    ),
    "likelihood": (
        lambda: VariationalAutoencoder(8, 4, layers=[5]),
        lambda model, rows: model.log_likelihood(rows, samples=10, seed=1),
    ),
    "divergence": (
        lambda: RBM(8, 4, chains=3, sparsity_target=0.1),
        lambda model, rows: model.loss(rows, generator=generator()),
    ),
    "Gibbs": (lambda: RBM(8, 4), lambda model, rows: model.sample(3, 5, seed=1)),
    "pseudo-likelihood": (
        lambda: RBM(8, 4),
        lambda model, rows: model.pseudo_log_likelihood(rows, units=3, generator=generator()),
    ),
    "annealing": (lambda: RBM(8, 4, visible_kind="gaussian"), estimate),
    "pre-training": (lambda: DeepBeliefStack([8, 4]), unrolled),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_default_dtype_and_device_change_no_call(name, x):
    make, call = CALLS[name]
    rows, model = x.round(), make()
    expected = call(copy.deepcopy(model), rows)
    with torch.device("meta"):  # stands for a GPU
        assert torch.equal(call(copy.deepcopy(model), rows), expected)
    torch.set_default_dtype(torch.float64)
    try:
        actual = call(copy.deepcopy(model), rows)
    finally:
        torch.set_default_dtype(torch.float32)
    assert actual.dtype == expected.dtype
    assert torch.equal(actual, expected)


def test_unrolling_draws_nothing():
    stack = DeepBeliefStack([8, 4])
    before = torch.get_rng_state()
    stack.unroll()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("make", [lambda: Autoencoder(6, 3), lambda: RBM(6, 3)], ids=["ae", "rbm"])
def test_a_loss_and_a_training_refuse_freed_memory(make):
    """As ``torch.nn.functional.linear`` does, where a sharding library frees a parameter."""
    freed = torch.rand(8, 6)
    freed.untyped_storage().resize_(0)
    model = make()
    with pytest.raises((ValueError, RuntimeError), match=r"memory|allocated"):
        model.loss(freed)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(ValueError, match="data has no memory"):
        fit(model, freed, optimizer)
    next(model.parameters()).untyped_storage().resize_(0)
    with pytest.raises((ValueError, RuntimeError), match=r"memory|setStorage"):
        model.loss(torch.rand(8, 6))
    with pytest.raises((ValueError, RuntimeError), match=r"memory|setStorage"):
        fit(model, torch.rand(8, 6), optimizer)
