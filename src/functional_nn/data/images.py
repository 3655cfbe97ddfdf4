"""Reading of image files of any size and polarity, in the form of a data set's images."""

from __future__ import annotations

import io
import math
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from functional_nn.core.errors import DataError, check_data, reading
from functional_nn.storage.files import opened

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "HEIF")
"""The formats that are read, whatever a file's name is. Each decoder is a way in for hostile files, so only common ones
are here. Pillow starts another program for EPS. Small files of JPEG 2000, AVIF or TIFF can take gigabytes of memory,
and comments in PPM can take many minutes."""

MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
"""Pillow's mode for each number of channels."""

DIGIT_SHARE = 20 / 28
"""The size of a digit, as a share of the image's size."""

INK = 40
"""The least difference in brightness, of 255, that counts as ink."""

MOST_PIXELS = 50_000_000
"""The largest image that is decoded. Most telephones have cameras with fewer pixels."""

FEW_PIXELS, MOST_PIXELS_PER_BYTE = 2**22, 1000
"""An image with more pixels than the first number may have so many for each byte of its file, unless it is a PNG
file in black and white. Only images that are nearly empty have more."""

MOST_SCANS = 100
"""The largest number of scans in a JPEG file, each of which goes over the whole image, and about ten are usual; and of
the parts of its EXIF data, each of which Pillow copies with all before it, and one is usual."""

MOST_SEGMENTS = 10_000
"""The largest number of segments before the first scan of a JPEG file. Pillow keeps a list of them."""

MOST_BYTES = 6 * MOST_PIXELS
"""The largest JPEG file that is decoded."""

SCAN = re.compile(rb"\xff\xda\x00(\x06\x00|\x08\x01|\x0a\x02|\x0c\x03|\x0e\x04)")
"""The start of a scan in a JPEG file: the marker, then a length that fits the number of components. Decoders differ in
which other segments they skip, so the whole file is searched. In other places, these bytes are very rare."""

SEGMENT = re.compile(rb"\xff[\xe0-\xef]")
"""The marker of a segment that an application may fill. Data may have the same bytes by chance, if rarely."""

MOST_KEPT_PIXELS = 2**21
"""Larger images are reduced to this size first, since more pixels are of no use."""

SCALED = {"L;2": 85, "L;4": 17}
"""By these factors Pillow scales gray numbers of 2 and 4 bits to 255, but not the one that is transparent."""

PNG = b"\x89PNG\r\n\x1a\n"
"""The first bytes of a PNG file."""

ORIENTATION = 0x0112
"""The entry of a photograph's EXIF data that says how the camera was turned: 5 to 8 swap height and width."""


def read_image(path: str | os.PathLike[str], shape: tuple[int, ...], *, digits: bool) -> np.ndarray:
    """Reads an image file as bytes of ``shape``, (height, width, channels).

    An image of that height and width keeps its pixels. Other images are scaled, and inverted if they have a bright
    border and ``channels`` is 1. A digit becomes bright on dark at every size. If it has another size, it is first cut
    out and then placed as in MNIST: scaled to a box of 20 in 28 pixels, with its center of mass in the middle.

    Args:
        path: a PNG, JPEG or other image file, in one of `FORMATS`.
        shape: the shape of the images that the network was trained on.
        digits: whether the images of the data set are single, centered digits.

    Raises:
        DataError: if the file is missing or not an image; if its numbers have no known range; if a digit's image is
            blank; or if the network takes neither 1 nor 3 channels.
    """
    height, width, channels = shape
    remedy = "For other networks, call load(RUN).predict with an array."
    check_data(str(path), channels, "1 or 3 channels, as files of images have", channels in (1, 3), remedy)
    with quiet_decoders():
        image = _reduced(_open(path, channels))
    if channels == 3:
        return np.asarray(image if image.size == (width, height) else image.resize((width, height)))
    gray = np.asarray(image)
    if gray.shape == (height, width) and not digits:
        # The network may have been trained on images of a bright page, and this may be one of them.
        return gray[..., None]
    if _brightness_of_border(gray) > 127:
        gray = 255 - gray
    if digits and np.ptp(gray) < INK:
        raise _blank(path)
    if gray.shape != (height, width):
        gray = _centered(path, gray, height, width) if digits else _scaled(gray, height, width)
    return gray[..., None]


def read_fitted_image(path: str | os.PathLike[str], shape: tuple[int, ...]) -> np.ndarray:
    """Reads an image file as bytes of ``shape``, for data sets of the user's own images.

    The image is scaled until it covers the height and the width. What is too much is cut off at both sides equally.
    An image of that height and width keeps its pixels. The colors stay as they are: nothing is inverted.

    Call it inside `quiet_decoders`. Threads may call it at the same time.

    Args:
        path: an image file, in one of `FORMATS`. Of an animation, the first image is taken.
        shape: (height, width, channels), with 1 channel for gray or 3 for RGB.

    Raises:
        DataError: if the file is missing, damaged, or not an image.
    """
    import PIL.Image
    import PIL.ImageOps

    height, width, channels = shape
    image = _open(path, channels, twice=2 * max(height, width))
    if image.size != (width, height):
        image = PIL.ImageOps.fit(image, (width, height), PIL.Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(shape)


def decode_image(content: bytes, place: str, channels: int) -> np.ndarray:
    """Decodes a PNG or JPEG image as bytes of shape (height, width, channels).

    Call it inside `quiet_decoders`.

    Args:
        content: the bytes of a file.
        place: where they are from, for errors.
        channels: 1 to 4; 0 keeps the number that the image has.

    Raises:
        DataError: if it is damaged, larger than `MOST_PIXELS`, or another kind of file.
    """
    with _opened(place, content) as stored:
        image = _of_8_bits(stored)
        own = "RGB" if image.mode == "P" else image.mode  # the numbers of a palette are no colors
        return np.asarray(image.convert(MODES.get(channels, own))).reshape(image.height, image.width, -1)


def image_form(path: str | os.PathLike[str]) -> tuple[int, int, bool]:
    """The height and width of an image file as it is shown, and whether it is gray. Its pixels are not read.

    Call it inside `quiet_decoders`.

    Raises:
        DataError: if the file is missing or not an image.
    """
    with _opened(path, is_decoded=False) as image:
        width, height = image.size
        if image.format != "PNG" and image.getexif().get(ORIENTATION, 1) >= 5:
            height, width = width, height
        return height, width, image.mode in ("1", "L", "LA", "La") or image.mode.startswith("I")


def readable_formats() -> list[str]:
    """The formats of `FORMATS` that this build of Pillow reads. HEIF needs ``pillow_heif.register_heif_opener()``."""
    import PIL.Image

    PIL.Image.init()
    return [name for name in FORMATS if name in PIL.Image.OPEN]


def quiet_decoders() -> AbstractContextManager[object]:
    """Silences Pillow's warnings about files that it can read.

    The filters of warnings belong to the whole process. So threads are started inside this context.
    """
    return warnings.catch_warnings(action="ignore")


def _open(path: str | os.PathLike[str], channels: int, twice: int | None = None) -> Image:
    """Reads an image in gray or RGB, turned as its camera was turned, and without transparency.

    Args:
        path: the file.
        channels: 3 for RGB.
        twice: twice the height or width that is needed. JPEG files are decoded at 1/2, 1/4 or 1/8 of their size if this
            is at least as large, which is several times as fast.
    """
    import PIL.ImageOps

    with _opened(path) as opened:
        if twice is not None:
            opened.draft(None, (twice, twice))
        # EXIF data of a PNG file are of historical value only, as its specification says, and may be after its pixels.
        image = opened.copy() if opened.format == "PNG" else PIL.ImageOps.exif_transpose(opened)
    if image.mode.startswith("I"):
        _check_range(path, np.asarray(image))
    with reading(path, "an image that Pillow can convert to RGB", errors=(OSError, ValueError)):  # unlike LAB
        return _opaque(image).convert("RGB" if channels == 3 else "L")


def _check_jpeg(content: bytes) -> None:
    """Refuses a JPEG file that takes minutes or gigabytes to open or to decode."""
    scans = [scan.start() for scan in SCAN.finditer(content)]
    before = content[: min(scans, default=None)]
    if max(len(scans), before.count(b"Exif\0\0")) > MOST_SCANS or len(content) > MOST_BYTES:
        raise ValueError(f"more than {MOST_SCANS} scans or parts of EXIF data, or more than {MOST_BYTES:,} bytes")
    if next(islice(SEGMENT.finditer(before), MOST_SEGMENTS, None), None):
        raise ValueError(f"more than {MOST_SEGMENTS:,} segments before the first scan")


@contextmanager
def _opened(
    path: str | os.PathLike[str], content: bytes | None = None, *, is_decoded: bool = True
) -> Iterator[ImageFile]:
    """Opens an image file, or the content of a PNG or JPEG file. Checksums are compared if its pixels are read.

    Any error about it becomes a ``DataError``, also those of the code in the context.
    """
    import PIL.Image

    remedy = "Give a PNG, JPEG or other image file."
    formats = readable_formats() if content is None else ("PNG", "JPEG")
    # Pillow's decoders raise whatever their libraries do.
    with (
        reading(path, "a readable image file", remedy, errors=Exception),
        opened(Path(path), follow_links=True) if content is None else io.BytesIO(content) as file,
    ):
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        kind = file.read(8)
        file.seek(0)
        if kind.startswith(b"\xff\xd8"):
            _check_jpeg(checked := file.read(MOST_BYTES + 1))
            file = io.BytesIO(checked)  # somebody may write another picture into the file now
        file.seek(0)
        try:
            if kind == PNG and is_decoded:
                with PIL.Image.open(file, formats=("PNG",)) as image:
                    image.verify()  # the checksums, at which decoding does not look
                file.seek(0)
            with PIL.Image.open(file, formats=formats) as image:
                if image.width * image.height > MOST_PIXELS:
                    raise PIL.Image.DecompressionBombError
                is_black_or_white = image.mode == "1" and image.format == "PNG"
                if not is_black_or_white and image.width * image.height > FEW_PIXELS + MOST_PIXELS_PER_BYTE * size:
                    raise ValueError(f"{image.width} x {image.height} pixels in {size:,} bytes, an empty picture")
                if kind == PNG and "transparency" in image.info and image.tile:
                    image.info["transparency"] *= SCALED.get(str(image.tile[0].args), 1)
                yield image
        except PIL.UnidentifiedImageError:
            given = "another kind of file" if size else "an empty file"
            raise DataError(str(path), "an image file", given, remedy) from None
        except PIL.Image.DecompressionBombError:
            limit = f"at most {MOST_PIXELS:,} pixels"
            raise DataError(str(path), f"an image of {limit}", "a larger one", "Scale it down.") from None


def _check_range(path: str | os.PathLike[str], numbers: np.ndarray) -> None:
    """Requires integers with a known range.

    In integers of 16 or 32 bits, white is 65535. If all numbers are below 256, white is probably 255, so the range is
    not known. The same holds if a number is negative.
    """
    least, largest = numbers.min(), numbers.max()
    if least < 0 or 0 < largest < 256 or largest > 65535:
        remedy = "Save it with 8 or 16 bits, or load it with NumPy and use make_dataset."
        given = f"{numbers.dtype} numbers from {least} to {largest}"
        raise DataError(str(path), "an image with 8 or 16 bits for each number", given, remedy)


def _reduced(image: Image) -> Image:
    """A smaller image, if there are more pixels than are of use. Each pixel is the mean of a square of old ones."""
    factor = math.ceil(math.sqrt(image.width * image.height / MOST_KEPT_PIXELS))
    return image.reduce(factor) if factor > 1 else image


def _of_8_bits(image: Image) -> Image:
    """The image, with 8 bits in place of 16: 65535 / 257 = 255."""
    import PIL.Image

    if not image.mode.startswith("I"):
        return image
    return PIL.Image.fromarray(np.clip(np.rint(np.asarray(image, np.float32) / 257), 0, 255).astype(np.uint8))


def _opaque(image: Image) -> Image:
    """An image without transparency, 8-bit gray or colors. The background is white, or black if white hides all ink."""
    import PIL.Image

    numbers, transparent = image, image.info.get("transparency")
    image = _of_8_bits(image)
    if numbers.mode.startswith("I") and isinstance(transparent, int):  # Pillow uses it with 8 bits only
        image.putalpha(PIL.Image.fromarray(np.uint8(255) * (np.asarray(numbers) != transparent)))
    if not image.has_transparency_data:
        return image
    image = _reduced(image.convert("RGBA"))
    for behind in ("white", "black"):
        shown = PIL.Image.alpha_composite(PIL.Image.new("RGBA", image.size, behind), image)
        if np.ptp(np.asarray(shown.convert("L"))) >= INK:
            return shown
    return shown


def _brightness_of_border(gray: np.ndarray) -> float:
    """The brightness of the page, which the border shows."""
    return float(np.median(np.concatenate([gray[0], gray[-1], gray[:, 0], gray[:, -1]])))


def _scaled(gray: np.ndarray, height: int, width: int) -> np.ndarray:
    import PIL.Image

    return np.asarray(PIL.Image.fromarray(gray).resize((width, height), PIL.Image.Resampling.BOX))


def _blank(path: str | os.PathLike[str]) -> DataError:
    return DataError(str(path), "an image with a digit on it", "one without, or with a few single pixels")


def _centered(path: str | os.PathLike[str], gray: np.ndarray, height: int, width: int) -> np.ndarray:
    # Ink is brighter or darker than the page, whichever stands out more.
    over_page = gray.astype(np.float32) - _brightness_of_border(gray)
    ink = max(np.clip(over_page, 0, None), np.clip(-over_page, 0, None), key=lambda side: float((side**2).sum()))
    ink *= 255 / ink.max()
    # Cut out the digit, and scale its longer side to 20 in 28 pixels.
    rows, columns = (np.flatnonzero((ink > INK).any(axis=axis)) for axis in (1, 0))
    digit = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.uint8)
    scale = DIGIT_SHARE * min(height, width) / max(digit.shape)
    digit = _scaled(digit, *(max(1, round(size * scale)) for size in digit.shape))
    if not digit.any():  # single pixels may vanish when the image becomes smaller
        raise _blank(path)
    # Move the center of mass to the middle of the image, as far as the digit stays inside. Pixel i is from i to i + 1,
    # so its center is at i + 1/2.
    offsets = []
    for axis, size in ((0, height), (1, width)):
        along = digit.sum(axis=1 - axis, dtype=float)
        center = (along @ np.arange(len(along)) + along.sum() / 2) / along.sum()
        offsets.append(int(np.clip(round(size / 2 - center), 0, size - len(along))))
    canvas = np.zeros((height, width), np.uint8)
    canvas[offsets[0] : offsets[0] + digit.shape[0], offsets[1] : offsets[1] + digit.shape[1]] = digit
    return canvas
