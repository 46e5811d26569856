"""What losses hold between their passes, where several wait for one backward pass."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from aefast.functional import contrastive_divergence, reconstruction_loss
from tests.backends import not_interpreted

H, D = 6, 10


def reconstruction(x, weight):
    return reconstruction_loss(x, weight, None)


def divergence(x, weight):
    return contrastive_divergence(x, weight, None, None, seed=1)[0]


def gaussian_divergence(x, weight):
    return contrastive_divergence(x, weight, None, None, visible_kind="gaussian", seed=1)[0]


def batches(device, rows):
    return [(torch.rand(rows, D) < 0.5).float().to(device) for _ in range(3)]


def held(losses):
    """How many of them hold gradients."""
    return sum(bool(loss.grad_fn.saved_gradients) for loss in losses)


@pytest.mark.parametrize("loss", [reconstruction, divergence])
def test_of_small_batches_losses_one_holds_gradients(kernel_device, loss):
    weight = torch.randn(H, D, device=kernel_device, requires_grad=True)
    other = torch.randn(H, D, device=kernel_device, requires_grad=True)
    xs = batches(kernel_device, 4)
    expected = sum(torch.autograd.grad(loss(x, weight), weight)[0] for x in xs)
    losses = [loss(x, weight) for x in xs]
    assert held(losses) == 1
    assert held([loss(xs[0], other)]) == 1
    sum(losses).backward()
    torch.testing.assert_close(weight.grad, expected)
    assert held(losses) == 0
    assert held([loss(xs[0], weight)]) == 1


@pytest.mark.parametrize("loss", [reconstruction, divergence])
def test_of_large_batches_losses_each_holds_its_gradients(kernel_device, loss):
    weight = torch.randn(H, D, device=kernel_device, requires_grad=True)
    assert held([loss(x, weight) for x in batches(kernel_device, 40)]) == 3


def test_a_loss_that_was_let_go_holds_nothing_back(kernel_device):
    weight = torch.randn(H, D, device=kernel_device, requires_grad=True)
    x = batches(kernel_device, 4)[0]
    reconstruction(x, weight)
    assert held([reconstruction(x, weight)]) == 1


@pytest.mark.parametrize("loss", [reconstruction, divergence, gaussian_divergence])
@pytest.mark.parametrize("use_reentrant", [False, True])
@not_interpreted
def test_a_checkpoint_gives_the_same_gradient(kernel_device, loss, use_reentrant):
    weight = torch.randn(H, D, device=kernel_device, requires_grad=True)
    xs = batches(kernel_device, 4)
    expected = sum(torch.autograd.grad(loss(x, weight), weight)[0] for x in xs)
    sum(checkpoint(loss, x, weight, use_reentrant=use_reentrant) for x in xs).backward()
    torch.testing.assert_close(weight.grad, expected)
