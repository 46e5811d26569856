"""Text for one-line messages: control characters escaped, long names shortened."""

import os
import sys
from pathlib import Path

SHOWN = 80
PACKAGE = f"{Path(__file__).parent}{os.sep}"


class OneLineError(ValueError):
    """An error whose message is one printable line."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


def printable(text: str) -> str:
    r"""``text`` with an escape for each character that does not print: a line's end, a terminal's
    commands, a change of the reading direction, a byte that is no text.

    >>> printable("a\nb\x1b[2J")
    'a\\nb\\x1b[2J'
    """
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def level_outside(*folders: str) -> int:
    """The ``stacklevel`` of a warning in the function that asks, which names the nearest line that
    is in none of these folders."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(folders):
        level, frame = level + 1, frame.f_back
    return level


def cut(value: object, limit: int = SHOWN) -> str:
    """What a file holds, as text of at most ``limit`` characters: a name may be of any length.

    >>> cut("x" * 100, 10)
    'xxxxxxx...'
    """
    text = str(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
