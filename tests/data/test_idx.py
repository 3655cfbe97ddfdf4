"""IDX files: round trips, and every way in which a file can be wrong."""

import gzip
import pickle
import struct
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from functional_nn import load_dataset
from functional_nn.core.errors import DataError
from functional_nn.data import idx, read_idx, write_idx

same_folder = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])

IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
GOOD = b"\0\0\x08\x03" + struct.pack(">3I", 2, 3, 4) + IMAGES.tobytes()


def reading(folder: Path, content: bytes, **options) -> np.ndarray:
    path = folder / "file"
    path.write_bytes(content)
    return read_idx(path, **options)


def refused(folder: Path, content: bytes, words: str, **options) -> None:
    for bytes_ in (content, gzip.compress(content)):
        with pytest.raises(DataError, match=words) as caught:
            reading(folder, bytes_, **options)
        assert str(folder / "file") in str(caught.value)


@given(
    array=arrays.arrays(
        dtype=st.sampled_from(list(idx.DTYPES.values())), shape=arrays.array_shapes(min_side=0, max_dims=5)
    ),
    ending=st.sampled_from(["", ".gz"]),
)
@same_folder
def test_round_trip_of_every_type(tmp_path, array, ending):
    write_idx(tmp_path / f"array{ending}", array)
    back = read_idx(tmp_path / f"array{ending}")
    assert back.dtype == array.dtype
    assert back.dtype.isnative
    assert back.flags.writeable
    np.testing.assert_array_equal(back, array)


def test_bytes_are_those_of_the_format(tmp_path):
    write_idx(tmp_path / "images", IMAGES)
    assert (tmp_path / "images").read_bytes() == GOOD
    write_idx(tmp_path / "numbers", np.array([1, -2], np.int16))
    assert (tmp_path / "numbers").read_bytes() == b"\0\0\x0b\x01\0\0\0\x02\0\x01\xff\xfe"


def test_gzip_is_known_by_content_and_written_the_same_every_time(tmp_path, monkeypatch):
    write_idx(tmp_path / "a.gz", IMAGES)
    monkeypatch.setattr(time, "time", lambda: 1e9)
    write_idx(tmp_path / "b.gz", IMAGES)
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
    (tmp_path / "a.gz").rename(tmp_path / "plain")
    (tmp_path / "c.gz").write_bytes(GOOD)
    for path in (tmp_path / "plain", tmp_path / "c.gz"):
        np.testing.assert_array_equal(read_idx(path), IMAGES)


def test_strided_and_foreign_arrays_are_written_as_they_look(tmp_path):
    for array in (IMAGES[:, ::2], IMAGES.T, IMAGES.astype(">i4"), np.asfortranarray(IMAGES)):
        write_idx(tmp_path / "array", array)
        np.testing.assert_array_equal(read_idx(tmp_path / "array"), array)


@pytest.mark.parametrize("array", [np.zeros(3, np.int64), np.zeros((), np.uint8), np.array([None, {}])])
def test_arrays_that_idx_cannot_hold(tmp_path, array):
    with pytest.raises(DataError):
        write_idx(tmp_path / "array", array)
    assert list(tmp_path.iterdir()) == []


def test_bad_magic(tmp_path):
    refused(tmp_path, b"\x01" + GOOD[1:], "byte 0")
    refused(tmp_path, b"GIF89a" + GOOD, "byte 0")
    refused(tmp_path, b"", "byte 0")
    refused(tmp_path, b"\0\0\x08", "byte 3.*end of the file")


@pytest.mark.parametrize("code", [0x00, 0x07, 0x0A, 0x0F, 0xFF])
def test_unknown_type(tmp_path, code):
    refused(tmp_path, GOOD[:2] + bytes([code]) + GOOD[3:], f"byte 2.*0x{code:02X}")


@pytest.mark.parametrize("rank", [0, 65, 255])
def test_dimensions(tmp_path, rank):
    refused(tmp_path, b"\0\0\x08" + bytes([rank]) + struct.pack(">I", 1) * rank + b"x", f"byte 3.*{rank}")


def test_truncated(tmp_path):
    for length in range(len(GOOD)):
        refused(tmp_path, GOOD[:length], "byte")
    refused(tmp_path, GOOD[:9], "byte 9: expected a header of 16 bytes")
    with pytest.raises(DataError, match="byte 4: expected 24 bytes of data"):
        reading(tmp_path, GOOD[:-1])
    with pytest.raises(DataError, match="byte 39: expected 24 bytes of data"):
        reading(tmp_path, gzip.compress(GOOD[:-1]))


def test_trailing_bytes(tmp_path):
    refused(tmp_path, GOOD + b"\0", "byte 40: expected the end of the file")
    for more in (b"rubbish", gzip.compress(b"more")):
        with pytest.raises(DataError, match="more follows the compressed data"):
            reading(tmp_path, gzip.compress(GOOD) + more)
    np.testing.assert_array_equal(reading(tmp_path, gzip.compress(GOOD) + bytes(100)), IMAGES)


def test_damaged_gzip(tmp_path):
    whole = gzip.compress(GOOD)
    for position in (-1, -5):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        with pytest.raises(DataError, match=r"intact gzip.*Fetch the file again"):
            reading(tmp_path, bytes(damaged))
    for length in range(2, len(whole)):
        with pytest.raises(DataError):
            reading(tmp_path, whole[:length])


def test_no_file(tmp_path):
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(DataError, match="a readable file"):
            read_idx(path)


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_reading_takes_the_memory_of_the_array(tmp_path, compress):
    """A small file can be compressed to a thousandth, so copies of its content would be a way to fill the memory."""
    size = 32 * 2**20
    (tmp_path / "images").write_bytes(compress(b"\0\0\x08\x01" + struct.pack(">I", size) + bytes(size)))
    tracemalloc.start()
    read_idx(tmp_path / "images")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.7 * size


@pytest.mark.parametrize("shape", [(2**32 - 1,) * 64, (0, *(2**32 - 1,) * 3), (2**31, 2)])
def test_header_product_overflow(tmp_path, shape):
    header = bytes([0, 0, 0x0E, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)
    refused(tmp_path, header, "byte 4: expected an array of at most 4,294,967,296 bytes")


def test_gzip_bomb(tmp_path):
    zeros = gzip.compress(bytes(40 * 2**20))
    small = gzip.compress(GOOD) + zeros
    large = gzip.compress(b"\0\0\x08\x01" + struct.pack(">I", 2**32 - 2)) + zeros
    announced = gzip.compress(b"\0\0\x08\x01" + struct.pack(">I", 30 * 2**20)) + zeros
    tracemalloc.start()
    for bomb, options in ((small, {}), (large, {}), (announced, {"maximum_bytes": 2**20})):
        with pytest.raises(DataError):
            reading(tmp_path, bomb, **options)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * 2**20


@given(position=st.integers(0, 10**6), bit=st.integers(0, 7))
@same_folder
def test_a_flipped_bit_of_a_gzipped_file_is_an_error_or_harmless(tmp_path, position, bit):
    damaged = bytearray(gzip.compress(GOOD, mtime=0))
    damaged[position % len(damaged)] ^= 1 << bit
    try:
        array = reading(tmp_path, bytes(damaged))
    except DataError:
        return
    np.testing.assert_array_equal(array, IMAGES)


def test_pickle_refused(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was loaded",))

    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        refused(tmp_path, pickle.dumps(Harmful(), protocol), "byte 0.*no pickles")
    np.save(tmp_path / "array.npy", np.array([Harmful()]), allow_pickle=True)
    with pytest.raises(DataError, match="no pickles"):
        read_idx(tmp_path / "array.npy")


def write_folder(folder: Path, spelling: str = "-idx{}-ubyte", number: int = 2) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "t10k"):
        write_idx(folder / f"{split}-images{spelling.format(3)}", IMAGES)
        write_idx(folder / f"{split}-labels{spelling.format(1)}", np.arange(number, dtype=np.uint8))


@pytest.mark.parametrize("place", [".", "raw", "KMNIST/raw"])
@pytest.mark.parametrize("spelling", ["-idx{}-ubyte", ".idx{}-ubyte", "-idx{}-ubyte.gz", ".idx{}-ubyte.gz"])
def test_folders_are_found(tmp_path, place, spelling):
    write_folder(tmp_path / place, spelling)
    data = idx.read_idx_folder(tmp_path, "kmnist", "a test")
    assert data.train_images.shape == data.test_images.shape == (2, 3, 4, 1)
    assert data.train_labels.shape == data.test_labels.shape == (2,)


def test_another_sets_torchvision_folder_is_not_taken(tmp_path):
    write_folder(tmp_path / "KMNIST" / "raw")
    assert idx.read_idx_folder(tmp_path, "mnist", "a test") is None


@pytest.mark.parametrize(
    ("limit", "most", "file"),
    [("MAXIMUM_BYTES", 2 * 26 - 1, "t10k-labels"), ("MOST_BYTES_OF_LABELS", 1, "train-labels")],
)
def test_files_that_are_too_large_together(tmp_path, monkeypatch, limit, most, file):
    write_folder(tmp_path)
    monkeypatch.setattr(idx, limit, most)
    with pytest.raises(DataError, match=rf"{file}.*expected an array of at most 1 bytes"):
        idx.read_idx_folder(tmp_path, "kmnist", "a test")


@pytest.mark.parametrize("moves_back", [False, True])
def test_labels_of_another_folder_are_not_those_of_the_images(tmp_path, monkeypatch, moves_back):
    """A link to the newest data moves on while they are read. Another user may also move it back."""
    for name in ("old", "new"):
        write_folder(tmp_path / name)
    (tmp_path / "latest").symlink_to("old")
    read = idx.read_idx

    def move(to):
        (tmp_path / "latest").unlink()
        (tmp_path / "latest").symlink_to(to)

    def read_and_move(path, **options):
        move("new")
        try:
            return read(path, **options)
        finally:
            move("old" if moves_back else "new")

    monkeypatch.setattr(idx, "read_idx", read_and_move)
    with pytest.raises(DataError, match="another one than before"):
        load_dataset("mine", tmp_path / "latest")


def test_images_and_labels_differ_in_number(tmp_path):
    write_folder(tmp_path, number=3)
    with pytest.raises(DataError, match=r"training labels: expected an integer for each of the 2 images, got .*\(3,\)"):
        load_dataset("mine", tmp_path)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_checksum_mismatch(tmp_path, name):
    write_folder(tmp_path)
    with pytest.raises(DataError, match=r"train-images.*MD5 [0-9a-f]{32} .*Fetch the file again") as caught:
        idx.read_idx_folder(tmp_path, name, "a test")
    assert idx.MD5_SUMS[name][0] in str(caught.value)
