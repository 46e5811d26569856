"""A few seconds of the fuzzing, always of the same examples, and that it sees a fault."""

import math

import pytest

pytest.importorskip("hypothesis")
pytest.importorskip("PIL")
pytest.importorskip("safetensors")

from aefast import backend
from tests.fuzz import calls, files
from tests.fuzz.calls import Call, Given, Op
from tests.fuzz.files import Mutated
from tests.fuzz.target import Target

needs_kernels = pytest.mark.skipif(not calls.backends(), reason="needs a kernel backend")


@pytest.fixture(autouse=True)
def restored(threads):
    """What a call sets: threads and the instruction set."""
    before = backend.cpu_isa()
    yield
    if before is not None:
        backend.extension().cap_instruction_set(before)


@needs_kernels
def test_a_few_calls_are_the_definitions():
    target = Target("calls", calls.calls(), calls.check)
    target.run(examples=20, seed=1, end=math.inf)
    assert target.tried >= 20
    assert target.faults == set()


def test_a_few_mutated_files_are_read_or_refused():
    target = Target("files", files.files(), files.check)
    target.run(examples=60, seed=1, end=math.inf)
    assert target.tried >= 60
    assert target.faults == set()


CALL = Call("op", calls.backends()[0], "float32", {"x": Given((5, 3))}, {}, 0)


@needs_kernels
@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        (lambda x: x * (1 + 1e-4), "off by"),
        (lambda x: x / 0, "not finite where torch is"),
        (lambda x: x.double(), "dtype"),
        (lambda x: x[:1], "shape"),
        (lambda x: x.detach().mul_(2), "x was written to"),
        (lambda x: [][0], "IndexError"),
    ],
)
def test_a_wrong_kernel_is_seen(monkeypatch, wrong, fault):
    def run(x):
        return x * 1 if backend.select(x.device, x.dtype) == "eager" else wrong(x)

    monkeypatch.setitem(calls.OPS, "op", Op(run, lambda draw: None))
    with pytest.raises(AssertionError, match=fault):
        calls.check(CALL)


def test_a_traceback_is_seen(monkeypatch):
    def load(path):
        raise KeyError(path)

    monkeypatch.setattr(files.data, "load", load)
    with pytest.raises(KeyError):
        files.check(Mutated("x.npy", 0, ()))


@pytest.mark.parametrize("message", ["two\nlines", "\x1b[2J", "a" * 3000])
def test_a_message_of_more_than_a_line_is_seen(message):
    with pytest.raises(AssertionError, match="line"):
        files.check_message(message)


def test_a_fault_is_told_once_with_its_smallest_example(capsys):
    def check(number):
        assert number < 10, "too large"

    target = Target("numbers", calls.st.integers(0, 1000), check)
    for seed in (1, 2):
        target.run(examples=50, seed=seed, end=math.inf)
    assert len(target.faults) == 1
    assert "too large" in capsys.readouterr().out


def test_nothing_is_tried_when_the_time_is_over():
    target = Target("numbers", calls.st.integers(0, 1000), lambda number: None)
    target.run(examples=50, seed=1, end=-math.inf)
    assert target.tried == 0
