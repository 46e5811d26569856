"""Which cases a run of the suite takes, and in which of them torch.compile is a baseline."""

import pytest
from shapes import QUICK

PRECISIONS = ("highest", "high", "medium")


def quick(items: list[pytest.Item]) -> list[pytest.Item]:
    """The cases of a quick run: of whole steps the shapes that are marked so, of any other function
    its first case."""
    first: dict[object, pytest.Item] = {}
    for item in items:
        if item.get_closest_marker("slow"):
            continue
        if item.path.stem != "bench_step":
            first.setdefault((item.path, item.originalname), item)
        elif item.callspec.params["shape"] in QUICK:
            first[item] = item
    return list(first.values())


def compiled(items: list[pytest.Item]) -> list[pytest.Item]:
    """The cases with torch.compile as a baseline: of a function at each of its settings its first
    shape and precision, and every whole step, whose case says it itself."""
    first: dict[object, pytest.Item] = {}
    for item in items:
        values = item.callspec.params.values()
        settings = [v for v in values if isinstance(v, str) and v not in PRECISIONS]
        is_step = item.path.stem == "bench_step"
        first.setdefault(item if is_step else (item.path, item.originalname, *settings), item)
    return list(first.values())
