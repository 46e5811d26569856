"""A folder of images, decoded once into a temporary file."""

import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aefast.data import shards
from aefast.data.dataset import DataError, Dataset, from_array
from aefast.data.mapped import map_scratch, scratch
from aefast.messages import cut

if TYPE_CHECKING:
    from PIL import Image

# Pillow recognizes a file by its content, and for some of its formats runs other programs.
FORMATS = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "PPM": (".pgm", ".ppm", ".pbm", ".pnm"),
}
SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)
MODES = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB"}
ACCEPTED = "it takes 8-bit grey or RGB images"

# Pillow's decoder modes with more than 8 bits, which it would round to 8.
DEEP = re.compile(r".*;16[BLN]")

# Files and folders that operating systems leave beside images. Hidden ones are skipped, too.
COPIES = {"__macosx", "@eadir", "$recycle.bin", "system volume information", "thumbs"}

# EXIF's tag, and the transposition that undoes each of its values.
ORIENTATION = 0x0112
TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}

# A small file may have any number of pixels, and decoding takes some twelve bytes for each.
LARGEST_PIXELS = 2**24


def load_folder(folder: Path, name: str) -> Dataset:
    """All images of a folder and its subfolders, sorted by path: uint8, grey or RGB."""
    paths = sorted(find(folder, SUFFIXES))
    if not paths:
        raise DataError(
            f"{name}: it holds no image: no {', '.join(SUFFIXES)}; and no shard: no "
            f"{', '.join(shards.ENDINGS)}"
        )
    with scratch(name) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of a broken file, too
        shape = None
        for path in paths:
            pixels = _decode(path)
            shape = shape or pixels.shape
            if pixels.shape != shape:
                raise DataError(
                    f"{path}: {_describe(pixels.shape)}, where {paths[0]} is {_describe(shape)}; "
                    "it takes images of one size and kind"
                )
            file.write(pixels.data)
        assert shape is not None
        return from_array(map_scratch(file, (len(paths), *shape), np.dtype(np.uint8)), name)


def find(folder: Path, endings: tuple[str, ...]) -> Iterator[Path]:
    """Files with one of these endings, without hidden ones and the copies of operating systems.

    Linked folders are read as others are; one that is reached twice, as by a link to a folder
    around it, is read once.
    """
    for root, files in folders_with_files(folder):
        for file in filter(_is_shown, files):
            if file.lower().endswith(endings):
                yield Path(root, file)


def folders_with_files(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Each folder below ``folder``, links included, with the names of its files."""
    visited = set()

    def fail(error: OSError) -> None:
        raise error

    for root, folders, files in os.walk(folder, onerror=fail, followlinks=True):
        status = os.stat(root)
        if (status.st_dev, status.st_ino) in visited:
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        folders[:] = sorted(filter(_is_shown, folders))
        yield root, files


def reads(folder: Path, other: Path) -> bool:
    """Whether the files of ``other`` are read with ``folder``: it lies in it, or a link does."""
    if other.resolve().is_relative_to(folder.resolve()):
        return True
    return any(os.path.samefile(root, other) for root, _ in folders_with_files(folder))


def _is_shown(name: str) -> bool:
    return not name.startswith(".") and name.lower() not in COPIES


def _decode(path: Path) -> np.ndarray:
    """The pixels, ``[height, width]`` or ``[height, width, 3]``; an animation's first picture."""
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError(f"{path}: images need Pillow: pip install 'aefast[train]'") from error

    if path.exists() and not path.is_file():  # a pipe, which would not end
        raise DataError(f"{path} is no regular file")
    try:
        # Not by its name: Pillow would map a TIFF, and get a rotated one wrong.
        with path.open("rb") as file, Image.open(file, formats=tuple(FORMATS)) as image:
            fault = _fault(image) or _transparency(image)
            if fault is None:
                mode, upright = MODES[image.mode], _upright(image)
                return np.asarray(upright if upright.mode == mode else upright.convert(mode))
    except Exception as error:  # Pillow's decoders raise errors of any type
        reason = cut(getattr(error, "strerror", None) or error) or type(error).__name__
        raise DataError(f"{path}: not a readable image: {reason}") from error
    raise DataError(f"{path}: {fault}")


def _upright(image: "Image.Image") -> "Image.Image":
    """The picture in its EXIF orientation, as viewers show it."""
    from PIL.Image import Transpose

    image.load()
    turn = TURNS.get(image.getexif().get(ORIENTATION, 1))
    return image if turn is None else image.transpose(Transpose[turn])


def _fault(image: "Image.Image") -> str | None:
    """Why an image is not taken, by its header, before a pixel is decoded; None if it is."""
    if image.mode not in MODES:
        return f"its mode is {image.mode}; {ACCEPTED}"
    if _is_deep(image):
        return f"its pixels have more than 8 bits a color; {ACCEPTED}"
    width, height = image.size
    if width * height > LARGEST_PIXELS:
        return f"{width}x{height} pixels; it takes {LARGEST_PIXELS} at most"
    return None


def _is_deep(image: "Image.Image") -> bool:
    """Whether the pixels have more than 8 bits. Of 16-bit RGB Pillow would decode the upper 8."""
    tiles: Any = getattr(image, "tile", ())
    for *_, tile_arguments in tiles:
        arguments = tile_arguments if isinstance(tile_arguments, tuple) else (tile_arguments,)
        if any(isinstance(word, str) and DEEP.fullmatch(word) for word in arguments):
            return True
        if image.format == "PPM" and any(isinstance(n, int) and n > 255 for n in arguments):
            return True  # PPM's largest value
    return False


def _transparency(image: "Image.Image") -> str | None:
    """Why an image with transparent pixels is not taken; None if it has none."""
    if "transparency" not in image.info:
        return None
    least, _ = image.convert("RGBA").getchannel("A").getextrema()
    return None if least == 255 else f"it has transparent pixels; {ACCEPTED}"


def _describe(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]} {'grey' if len(shape) == 2 else 'RGB'}"
