"""From a file's pixels to what people see: upright, on white, 8 bits. One function, for every way into the library."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

BACKGROUND = 255  # transparent pictures are laid on white, as pages and most viewers show them
UPRIGHT, ON_WHITE, EIGHT_BITS = "turned upright", "laid on white", "16 bits made 8"
REDUCED = 1.25  # sides of the result that a JPEG keeps when it is decoded smaller: it differs by one grey level (41 dB)
DARK = 1 << 14  # 16-bit pictures that stay below hold 14 bits or fewer, and would become nearly black
_GREY = {"1", "L", "LA", "La", "I;16", "I;16L", "I;16B", "I;16N"}
_ORIENTATION = 0x0112  # the mark's number in EXIF
_TURNS = {  # EXIF's marks as Pillow's transpositions; 1 is upright
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
_UNIT = {"L;2": 85, "L;4": 17}  # what one level of few bits is of Pillow's 255


@dataclass(frozen=True)
class Seen:
    """A picture as people see it.

    image: mode L if the file is grey, else RGB. changes: which of UPRIGHT, ON_WHITE and EIGHT_BITS were done.
    brightest: of a file with 16 bits a channel, its largest value (0 to 65535); None for others. size: (width, height)
    of the picture in the file, of which the image may be a smaller one.
    """

    image: Image
    changes: tuple[str, ...]
    brightest: int | None
    size: tuple[int, int]


def is_grey(image: Image) -> bool:
    """Whether an opened file has no colours, by its header."""
    if image.mode == "P":
        return _grey_palette(image)
    return image.mode in _GREY or _raw(image).split(";")[0] == "LA" or _is_wide(image)


def upright_size(image: Image, stream: BinaryIO) -> tuple[int, int]:
    """(width, height) of an opened file as people see it; it is decoded only if a mark may lie behind its pixels."""
    if image.format == "PNG" and _marks_behind_pixels(stream):
        image.load()
    turned = _orientation(image) >= 5 and image.format != "TIFF"  # whose size Pillow has turned already
    return image.size[::-1] if turned else image.size


def as_seen(image: Image, side: int | None = None) -> Seen:
    """An opened file as people see it: turned by its orientation mark, laid on white, with 8 bits by its own depth.

    A JPEG that will be resized to squares of `side` pixels is decoded at a half, a quarter or an eighth of its size, as
    long as it keeps REDUCED sides: the format's blocks give that by themselves, in a part of the time.

    Raises ValueError for 32 bits a channel, whose range no header tells.
    """
    from PIL import Image as pillow

    grey, raw, key = is_grey(image), _raw(image), image.info.get("transparency")
    mark = _orientation(image) if image.format == "TIFF" else 1  # which Pillow turns by itself, forgetting the mark
    whole, drafted = image.size, False
    if side is not None:
        drafted = image.draft(None, (math.ceil(REDUCED * side), math.ceil(REDUCED * side))) is not None
    image.load()
    left = _orientation(image)
    colour, alpha, brightest = _layers(image, grey=grey, raw=raw, key=key)
    changes = []
    if brightest is not None:
        changes.append(EIGHT_BITS)
    if mark > 1 or left > 1:
        changes.append(UPRIGHT)
    if alpha is not None and np.asarray(alpha).min() < 255:
        colour = pillow.composite(colour, pillow.new(colour.mode, colour.size, (BACKGROUND,) * len(colour.mode)), alpha)
        changes.append(ON_WHITE)
    if left > 1:
        colour = colour.transpose(getattr(pillow.Transpose, _TURNS[left]))
    if not drafted:
        return Seen(colour, tuple(changes), brightest, colour.size)
    return Seen(colour, tuple(changes), brightest, whole[::-1] if left >= 5 else whole)


def _layers(image: Image, *, grey: bool, raw: str, key: Any) -> tuple[Image, Image | None, int | None]:
    """(L or RGB, opacity or None if all is opaque, brightest of 16 bits or None) of a decoded image."""
    from PIL import Image as pillow

    if image.mode.startswith("I;16") or _is_wide(image):
        deep = np.asarray(image).astype(np.int64)
        opaque = None if key is None else pillow.fromarray(np.where(deep == key, 0, 255).astype(np.uint8))
        if image.format == "TIFF" and image.tag_v2.get(262) == 0:  # type: ignore[attr-defined]  # zero is white
            deep = 65535 - deep
        return pillow.fromarray(((deep + 128) // 257).astype(np.uint8)), opaque, int(deep.max())
    if image.mode in ("I", "F"):
        raise ValueError("it has 32 bits a channel, save it with 8")
    alpha: Image | None = None
    if image.mode in ("L", "1", "RGB") and key is not None:
        values = np.asarray(image.convert("L" if image.mode == "1" else image.mode)).astype(np.int64)
        wanted = np.array(key, np.int64)
        if image.mode == "1":
            wanted = np.where(wanted > 0, 255, 0)
        wanted = wanted >> 8 if raw.endswith(";16B") else wanted * _UNIT.get(raw, 1)
        clear = values == wanted if image.mode != "RGB" else (values == wanted).all(2)
        alpha = pillow.fromarray(np.where(clear, 0, 255).astype(np.uint8))
    elif image.has_transparency_data:
        image = image.convert("LA" if image.mode in ("LA", "La") else "RGBA")
        alpha = image.getchannel("A")
    image.info.pop("transparency", None)  # Pillow would convert it as well, with warnings
    colour = image if image.mode in ("1", "L", "LA") else in_mode(image, "RGB")
    colour = in_mode(colour, "L" if grey else "RGB")
    brightest = None
    if ";16" in raw:
        brightest = 257 * int(np.asarray(colour).max())
    return colour, alpha, brightest


def in_mode(image: Image, mode: str) -> Image:
    """The image in a mode of Pillow's; itself, and not a copy, if it has that already."""
    return image if image.mode == mode else image.convert(mode)


def _is_wide(image: Image) -> bool:
    """Whether Pillow keeps the 16 bits of a grey file in 32."""
    return image.mode == "I" and image.format in ("PNG", "PPM")


def _raw(image: Image) -> str:
    """How the pixels lie in the file, in Pillow's words such as "RGB;16B"; empty if unknown."""
    if not getattr(image, "tile", None):
        return ""
    last = image.tile[0][3]  # type: ignore[attr-defined]
    first = last[0] if isinstance(last, tuple) and last else last
    return first if isinstance(first, str) else ""


def _orientation(image: Image) -> int:
    """EXIF's orientation mark, 1 to 8; 1 if there is none or what is there is broken."""
    from PIL import Image as pillow

    with contextlib.suppress(Exception):  # a broken mark does not make a picture unreadable
        exif = pillow.Image.getexif(image)  # the PNG plugin's own would decode the whole file
        mark = exif.get(_ORIENTATION, 1)
        return mark if mark in _TURNS else 1
    return 1


def _marks_behind_pixels(stream: BinaryIO) -> bool:
    """Whether text or EXIF follows the pixels of a PNG, by the names of its chunks."""
    here, behind, found = stream.tell(), False, False
    stream.seek(8)
    while not found and len(head := stream.read(8)) == 8 and head[4:] != b"IEND":
        behind = behind or head[4:] == b"IDAT"
        found = behind and head[4:] in (b"eXIf", b"tEXt", b"zTXt", b"iTXt")
        stream.seek(int.from_bytes(head[:4]) + 4, 1)
    stream.seek(here)
    return found


def _grey_palette(image: Image) -> bool:
    if image.palette is None:
        return False
    order, table = image.palette.getdata()
    if order not in ("RGB", "BGR", "RGBX", "BGRX", "RGBA") or not isinstance(table, bytes | bytearray):
        return False
    colours = np.frombuffer(table, np.uint8)[: len(table) // len(order) * len(order)].reshape(-1, len(order))
    return len(colours) > 0 and bool((colours[:, :1] == colours[:, :3]).all())
