"""Ranks that wait for each other, and sum, in memory that they share."""

import pytest

from tests.distributed import waiting, worlds

pytest.importorskip("aefast._C", reason="the barrier takes the extension")


def test_nobody_passes_before_all_have_come():
    """Also where there are more ranks than cores."""
    assert worlds.run(3, waiting.sums) == [0, 0, 0]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (100.0, "LostRankError: rank 1 is gone"),
        (0.3, "LateRankError: a rank did not answer within the process group's timeout, which"),
    ],
)
def test_a_rank_that_does_not_come_is_gone_or_late(seconds, expected):
    first, second = worlds.run(2, waiting.waits_for, seconds)
    assert first.startswith(expected)
    assert second == "nothing"
