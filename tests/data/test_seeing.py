"""Pictures become pixels as people see them: upright, on white, with the bits of their own depth."""

# mypy: allow-untyped-defs, allow-incomplete-defs

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from forwardonly.data import InMemory, list_images, load, read_adapted, read_images

SHADES = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10


def saved(tmp_path, image, suffix, **options):
    path = tmp_path / f"x.{suffix}"
    image.save(path, **options)
    return path


def read(path, channels=None):
    pixels = read_images([path])[0]
    return pixels.numpy() if channels is None else read_images([path], shape=(channels, *pixels.shape[1:]))[0].numpy()


def disc(mode, clear):
    """A black square on a transparent ground whose hidden colour is `clear`."""
    image = Image.new("RGBA", (8, 8), (*clear, 0))
    image.paste((0, 0, 0, 255), (2, 2, 6, 6))
    return image if mode == "RGBA" else image.convert(mode)


SQUARE = np.full((8, 8), 255, np.uint8)
SQUARE[2:6, 2:6] = 0


@pytest.mark.parametrize("clear", [(0, 0, 0), (255, 255, 255), (200, 10, 90)])
@pytest.mark.parametrize(
    ("mode", "suffix", "options"),
    [
        ("RGBA", "png", {}),
        ("RGBA", "webp", {"lossless": True}),
        ("RGBA", "tiff", {}),
        ("LA", "png", {}),
        ("LA", "tiff", {}),
        ("RGBA", "gif", {}),
        ("RGBA", "ico", {"sizes": [(8, 8)], "bitmap_format": "png"}),
    ],
)
def test_what_is_transparent_is_white_whatever_colour_hides_there(tmp_path, mode, suffix, options, clear):
    path = saved(tmp_path, disc(mode, clear), suffix, **options)
    assert np.array_equal(read(path, 1)[0], SQUARE)
    assert np.array_equal(read(path, 3), np.stack([SQUARE] * 3))
    pixels, notes = read_adapted([path], (1, 8, 8))
    assert np.array_equal(pixels[0, 0], SQUARE) and notes[0].split(", ")[0] == "laid on white"


def test_half_transparent_is_half_white(tmp_path):
    image = Image.new("RGBA", (2, 1), (100, 0, 200, 51))
    image.putpixel((1, 0), (100, 0, 200, 255))
    assert read(saved(tmp_path, image, "png"))[:, 0].T.tolist() == [[224, 204, 244], [100, 0, 200]]
    assert read(saved(tmp_path, image, "webp", lossless=True, exact=True))[:, 0, 0].tolist() == [224, 204, 244]
    grey = Image.new("LA", (1, 1), (100, 51))
    assert read(saved(tmp_path, grey, "png")).tolist() == [[[224]]]


def test_an_opaque_alpha_channel_changes_nothing(tmp_path):
    path = saved(tmp_path, Image.fromarray(SHADES).convert("RGBA"), "png")
    assert np.array_equal(read(path, 1)[0], SHADES)
    assert read_adapted([path], (3, 4, 6))[1] == [""]


def png(width, height, depth, colour, rows, *chunks):
    """A PNG of the given rows of bytes, with these (name, data) chunks before its pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    lines = b"".join(b"\0" + row for row in rows)
    middle = b"".join(chunk(kind, data) for kind, data in chunks)
    after = chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return InMemory("x.png", b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + middle + after)


@pytest.mark.parametrize(
    ("depth", "colour", "row", "chunks", "seen"),
    [
        (8, 0, bytes([7, 9, 0, 255]), [(b"tRNS", b"\0\x07")], [[255, 9, 0, 255]]),
        (1, 0, b"\x50", [(b"tRNS", b"\0\0")], [[255, 255, 255, 255]]),
        (1, 0, b"\x50", [(b"tRNS", b"\0\1")], [[0, 255, 0, 255]]),
        (2, 0, b"\x1b", [(b"tRNS", b"\0\1")], [[0, 255, 170, 255]]),
        (4, 0, b"\x01\x2f", [(b"tRNS", b"\0\2")], [[0, 17, 255, 255]]),
        (16, 0, struct.pack(">4H", 5, 257 * 9, 0, 65535), [(b"tRNS", b"\0\5")], [[255, 9, 0, 255]]),
        (8, 2, bytes([1, 2, 3, 1, 2, 4, 0, 0, 0, 9, 9, 9]), [(b"tRNS", b"\0\1\0\2\0\3")],
         [[255, 1, 0, 9], [255, 2, 0, 9], [255, 4, 0, 9]]),
        (16, 2, struct.pack(">12H", *([257] * 3), *([0] * 3), *([65535] * 3), *([257 * 9] * 3)),
         [(b"tRNS", b"\1\1\1\1\1\1")], [[255, 0, 255, 9]] * 3),
        (8, 3, b"\0\1\2\0", [(b"PLTE", bytes([10, 20, 30, 50, 60, 70, 1, 1, 1])), (b"tRNS", b"\0\xff")],
         [[255, 50, 1, 255], [255, 60, 1, 255], [255, 70, 1, 255]]),
        (8, 3, b"\0\1\2\0", [(b"PLTE", bytes([10, 10, 10, 60, 60, 60, 1, 1, 1])), (b"tRNS", b"\xff\0")],
         [[10, 255, 1, 10]]),
        (8, 4, bytes([9, 255, 9, 0, 0, 51, 0, 255]), [], [[9, 255, 204, 0]]),
        (16, 4, struct.pack(">8H", 257 * 9, 65535, 257 * 9, 0, 0, 257 * 51, 65535, 65535), [], [[9, 255, 204, 255]]),
    ],
    ids=["L", "1bit-0", "1bit-1", "2bit", "4bit", "grey16", "RGB", "RGB16", "P", "P-grey", "LA", "LA16"],
)  # fmt: skip
def test_the_transparent_colour_of_a_png(depth, colour, row, chunks, seen):
    assert read(png(4, 1, depth, colour, [row], *chunks))[:, 0].tolist() == seen


def test_look_alikes_load_alike_and_a_folder_of_icons_has_something_to_learn(tmp_path):
    for kind in ("disc", "square"):
        (tmp_path / "icons" / kind).mkdir(parents=True)
        for n in range(5):
            disc("RGBA", (n, n, n)).save(tmp_path / "icons" / kind / f"{n}.png")
        Image.fromarray(SQUARE).save(tmp_path / "icons" / kind / "grey.png")
    pixels = read_images(list_images(tmp_path / "icons" / "disc"), shape=(1, 8, 8))
    assert (pixels == torch.from_numpy(SQUARE)).all()
    with pytest.raises(ValueError, match=r"icons: all 10 images for training are alike \(pixels from 0 to 255\)"):
        load(tmp_path / "icons")
    Image.fromarray(SHADES).resize((8, 8)).save(tmp_path / "icons" / "disc" / "grey.png")
    Image.fromarray(SHADES).resize((8, 8)).save(tmp_path / "icons" / "disc" / "more.png")
    train = load(tmp_path / "icons").train
    assert "10 of 13 pictures are transparent, laid on white" in train.notes
    assert train.subset(torch.tensor([0])).notes == train.to("cpu").notes == train.notes


# Orientation


@pytest.mark.parametrize("mark", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tiff"])
def test_pictures_are_turned_upright(tmp_path, mark, suffix):
    large = Image.fromarray(SHADES).resize((48, 32), Image.Resampling.NEAREST).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = mark
    path = saved(tmp_path, large, suffix, exif=exif, **({"lossless": True} if suffix == "webp" else {"quality": 100}))
    with Image.open(path) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened).convert("RGB")).transpose(2, 0, 1)
    turned = {
        1: SHADES, 2: SHADES[:, ::-1], 3: SHADES[::-1, ::-1], 4: SHADES[::-1], 5: SHADES.T,
        6: np.rot90(SHADES, -1), 7: SHADES[::-1, ::-1].T, 8: np.rot90(SHADES),
    }[mark]  # fmt: skip
    found = read(path)
    assert np.array_equal(found, expected)
    assert np.abs(found[0, 4::8, 4::8].astype(int) - turned).max() <= 3
    pixels, notes = read_adapted([path], found.shape)
    assert np.array_equal(pixels[0], expected) and notes == ["turned upright" if mark > 1 else ""]


def test_a_mark_behind_the_pixels_of_a_png_counts_and_one_that_is_broken_does_not():
    rows = [bytes(row) for row in SHADES]
    exif = Image.Exif()
    exif[0x0112] = 6
    content = png(6, 4, 8, 0, rows, (b"eXIf", exif.tobytes()[6:])).content
    start, end = content.index(b"eXIf") - 4, content.index(b"IDAT") - 4
    behind = content[:start] + content[end:-12] + content[start:end] + content[-12:]
    assert np.array_equal(read(InMemory("x", behind))[0], np.rot90(SHADES, -1))
    buffer = io.BytesIO()
    Image.fromarray(SHADES).save(buffer, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert read(InMemory("x", buffer.getvalue())).shape == (1, 4, 6)


# Depth


@pytest.mark.parametrize("suffix", ["png", "tiff", "pgm"])
def test_sixteen_bits_are_scaled_by_their_own_range(tmp_path, suffix):
    path = saved(tmp_path, Image.fromarray(np.array([[0, 128, 129, 257 * 7, 65535]], np.uint16)), suffix)
    assert read(path).tolist() == [[[0, 0, 1, 7, 255]]]
    assert read_adapted([path], (1, 1, 5))[1] == ["16 bits made 8"]


def test_sixteen_bits_with_the_high_byte_first_and_with_white_as_zero(tmp_path):
    deep = np.array([[0, 257 * 7, 65535]], np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(deep).save(buffer, "TIFF", tiffinfo={262: 0})
    assert read(InMemory("x", buffer.getvalue())).tolist() == [[[255, 248, 0]]]
    big = struct.pack(">2sHI H", b"MM", 42, 8, 8)
    fields = [(256, 4, 3), (257, 4, 1), (258, 3, 16), (259, 3, 1), (262, 3, 1), (273, 4, 110), (278, 4, 1), (279, 4, 6)]
    for tag, kind, value in fields:
        big += struct.pack(">HHI", tag, kind, 1) + (
            struct.pack(">HH", value, 0) if kind == 3 else struct.pack(">I", value)
        )
    big += b"\0" * (110 - len(big)) + deep.astype(">u2").tobytes()
    assert Image.open(io.BytesIO(big)).mode == "I;16B"
    assert read(InMemory("x", big)).tolist() == [[[0, 7, 255]]]


@pytest.mark.parametrize("top", [255, 1023, 4095, 16383])
def test_sixteen_bits_that_hold_fewer_are_refused_as_a_set_and_told_when_predicted(tmp_path, top):
    values = np.linspace(0, top, 64).astype(np.uint16).reshape(8, 8)
    dark = saved(tmp_path, Image.fromarray(values), "png")
    with pytest.raises(ValueError, match=rf"x\.png: pictures of 16 bits .* brighter than {top}, so .* nearly black"):
        read_images([dark])
    _, notes = read_adapted([dark], (1, 8, 8))
    assert notes == [f"16 bits made 8 (its brightest value is {top} of 65535)"]
    Image.fromarray(np.full((8, 8), 60000, np.uint16)).save(tmp_path / "bright.png")
    assert read_images([dark, tmp_path / "bright.png"]).shape == (2, 1, 8, 8)


def test_colours_of_sixteen_bits(tmp_path):
    row = struct.pack(">6H", 65535, 257 * 3, 0, 257 * 200, 0, 257)
    assert read(png(2, 1, 16, 2, [row]))[:, 0].T.tolist() == [[255, 3, 0], [200, 0, 1]]
    with pytest.raises(ValueError, match="none of the 1 here is brighter than"):
        read_images([png(1, 1, 16, 2, [struct.pack(">3H", 4095, 1000, 0)])])


@pytest.mark.parametrize("mode", ["I", "F"])
def test_thirty_two_bits_are_refused(tmp_path, mode):
    path = saved(tmp_path, Image.fromarray(SHADES.astype(np.int32 if mode == "I" else np.float32)), "tiff")
    with pytest.raises(ValueError, match="32 bits a channel, save it with 8"):
        read_images([path])


# Colour


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr"])
@pytest.mark.parametrize("suffix", ["jpg", "tiff"])
def test_other_colour_spaces(tmp_path, mode, suffix):
    patch = Image.new("RGB", (8, 8), (200, 40, 90))
    options = {"quality": 100, "subsampling": 0} if suffix == "jpg" else {}
    path = saved(tmp_path, patch.convert(mode), suffix, **options)
    assert np.abs(read(path)[:, 4, 4].astype(int) - [200, 40, 90]).max() <= 3


def test_one_bit_and_palettes(tmp_path):
    bits = Image.fromarray(np.eye(4, dtype=bool))
    assert np.array_equal(read(saved(tmp_path, bits, "png"))[0], np.eye(4) * 255)
    assert np.array_equal(read(saved(tmp_path, bits, "tiff"))[0], np.eye(4) * 255)
    assert np.array_equal(read(saved(tmp_path, Image.fromarray(SHADES).convert("P"), "png"))[0], SHADES)
    colours = Image.new("P", (1, 1))
    colours.putpalette([5, 6, 7])
    for suffix in ("png", "gif", "bmp"):
        assert read(saved(tmp_path, colours, suffix)).flatten().tolist() == [5, 6, 7]


def test_of_several_frames_the_first_is_taken(tmp_path):
    first, second = Image.fromarray(SHADES), Image.fromarray(SHADES[::-1].copy())
    for suffix in ("gif", "tiff", "png"):
        path = saved(tmp_path, first, suffix, save_all=True, append_images=[second])
        assert np.array_equal(read(path)[0], SHADES)


def test_an_empty_file_is_said_to_be_empty():
    with pytest.raises(ValueError, match=r"^x.jpg: damaged or not an image \(it is empty\)$"):
        read_images([InMemory("x.jpg", b"")])
    with pytest.raises(ValueError, match=r"^x.jpg: damaged or not an image \(no format of Pillow's fits its bytes\)$"):
        read_images([InMemory("x.jpg", b"no image")])
