"""data.load of folders of images."""

import os
import struct
import zlib

import numpy as np
import pytest
import torch

from aefast.data import DataError, images, load

Image = pytest.importorskip("PIL.Image")

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (9, 4, 5), np.uint8)
RGB = RNG.integers(0, 256, (9, 4, 5, 3), np.uint8)


def save(path, pixels, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
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


@pytest.mark.parametrize(
    ("mode", "ending", "key"),
    [("P", "png", 7), ("P", "gif", 7), ("L", "png", 7), ("RGB", "png", (7, 0, 0)), ("1", "png", 0)],
)
def test_colors_that_nobody_sees_are_refused_where_a_pixel_has_one(mode, ending, key, tmp_path):
    image = Image.new(mode, (5, 4), key)
    if mode == "P":
        image.putpalette(list(range(256)) * 3)
    image.save(tmp_path / f"x.{ending}", transparency=key)
    with pytest.raises(DataError, match="it has transparent pixels; it takes 8-bit grey or RGB"):
        load(tmp_path)
    image.paste((9, 9, 9) if mode == "RGB" else 1, (0, 0, 5, 4))
    image.save(tmp_path / f"x.{ending}", transparency=key)
    assert load(tmp_path).sample_shape[:2] == (4, 5)


def png(depth, kind, row):
    """Of one pixel."""
    size = struct.pack(">IIBBBBB", 1, 1, depth, kind, 0, 0, 0)
    parts = ((b"IHDR", size), (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b""))
    chunks = [struct.pack(">I", len(part)) + name + part for name, part in parts]
    checks = [struct.pack(">I", zlib.crc32(chunk[4:])) for chunk in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(c + k for c, k in zip(chunks, checks, strict=True))


def tiff(bits):
    """Of one RGB pixel, little-endian and not compressed."""
    data = 8 + 2 + 8 * 12 + 4
    tags = [(256, 3, 1, 1), (257, 3, 1, 1), (258, 3, 3, data), (259, 3, 1, 1), (262, 3, 1, 2)]
    tags += [(273, 4, 1, data + 6), (277, 3, 1, 3), (279, 4, 1, 3 * bits // 8)]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    pixel = bytes(range(3 * bits // 8))
    start = b"II*\0" + struct.pack("<IH", 8, len(tags))
    return start + entries + struct.pack("<IHHH", 0, bits, bits, bits) + pixel


@pytest.mark.parametrize(
    ("name", "narrow", "wide"),
    [
        ("x.png", png(8, 2, bytes(3)), png(16, 2, bytes(6))),
        ("x.tif", tiff(8), tiff(16)),
        ("x.ppm", b"P6 1 1 200\n\0\1\2", b"P6 1 1 65535\n\0\0\0\0\0\0"),
        ("y.ppm", b"P3 1 1 200\n1 2 3\n", b"P3 1 1 1000\n1 2 3\n"),
    ],
)
def test_colors_of_16_bits_are_refused_that_pillow_rounds_to_8(name, narrow, wide, tmp_path):
    (tmp_path / name).write_bytes(narrow)
    assert load(tmp_path).sample_shape == (1, 1, 3)
    (tmp_path / name).write_bytes(wide)
    with pytest.raises(DataError, match="its pixels have more than 8 bits a color; it takes 8-bit"):
        load(tmp_path)


@pytest.mark.parametrize("size", [0, 20, 45, 60])
@pytest.mark.parametrize("ending", ["png", "jpg", "gif", "bmp", "tif", "webp"])
def test_one_broken_file_is_named_in_one_line(ending, size, tmp_path):
    for name in "abc":
        save(tmp_path / f"{name}.{ending}", GREY[0])
    whole = (tmp_path / f"b.{ending}").read_bytes()
    (tmp_path / f"b.{ending}").write_bytes(whole[:size])
    with pytest.raises(DataError, match=rf"^[^\n]*/b\.{ending}: not a readable image: .*$"):
        load(str(tmp_path))


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(DataError, match=r": it holds no image: no \.png, "):
        load(str(tmp_path))


HIDDEN = [
    ".git/x.png",
    "a/.ipynb_checkpoints/0-checkpoint.png",
    "__MACOSX/a/x.png",
    "a/Thumbs/x.png",
    "a/@eaDir/x.png",
    "$RECYCLE.BIN/x.png",
    ".x.png",
]


def test_what_is_hidden_and_systems_copies_are_not_read(tmp_path):
    folder = tmp_path / ".cache"  # which is named, and so is read
    for name in ("a/0.png", "b.png", *HIDDEN):
        save(folder / name, GREY[0])
    (folder / "a" / "Thumbs.db").write_bytes(b"no image")
    assert len(load(str(folder))) == 2


@pytest.mark.parametrize(
    "ending", ["pgm", "ppm", "pbm", "pnm", "PGM", "jfif", "jpe", "tiff", "webp"]
)
def test_images_of_any_usual_name_are_found(ending, tmp_path):
    image = Image.fromarray(RGB[0] if ending == "ppm" else GREY[0])
    kinds = {"jfif": "JPEG", "jpe": "JPEG", "tiff": "TIFF", "webp": "WEBP"}
    image.save(tmp_path / f"x.{ending}", format=kinds.get(ending, "PPM"))
    assert load(str(tmp_path)).sample_shape[:2] == (4, 5)


def test_a_file_is_no_other_program_by_its_content(tmp_path):
    (tmp_path / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n")
    with pytest.raises(DataError, match="not a readable image: cannot identify"):
        load(str(tmp_path))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "webp"])
def test_a_picture_is_turned_as_its_exif_says(orientation, ending, tmp_path):
    upright = np.kron(np.uint8([[0, 80, 255], [160, 120, 40]]), np.ones((16, 16), np.uint8))
    stored = {  # EXIF 2.32, section 4.6.4.A: what the 0th row and column are
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if ending == "webp" else {}
    image = Image.fromarray(np.ascontiguousarray(stored))
    image.save(tmp_path / f"x.{ending}", exif=exif, **options)
    data = load(str(tmp_path))
    assert data.sample_shape[:2] == upright.shape
    actual = data.rows.reshape(*upright.shape, -1)[:, :, 0].astype(int)
    assert abs(actual - upright).max() <= (8 if ending == "jpg" else 0)


def test_linked_folders_are_read_and_cycles_end(tmp_path):
    folder, other = tmp_path / "images", tmp_path / "other"
    save(folder / "a" / "0.png", GREY[0])
    save(other / "1.png", GREY[1])
    (folder / "linked").symlink_to(other)
    (folder / "twice").symlink_to(other)
    (folder / "a" / "up").symlink_to(folder)
    (other / "self").symlink_to(other)
    (folder / "2.png").symlink_to(other / "1.png")
    data = load(str(folder))
    assert data.rows.tolist() == [GREY[i].ravel().tolist() for i in (1, 0, 1)]


def test_a_link_that_leads_nowhere_is_named(tmp_path):
    (tmp_path / "x.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(DataError, match=r"x\.png: not a readable image: .*No such file"):
        load(str(tmp_path))


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.png")
    os.mkfifo(tmp_path / "x.npy")
    for source in (tmp_path, tmp_path / "x.npy"):
        with pytest.raises(DataError, match=r"is no regular file$"):
            load(source)


def test_a_name_reaches_the_message_escaped(tmp_path):
    (tmp_path / "a\n\x1b[2J\u202e.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"a\\n\\x1b\[2J\\u202e\.png: not a readable image: "):
        load(tmp_path)


def test_too_many_pixels_are_refused_before_any_is_decoded(tmp_path, monkeypatch):
    save(tmp_path / "x.png", GREY[0])
    monkeypatch.setattr(images, "LARGEST_PIXELS", 19)
    monkeypatch.setattr(Image.Image, "load", None)
    with pytest.raises(DataError, match=r"x\.png: 5x4 pixels; it takes 19 at most$"):
        load(tmp_path)
