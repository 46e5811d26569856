"""A folder of images, decoded once into a temporary file."""

import os
from pathlib import Path

import numpy as np

from aefast.data.dataset import DataError, Dataset, from_array
from aefast.data.mapped import map_scratch, scratch

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
MODES = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB"}


def load_folder(folder: Path, name: str) -> Dataset:
    """All images of a folder and its subfolders, sorted by path: uint8, grey or RGB."""
    paths = _find(folder)
    if not paths:
        raise DataError(f"{name}: it holds no image: no {', '.join(SUFFIXES)}")
    shape = _decode(paths[0]).shape
    with scratch(name) as file:
        for path in paths:
            pixels = _decode(path)
            if pixels.shape != shape:
                raise DataError(
                    f"{path}: {_describe(pixels.shape)}, where {paths[0]} is {_describe(shape)}; "
                    "it takes images of one size and kind"
                )
            file.write(pixels.tobytes())
        return from_array(map_scratch(file, (len(paths), *shape), np.dtype(np.uint8)), name)


def _find(folder: Path) -> list[Path]:
    """Files whose names say that they are images, but for hidden ones."""

    def fail(error: OSError) -> None:
        raise error

    return sorted(
        Path(root, file)
        for root, _, files in os.walk(folder, onerror=fail)
        for file in files
        if file.lower().endswith(SUFFIXES) and not file.startswith(".")
    )


def _decode(path: Path) -> np.ndarray:
    """``[height, width]`` or ``[height, width, 3]``, of an animation its first picture."""
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError(f"{path}: images need Pillow: pip install 'aefast[train]'") from error

    try:
        with Image.open(path) as image:
            mode = MODES.get(image.mode)
            pixels = None if mode is None else np.asarray(image.convert(mode))
    except Exception as error:  # Pillow's decoders raise whatever their parsers meet
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: not a readable image: {reason}") from error
    if pixels is None:
        raise DataError(f"{path}: its mode is {image.mode}; it takes 8-bit grey or RGB images")
    return pixels


def _describe(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]} {'grey' if len(shape) == 2 else 'RGB'}"
