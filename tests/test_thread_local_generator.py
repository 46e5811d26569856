"""aefast.thread_local_generator: a trial's draws do not change torch's generator."""

import pytest
import torch

from aefast.thread_local_generator import ThreadLocalGenerator

DRAWS = {
    "randn": lambda: torch.randn(9),
    "randn_like": lambda: torch.randn_like(torch.zeros(9)),
    "randint": lambda: torch.randint(100, (9,)),
    "randint low": lambda: torch.randint(2, 100, (9,)),
    "in place": lambda: torch.zeros(9).normal_(),
    "dropout": lambda: torch.nn.functional.dropout(torch.ones(99)),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_draws_leave_torch_s_generator_and_differ(draw):
    state = torch.get_rng_state()
    with ThreadLocalGenerator(torch.device("cpu")):
        first, second = draw(), draw()
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(first, second)


def test_a_draw_that_takes_no_generator_is_refused():
    with pytest.raises(NotImplementedError), ThreadLocalGenerator(torch.device("cpu")):
        torch.randint_like(torch.zeros(9), 2, 100)
