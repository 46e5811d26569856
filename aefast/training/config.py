"""A run's configuration and progress; a checkpoint holds both as JSON."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self, get_args, get_origin, get_type_hints

from aefast.messages import cut
from aefast.random import SEED_LIMIT

LARGEST = 2**31 - 1  # the largest size
LARGEST_LOSS = 3.4028234663852886e38  # float32's largest number
LARGEST_COUNT = 2**53 - 1  # up to here JSON's numbers are exact

DEVICES = ("cpu", "cuda")
Limit = tuple[Callable[[Any], bool], str]  # a condition, and its wording in a message

PRECISIONS = ("highest", "high", "medium")


class _Json:
    """A dataclass that converts to and from JSON's types."""

    def to_json(self) -> dict[str, object]:
        return dataclasses.asdict(self)  # type: ignore[call-overload]

    @classmethod
    def from_json(cls, value: object) -> Self:
        """
        Raises:
            ValueError: a field is unknown, of another type, or missing. One with a default may be
                missing: a later version added it.
        """
        types = get_type_hints(cls)
        fields = dataclasses.fields(cls)  # type: ignore[arg-type]
        needed = {field.name for field in fields if _is_needed(field)}
        if not isinstance(value, dict) or not needed <= value.keys() <= types.keys():
            raise ValueError(f"{cls.__name__.lower()} takes the fields {', '.join(types)}")
        return cls(**{name: _typed(value[name], types[name], name) for name in value})


def _is_needed(field: "dataclasses.Field[Any]") -> bool:
    return field.default is field.default_factory is dataclasses.MISSING


def _typed(value: object, kind: Any, name: str) -> Any:
    """Convert a value of JSON's to a field's type. A bool is not taken for a number."""
    if isinstance(kind, type) and issubclass(kind, _Json):
        return kind.from_json(value)
    if type(None) in get_args(kind):
        return None if value is None else _typed(value, get_args(kind)[0], name)
    outer = get_origin(kind) or kind
    is_taken = isinstance(value, outer) and (outer is bool or not isinstance(value, bool))
    if isinstance(value, list) and outer is list:
        return [_typed(item, get_args(kind)[0], name) for item in value]
    if not is_taken:
        takes = kind.__name__ if kind is outer else kind
        raise ValueError(f"{name} is {cut(repr(value))}; it takes {takes}")
    return value


def _check(values: object, limits: dict[str, Limit]) -> None:
    """Check each field of a dataclass.

    Args:
        limits: for each field a condition, and its wording in the message.

    Raises:
        ValueError: a field does not fulfil its condition. A checkpoint may have been edited.
    """
    for name, (holds, takes) in limits.items():
        value = getattr(values, name)
        if not holds(value):
            raise ValueError(f"{name} is {cut(repr(value))}; it takes {takes}")


def _within(low: int, high: int) -> Limit:
    return lambda value: low <= value <= high, f"an int in [{low}, {high}]"


def _among(*values: str) -> Limit:
    return lambda value: value in values, f"one of {', '.join(values)}"


_FINITE_NUMBERS = (
    lambda numbers: all(abs(number) <= LARGEST_LOSS for number in numbers),
    "finite float32 numbers",
)


@dataclass
class DataSummary(_Json):
    """A run's record of its data, by which they are recognized when it resumes.

    Attributes:
        source: an absolute argument of :func:`aefast.data.load`. It is not compared: data may move.
        rows: N.
        visible: D.
        sample_shape: of one sample before it was flattened.
        dtype: of the numbers in the file, NumPy's name.
        scale: what the numbers are divided by.
        low: the smallest number, after the division.
        high: the largest number.
        checksum: of the data's bytes.
    """

    source: str = field(compare=False)
    rows: int
    visible: int
    sample_shape: list[int]
    dtype: str
    scale: float
    low: float
    high: float
    checksum: int

    def __post_init__(self) -> None:
        finite = (math.isfinite, "a finite number")
        _check(
            self,
            {
                "rows": _within(1, LARGEST_COUNT),
                "visible": _within(1, LARGEST),
                "sample_shape": (lambda sizes: math.prod(sizes) == self.visible, "D numbers"),
                "scale": (lambda scale: 0 < scale < math.inf, "a number above 0"),
                "low": finite,
                "high": finite,
            },
        )


@dataclass
class Config(_Json):
    """A run's settings: with the data they determine its bits.

    Attributes:
        model: a name in :data:`aefast.training.models.MODELS`.
        hidden: H_1, ..., H_L, from the data up.
        options: further arguments of the model's constructor.
        data: the training data.
        epochs: passes over the data; a stack's machines have as many each.
        batch_size: rows a step.
        learning_rate: the optimizer's.
        precision: of float32 products, one of :data:`PRECISIONS`.
        seed: of the first parameters, the shuffles and all noise.
        device: one of :data:`DEVICES`.
        validation: the share of the rows that is held out; 0 for none.
        patience: early stopping: a stage ends after so many epochs without a better held-out loss;
            0 for never.
        learning_rate_decay: the factor of the learning rate after each epoch.
        kl_warm_up: over so many epochs the weight of the KL divergence grows from 0 to its own.
        targets: a transcoder's targets; None for an autoencoder.

    Raises:
        ValueError: a number is outside its range.
    """

    model: str
    hidden: list[int]
    options: dict[str, Any]
    data: DataSummary
    epochs: int
    batch_size: int
    learning_rate: float
    precision: str
    seed: int
    device: str
    validation: float = 0.0
    patience: int = 0
    learning_rate_decay: float = 1.0
    kl_warm_up: int = 0
    targets: DataSummary | None = None

    def __post_init__(self) -> None:
        _check(
            self,
            {
                "hidden": (
                    lambda sizes: len(sizes) > 0 and 1 <= min(sizes) <= max(sizes) <= LARGEST,
                    "sizes",
                ),
                "epochs": _within(1, LARGEST_COUNT),
                "batch_size": _within(1, LARGEST),
                "learning_rate": (lambda rate: 0 < rate < math.inf, "a number above 0"),
                "precision": _among(*PRECISIONS),
                "seed": _within(0, SEED_LIMIT - 1),
                "device": _among(*DEVICES),
                "validation": (lambda share: 0 <= share < 1, "a number in [0, 1)"),
                "patience": _within(0, LARGEST_COUNT),
                "learning_rate_decay": (lambda factor: 0 < factor <= 1, "a number in (0, 1]"),
                "kl_warm_up": _within(0, LARGEST_COUNT),
            },
        )

    @property
    def sizes(self) -> list[int]:
        """D, H_1, ..., H_L."""
        return [self.data.visible, *self.hidden]

    @property
    def outputs(self) -> int:
        """O, the units of a reconstruction."""
        return (self.targets or self.data).visible


@dataclass
class RunProgress(_Json):
    """How far a run has come.

    Attributes:
        stage: the current stage, from 0; only a stack of machines has several.
        epoch: this stage's finished epochs.
        batch: this epoch's finished batches.
        step: the steps of all stages so far.
        samples: the rows of those steps.
        seconds: their time.
        losses: of the steps since the last line of metrics.
        held_out: the early-stopping metric of this stage's epochs, from the best one on; empty
            without ``patience``.

    Raises:
        ValueError: a number is below 0 or not finite.
    """

    stage: int = 0
    epoch: int = 0
    batch: int = 0
    step: int = 0
    samples: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    held_out: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        counts = ("stage", "epoch", "batch", "step", "samples")
        _check(
            self,
            {
                **{name: _within(0, LARGEST_COUNT) for name in counts},
                "seconds": (lambda seconds: 0 <= seconds < math.inf, "a number from 0 up"),
                "losses": _FINITE_NUMBERS,
                "held_out": _FINITE_NUMBERS,
            },
        )
