"""``aefast.fit`` in a process group: one process's numbers, for each kind of model."""

import os
import re
import signal
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

import aefast
from aefast import nn
from aefast.distributed import gradients, shared_memory
from aefast.distributed.group import Group, Sum
from aefast.step.loss import VENDOR_IS_FASTER
from tests.distributed import training, worlds

STATES = ("idle", "chain", "training_steps")
WORDS = ("engine", "reason")


def check_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Parameters and losses to rounding, states to the bit.

    The parameters are taken as one vector: contrastive divergence's gradients are differences, so
    that a small bias has few of its digits. So are its losses.
    """
    assert one.keys() == other.keys()
    for name in one:
        if name.split(".")[-1] in STATES:
            # A Gaussian unit's state is its mean, a function of the parameters, plus its noise.
            is_continuous = "log_var" in one
            tolerance = 1e-5 if is_continuous else 0.0
            assert torch.allclose(other[name], one[name], rtol=0, atol=tolerance), name
    assert (other["losses"] - one["losses"]).abs().max() < 1e-6 * one["losses"].abs().max().clamp(
        min=1
    )
    expected, actual = _parameters(one), _parameters(other)
    assert (actual - expected).norm() < 1e-6 * expected.norm()


def _parameters(state: dict[str, Any]) -> Tensor:
    names = [name for name in state if name.split(".")[-1] not in (*STATES, "losses", *WORDS)]
    return torch.cat([state[name].double().flatten() for name in names])


def test_two_ranks_are_one_process_of_every_model():
    names = list(training.MODELS)
    first, second = worlds.run(2, training.trained_of_all, 12, names)
    for name in names:
        assert first[name]["engine"] == "group"
        check_same(training.trained(name, 12), first[name])
    for name in training.IN_PARTS:
        check_same(training.trained(name, 12), first[f"{name} in parts"])
    for name in first:
        for key, value in first[name].items():
            assert key in WORDS or torch.equal(value, second[name][key]), (name, key)


def test_a_stack_of_machines_draws_rank_0_s_seeds():
    first, second = worlds.run(2, training.stacked)
    (one,) = worlds.run(1, training.stacked)
    for name, value in first.items():
        assert torch.equal(second[name], value), name
        tolerance = 0 if name.endswith("training_steps") else 1e-6
        torch.testing.assert_close(value, one[name], rtol=0, atol=tolerance, msg=name)


def test_what_is_slower_on_one_ranks_processor_none_of_them_takes():
    pytest.importorskip("aefast._C", reason="the kernels take no step without it")
    one = training.trained("ae", 12)
    for rank in worlds.run(2, training.trained_on_two_processors):
        assert rank["reason"].endswith(VENDOR_IS_FASTER)
        check_same(one, rank)


def test_two_ranks_over_the_network_are_one_process_of_every_model():
    names = list(training.MODELS)
    first, second = worlds.run(2, training.trained_over_the_network, names)
    for name in names:
        assert "summed over 2 ranks by gloo (a test's); " in first[name]["reason"]
        check_same(training.trained(name, 12), first[name])
        for key, value in first[name].items():
            assert key in WORDS or torch.equal(value, second[name][key]), (name, key)


def test_memory_is_shared_by_all_ranks_or_by_none_and_the_reason_is_said():
    expected = {
        "one machine": " in shared memory",
        "no space": r" by gloo \(0\.0 GiB of shared memory: No space left on device\)",
        "little memory": r" by gloo \(the sum takes 0\.0 GiB, more than half of the 0\.0 GiB that",
        "no /proc": r" by gloo \(memory cannot be shared: .*No such file or directory",
        "several machines": r" by gloo \(no memory is shared with rank 1: it runs on another mach",
        "hidden processes": r" by gloo \(it cannot open rank 0's: .*No such file or directory",
        "odd numbers": r" by gloo \(memory cannot be shared: 'a number'\)",
        "an older Python": r" by gloo \(no memory is shared with rank 1: memory without a file",
        "no extension": r" by gloo \(no memory is shared with rank 1: it was not built\)",
        "another torch": r" by gloo \(memory cannot be shared: no timeout\)",
        "other sizes": r"DisagreementError: the size of the sum is \[6, 1\] on rank 1, and",
    }
    for rank in worlds.run(2, training.reasons):
        assert rank.keys() == expected.keys()
        for case, reason in rank.items():
            assert re.match(expected[case], reason), (case, reason)


def test_a_process_that_is_killed_leaves_no_memory_behind():
    """Nor a file, at whatever moment."""
    before = sorted(os.listdir("/dev/shm"))
    child = os.fork()
    if child == 0:
        shared_memory._new_memory(1 << 20)
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert sorted(os.listdir("/dev/shm")) == before


@pytest.mark.parametrize(("limit", "expected"), [("max", 3000 * 1024), ("2000000", 1000000)])
def test_memory_is_what_the_machine_and_the_container_have(limit, expected, tmp_path, monkeypatch):
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 3000 kB\n")
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text("1000000\n")
    monkeypatch.setattr(shared_memory, "MEMORY_INFO", tmp_path / "meminfo")
    monkeypatch.setattr(shared_memory, "CONTAINER", tmp_path)
    assert shared_memory._free_bytes() == min(expected, 3000 * 1024)
    monkeypatch.setattr(shared_memory, "CONTAINER", tmp_path / "none")
    assert shared_memory._free_bytes() == 3000 * 1024


def test_sums_begin_in_backward_in_the_order_of_the_buckets(monkeypatch):
    """Of a step's last backward; a bucket waits for those before it, and for all its parameters."""
    monkeypatch.setattr(gradients, "BUCKET_BYTES", 8)
    begun: list[int] = []

    class Recorder(Group):
        def all_reduce(self, tensor: Tensor) -> Sum:
            begun.append(tensor.numel())
            return Sum(None)

    first, second, third = (torch.nn.Parameter(torch.ones(n)) for n in (3, 4, 5))
    total = gradients.GradientSum([first, second, third], Recorder())
    total.watch()
    try:
        total.is_last_backward = False
        (first.sum() + second.sum() + third.sum()).backward()
        assert begun == []
        total.is_last_backward = True
        (first.sum() + third.sum()).backward()
        assert begun == [5]
        assert total.all_reduce([1.0]) == [1.0]
        assert begun == [5, 4, 3, 4]
    finally:
        total.unwatch()
    assert first.grad is not None
    assert first.grad.tolist() == [2, 2, 2]
    third.sum().backward()
    assert len(begun) == 4


# Whose code is selected among those of the whole minibatch.
WHOLE = ("batchtopk", "matryoshka", "batch transcoder")


@pytest.mark.parametrize("name", sorted(training.MODELS.keys() - {*WHOLE}))
def test_micro_batches_are_a_whole_minibatch(name):
    """The last minibatch has one row; noise is the whole one's."""
    in_parts = training.trained(name, 12, micro_batch_size=7)
    assert in_parts["engine"] in ("step", "loop")
    check_same(training.trained(name, 12), in_parts)


@pytest.mark.parametrize("name", WHOLE)
def test_what_looks_at_a_whole_minibatch_takes_no_parts(name):
    with pytest.raises(
        ValueError, match="which selects latents among all codes of a minibatch; micro"
    ):
        training.trained(name, 12, micro_batch_size=7)


@pytest.mark.parametrize("method", ["encode", "loss"])
def test_a_batch_code_of_ones_own_is_refused(method):
    """Its largest latents would be those of a rank's rows."""

    class Own(nn.BatchTopKSparseAutoencoder):
        pass

    setattr(Own, method, lambda self, x, **options: getattr(super(Own, self), method)(x, **options))
    model = Own(12, 40, 3)
    with pytest.raises(
        ValueError, match="model is a Own, which has a loss or an encode of its own"
    ):
        aefast.fit(model, training.rows(), torch.optim.SGD(model.parameters()), micro_batch_size=7)


def test_a_rank_that_joined_no_group_warns(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.warns(UserWarning, match="WORLD_SIZE is 2, and this process trains alone") as seen:
        training.trained("ae", 1)
    (warning,) = seen
    assert warning.filename == training.__file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        training.trained("ae", 1, process_group=None)
        monkeypatch.setenv("WORLD_SIZE", "1")
        training.trained("ae", 1)


def test_what_parts_do_not_add_up_to_is_refused():
    def fit(data: Any, loss: Any = None, size: Any = 7) -> None:
        model = torch.nn.Sequential(torch.nn.Linear(12, 4), torch.nn.Linear(4, 12))
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        aefast.fit(model, data, optimizer, loss=loss, micro_batch_size=size)

    with pytest.raises(ValueError, match="loss has reduction='sum'; shared or in parts it takes"):
        fit(training.rows(), torch.nn.MSELoss(reduction="sum"))
    with pytest.raises(ValueError, match="loss of some rows is not the mean of their losses"):
        fit(training.rows(), lambda y, x: (y - x).square().sum())
    with pytest.raises(TypeError, match="data is a function, which gives its own batches"):
        fit(lambda: iter([training.rows()]))
    with pytest.raises(ValueError, match="micro_batch_size is 0; it takes an int"):
        fit(training.rows(), size=0)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3, 4])
def test_fifty_steps_are_one_process_s(size):
    names = list(training.MODELS)
    states = worlds.run(size, training.trained_of_all, 50, names)
    for name in names:
        one = training.trained(name, 50)
        check_same(one, states[-1][name])
        if name in training.IN_PARTS:  # of which some ranks have more than others
            check_same(one, states[-1][f"{name} in parts"])
