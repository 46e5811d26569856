"""DeepBeliefStack: greedy training, and the autoencoder that it unrolls to."""

import contextlib

import pytest
import torch
import torch.nn.functional as F

import aefast
from aefast import random
from aefast.nn import DeepBeliefStack, LinearAct


@pytest.fixture(scope="module")
def digits():
    datasets = pytest.importorskip("sklearn.datasets")
    return torch.tensor(datasets.load_digits().data, dtype=torch.float32) / 16


def fine_tune(model, data, epochs):
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for rows in torch.randperm(len(data), generator=generator).split(50):
            optimizer.zero_grad()
            F.mse_loss(model(data[rows]), data[rows]).backward()
            optimizer.step()
    return F.mse_loss(model(data), data).item()


def test_a_pretrained_autoencoder_starts_lower_than_a_random_one_and_stays_so(digits):
    stack = DeepBeliefStack([64, 100, 30])
    stack.fit(digits, epochs=10, batch_size=50)
    pretrained = stack.unroll()
    sizes = [(64, 100), (100, 30), (30, 100), (100, 64)]
    random = torch.nn.Sequential(*(LinearAct(*size, activation="sigmoid") for size in sizes))
    with torch.no_grad():
        start = F.mse_loss(pretrained(digits), digits).item()
        # Below the variance: better than the mean digit, where a random one is far above.
        assert start < digits.var(0, unbiased=False).mean().item()
        assert start < F.mse_loss(random(digits), digits).item() / 2
    assert fine_tune(pretrained, digits, 5) < fine_tune(random, digits, 5)


def test_each_machine_learns_from_the_features_of_the_one_below(digits):
    """The second machine's energy of its data falls below that of the shuffled features."""
    stack = DeepBeliefStack([64, 40, 20])
    stack.fit(digits, epochs=20, batch_size=50)
    lower, upper = stack
    with torch.no_grad():
        features = lower(digits)
        columns = [features[torch.randperm(len(features)), unit] for unit in range(40)]
        shuffled = torch.stack(columns, 1)
        assert upper.free_energy(features).mean() < upper.free_energy(shuffled).mean() - 1


@pytest.mark.parametrize("kind", ["bernoulli", "gaussian"])
def test_the_unrolled_autoencoder_goes_up_and_down_the_stack(kind):
    stack = DeepBeliefStack([7, 5, 3], visible_kind=kind)
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    x = torch.rand(4, 7)
    lower, upper = stack
    unrolled = stack.unroll()
    torch.testing.assert_close(stack(x), upper(lower(x)))
    torch.testing.assert_close(unrolled[:2](x), stack(x))
    expected = lower.visible_mean(upper.visible_mean(stack(x)))
    torch.testing.assert_close(unrolled(x), expected)


def test_learned_variances_go_into_the_first_weight():
    stack = DeepBeliefStack([7, 5], visible_kind="gaussian", learn_variance=True)
    with torch.no_grad():
        stack.machines[0].log_var.copy_(torch.randn(7))
    x = torch.randn(4, 7)
    torch.testing.assert_close(stack.unroll()[0](x), stack(x))


def test_the_unrolled_weights_are_copies():
    stack = DeepBeliefStack([7, 5])
    unrolled = stack.unroll()
    with torch.no_grad():
        unrolled[0].weight.zero_()
    assert stack.machines[0].weight.abs().sum() > 0
    assert unrolled[1].weight.abs().sum() > 0
    assert all(parameter.requires_grad for parameter in unrolled.parameters())


def test_a_generator_governs_training(digits):
    actual = []
    for _ in range(2):
        torch.manual_seed(0)
        stack = DeepBeliefStack([64, 10])
        torch.rand(len(actual) + 1)
        stack.fit(digits[:200], epochs=2, generator=torch.Generator().manual_seed(3))
        actual.append(stack.machines[0].weight.detach().clone())
    assert torch.equal(*actual)


@pytest.mark.parametrize("mode", [torch.no_grad, lambda: torch.autocast("cpu", torch.bfloat16)])
def test_the_mode_of_the_caller_changes_nothing(digits, mode):
    actual = []
    for caller in (contextlib.nullcontext, mode):
        torch.manual_seed(0)
        stack = DeepBeliefStack([64, 10, 5]).eval()
        with caller():
            stack.fit(digits[:100], epochs=1)
        assert not any(module.training for module in stack.modules())
        actual.append(stack.machines[1].weight.detach().clone())
    assert torch.equal(*actual)


def test_a_float64_stack_unrolls_exactly():
    stack = DeepBeliefStack([9, 5]).double()
    assert torch.equal(stack.unroll()[0].weight, stack.machines[0].weight)


def test_a_learning_rate_that_is_too_high_is_told(digits):
    stack = DeepBeliefStack([64, 10], visible_kind="gaussian")
    with pytest.raises(FloatingPointError, match=r"after training step \d"):
        stack.fit(digits, epochs=3, learning_rate=1e20)


WRONG = [
    (lambda data: DeepBeliefStack([64]), ValueError, r"sizes is \[64\]"),
    (lambda data: DeepBeliefStack([64, 0.5]), TypeError, "hidden is a float"),
    (lambda data: DeepBeliefStack([64, 8], visible_kind="x"), ValueError, "visible_kind is 'x'"),
    (lambda data: DeepBeliefStack([6, 3]).fit(data), ValueError, r"data has shape \[4, 64\]"),
    (lambda data: DeepBeliefStack([64, 3]).fit(data[:0]), ValueError, r"data has shape \[0, 64\]"),
    (lambda data: DeepBeliefStack([64, 3]).fit(data, epochs=0), ValueError, "epochs is 0"),
    (lambda data: DeepBeliefStack([64, 3]).fit(data, batch_size=0), ValueError, "batch_size is 0"),
    (lambda data: DeepBeliefStack([64, 3]).fit(data, learning_rate=0), ValueError, "learning_rate"),
    (lambda data: DeepBeliefStack([64, 3]).fit(data, momentum=1), ValueError, "momentum is 1"),
    (lambda data: DeepBeliefStack([64, 3]).fit(data, weight_decay=-1), ValueError, "weight_decay"),
    (lambda data: DeepBeliefStack([64, 3]).fit(data * 2), ValueError, "data holds"),
    (lambda data: DeepBeliefStack([64, 3]).fit([1]), TypeError, "data is a list"),
    (lambda data: DeepBeliefStack([64, 3]).fit(data.double()), TypeError, "data has dtype float64"),
    (lambda data: DeepBeliefStack([64, 3]).fit(data, generator=3), TypeError, "generator is a int"),
]


@pytest.mark.parametrize(("call", "error", "message"), WRONG)
def test_wrong_arguments(digits, call, error, message):
    with pytest.raises(error, match=f"^{message}"):
        call(digits[:4])


def test_its_steps_are_those_of_fit(digits):
    """Machine by machine, with the weights' decay and a seed from the generator."""
    stacks = []
    for _ in range(2):
        torch.manual_seed(0)
        stacks.append(DeepBeliefStack([64, 10, 5]))
    stacks[0].fit(digits, epochs=2, weight_decay=0.01, generator=torch.Generator().manual_seed(1))
    generator, rows = torch.Generator().manual_seed(1), digits
    for machine in stacks[1]:
        groups = [
            {"params": [machine.weight], "weight_decay": 0.01},
            {"params": [machine.visible_bias, machine.hidden_bias]},
        ]
        optimizer = torch.optim.SGD(groups, 0.1, 0.5)
        seed = random.draw_seed(generator, digits.device)
        aefast.fit(machine, rows, optimizer, epochs=2, batch_size=100, seed=seed)
        with torch.no_grad():
            rows = machine(rows)
    assert all(map(torch.equal, stacks[0].parameters(), stacks[1].parameters()))
