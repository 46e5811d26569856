"""data.load of folders of images."""

import numpy as np
import pytest
import torch

from aefast.data import DataError, load

Image = pytest.importorskip("PIL.Image")

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (9, 4, 5), np.uint8)
RGB = RNG.integers(0, 256, (9, 4, 5, 3), np.uint8)


def save(path, pixels, mode=None):
    path.parent.mkdir(exist_ok=True)
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path)


@pytest.mark.parametrize("pixels", [GREY, RGB], ids=["grey", "RGB"])
def test_images_of_all_subfolders_come_in_the_order_of_their_paths(pixels, tmp_path):
    names = [
        "d.png",
        "a.bmp",
        "f.png",
        "c.png",
        "sub/c.TIF",
        "b.png",
        "e.png",
        "g.png",
        "sub/a.png",
    ]
    for name, picture in zip(names, pixels, strict=True):
        save(tmp_path / name, picture)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "._a.png").write_text("what macOS leaves behind")
    data = load(str(tmp_path))
    assert isinstance(data.rows, np.memmap)
    assert (data.sample_shape, data.scale) == (pixels.shape[1:], 255)
    expected = pixels[np.argsort(names)].reshape(9, -1).astype(np.float32) / np.float32(255)
    assert np.array_equal(data.take(torch.arange(9)).numpy(), expected)


@pytest.mark.parametrize("ending", ["jpg", "jpeg", "gif", "webp"])
def test_lossy_and_animated_formats_are_read(ending, tmp_path):
    save(tmp_path / f"x.{ending}", np.full((4, 5), 255, np.uint8))
    data = load(str(tmp_path))
    assert data.sample_shape[:2] == (4, 5)
    assert data.low >= 250 / 255  # what JPEG's and WebP's rounding may take from white


def test_black_and_white_is_grey_and_a_palette_is_rgb(tmp_path):
    save(tmp_path / "bits" / "x.png", GREY[0], "1")
    save(tmp_path / "palette" / "x.png", RGB[0], "P")
    assert load(f"{tmp_path}/bits").sample_shape == (4, 5)
    assert load(f"{tmp_path}/palette").sample_shape == (4, 5, 3)


def test_the_first_image_of_another_size_or_kind_is_named(tmp_path):
    for folder, odd in (("size", GREY[1, :3]), ("kind", RGB[0])):
        for name, picture in (("a", GREY[0]), ("b", GREY[1]), ("c", odd), ("d", odd)):
            save(tmp_path / folder / f"{name}.png", picture)
    with pytest.raises(DataError, match=r"size/c\.png: 5x3 grey, where .*/a\.png is 5x4 grey; "):
        load(f"{tmp_path}/size")
    with pytest.raises(DataError, match=r"kind/c\.png: 5x4 RGB, where .*/a\.png is 5x4 grey; "):
        load(f"{tmp_path}/kind")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "I;16", "F"])
def test_other_modes_are_refused(mode, tmp_path):
    (Image.new(mode, (5, 4))).save(tmp_path / ("x.tif" if mode == "F" else "x.png"))
    with pytest.raises(DataError, match=f"its mode is {mode}; it takes 8-bit grey or RGB images"):
        load(str(tmp_path))


@pytest.mark.parametrize("kept", [0, 20, 45, 60])
@pytest.mark.parametrize("ending", ["png", "jpg", "gif", "bmp", "tif", "webp"])
def test_one_broken_file_is_named_in_one_line(ending, kept, tmp_path):
    for name in "abc":
        save(tmp_path / f"{name}.{ending}", GREY[0])
    whole = (tmp_path / f"b.{ending}").read_bytes()
    (tmp_path / f"b.{ending}").write_bytes(whole[:kept])
    with pytest.raises(DataError, match=rf"^[^\n]*/b\.{ending}: not a readable image: .*$"):
        load(str(tmp_path))


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(DataError, match=r": it holds no image: no \.png, "):
        load(str(tmp_path))
