"""How cost grows: time as a power of the batch, the weights, k or the threads, for aefast and for
eager PyTorch, fitted to the cases of one result that differ in that alone."""

import itertools
import math
import re
import statistics
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from results import Record, Result, ratios, setting_of

# What a curve is drawn against, and from how many points on: threads are one and all.
FEWEST_POINTS = {"batch": 3, "weights": 3, "latents": 3, "k": 3, "threads": 2}
# A curve bends where a time is farther than this from the fitted power.
STRAIGHT = 1.25
# No work of a step grows faster than this power of the batch or the weights.
OUT_OF_CACHE = 1.1
# How a curve's name tells what its cases have in common.
LABELS = {
    "op": "{}",
    "device": "{}",
    "setting": "{}",
    "widths": "{}",
    "width": "width {}",
    "batch": "batch {}",
    "k": "k={}",
    "threads": "threads: {}",
}
K = re.compile(r"\bk=?(\d+)\b")
ONE_THREAD = ", 1 thread"
# The ops of sparse codes over many latents, whose widths are a row's and the latents'.
OF_LATENTS = ("topk", "dictionary", "sparse_reconstruction_loss")


@dataclass(frozen=True)
class Curve:
    """Times of cases that differ in one number alone.

    Attributes:
        case: what they have in common.
        variable: ``"batch"``, ``"weights"``, ``"latents"``, ``"k"`` or ``"threads"``.
        values: of the variable, rising.
        ours: seconds a step, at each value.
        theirs: eager PyTorch's.
    """

    case: str
    variable: str
    values: list[int]
    ours: list[float]
    theirs: list[float]

    @property
    def exponent(self) -> float:
        return line(self.values, self.ours)[0]

    @property
    def their_exponent(self) -> float:
        return line(self.values, self.theirs)[0]

    @property
    def bend(self) -> float:
        """How far a time of ours is from the fitted power at most, as a factor."""
        slope, intercept = line(self.values, self.ours)
        return max(
            math.exp(abs(math.log(seconds) - intercept - slope * math.log(value)))
            for value, seconds in zip(self.values, self.ours, strict=True)
        )

    @property
    def pieces(self) -> tuple[float, int, float]:
        """The exponents below and above the value at which two powers fit best."""

        def fit(middle: int) -> tuple[float, float, float]:
            parts = slice(middle + 1), slice(middle, None)
            below, above = ((self.values[part], self.ours[part]) for part in parts)
            return misfit(*below) + misfit(*above), line(*below)[0], line(*above)[0]

        middle = min(range(1, len(self.values) - 1), key=lambda index: fit(index)[0])
        _, lower, upper = fit(middle)
        return lower, self.values[middle], upper

    @property
    def why(self) -> str:
        """How it bends, and why; empty of one that hardly does."""
        if len(self.values) < 3 or self.bend < STRAIGHT:
            return ""
        lower, at, upper = self.pieces
        if upper < lower:
            cause = "above, another thread joins"
        elif upper > OUT_OF_CACHE:
            cause = "above, the tensors leave a cache"
        elif self.variable == "batch":
            cause = "below, the call and reading the weights take most"
        else:
            cause = "below, the call takes most"
        return f"{lower:.2f} up to {at}, {upper:.2f} from there: {cause}"


def line(values: list[int], seconds: list[float]) -> tuple[float, float]:
    """Slope and intercept of log(seconds) over log(values), by least squares."""
    fitted = statistics.linear_regression(map_log(values), map_log(seconds))
    return fitted.slope, fitted.intercept


def misfit(values: list[int], seconds: list[float]) -> float:
    """The squared distances of the points from the fitted power."""
    slope, intercept = line(values, seconds)
    points = zip(map_log(values), map_log(seconds), strict=True)
    return sum((y - intercept - slope * x) ** 2 for x, y in points)


def map_log(values: list[Any]) -> list[float]:
    return [math.log(value) for value in values]


def curves(result: Result) -> Iterator[Curve]:
    """The curves for which a result has enough points."""
    points = [point for case in result["cases"] if (point := point_of(case, result)) is not None]
    for variable, fewest in FEWEST_POINTS.items():
        groups = defaultdict(list)
        for coordinates, case in points:
            others = tuple(
                LABELS[name].format(value)
                for name, value in coordinates.items()
                if value is not None and not varies(name, variable)
            )
            if coordinates[variable] is not None:
                groups[others].append((coordinates[variable], case))
        for others, members in groups.items():
            by_value = dict(members)
            if len(by_value) >= fewest:
                yield curve(", ".join(others), variable, by_value)


def curve(name: str, variable: str, by_value: dict[int, Record]) -> Curve:
    values = sorted(by_value)
    cases = [by_value[value] for value in values]
    return Curve(
        name,
        variable,
        values,
        [case["seconds"][1] / case.get("steps", 1) for case in cases],
        [case["baselines"]["eager"]["seconds"] / case.get("steps", 1) for case in cases],
    )


def point_of(case: Record, result: Result) -> tuple[dict[str, Any], Record] | None:
    """A case's coordinates on the axes, and the case; None of one that has no widths."""
    is_epoch = case["op"] == "fit" and "steps" not in case  # of a number of steps that it varies
    if "shape" not in case or case["overhead"] or is_epoch or "eager" not in ratios(case):
        return None
    batch, *widths = case["shape"]
    if not widths:
        return None
    name = setting_of(case["case"])
    k = K.search(name)
    threads = 1 if ONE_THREAD in name else result["machine"]["threads"]
    setting = " ".join(K.sub("", name.replace(ONE_THREAD, "")).split()).strip(" ,")
    coordinates: dict[str, Any] = {
        "op": case["op"],
        "device": None if case["device"] == "cpu" else case["device"],
        "setting": setting,
        "widths": "-".join(map(str, widths)),
        "weights": sum(a * b for a, b in itertools.pairwise(widths)) or widths[0],
        "width": widths[0] if case["op"] in OF_LATENTS else None,
        "latents": widths[-1] if case["op"] in OF_LATENTS else None,
        "batch": batch,
        "k": int(k[1]) if k else None,
        "threads": threads if case["device"] == "cpu" else None,
    }
    return coordinates, case


def varies(name: str, variable: str) -> bool:
    """Whether a coordinate goes with the variable: the widths say what weights and latents are."""
    if name == "width":  # the widths tell it, unless they vary with the latents
        return variable != "latents"
    if name in ("weights", "latents"):
        return True
    return name == variable or (name == "widths" and variable in ("weights", "latents"))


HEADING = ["case", "against", "aefast", "eager", "bend", "why"]


def rows(result: Result) -> list[list[str]]:
    """The table's rows, one for each curve."""
    return [
        [
            line.case,
            f"{line.variable}, {line.values[0]} to {line.values[-1]}",
            f"{line.exponent:.2f}",
            f"{line.their_exponent:.2f}",
            f"{line.bend:.2f}x" if len(line.values) > 2 else "-",
            line.why,
        ]
        for line in curves(result)
    ]
