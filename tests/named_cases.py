"""A plugin of pytest: the benchmark suite's cases are named, and not measured.

Each one's op, name and device is a line of the file that ``NAMED_CASES`` says.
"""

import os
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest


def pytest_collection_finish(session: pytest.Session) -> None:
    names = Path(os.environ["NAMED_CASES"])

    def note(case: Any, *_: object) -> None:
        with names.open("a") as lines:
            lines.write(f"{case.op}\t{case.name}\t{case.device}\n")

    vars(sys.modules["conftest"])["race"] = note
    if "bench_distributed" in sys.modules:
        vars(sys.modules["bench_distributed"])["Ranks"] = lambda *_: (
            Mock()
        )  # whose processes take seconds
