"""Files of every kind that is read, mutated: each is read, or refused in one line."""

import gzip
import io
import signal
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from aefast import data
from aefast.data import DataError
from aefast.training import checkpoint
from tests.training import runs

LONGEST_SECONDS = 20.0  # of the processor: the machine may be busy
LONGEST_LINE = 2000

ROWS = np.arange(12.0, dtype=np.float32).reshape(4, 3) / 12


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npz(write: Callable[..., None], **arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    write(file, **arrays)
    return file.getvalue()


def idx(array: np.ndarray, code: int) -> bytes:
    return (
        bytes([0, 0, code, array.ndim])
        + struct.pack(f">{array.ndim}I", *array.shape)
        + array.tobytes()
    )


def table(delimiter: str, header: str = "", decimal: str = ".", rows: int = 5) -> bytes:
    lines = [
        delimiter.join(f"{row + column / 4}".replace(".", decimal) for column in range(3))
        for row in range(rows)
    ]
    return "\n".join([header, *lines] if header else lines).encode()


def picture(kind: str, mode: str, **options: Any) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    pixels = np.arange(60, dtype=np.uint8).reshape(5, 4, 3)
    Image.fromarray(pixels).convert(mode).save(file, kind, **options)
    return file.getvalue()


@cache
def trained(model: str) -> bytes:
    """A small run's checkpoint, with an optimizer's state."""
    trainer = runs.new(model, epochs=1)
    runs.proceed(trainer)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(Path(folder), trainer.checkpoint())
        return (Path(folder) / checkpoint.CHECKPOINT_FILE).read_bytes()


# What is mutated, by the name that the file gets.
SAMPLES: dict[str, list[Callable[[], bytes]]] = {
    "x.npy": [
        lambda: npy(ROWS),
        lambda: npy(ROWS.astype(np.float16)),
        lambda: npy((ROWS * 255).astype(np.uint8)),
        lambda: npy(np.asfortranarray(ROWS.astype(np.float64))),
    ],
    "x.npz": [
        lambda: npz(np.savez, a=ROWS),
        lambda: npz(np.savez_compressed, a=ROWS.astype(">f8")),
        lambda: npz(np.savez, a=ROWS, b=ROWS),
    ],
    "x-idx2-ubyte": [
        lambda: idx((ROWS * 255).astype(np.uint8), 0x08),
        lambda: idx(ROWS.astype(">f4"), 0x0D),
        lambda: idx(ROWS.astype(">f8"), 0x0E),
    ],
    "x.gz": [lambda: gzip.compress(idx((ROWS * 255).astype(np.uint8), 0x08), mtime=0)],
    "x.csv": [
        lambda: table(","),
        lambda: table(";", decimal=","),
        lambda: table(",", header=",a,b"),
        lambda: b"# a comment\n" + table(" "),
        lambda: table(",").replace(b"\n", b"\r\n"),
        lambda: b'"1.5","2"\n"3","4"\n',
    ],
    "x.tsv": [lambda: table("\t", header="a\tb\tc")],
    "pictures/a.png": [
        lambda: picture("PNG", "L"),
        lambda: picture("PNG", "RGB"),
        lambda: picture("PNG", "P"),
        lambda: picture("PNG", "1"),
    ],
    "pictures/a.jpg": [lambda: picture("JPEG", "L"), lambda: picture("JPEG", "RGB")],
    "pictures/a.gif": [lambda: picture("GIF", "P")],
    "pictures/a.bmp": [lambda: picture("BMP", "RGB")],
    "pictures/a.tif": [
        lambda: picture("TIFF", "L"),
        lambda: picture("TIFF", "RGB", compression="tiff_lzw"),
    ],
    "pictures/a.pgm": [lambda: picture("PPM", "L")],
    "pictures/a.webp": [lambda: picture("WEBP", "RGB")],
    checkpoint.CHECKPOINT_FILE: [lambda model=model: trained(model) for model in runs.SMALL],
}

# What parsers trip over: sizes at the edge, signs, ends of lines, other characters.
BYTES = [
    b"\0",
    b"\xff",
    b"\x7f\xff\xff\xff",
    b"\xff" * 8,
    b"\n",
    b"\r",
    b'"',
    b",",
    b"-",
    b"e",
    b"nan",
]
BYTES += [
    b"inf",
    b"1e999",
    b"9" * 30,
    b"\xef\xbb\xbf",
    b"\x1b[2J",
    b"{",
    b"}",
    b"[",
    b"]",
    b"(",
    b"null",
]


@dataclass(frozen=True)
class Mutated:
    """A file, and how its bytes were changed: (what, where as a share of its length, with what)."""

    name: str
    sample: int
    changes: tuple[tuple[str, float, bytes | int], ...]

    def content(self) -> bytes:
        content = SAMPLES[self.name][self.sample]()
        for what, where, value in self.changes:
            content = change(content, what, int(where * len(content)), value)
        return content


def change(content: bytes, what: str, at: int, value: Any) -> bytes:
    if what == "flip" and at < len(content):
        return content[:at] + bytes([content[at] ^ (1 << value % 8)]) + content[at + 1 :]
    if what == "write":
        return content[:at] + value + content[at + len(value) :]
    if what == "insert":
        return content[:at] + value + content[at:]
    if what == "cut":
        return content[:at]
    if what == "drop":
        return content[:at] + content[at + value :]
    if what == "repeat":
        return content[:at] + content[at : at + value] * 3 + content[at + value :]
    return content


# Headers come first, and decide: half of the changes are there.
POSITIONS = st.one_of(st.floats(0, 1), st.floats(0, 0.2))
VALUES = st.one_of(st.sampled_from(BYTES), st.binary(min_size=1, max_size=8))
CHANGES = st.one_of(
    st.tuples(st.just("flip"), POSITIONS, st.integers(0, 7)),
    st.tuples(st.sampled_from(["write", "insert"]), POSITIONS, VALUES),
    st.tuples(st.sampled_from(["drop", "repeat"]), POSITIONS, st.integers(1, 64)),
    st.tuples(st.just("cut"), POSITIONS, st.just(0)),
)


@st.composite
def files(draw: Any) -> Mutated:
    name = draw(st.sampled_from(list(SAMPLES)))
    sample = draw(st.integers(0, len(SAMPLES[name]) - 1))
    return Mutated(name, sample, tuple(draw(st.lists(CHANGES, min_size=1, max_size=4))))


@contextmanager
def in_time() -> Iterator[None]:
    """Raises TimeoutError where the block does not end."""

    def stop(number: int, frame: Any) -> None:
        raise TimeoutError(f"not read within {LONGEST_SECONDS} seconds")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, LONGEST_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def check(file: Mutated) -> None:
    """Read the file; raises AssertionError unless it is read or refused in one line."""
    with tempfile.TemporaryDirectory() as folder, in_time():
        path = Path(folder) / file.name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(file.content())
        try:
            if path.name == checkpoint.CHECKPOINT_FILE:
                checkpoint.load(path)
            else:
                read = data.load(path.parent if file.name.startswith("pictures/") else path)
                rows = read.take(torch.arange(min(len(read), 3)))
                assert rows.isfinite().all(), "rows that are not finite"
        except (DataError, checkpoint.CheckpointError) as error:
            check_message(str(error))


def check_message(message: str) -> None:
    assert message.isprintable(), f"more than a line, or no text: {message!r}"
    assert len(message) < LONGEST_LINE, f"a line of {len(message)} characters"
