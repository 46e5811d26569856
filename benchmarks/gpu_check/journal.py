"""What a check has found so far: a line of JSON for each case, on disk before the next one begins.

Whoever kills the check, and when, loses the case that was running and nothing before it.
"""

import json
import os
from pathlib import Path
from typing import Any

Line = dict[str, Any]

NAME = "results.jsonl"


def write(path: Path, line: Line) -> None:
    """Append a line, from any of the check's processes; it is on disk on return."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, json.dumps(line).encode() + b"\n")
        os.fsync(file)
    finally:
        os.close(file)


def read(path: Path) -> list[Line]:
    """Every whole line; one that a kill has cut off is left out."""
    lines = []
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines
