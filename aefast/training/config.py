"""What a run is told, and where it stands; a checkpoint holds both as JSON."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Self, get_origin, get_type_hints


class _Json:
    """A dataclass that goes to JSON's types and back."""

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)  # type: ignore[call-overload]

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """
        Raises:
            ValueError: a field is missing, unknown or of another type.
        """
        types = get_type_hints(cls)
        if not isinstance(value, dict) or value.keys() != types.keys():
            raise ValueError(f"{cls.__name__.lower()} takes the fields {', '.join(types)}")
        for name, kind in types.items():
            if not isinstance(value[name], get_origin(kind) or kind):
                raise ValueError(f"{name} is {value[name]!r}; it takes {kind}")
        return cls(**value)


@dataclass
class Config(_Json):
    """All that decides a run's bits, but for the data themselves and the number of threads.

    Attributes:
        model: a name in :data:`aefast.training.models.MODELS`.
        hidden: H_1, ..., H_L, from the data up.
        options: of the model, by the names of its constructor's arguments.
        data: the source as the user wrote it, and what was found there: see :func:`describe`.
        epochs: passes over the data; of a stack of machines, for each of them.
        batch_size: rows a step.
        learning_rate: of the optimizer.
        precision: of float32 products, ``"highest"``, ``"high"`` or ``"medium"``.
        seed: what the first parameters, the shuffles and all noise are a function of.
        device: ``"cpu"`` or ``"cuda"``.
    """

    model: str
    hidden: list[int]
    options: dict[str, Any]
    data: dict[str, Any]
    epochs: int
    batch_size: int
    learning_rate: float
    precision: str
    seed: int
    device: str

    def __post_init__(self) -> None:
        """Of a checkpoint, too, that someone changed."""
        if min(self.epochs, self.batch_size) < 1 or self.device not in ("cpu", "cuda"):
            raise ValueError(
                f"epochs {self.epochs}, batch size {self.batch_size}, device {self.device!r}"
            )

    @property
    def sizes(self) -> list[int]:
        """D, H_1, ..., H_L."""
        return [self.data["visible"], *self.hidden]


@dataclass
class Progress(_Json):
    """Where a run stands, between two steps.

    Attributes:
        stage: which stage is trained, from 0; most models have one.
        epoch: the epochs of this stage that are over.
        batch: the batches of the epoch under way that are over.
        step: the steps of all stages that are over.
        samples: the rows that they saw.
        seconds: how long they took.
        losses: of the steps since the last line of metrics.
    """

    stage: int = 0
    epoch: int = 0
    batch: int = 0
    step: int = 0
    samples: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
