"""Our draws from torch's generator equal torch's own, bit for bit."""

import pytest
import torch
import torch.nn.functional as F

from aefast import backend
from aefast.acceleration import draws

pytestmark = pytest.mark.skipif(
    backend.select(torch.device("cpu"), torch.float32) != "cpp" or not draws.draws_as_torch(),
    reason="torch draws by another library here",
)


@pytest.mark.parametrize("count", [1, 15, 16, 312, 623, 624, 625, 1024, 5003])
@pytest.mark.parametrize("level", [0.1, 0.5, 0.7])
@pytest.mark.parametrize("before", [0, 7, 623])
def test_dropout_and_uniform_numbers(count: int, level: float, before: int) -> None:
    x = torch.linspace(-1, 2, count)
    states = []
    for is_ours in (True, False):
        torch.manual_seed(3)
        torch.rand(before)
        dropped = draws.drawn(x, "dropout", 1 - level) * x if is_ours else F.dropout(x, level)
        uniform = draws.drawn(x, "rand_like") if is_ours else torch.rand_like(x)
        states.append((dropped, uniform, torch.get_rng_state()))
    for actual, expected in zip(*states, strict=True):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("count", [16, 17, 31, 32, 624, 1024, 1025, 4999, 100_000])
def test_gaussian_numbers(count: int) -> None:
    x = torch.empty(count)
    states = []
    for is_ours in (True, False):
        torch.manual_seed(count)
        torch.rand(5)
        numbers = draws.drawn(x, "randn_like") if is_ours else torch.randn_like(x)
        states.append((numbers, torch.get_rng_state()))
    torch.testing.assert_close(states[0][0], states[1][0], rtol=1e-5, atol=1e-6)
    assert torch.equal(states[0][1], states[1][1])


def test_a_gaussian_number_that_waits_is_kept() -> None:
    numbers = []
    for is_ours in (True, False):
        torch.manual_seed(0)
        torch.randn(1)  # torch draws two and keeps the other
        x = torch.ones(300)
        draws.drawn(x, "rand_like") if is_ours else torch.rand_like(x)
        numbers.append(torch.randn(3))
    assert torch.equal(*numbers)


@pytest.mark.parametrize("kind", ["dropout", "rand_like"])
def test_torch_draws_few_numbers_itself(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.undo()
    draw = draws.Draw(kind, 0.5)
    assert draw.refusal(torch.empty(draws.FEWEST - 1)) == draws.TOO_FEW
    assert draw.refusal(torch.empty(draws.FEWEST)) is None
