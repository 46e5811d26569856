"""data.load of small files that unpack to much: what it takes in memory and on disk."""

import gzip
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import pytest

MEMORY = 16  # MiB; what each of the files unpacks to is twice that, or more
DISK = 2**16

PROGRAM = """
import os, re, sys, tempfile
from aefast.data import DataError, load
import PIL.Image, PIL.PngImagePlugin
def peak():  # getrusage's is at least the memory of the process that started this one
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) >> 10
written = 0
class Spied:
    def __init__(self):
        self.file = files()
    def __enter__(self):
        return self
    def __exit__(self, *_):
        self.file.close()
    def write(self, block):
        global written
        written += len(block)
        return self.file.write(block)
files, tempfile.TemporaryFile = tempfile.TemporaryFile, Spied
for source in sys.argv[1:]:
    written, before = 0, peak()
    try:
        load(source)
    except DataError as error:
        print(peak() - before, written, error)
"""


def chunk(kind, content):
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def picture(size):
    """A PNG of ``size`` times ``size`` black pixels, RGB."""
    packer = zlib.compressobj(1)
    row = bytes(1 + 3 * size)
    packed = b"".join(packer.compress(row) for _ in range(size)) + packer.flush()
    header = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n"
    return start + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def npy(shape):
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}".ljust(117) + "\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text.encode()


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What each of them came to: MiB of memory, bytes on disk, the message."""
    pytest.importorskip("PIL")
    if not Path("/proc/self/status").exists():
        pytest.skip("the system does not tell a process's peak of memory")
    folder = tmp_path_factory.mktemp("bombs")
    zeros = bytes(2**20)
    with gzip.open(folder / "more.gz", "wb", 1) as file:
        file.write(struct.pack(">BBBBII", 0, 0, 8, 2, 2, 2) + 32 * zeros)
    with zipfile.ZipFile(
        folder / "more.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1
    ) as archive:
        archive.writestr("x.npy", npy((2, 2)) + 32 * zeros)
    with zipfile.ZipFile(
        folder / "header.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1
    ) as archive:
        archive.writestr("x.npy", b"\x93NUMPY\2\0" + struct.pack("<I", 2**25) + 32 * zeros)
    with gzip.open(folder / "space.gz", "wb", 1) as file:
        file.write(struct.pack(">BBBBII", 0, 0, 8, 2, 2**31, 2**31) + zeros)
    (folder / "line.csv").write_bytes(b"1,2\n" + b"3" * 2**25)
    (folder / "fields.csv").write_bytes(20 * (b"12," * 2**16 + b"3\n") + b"x\n")
    (folder / "picture").mkdir()
    (folder / "picture" / "x.png").write_bytes(picture(4100))
    names = ["more.gz", "more.npz", "header.npz", "space.gz", "fields.csv", "line.csv", "picture"]
    command = [sys.executable, "-c", PROGRAM, *(str(folder / name) for name in names)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [line.split(" ", 2) for line in result.stdout.splitlines()]
    return {
        name: (int(memory), int(disk), message)
        for name, (memory, disk, message) in zip(names, lines, strict=True)
    }


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("more.gz", "too long: 17 bytes, and maybe more, where its header"),
        ("more.npz", "too long: 133 bytes, and maybe more, where its header"),
        ("header.npz", "no .npy header: EOF: reading array header"),
        ("space.gz", "has no space to unpack it"),
        ("fields.csv", "line 21: 1 columns, where the first line has 65537"),
        ("line.csv", "line 2 has more than 16777216 characters"),
        ("picture", "4100x4100 pixels; it takes 16777216 at most"),
    ],
)
def test_a_small_file_takes_little(name, message, outcomes):
    memory, disk, error = outcomes[name]
    assert message in error
    assert disk <= (20 * 2**20 if name == "fields.csv" else DISK)
    assert memory <= (4 * MEMORY if name.endswith(".csv") else MEMORY)
