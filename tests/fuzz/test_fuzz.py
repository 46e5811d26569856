"""A few seconds of the fuzzing, always of the same examples, and that it sees a fault."""

import math
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

pytest.importorskip("hypothesis")
pytest.importorskip("PIL")
pytest.importorskip("safetensors")

from aefast import backend
from aefast.training.engines import DivergenceError
from tests.fuzz import calls, files, folders, trainings, wrong
from tests.fuzz.calls import Call, Op, TensorSpec
from tests.fuzz.files import Mutated
from tests.fuzz.target import Target
from tests.fuzz.trainings import Training
from tests.fuzz.wrong import Wrong

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
    target.run(examples=8, seed=1, end=math.inf)
    assert target.tried >= 8
    assert target.faults == set()


@pytest.mark.parametrize(
    ("module", "strategy"), [(files, files.files()), (folders, folders.folders())]
)
def test_a_few_mutated_files_and_folders_are_read_or_refused(module, strategy):
    target = Target(module.__name__, strategy, module.check)
    target.run(examples=60, seed=1, end=math.inf)
    assert target.tried >= 60
    assert target.faults == set()


@pytest.mark.parametrize(
    ("module", "strategy"), [(trainings, trainings.trainings()), (wrong, wrong.wrong_calls())]
)
def test_a_few_trainings_are_the_loops_and_a_few_wrong_calls_are_refused(module, strategy):
    target = Target(module.__name__, strategy, module.check)
    target.run(examples=30, seed=1, end=math.inf)
    assert target.tried >= 30
    assert target.faults == set()


TRAINING = Training(
    "Autoencoder", (), {"layers": [3, 2]}, "unit", 5, 2, 1, "sgd", 0, 1, backend.cpu_isa()
)


@pytest.mark.parametrize(
    ("scale", "fault"), [(lambda p: p * 1.001, "is off by"), (lambda p: p / 0, "is off by")]
)
def test_a_training_that_ends_elsewhere_is_seen(monkeypatch, scale, fault):
    fit = trainings.aefast.fit

    def ends_elsewhere(model, *arguments, **options):
        history = fit(model, *arguments, **options)
        model.encoder[0].weight.data = scale(model.encoder[0].weight.data)
        return history

    monkeypatch.setattr(trainings.aefast, "fit", ends_elsewhere)
    with pytest.raises(AssertionError, match=fault):
        trainings.check(TRAINING)


@pytest.mark.parametrize("error", [ValueError("it is wrong"), RuntimeError("level is wrong")])
def test_a_refusal_without_a_name_or_of_another_kind_is_seen(monkeypatch, error):
    def run(**arguments):
        raise error

    monkeypatch.setitem(calls.OPS, "op", Op(run, lambda draw: None))
    call = Call("op", "eager", "float32", {}, {"level": 1}, 0)
    with pytest.raises(AssertionError, match="no refusal by a name"):
        wrong.check(Wrong(call, "level", "a list"))


CALL = Call("op", calls.backends()[0], "float32", {"x": TensorSpec((5, 3))}, {}, 0)


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


@pytest.mark.parametrize("kind", folders.FOLDERS)
def test_a_folder_as_it_was_written_is_read(kind, monkeypatch):
    read = []
    reader = kind.partition(" ")[0]
    original = folders.READERS[reader]
    monkeypatch.setitem(folders.READERS, reader, lambda path: read.append(original(path)))
    folders.check(folders.Changed(kind, next(iter(folders.sample(kind)))))
    assert read == [None]


@pytest.mark.parametrize("has_diverged", [False, True])
def test_an_error_of_a_training_that_diverged_is_no_fault(monkeypatch, has_diverged):
    def diverge(*arguments, **options):
        raise DivergenceError("the loss of step 1 is nan")

    monkeypatch.setattr(trainings.aefast, "fit", diverge)
    if has_diverged:
        monkeypatch.setattr(trainings, "looped", lambda *_: (None, [1.0, math.nan]))
        trainings.check(TRAINING)
    else:
        with pytest.raises(AssertionError, match="the loss of step 1 is nan, where the loop's"):
            trainings.check(TRAINING)


@needs_kernels
@pytest.mark.parametrize(("factor", "is_fault"), [(1 - 1e-3, False), (1 + 1e-3, True)])
def test_a_smaller_minimum_than_the_definitions_is_no_fault(monkeypatch, factor, is_fault):
    def run(x):
        return x.abs() * (1 if backend.select(x.device, x.dtype) == "eager" else factor)

    monkeypatch.setitem(
        calls.OPS, "op", Op(run, lambda draw: None, gradients=False, is_minimum=True)
    )
    with pytest.raises(AssertionError, match="off by") if is_fault else nullcontext():
        calls.check(CALL)


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


def test_a_fault_whose_smallest_example_is_not_found_in_time_is_told():
    seen = []

    def check(number):
        seen.append(number)
        assert number < 10, "too large"

    target = Target("numbers", calls.st.integers(0, 1000), check)
    clock = SimpleNamespace(monotonic=lambda: 0.0 if not seen or max(seen) < 10 else 1.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.fuzz.target.time", clock)
        target.run(examples=50, seed=1, end=0.5)
    assert target.faults == {"AssertionError: too large\nassert " + str(seen[-1]) + " < 10"}


def test_nothing_is_tried_when_the_time_is_over():
    target = Target("numbers", calls.st.integers(0, 1000), lambda number: None)
    target.run(examples=50, seed=1, end=-math.inf)
    assert target.tried == 0
