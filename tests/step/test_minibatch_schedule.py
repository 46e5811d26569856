"""MinibatchSchedule: the rows of each step."""

import pytest
import torch

from aefast import random
from aefast.step.minibatch_schedule import MinibatchSchedule


def sizes(schedule):
    return [[len(rows) for rows in epoch] for epoch in schedule.epochs()]


def test_an_epochs_last_minibatch_may_be_smaller():
    schedule = MinibatchSchedule(torch.arange(20), 4, 10, [1, 2])
    assert sizes(schedule) == [[4, 4, 2], [4, 4, 2]]


def test_even_minibatches_have_the_same_size_to_one():
    schedule = MinibatchSchedule(torch.arange(20), 4, 10, [1, 2], is_even=True)
    assert sizes(schedule) == [[4, 3, 3], [4, 3, 3]]


@pytest.mark.parametrize("is_even", [False, True])
@pytest.mark.parametrize(("rows", "batch"), [(10, 4), (11, 4), (12, 4), (3, 5), (7, 1)])
def test_what_is_left_goes_on_where_the_steps_ended(rows, batch, is_even):
    whole = MinibatchSchedule(torch.randperm(3 * rows), batch, rows, [5, 6, 7], is_even=is_even)
    steps = [
        (minibatch.tolist(), seed, number)
        for epoch, seed in zip(whole.epochs(), whole.seeds, strict=True)
        for number, minibatch in enumerate(epoch)
    ]
    for steps_taken in range(len(steps)):
        rest = whole.after(steps_taken)
        assert rest.after(1).order.tolist() == whole.after(steps_taken + 1).order.tolist()
        left = [
            (minibatch.tolist(), seed, number)
            for first, epoch, seed in zip(
                [rest.first_step, 0, 0], rest.epochs(), rest.seeds, strict=False
            )
            for number, minibatch in enumerate(epoch, start=first)
        ]
        assert left == steps[steps_taken:]
        expected = [random.child_seed(seed, number) for _, seed, number in left]
        assert rest.step_seeds(len(left)).tolist() == expected
    assert len(whole.after(len(steps)).order) == 0


def test_a_stretch_may_be_a_part_of_one_long_count_of_steps():
    """As for aefast train, which counts a run's steps over all epochs."""
    schedule = MinibatchSchedule(torch.arange(6), 4, 10, [3], first_step=70)
    assert schedule.step_seeds(2).tolist() == [random.child_seed(3, step) for step in (70, 71)]
