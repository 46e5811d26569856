"""Wrong arguments: each is refused by its name, or taken; nothing crashes."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

import aefast
from aefast import use_backend
from aefast.backend import BackendUnavailableError
from tests.fuzz import calls, trainings
from tests.fuzz.calls import OPS, Call
from tests.fuzz.trainings import Training

# What an argument is replaced by. Some of it is right for some.
VALUES: dict[str, Any] = {
    "None": None,
    "a string": "strange",
    "an empty string": "",
    "bytes": b"\0",
    "-1": -1,
    "0": 0,
    "2": 2,
    "2**63": 2**63,
    "2**80": 2**80,
    "-2.5": -2.5,
    "1.5": 1.5,
    "1e40": 1e40,
    "NaN": float("nan"),
    "infinity": float("inf"),
    "True": True,
    "an imaginary number": 1j,
    "a list": [1, "a"],
    "an empty list": [],
    "a dict": {},
    "an object": object(),
    "a function": lambda *arguments: None,
    "a numpy array": np.ones((2, 3), np.float32),
    "a numpy number": np.float64(0.5),
    "a tensor": torch.ones(2, 3),
    "a tensor of integers": torch.ones(2, 3, dtype=torch.int64),
    "a tensor of nothing": torch.ones(0),
    "a number in a tensor": torch.tensor(0.5),
}

# What becomes of a tensor.
TENSORS: dict[str, Callable[[Tensor], Any]] = {
    "of integers": lambda t: t.nan_to_num().clamp(-9, 9).to(torch.int64),
    "of booleans": lambda t: t.isnan(),
    "complex": lambda t: t.to(torch.complex64),
    "float64": lambda t: t.double(),
    "on another device": lambda t: t.to("meta"),
    "sparse": lambda t: t.to_sparse(),
    "quantized": lambda t: torch.quantize_per_tensor(t.float().nan_to_num(), 0.1, 0, torch.qint8),
    "numpy's": lambda t: t.float().numpy(),
    "a list": lambda t: t.tolist(),
    "one dimension more": lambda t: t[None],
    "two dimensions more": lambda t: t[None, None],
    "flat": lambda t: t.flatten(),
    "twice": lambda t: torch.cat([t, t], -1) if t.dim() else t,
    "twice as many rows": lambda t: torch.cat([t, t]) if t.dim() else t,
    "one row": lambda t: t[:1] if t.dim() else t,
    "no rows": lambda t: t[:0] if t.dim() else t,
    "a number": lambda t: torch.tensor(0.5, dtype=t.dtype),
    "None": lambda t: None,
}


@dataclass(frozen=True)
class Wrong:
    """A right call, and what one of its arguments becomes."""

    right: Call | Training
    argument: str
    change: str

    def value(self, right: Any) -> Any:
        if isinstance(right, Tensor) and self.change in TENSORS:
            return TENSORS[self.change](right)
        return VALUES[self.change]


# Which compute with what they are given before they call the op.
WRAPPED = ("sparse_encode", "topk_encode", "sparse_decode", "sparse_reconstruction_loss")

FIT = ["model", "data", "optimizer", "epochs", "batch_size", "seed", "validation", "callback"]


@st.composite
def wrong_calls(draw: Any) -> Wrong:
    if draw(st.integers(0, 3)):
        call = draw(calls.calls().filter(lambda call: call.op not in WRAPPED))
        name = draw(st.sampled_from([*call.tensors, *call.options]))
        changes = [*TENSORS, *VALUES] if name in call.tensors else [*VALUES]
        return Wrong(call, name, draw(st.sampled_from(changes)))
    training = draw(trainings.trainings())
    constructor = inspect.signature(getattr(aefast.nn, training.kind).__init__)
    sizes = [*constructor.parameters][1 : 1 + len(training.sizes)]
    # Anything may be true or false.
    options = [name for name, value in training.options.items() if not isinstance(value, bool)]
    named = [f"{training.kind}.{name}" for name in (*sizes, *options)]
    name = draw(st.sampled_from([*named, *FIT]))
    changes = [*TENSORS, *VALUES] if name in ("data", "validation") else [*VALUES]
    return Wrong(training, name, draw(st.sampled_from(changes)))


def run_call(wrong: Wrong, call: Call) -> None:
    arguments = call.inputs() | call.options
    arguments[wrong.argument] = wrong.value(arguments[wrong.argument])
    with use_backend(call.backend):
        OPS[call.op].run(**arguments)


def run_training(wrong: Wrong, training: Training) -> None:
    constructor, _, name = wrong.argument.rpartition(".")
    kind = getattr(aefast.nn, training.kind)
    named = [*inspect.signature(kind.__init__).parameters][1 : 1 + len(training.sizes)]
    arguments = dict(zip(named, training.sizes, strict=True)) | training.options
    if constructor:
        arguments[name] = wrong.value(arguments[name])
        # No memory is taken: of some sizes there is none.
        kind(**arguments, device="meta")
        return
    model = kind(**arguments)
    rows = training.data()
    arguments = {
        "model": model,
        "data": rows,
        "optimizer": trainings.OPTIMIZERS[training.optimizer](model.parameters()),
        "epochs": 1,
        "batch_size": training.batch_size,
        "seed": training.seed,
        "validation": rows,
        "callback": None,
    }
    arguments[name] = wrong.value(arguments[name])
    aefast.fit(**arguments)


def check(wrong: Wrong) -> None:
    """Make the wrong call; raises AssertionError unless it is taken, or refused by a name."""
    right = wrong.right
    try:
        if isinstance(right, Call):
            run_call(wrong, right)
        else:
            run_training(wrong, right)
    except BackendUnavailableError:
        pass
    except Exception as error:
        if not isinstance(error, (TypeError, ValueError)) or not names_an_argument(error, wrong):
            raise AssertionError(f"no refusal by a name: {error!r}") from error


def names_an_argument(error: Exception, wrong: Wrong) -> bool:
    """The changed one, or where shapes or dtypes differ, another one of the tensors; the rows of
    the data are what a model's loss takes."""
    message = str(error)
    names = [wrong.argument.rpartition(".")[2]]
    if isinstance(wrong.right, Call):
        names += wrong.right.tensors
    elif names[0] in ("data", "validation"):
        names += ["x has", "x is", "x holds", "visible"]
    return any(name.rstrip("_0123456789") in message for name in names)
