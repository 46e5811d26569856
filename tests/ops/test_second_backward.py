"""A second backward pass is refused where torch refuses it, and where the graph was retained adds
the same gradients once more."""

import pytest
import torch

from aefast.backend import use_backend
from aefast.functional import corrupt
from tests.ops.test_aliasing import OPS

CASES = {**OPS, "corrupt": lambda x: corrupt(x, "salt_and_pepper", 0.3, seed=1)}


def gradient(op, x, passes, **options):
    """x's gradient after so many backward passes through one graph, or torch's refusal."""
    result = op(x)
    outputs = [result] if isinstance(result, torch.Tensor) else result
    outputs = [output for output in outputs if output is not None and output.requires_grad]
    x.grad = None
    try:
        for _ in range(passes if outputs else 0):
            torch.autograd.backward(outputs, [*map(torch.ones_like, outputs)], **options)
    except RuntimeError as refusal:
        return str(refusal)
    return x.grad


@pytest.mark.parametrize("op", CASES.values(), ids=CASES)
def test_a_graph_that_was_not_retained_is_freed_as_torchs_is(kernel_device, op):
    x = torch.rand(3, 4).to(kernel_device).requires_grad_()
    with use_backend("eager"):
        expected = gradient(op, x, 2)
    if isinstance(expected, str):
        assert gradient(op, x, 2) == expected
    once, twice = (gradient(op, x, passes, retain_graph=True) for passes in (1, 2))
    torch.testing.assert_close(twice, once if once is None else 2 * once)
