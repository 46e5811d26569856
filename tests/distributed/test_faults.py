"""What goes wrong on one rank is a right result or one clear error on each: nothing hangs."""

import re

import pytest

pytest.importorskip("sklearn")

from tests.distributed import faults, worlds

DIFFERS = "DisagreementError: {} is .* on rank 1, and .* on rank 0; it takes the same on each rank"
OTHER = "OtherRankError: on rank 1: {}"
SUM = "ValueError: loss of some rows is not the mean of their losses; shared or in parts"

# Of rank 0, and of rank 1 where it is another one: the whole line, or how it begins.
EXPECTED: dict[str, tuple[str, ...]] = {
    "pca on one rank": ("101$", "nothing"),
    "sparse coding on one rank": ("1$", "nothing"),
    "fit on one rank": ("6 steps by step", "nothing"),
    "pca of the same rows": ("101$",),
    "pca of a group": ("202$",),
    "pca, no rows on a rank": ("101$",),
    "sparse coding, no rows on a rank": ("1$",),
    "pca, its own error": (OTHER.format("n_components is 'x'"), "ValueError: n_components is 'x'"),
    "pca, other options": (DIFFERS.format("n_components"),),
    "pca, other widths": ("ValueError: the ranks' X have 12, 11 features",),
    "sparse coding, its own error": (
        OTHER.format("X holds numbers up to 1e"),
        "ValueError: X holds numbers up to 1e",
    ),
    "no group": ("TypeError: process_group is a int; it takes a torch.distributed.ProcessGroup",),
    "fit in a group": ("6 steps by group",),
    "epochs": (OTHER.format("epochs is -1"), "ValueError: epochs is -1"),
    "a model without parameters in the optimizer": (
        OTHER.format("optimizer holds none"),
        "ValueError: optimizer holds none",
    ),
    "other data": (DIFFERS.format("data's checksum"),),
    "other held-out rows": (DIFFERS.format("validation data's checksum"),),
    "held-out rows of another width": (
        OTHER.format("validation has rows of 11 numbers; data has 12"),
        "ValueError: validation has rows of 11 numbers; data has 12",
    ),
    "another rate": (DIFFERS.format("the optimizer's lr"),),
    "another optimizer": (DIFFERS.format("the optimizer"),),
    "another corruption": (DIFFERS.format("the model's noise_level"),),
    "an optimizer with a past": (DIFFERS.format("the optimizer's state"),),
    "a function": ("TypeError: data is a function; in a process group it takes rows",),
    "another k": (DIFFERS.format("the model's k"),),
    "another corruption without a plan": (DIFFERS.format("the model's options"),),
    "another dropout without a plan": (DIFFERS.format("the model's 1 options"),),
    "another loss without a plan": (DIFFERS.format("loss"),),
    "a hook on one rank": (DIFFERS.format("what takes a step"),),
    "a hook on the other rank": (DIFFERS.format("what takes a step"),),
    "a frozen weight on one rank": (DIFFERS.format("which parameters train"),),
    "a width that is not the model's": ("ValueError: data has rows of 11 numbers",),
    "numbers outside [0, 1]": ("ValueError: x holds 2; Bernoulli units take numbers in",),
    "fewer rows than ranks": ("1 steps by group",),
    "a last batch below the ranks": ("2 steps by group",),
    "a loss that fails": (OTHER.format("out of memory"), "RuntimeError: out of memory"),
    "a code that fails": (OTHER.format("out of memory"), "RuntimeError: out of memory"),
    "a batch's code that fails": (OTHER.format("out of memory"), "RuntimeError: out of memory"),
    "an optimizer's hook that fails": (
        OTHER.format("a hook's own"),
        "RuntimeError: a hook's own",
    ),
    "rows that cannot be read": (OTHER.format("a bad sector"), "OSError: a bad sector"),
    "rows of a machine that cannot be read": (
        OTHER.format("a bad sector"),
        "OSError: a bad sector",
    ),
    "a dictionary's optimizer's hook that fails": (
        OTHER.format("a hook's own"),
        "RuntimeError: a hook's own",
    ),
    "a callback that stops": (r"\d+ steps by group",),
    "a callback that fails": (OTHER.format("\"a callback's own"), "KeyError: \"a callback's own"),
    "a callback that changes the rate": (DIFFERS.format("the optimizer's lr"),),
    "a callback that unfreezes": ("the same",),
    "an interrupt": ("KeyboardInterrupt: ",),
    "a sum": ("ValueError: loss has reduction='sum'; shared or in parts it takes a mean",),
    "a partial sum": (SUM,),
    "a sum of squares": (SUM,),
    "a mean of sums": ("6 steps by group",),
    "batch norm": ("ValueError: model holds a BatchNorm1d, .* it takes one process",),
    "a sharded model": ("ValueError: model has sharded parameters, as fully_shard leaves them",),
    "an interrupt of an estimator": ("KeyboardInterrupt: ",),
    "afterwards": ("6 steps by group",),
}


def test_each_rank_has_a_result_or_one_clear_error():
    first, second = worlds.run(2, faults.outcomes)
    assert first.keys() == EXPECTED.keys()
    for name, expected in EXPECTED.items():
        assert re.match(expected[0], first[name]), (name, first[name])
        assert re.match(expected[-1], second[name]), (name, second[name])


def test_a_rank_that_does_not_make_the_call_is_waited_for_until_the_timeout():
    first, second = worlds.run(2, faults.late)
    assert first.startswith(
        "LateRankError: a rank did not answer within the process group's timeout, which "
        "init_process_group(timeout=) sets: "
    )
    assert second == "nothing"
