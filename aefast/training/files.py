"""Files that are there whole or not at all."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of ``path`` once all of it is on disk.

    Until then, and where the block raises, what was at ``path`` stays. An error of the file system
    names the file.

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "greeting"
    >>> with replacing(path) as file:
    ...     _ = file.write(b"hello")
    ...     path.exists()
    False
    >>> path.read_text()
    'hello'
    """
    path = path.resolve()  # what a link points at, not the link
    temporary = path.with_name(f".{path.name}.{os.getpid()}")  # the same folder: a rename is atomic
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)
