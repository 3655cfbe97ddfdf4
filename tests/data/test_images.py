"""Image files brought to the form of a data set's images."""

import io
import itertools
import struct
import zlib

import numpy as np
import PIL.Image
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from functional_nn.core.errors import DataError
from functional_nn.data import images
from functional_nn.data.images import INK, decode_image, image_form, quiet_decoders, read_fitted_image, read_image

MNIST = (28, 28, 1)
COLOR = (32, 32, 3)
same_folder = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def reading(folder, image, shape=MNIST, digits=True, ending="png", **save) -> np.ndarray:
    path = folder / f"image.{ending}"
    (image if isinstance(image, PIL.Image.Image) else PIL.Image.fromarray(image)).save(path, **save)
    return read_image(path, shape, digits=digits)


def blob(size, place, extent=(40, 30)) -> np.ndarray:
    """A bright rectangle whose left half is fainter."""
    canvas = np.zeros(size, np.uint8)
    y, x = place
    canvas[y : y + extent[0], x : x + extent[1]] = 250
    canvas[y : y + extent[0], x : x + extent[1] // 2] = 120
    return canvas


def center(image) -> np.ndarray:
    """The center of mass, in pixels from the upper left corner."""
    mass = image.astype(float).squeeze()
    return np.array([(mass.sum(axis=1 - axis) @ (np.arange(mass.shape[axis]) + 0.5)) / mass.sum() for axis in (0, 1)])


@given(pixels=arrays.arrays(np.uint8, st.tuples(st.integers(1, 60), st.integers(1, 60))), digits=st.booleans())
@same_folder
def test_every_gray_image_becomes_bytes_of_the_shape(tmp_path, pixels, digits):
    for shape in (MNIST, (20, 31, 1), (1, 1, 1), COLOR):
        try:
            image = reading(tmp_path, pixels, shape, digits)
        except DataError:
            assert digits
        else:
            assert (image.shape, image.dtype) == (shape, np.uint8)


def test_pixels_that_vanish_when_the_image_becomes_smaller_are_no_digit(tmp_path):
    pixels = np.zeros((44, 44), np.uint8)
    pixels[[3, 40], [3, 40]] = 255
    with pytest.raises(DataError, match="expected an image with a digit on it, got one without, or with a few"):
        reading(tmp_path, pixels, (1, 1, 1), digits=True)


@given(pixels=arrays.arrays(np.uint8, (28, 28)))
@same_folder
def test_an_image_of_the_right_size_keeps_its_pixels_but_for_polarity(tmp_path, pixels):
    if np.ptp(pixels) < INK:
        return  # a blank picture
    image = reading(tmp_path, pixels)[..., 0]
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    np.testing.assert_array_equal(image, 255 - pixels if np.median(border) > 127 else pixels)


@pytest.mark.parametrize("page", [0, 255])
def test_a_gray_image_of_the_right_size_that_is_no_digit_keeps_its_polarity(tmp_path, page):
    pixels = np.full((28, 28), page, np.uint8)
    pixels[5:20, 8:12] = 255 - page
    np.testing.assert_array_equal(reading(tmp_path, pixels, digits=False)[..., 0], pixels)


@given(pixels=arrays.arrays(np.uint8, (32, 32, 3)))
@same_folder
def test_a_color_image_of_the_right_size_keeps_its_pixels(tmp_path, pixels):
    np.testing.assert_array_equal(reading(tmp_path, pixels, COLOR, digits=False), pixels)


@given(y=st.integers(0, 60), x=st.integers(0, 170), height=st.integers(8, 40), width=st.integers(8, 30))
@same_folder
def test_a_digit_is_centered_by_mass_in_a_box_of_20(tmp_path, y, x, height, width):
    image = reading(tmp_path, blob((100, 200), (y, x), (height, width)))
    assert np.abs(center(image) - 14).max() <= 0.5 + 1e-6
    rows, columns = np.nonzero(image[..., 0])
    assert max(np.ptp(rows), np.ptp(columns)) + 1 == 20


@pytest.mark.parametrize("page", [60, 100, 126, 128, 160, 200])
def test_brightness_of_the_page_does_not_matter(tmp_path, page):
    drawn = blob((90, 120), (10, 70)) > 0
    expected = reading(tmp_path, drawn * np.uint8(255))
    for ink in (page - 50, page + 50):
        image = reading(tmp_path, np.where(drawn, np.uint8(ink), np.uint8(page)))
        np.testing.assert_allclose(image.astype(int), expected, atol=3)


def test_numbers_whose_white_is_not_known_are_refused(tmp_path):
    drawn = np.where(blob((60, 60), (10, 15)) == 250, 255, 0).astype(np.uint16)
    with pytest.raises(DataError, match=r"got uint16 numbers from 0 to 255\. Save it with 8 or 16 bits"):
        reading(tmp_path, drawn)


def test_an_image_in_numbers_as_text_is_refused(tmp_path):
    """Pillow's time grows with the square of the length of its comments."""
    path = tmp_path / "image.ppm"
    path.write_bytes(b"P3 28 28 255\n" + b"#\n" * 100_000 + b"250 " * (3 * 28 * 28))
    with pytest.raises(DataError, match="expected an image file, got another kind of file"):
        read_image(path, MNIST, digits=True)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"])
def test_every_mode_of_pillow_is_the_same_drawing(tmp_path, mode):
    drawn = (blob((60, 80), (10, 20)) > 200) * np.uint8(255)
    expected = reading(tmp_path, drawn)
    image = PIL.Image.fromarray(drawn)
    if mode == "I;16":
        image = PIL.Image.fromarray(drawn * np.uint16(257))
    elif mode != "L":
        image = image.convert("RGB").convert(mode)
    image_format = {"ending": "jpeg", "quality": 100} if mode in ("CMYK", "YCbCr") else {}
    image = reading(tmp_path, image, **image_format).astype(int)
    np.testing.assert_allclose(image, expected, atol=8 if image_format else 3)


def test_a_palette_gives_its_colors():
    file = io.BytesIO()
    PIL.Image.new("RGB", (2, 1), (0, 255, 0)).convert("P").save(file, "PNG")
    with quiet_decoders():
        assert decode_image(file.getvalue(), "image", 0).tolist() == [[[0, 255, 0], [0, 255, 0]]]


def test_orientation_in_exif_is_heeded(tmp_path):
    drawn = blob((60, 80), (10, 20), (30, 10))
    turned = PIL.Image.fromarray(drawn).transpose(PIL.Image.Transpose.ROTATE_90)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    image = reading(tmp_path, turned, ending="webp", lossless=True, exif=exif)
    np.testing.assert_array_equal(image, reading(tmp_path, drawn))


@pytest.mark.parametrize(("ending", "is_turned"), [("jpeg", True), ("webp", True), ("png", False)])
def test_the_form_of_a_turned_picture_is_that_of_what_is_shown(tmp_path, ending, is_turned):
    """The specification of PNG says that its EXIF data are of historical value only."""
    path, exif = tmp_path / f"a.{ending}", PIL.Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:20] = 255
    PIL.Image.fromarray(pixels).save(path, exif=exif, quality=100)
    shape = (60, 40, 3) if is_turned else (40, 60, 3)
    with quiet_decoders():
        assert image_form(path)[:2] == shape[:2]
        shown = read_fitted_image(path, shape)
    np.testing.assert_allclose(shown, np.rot90(pixels, -1) if is_turned else pixels, atol=20)


def test_what_is_transparent_shows_white(tmp_path):
    drawn = blob((60, 80), (10, 20))
    ink = np.zeros((60, 80, 4), np.uint8)
    ink[..., 3] = drawn
    np.testing.assert_array_equal(reading(tmp_path, ink), reading(tmp_path, drawn))
    ink[..., 3] = 0
    with pytest.raises(DataError, match="a digit on it"):
        reading(tmp_path, ink)


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
def test_a_transparent_gray_is_white_with_any_number_of_bits(tmp_path, bits):
    """Pillow itself compares the number in the file with pixels of 8 bits."""
    unit = 257 if bits == 16 else 1
    numbers = [unit, 2 * unit, 3 * unit, 0]
    pixels = sum(number << bits * (3 - place) for place, number in enumerate(numbers)).to_bytes(bits // 2, "big")
    png = b"\x89PNG\r\n\x1a\n"
    for name, content in (
        (b"IHDR", struct.pack(">II", 4, 1) + bytes([bits, 0, 0, 0, 0])),
        (b"tRNS", struct.pack(">H", 2 * unit)),
        (b"IDAT", zlib.compress(b"\0" + pixels)),
        (b"IEND", b""),
    ):
        png += struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    (tmp_path / "image.png").write_bytes(png)
    with quiet_decoders():
        gray = read_fitted_image(tmp_path / "image.png", (1, 4, 1)).ravel().tolist()
    scale = 1 if bits == 16 else 255 // (2**bits - 1)
    assert gray == [scale, 255, 3 * scale, 0]


def test_16_bit_gray_as_color(tmp_path):
    drawn = blob((32, 32), (3, 5), (20, 20))
    image = reading(tmp_path, drawn.astype(np.uint16) * 257, COLOR, digits=False)
    np.testing.assert_array_equal(image, np.repeat(drawn[..., None], 3, axis=2))
    with quiet_decoders():
        np.testing.assert_array_equal(decode_image((tmp_path / "image.png").read_bytes(), "here", 1)[..., 0], drawn)


def test_a_flipped_bit_of_a_png_is_an_error(tmp_path):
    """Pillow decodes most of them to other pixels: it compares checksums only if it is asked to."""
    PIL.Image.fromarray(blob((28, 28), (3, 5))).save(tmp_path / "a.png")
    content = bytearray((tmp_path / "a.png").read_bytes())
    content[content.index(b"IDAT") + 20] ^= 1
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match="a readable image file"):
        read_image(tmp_path / "a.png", MNIST, digits=True)


def test_first_frame_of_several(tmp_path):
    first, second = (PIL.Image.fromarray(blob((60, 80), place)) for place in ((10, 20), (0, 0)))
    for ending in ("gif", "webp"):
        lossless = {"lossless": True} if ending == "webp" else {}
        moving = reading(tmp_path, first, ending=ending, save_all=True, append_images=[second], **lossless)
        np.testing.assert_allclose(moving.astype(int), reading(tmp_path, first).astype(int), atol=3)


# Files that cannot be used


def refused(path, words, shape=MNIST):
    with pytest.raises(DataError, match=words) as caught:
        read_image(path, shape, digits=True)
    assert str(path) in str(caught.value)


def test_images_of_2_channels_are_not_in_files(tmp_path):
    with pytest.raises(DataError, match="expected 1 or 3 channels, as files of images have, got 2"):
        reading(tmp_path, np.zeros((12, 12), np.uint8), (12, 12, 2), digits=False)


def test_no_such_file(tmp_path):
    refused(tmp_path / "none.png", "No such file")
    refused(tmp_path, "directory")


def test_blank_images(tmp_path):
    for gray, size in itertools.product((0, 100, 255), ((50, 60), (28, 28), (300, 300))):
        PIL.Image.new("L", size, gray).save(tmp_path / "blank.png")
        refused(tmp_path / "blank.png", "a digit on it")


def png(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(10_000, 10_000), (20_000, 20_000), (2**31 - 1, 2**31 - 1)])
def test_decompression_bombs(tmp_path, size):
    (tmp_path / "bomb.png").write_bytes(png(*size))
    refused(tmp_path / "bomb.png", "pixels")


def test_a_file_of_some_bytes_with_millions_of_pixels_is_refused(tmp_path):
    """A WebP file of 34 bytes may have all pixels that a picture may have, and takes 0.8 GB."""
    PIL.Image.new("RGB", (4096, 1100)).save(tmp_path / "image.webp", lossless=True)
    refused(tmp_path / "image.webp", "4096 x 1100 pixels in .* bytes, an empty picture")
    # In BMP, all pixels of two colors may be one run.
    header = struct.pack("<LllHHLLllLL", 40, 5_000_000, 1, 1, 8, 1, 6, 0, 0, 2, 2) + bytes(4) + b"\xff\xff\xff\0"
    (tmp_path / "image.bmp").write_bytes(b"BM" + struct.pack("<LLL", 68, 0, 62) + header + b"\1\1\0\0\0\1")
    refused(tmp_path / "image.bmp", "5000000 x 1 pixels in 68 bytes, an empty picture")


@pytest.mark.parametrize("ending", ["jp2", "j2k", "tiff", "eps"])
def test_formats_that_are_dangerous_are_not_read(tmp_path, ending):
    """Small files of the first ones can take gigabytes. For EPS, Pillow starts Ghostscript, whatever the name is."""
    PIL.Image.new("L", (28, 28)).save(tmp_path / f"image.{ending}")
    (tmp_path / f"image.{ending}").rename(tmp_path / "image.png")
    refused(tmp_path / "image.png", "another kind of file")


def test_a_jpeg_file_of_many_scans_is_refused(tmp_path):
    """Each scan of a few bytes goes over the whole image, so a small file would take minutes."""
    path = tmp_path / "image.jpg"
    PIL.Image.new("L", (64, 64), 128).save(path, progressive=True)
    content = path.read_bytes()
    assert read_image(path, MNIST, digits=False).shape == MNIST
    scans = content[content.rindex(b"\xff\xda") : -2] * 100
    # The decoder finds scans in an unknown segment too, while it looks for the next restart.
    for hidden in (b"", b"\xff\x02" + struct.pack(">H", 2 + len(scans))):
        path.write_bytes(content[:-2] + hidden + scans + content[-2:])
        with pytest.raises(DataError, match="more than 100 scans"):
            read_image(path, MNIST, digits=False)


def test_a_jpeg_file_that_is_written_again_after_its_check_is_read_as_it_was(tmp_path, monkeypatch):
    gray, black = tmp_path / "gray.jpg", tmp_path / "black.jpg"
    PIL.Image.new("L", (28, 28), 128).save(gray)
    PIL.Image.new("L", (28, 28), 0).save(black)
    monkeypatch.setattr(images, "_check_jpeg", lambda content: gray.write_bytes(black.read_bytes()))
    assert read_fitted_image(gray, MNIST).min() > 100


@pytest.mark.parametrize(("segment", "most"), [(b"\xff\xe1\x00\x08Exif\0\0", 100), (b"\xff\xe3\x00\x02", 10_000)])
def test_a_jpeg_file_of_many_segments_is_refused(tmp_path, segment, most):
    """Pillow copies all EXIF data again for each part of it, and keeps a list of all segments."""
    path = tmp_path / "image.jpg"
    PIL.Image.new("L", (64, 64), 128).save(path)
    content = path.read_bytes()
    path.write_bytes(content[:2] + (most - 1) * segment + content[2:])
    assert read_image(path, MNIST, digits=False).shape == MNIST
    path.write_bytes(content[:2] + (most + 1) * segment + content[2:])
    with pytest.raises(DataError, match=f"more than {most:,}"):
        read_image(path, MNIST, digits=False)
