"""A small model's ``aefast.fit`` beside a program that keeps a core busy, against itself alone."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from bench_step import LONG_CALL, fit_case, plain
from harness import Case
from shapes import SMALL, Shape
from torch import Tensor

# It ends with the program that started it, whatever became of that.
PROGRAM = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"


class BusyProgram:
    """A program that keeps a core busy while it is at work, and is stopped else."""

    def __init__(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-S", "-c", PROGRAM])
        self.stop()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)
        _, status = os.waitpid(self.process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), "the busy program has ended"

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        self.process.send_signal(signal.SIGCONT)
        try:
            yield
        finally:
            self.stop()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def program() -> Iterator[BusyProgram]:
    program = BusyProgram()
    yield program
    program.end()


@pytest.mark.parametrize("device", ["cpu"])
@pytest.mark.parametrize("shape", [Shape(batch, SMALL) for batch in (32, 128)], ids=str)
def test_fit(
    compare: Callable[[Case], None], program: BusyProgram, shape: Shape, device: str
) -> None:
    alone = fit_case(plain, shape, LONG_CALL)

    def beside(data: Tensor) -> None:
        with program.at_work():
            alone.ours(data)

    name = f"{alone.name}, beside a busy program, eager is fit alone"
    compare(replace(alone, name=name, ours=beside, eager=alone.ours, compiles=False))
