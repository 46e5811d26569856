"""A folder of shards: activations of a model, ``.safetensors`` and ``.npy`` files, mapped.

The rows of all files, one after the other, are one dataset, which may be larger than memory. Each
number is looked at once, when the folder is loaded; no file is copied.
"""

import json
import math
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypedDict, cast

import numpy as np
import torch
from torch import Tensor

from aefast.data.arrays import read_npy_header
from aefast.data.dataset import CHUNK_BYTES, LARGEST, DataError, Dataset, reading
from aefast.messages import cut

ENDINGS = (".safetensors", ".npy")

# safetensors' dtypes, the NumPy dtypes of their bytes, and torch's.
SAFETENSORS: dict[str, tuple[np.dtype, torch.dtype]] = {
    "F16": (np.dtype("<f2"), torch.float16),
    "BF16": (np.dtype("<u2"), torch.bfloat16),
    "F32": (np.dtype("<f4"), torch.float32),
}
NPY = {np.dtype("<f2"): torch.float16, np.dtype("<f4"): torch.float32}

HEADER_BYTES = 100_000_000  # the safetensors package's own limit

OPEN_FILES = 64  # each map holds its file open, and macOS gives a process 256 descriptors


@dataclass(frozen=True)
class Shard:
    """One file.

    Attributes:
        name: the file.
        shape: n and D.
        bits: how NumPy reads its numbers.
        dtype: what its bits are.
        offset: where its rows begin, in bytes.
        version: the file as it was found.
    """

    name: str
    shape: tuple[int, int]
    bits: np.dtype
    dtype: torch.dtype
    offset: int
    version: tuple[int, ...]

    @property
    def memory(self) -> np.memmap:
        """``[n, D]``, mapped; bfloat16 as its bits."""
        return _map(self)

    def take(self, rows: np.ndarray) -> Tensor:
        """float32 ``[len(rows), D]``."""
        memory = self.memory
        with reading(memory, self.name):
            return self._float(np.asarray(memory).take(rows, axis=0))

    def chunks(self) -> Iterator[tuple[int, np.ndarray, Tensor]]:
        """Slices of its rows: the first row's number, the bits, and the numbers, float32."""
        memory = self.memory
        step = max(1, CHUNK_BYTES // (memory.itemsize * memory.shape[1]))
        for first in range(0, len(memory), step):
            with reading(memory, self.name):
                bits = np.array(memory[first : first + step])
            yield first, bits, self._float(bits.copy())

    def _float(self, bits: np.ndarray) -> Tensor:
        return torch.from_numpy(bits).view(self.dtype).float()


@lru_cache(OPEN_FILES)
def _map(shard: Shard) -> np.memmap:
    """The shard's rows. Where too many files are open, the least recently read is closed.

    Raises:
        DataError: the file is another than was found, or there is none.
    """
    try:
        with open(shard.name, "rb") as stream:
            status = os.fstat(stream.fileno())
            if status.st_size < shard.version[0]:
                raise DataError(
                    f"{shard.name}: it was cut to {status.st_size} bytes while it was in use"
                )
            if _version(status) != shard.version:
                raise DataError(f"{shard.name}: it was changed while it was in use")
            return np.memmap(stream, shard.bits, "r", shard.offset, shard.shape)
    except FileNotFoundError as error:
        raise DataError(f"{shard.name}: it was removed while it was in use") from error


def _version(status: os.stat_result) -> tuple[int, ...]:
    """What identifies a file's content: a file of the same name may replace it."""
    return status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev


class ShardRows:
    """The rows of all shards, numbered through, as float32.

    Attributes:
        shape: N and D.
        dtype: float32, NumPy's.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, shards: Sequence[Shard]) -> None:
        self.shards = shards
        counts = [shard.shape[0] for shard in shards]
        self.starts = [0, *np.cumsum(counts).tolist()]
        self.shape = (self.starts[-1], shards[0].shape[1])

    def __len__(self) -> int:
        return self.shape[0]

    def take(self, indices: Tensor) -> Tensor:
        """float32 ``[len(indices), D]``, in their order."""
        rows = indices.numpy()
        if len(rows) and not (rows.min() >= 0 and rows.max() < len(self)):
            raise IndexError(
                f"indices are {rows.min()} to {rows.max()}; there are {len(self)} rows"
            )
        numbers = np.searchsorted(self.starts, rows, side="right") - 1
        samples = torch.empty(len(rows), self.shape[1], dtype=torch.float32, device="cpu")
        for number in np.unique(numbers):
            positions = np.flatnonzero(numbers == number)
            shard = self.shards[number].take(rows[positions] - self.starts[number])
            samples[torch.from_numpy(positions)] = shard
        return samples


class ShardedDataset(Dataset):
    """Samples that lie in several files. :func:`aefast.data.load` makes one of a folder; its
    ``rows`` are :class:`ShardRows`."""

    @property
    def shards(self) -> ShardRows:
        """The rows."""
        return cast(ShardRows, self.rows)

    def take(self, indices: Tensor) -> Tensor:
        """The samples of those ``indices``, as :meth:`Dataset.take`."""
        return self.shards.take(indices)


def load_shards(paths: Sequence[Path], name: str) -> ShardedDataset:
    """The rows of these files, in their order.

    The last dimension of a file's array is the width D; all before it count as rows.

    Raises:
        DataError: a file is cut short, of another kind or width, or holds a number that is not
            finite.
    """
    shards = [_open(path) for path in paths]
    width = shards[0].shape[1]
    for shard in shards:
        if shard.shape[1] != width:
            raise DataError(
                f"{shard.name}: its rows have {shard.shape[1]} numbers, where those of "
                f"{shards[0].name} have {width}; it takes shards of one width"
            )
    summaries = [_summary(shard) for shard in shards]
    low, high = min(low for low, _, _ in summaries), max(high for _, high, _ in summaries)
    checksum = zlib.crc32(repr([crc for _, _, crc in summaries]).encode())
    rows = ShardRows(shards)
    return ShardedDataset(rows, (width,), 1.0, name, low, high, checksum)  # type: ignore[arg-type]


def _open(path: Path) -> Shard:
    name = str(path)
    if not path.is_file():  # a pipe, which would not end
        raise DataError(f"{name} is no regular file")
    status = path.stat()
    shape, bits, dtype, offset = (_npy if name.lower().endswith(".npy") else _safetensors)(path)
    if len(shape) < 2:
        raise DataError(f"{name}: it has shape {cut(list(shape))}; it takes rows, [..., D]")
    if min(shape) < 1:
        raise DataError(f"{name}: it has shape {cut(list(shape))}; it takes one row or more")
    flat = (math.prod(shape[:-1]), shape[-1])
    end, length = offset + math.prod(flat) * bits.itemsize, status.st_size
    if length < end:
        raise DataError(f"{name}: cut short: {length} bytes, where its header makes {end}")
    if length > end and name.lower().endswith(".npy"):
        raise DataError(f"{name}: too long: {length} bytes, where its header makes {end}")
    return Shard(name, flat, bits, dtype, offset, _version(status))


def _npy(path: Path) -> tuple[tuple[int, ...], np.dtype, torch.dtype, int]:
    with path.open("rb") as stream:
        shape, dtype, order, offset = read_npy_header(stream, str(path))
    if dtype not in NPY:
        raise DataError(f"{path}: its numbers are {cut(dtype)}; a shard has float16 or float32")
    if order == "F" and sum(size > 1 for size in shape) > 1:
        raise DataError(f"{path}: it is in Fortran order; a shard has one row after the other")
    return shape, dtype, NPY[dtype], offset


def _safetensors(path: Path) -> tuple[tuple[int, ...], np.dtype, torch.dtype, int]:
    """The file's only tensor of floats with rows: 8 bytes say how long its header is, a JSON."""
    header, start = _safetensors_header(path)
    arrays = {
        name: entry
        for name, entry in header.items()
        if name != "__metadata__" and entry["dtype"] in SAFETENSORS and len(entry["shape"]) > 1
    }
    if len(arrays) != 1:
        listed = ", ".join(map(cut, arrays)) or "none"
        raise DataError(
            f"{path}: its tensors of float16, bfloat16 or float32 rows are {cut(listed)}; "
            "a shard has one"
        )
    (entry,) = arrays.values()
    shape = tuple(entry["shape"])
    bits, dtype = SAFETENSORS[entry["dtype"]]
    begin, end = entry["data_offsets"]
    if end - begin != math.prod(shape) * bits.itemsize:
        raise DataError(f"{path}: its header gives a tensor's size in two ways")
    return shape, bits, dtype, start + begin


class TensorEntry(TypedDict):
    """What a safetensors header says of a tensor."""

    dtype: str
    shape: list[int]
    data_offsets: list[int]


def _safetensors_header(path: Path) -> tuple[dict[str, TensorEntry], int]:
    """What the header says of each tensor, and where their bytes begin.

    Raises:
        DataError: it is none.
    """
    try:
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > min(HEADER_BYTES, path.stat().st_size - 8):
                raise ValueError("it is cut short")
            header = json.loads(stream.read(length))
        for name, entry in header.items():
            if name != "__metadata__":
                _check_entry(entry)
    except (struct.error, ValueError, LookupError, TypeError, AttributeError, RecursionError) as e:
        reason = cut(" ".join(str(e).split())) or type(e).__name__
        raise DataError(f"{path}: no safetensors header, or cut short: {reason}") from e
    return header, 8 + length


def _check_entry(entry: TensorEntry) -> None:
    sizes = [*entry["shape"], *entry["data_offsets"]]
    if len(entry["data_offsets"]) != 2 or not isinstance(entry["dtype"], str):
        raise ValueError("an entry has no dtype and two offsets")
    if not all(type(size) is int and 0 <= size < 2**62 for size in sizes):
        raise ValueError("a size is no natural number")


def _summary(shard: Shard) -> tuple[float, float, int]:
    """The smallest number, the largest, and the CRC-32 of all bytes."""
    low, high, checksum = math.inf, -math.inf, 0
    for first, bits, numbers in shard.chunks():
        least, most = (bound.item() for bound in numbers.aminmax())
        if not (least >= -LARGEST and most <= LARGEST):
            row, column = ((~numbers.isfinite()).nonzero()[0]).tolist()
            raise DataError(
                f"{shard.name}: row {first + row}, column {column}, counted from 0, is "
                f"{numbers[row, column].item()}; it takes finite numbers"
            )
        low, high = min(low, least), max(high, most)
        checksum = zlib.crc32(bits.data, checksum)
    return low, high, checksum
