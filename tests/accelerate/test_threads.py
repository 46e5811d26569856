"""Accelerated models that several threads call at once."""

import copy
import os
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from torch import nn

import aefast
from aefast.acceleration import draws
from tests.accelerate.models import sequential
from tests.fresh import run


@pytest.fixture
def switching() -> Iterator[None]:
    """Threads that take turns a hundred times as often."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(5e-5)
    yield
    sys.setswitchinterval(interval)


def in_threads(function: Callable[[], None], count: int = 8) -> list[Exception]:
    """What was raised in as many threads that call a function."""
    errors = []

    def call() -> None:
        try:
            function()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=call) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def in_evaluation(model: nn.Module) -> tuple[nn.Module, nn.Module]:
    twin = copy.deepcopy(model)
    aefast.accelerate(model)
    return model.eval(), twin.eval()


def test_a_model_is_traced_for_one_thread_and_others_go_on(switching: None) -> None:
    """In a new mode the first call traces the model, for which torch.fx changes every module."""
    calls = nn.Module.__call__, nn.Module.__getattr__
    plain, rows, x = sequential(8, 6, 8), torch.rand(4, 8), torch.rand(16, 20)
    compiled = torch.compile(plain, backend="eager")
    expected = compiled(rows)
    pairs = [
        in_evaluation(nn.Sequential(sequential(20, 12, 20), nn.Dropout(), sequential(20, 12, 20)))
        for _ in range(5)
    ]
    torch.manual_seed(0)
    drawn, ended, errors = [], threading.Event(), []

    def go_on() -> None:
        while not ended.is_set():
            torch.testing.assert_close(plain(rows), expected)
            torch.testing.assert_close(compiled(rows), expected)
            drawn.append(torch.rand(2))

    def compare(model: nn.Module, twin: nn.Module) -> None:
        torch.testing.assert_close(model(x), twin(x))

    bystander = threading.Thread(target=lambda: errors.extend(in_threads(go_on, 1)))
    bystander.start()
    for model, twin in pairs:
        errors += in_threads(partial(compare, model, twin))
        assert sum(row.served for row in aefast.report(model).rows) == 8
    ended.set()
    bystander.join()
    assert not errors
    assert calls == (nn.Module.__call__, nn.Module.__getattr__)
    generator = torch.Generator().manual_seed(0)
    assert all(torch.equal(numbers, torch.rand(2, generator=generator)) for numbers in drawn)


def test_threads_draw_different_numbers(switching: None) -> None:
    x, masks = torch.ones(64, 64), []
    errors = in_threads(
        lambda: masks.extend(draws.drawn(x, "dropout", 0.5).numpy().tobytes() for _ in range(20))
    )
    assert not errors
    assert len({*masks}) == len(masks) == 160


FORKS = """
import os, signal, threading, torch
from aefast.acceleration import draws, tracing

signal.alarm(60)
x, ended = torch.ones(512, 512), threading.Event()

def draw():
    while not ended.is_set():
        draws.drawn(x, "dropout", 0.5)
        with tracing.TRACING:
            pass

thread = threading.Thread(target=draw)
thread.start()
for _ in range(20):
    child = os.fork()
    if child == 0:
        signal.alarm(10)
        draws.drawn(x, "dropout", 0.5)
        with tracing.TRACING:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
ended.set()
thread.join()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_child_that_is_forked_in_the_midst_of_a_draw_draws() -> None:
    ended = run(FORKS, dict(os.environ))
    assert ended.returncode == 0, ended.stderr


DRAWS_IN_A_HANDLER = """
import os, signal, torch
from aefast import backend
from aefast.acceleration import draws

signal.alarm(20)
x, kernels, numbers = torch.ones(8, 8), backend.extension(), []
kernel = kernels.mersenne_uniform

def draw(*arguments):
    kernels.mersenne_uniform = kernel
    signal.raise_signal(signal.SIGUSR1)
    kernel(*arguments)

def handle(*_):
    numbers.append(draws.drawn(x, "rand"))
    child = os.fork()
    if child == 0:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0

signal.signal(signal.SIGUSR1, handle)
kernels.mersenne_uniform = draw
draws.drawn(x, "rand")
assert len(numbers) == 1
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_signals_handler_draws_and_forks_in_the_midst_of_a_draw() -> None:
    ended = run(DRAWS_IN_A_HANDLER, dict(os.environ))
    assert ended.returncode == 0, ended.stderr
