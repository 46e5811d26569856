"""A second backward pass through a model's loss is refused where torch refuses it, and where the
graph was retained adds the same gradients once more."""

import pytest
import torch

from tests.distributed.training import MODELS, data_of, new


@pytest.mark.parametrize("name", MODELS)
def test_a_graph_that_was_not_retained_is_freed_as_torchs_is(name):
    model, data = new(name), data_of(name)
    x, targets = (data[0], {"target": data[1]}) if isinstance(data, tuple) else (data, {})
    trained = [*model.parameters()]

    def loss():
        return model.loss(x, seed=1, **targets)

    first = loss()
    first.backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        first.backward()
    again = loss()
    once, twice = (
        torch.autograd.grad(again, trained, retain_graph=True, allow_unused=True) for _ in range(2)
    )
    for actual, expected in zip(twice, once, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    differentiated = loss()
    torch.autograd.grad(
        differentiated, trained, create_graph=True, retain_graph=False, allow_unused=True
    )
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        differentiated.backward()
