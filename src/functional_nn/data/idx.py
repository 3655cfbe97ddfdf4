"""The IDX file format of MNIST: reading with checks of every length, and atomic writing."""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np

from functional_nn.core.errors import DataError, check, check_data, reading
from functional_nn.core.texts import is_count
from functional_nn.data.dataset import Dataset, make_dataset
from functional_nn.storage.files import check_path, opened, opened_whole, unchanged

DTYPES = {
    0x08: np.dtype(np.uint8),
    0x09: np.dtype(np.int8),
    0x0B: np.dtype(np.int16),
    0x0C: np.dtype(np.int32),
    0x0D: np.dtype(np.float32),
    0x0E: np.dtype(np.float64),
}
MAXIMUM_BYTES = 4 * 2**30  # also of the four files of a data set together
MOST_BYTES_OF_LABELS = 2**26  # labels become int32, and are counted as int64
MAXIMUM_RANK = 64  # the limit of NumPy
PIECE = 2**18  # bytes of a gzip file that are decompressed at a time
MOST_AT_ONCE = 2**22  # bytes that are read at a time, and then copied to where they belong
DEFLATE_RATIO = 1032  # a byte of a gzip file never holds more bytes than this

FILE_STEMS = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
TORCHVISION_FOLDERS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST"}
MD5_SUMS = {
    "mnist": (
        "6bbc9ace898e44ae57da46a324031adb",
        "a25bea736e30d166cdddb491f175f624",
        "2646ac647ad5339dbf082846283269ea",
        "27ae3e4e09519cfbb04c329615203637",
    ),
    "fashion_mnist": (
        "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "9018921c3c673c538a1fc5bad174d6f9",
        "8181f5470baa50b63fa0f6fddb340f0a",
        "15d484375f8d13e6eb1aabb0c3f46965",
    ),
}
"""MD5 of the decompressed files, in the order of `FILE_STEMS`. It does not depend on how a file is compressed."""


def read_idx(path: str | os.PathLike[str], *, maximum_bytes: int = MAXIMUM_BYTES) -> np.ndarray:
    """Reads one IDX file. Whether it is gzipped is found from its content, not from its name.

    Args:
        path: the file.
        maximum_bytes: the largest size of its array. No more than this is ever decompressed.

    Returns:
        The array, in this machine's byte order.

    Raises:
        DataError: if the file cannot be read, is not IDX, is longer or shorter than its header says,
            has more than ``maximum_bytes``, or its gzip layer is damaged. The error names the byte of the
            decompressed file if it is known.
    """
    file_path = check_path("path", path)
    check("maximum_bytes", maximum_bytes, "a number of bytes", is_count(maximum_bytes, least=0))
    with (
        reading(path, "a readable file", errors=OSError),
        opened(file_path, follow_links=True) as file,
        reading(path, "an intact gzip file", "Fetch the file again.", errors=(EOFError, zlib.error)),
    ):
        length = os.fstat(file.fileno()).st_size
        if file.peek(2)[:2] == b"\x1f\x8b":
            gzip_member = zlib.decompressobj(16 + zlib.MAX_WBITS)  # with gzip's header and checksum
            return _parse(partial(_inflate, file, gzip_member), path, length * DEFLATE_RATIO, maximum_bytes)
        return _parse(file.read, path, length, maximum_bytes)


def _inflate(file: BinaryIO, gzip_member, most: int) -> bytes:
    """The next bytes of a gzip file's content, at most ``most``. There are none at the end if its checksum is right.

    Python 3.11's ``gzip`` reads 8 KiB at a time, and waits for the interpreter's lock after each. See "A fast start" in
    docs/explanation/architecture.md.
    """
    part = b""
    while not (part or gzip_member.eof):
        given = gzip_member.unconsumed_tail or file.read(PIECE)
        part = gzip_member.decompress(given, most)
        if not (given or part or gzip_member.eof):
            raise EOFError("the file ends within the compressed data")
    if not part and (gzip_member.unused_data + file.read(PIECE)).strip(b"\0"):
        raise zlib.error("more follows the compressed data")
    return part


def _parse(read: Callable[[int], bytes], path: str | os.PathLike[str], longest: int, maximum_bytes: int) -> np.ndarray:
    """Reads the array of an open IDX file that cannot hold more than ``longest`` bytes."""

    def require(holds: bool, byte: int, expected: str, given: object, remedy: str = "") -> None:
        if not holds:
            raise DataError(f"{path}, byte {byte}", expected, given, remedy)

    magic, end = read(4), "the end of the file"
    remedy = "Only IDX is read here: no pickles, NumPy files or archives."
    require(magic[:2] == b"\0\0", 0, "the two zero bytes that an IDX file starts with", magic[:2], remedy)
    require(len(magic) == 4, len(magic), "a header of four bytes", end)
    code, rank = magic[2], magic[3]
    known = ", ".join(f"0x{code:02X}" for code in DTYPES)
    require(code in DTYPES, 2, f"a type among {known}", f"0x{code:02X}")
    require(1 <= rank <= MAXIMUM_RANK, 3, f"1 to {MAXIMUM_RANK} dimensions", rank)
    lengths, start = read(4 * rank), 4 + 4 * rank
    require(len(lengths) == 4 * rank, 4 + len(lengths), f"a header of {start} bytes", end)
    shape = struct.unpack(f">{rank}I", lengths)
    dtype = DTYPES[code]
    # Lengths of 0 count as 1 here: NumPy also refuses an empty array if its other lengths have too large a product.
    least = dtype.itemsize * math.prod(max(length, 1) for length in shape)
    require(least <= maximum_bytes, 4, f"an array of at most {maximum_bytes:,} bytes", f"{dtype} {shape}")
    size = dtype.itemsize * math.prod(shape)
    data_of_size = f"{size:,} bytes of data for {dtype} {shape}"
    # A header can claim any size. So the size is compared with that of the file before memory is taken for it.
    require(start + size <= longest, 4, data_of_size, f"a file with room for {longest:,} at most")
    # One byte more than the array shows whether the file is too long. At its end, gzip's checksum is verified.
    # Memory that was taken and not written to yet costs nothing. It is filled piece by piece, without another copy.
    data, count = np.empty(size + 1, np.uint8), 0
    while count <= size and (part := read(min(size + 1 - count, MOST_AT_ONCE))):
        data[count : count + len(part)] = np.frombuffer(part, np.uint8)
        count += len(part)
    require(count >= size, start + count, data_of_size, end)
    require(count == size, start + size, f"{end} after {dtype} {shape}", "more bytes")
    return data[:-1].view(dtype.newbyteorder(">")).reshape(shape).astype(dtype, copy=False)


def write_idx(path: str | os.PathLike[str], array: np.ndarray) -> None:
    """Writes one IDX file. A reader sees the old file or the new one, never a part.

    Args:
        path: the file. It is gzipped if the path ends in ``.gz``. Its bytes depend on the array only.
        array: uint8, int8, int16, int32, float32 or float64, with at least one dimension.

    Raises:
        DataError: if IDX cannot hold the array.
        OSError: if the file cannot be written; the old one stays.

    >>> import tempfile, functional_nn as fnn, numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     fnn.data.write_idx(f"{folder}/labels.gz", np.array([7, 2, 1], np.uint8))
    ...     fnn.data.read_idx(f"{folder}/labels.gz")
    array([7, 2, 1], dtype=uint8)
    """
    path = check_path("path", path)
    header, data = _encode(path, array)
    with opened_whole(path) as file:
        if path.suffix == ".gz":
            # Without a name and a time in its header, the file depends on the array only.
            with gzip.GzipFile("", "wb", 9, file, mtime=0) as compressed:
                compressed.write(header)
                compressed.write(data)
        else:
            file.write(header)
            file.write(data)


def _encode(path: Path, array: np.ndarray) -> tuple[bytes, memoryview]:
    """The bytes of an IDX file: its header and its data."""
    remedy = "Convert it with numpy.asarray and array.astype."
    codes = {dtype: code for code, dtype in DTYPES.items()}
    is_array = isinstance(array, np.ndarray) and array.dtype.newbyteorder("=") in codes
    check_data(str(path), array, f"an array of {', '.join(map(str, codes))}", is_array, remedy)
    fits = 1 <= array.ndim <= MAXIMUM_RANK and max(array.shape) < 2**32
    check_data(str(path), array, "1 to 64 dimensions of less than 2**32", fits)
    dtype = array.dtype.newbyteorder("=")
    header = struct.pack(f">2x2B{array.ndim}I", codes[dtype], array.ndim, *array.shape)
    data = np.ascontiguousarray(array, dtype.newbyteorder(">"))
    return header, data.reshape(-1).view(np.uint8).data


def find_idx_files(folder: Path, name: str) -> tuple[Path, ...] | None:
    """Finds the four files of an MNIST-like data set.

    Args:
        folder: the folder to search, with its ``raw`` and torchvision's ``MNIST/raw`` (for ``mnist``).
        name: the data set's name.

    Returns:
        Training images, training labels, test images, test labels; None if there are none.

    Raises:
        DataError: if some of the four are missing.
    """
    for place in (folder, folder / "raw", folder / TORCHVISION_FOLDERS.get(name, name) / "raw"):
        found = {stem: _find_file(place, stem) for stem in FILE_STEMS}
        files = tuple(file for file in found.values() if file is not None)
        if len(files) == len(FILE_STEMS):
            return files
        if files:
            expected, given = f"the IDX files {', '.join(FILE_STEMS)}", ", ".join(file.name for file in files)
            missing = ", ".join(stem for stem, file in found.items() if file is None)
            raise DataError(str(place), expected, f"only {given}", f"Add {missing}.")
    return None


def _find_file(folder: Path, stem: str) -> Path | None:
    # Some copies of MNIST have names with a dot, such as train-images.idx3-ubyte.
    names = (f"{name}-ubyte{ending}" for name in (stem, stem.replace("-idx", ".idx")) for ending in ("", ".gz"))
    return next((folder / name for name in names if (folder / name).is_file()), None)


def read_idx_folder(folder: Path, name: str, source: str) -> Dataset | None:
    """Reads the four files of an MNIST-like data set; None if there are none.

    Args:
        folder: their folder; see `find_idx_files` for names and subfolders.
        name: the data set's name; the files of ``mnist`` and ``fashion_mnist`` have known checksums.
        source: where they came from, in words.

    Raises:
        DataError: if a file is missing or damaged, or differs from its known checksum.
    """
    files = find_idx_files(folder, name)
    if files is None:
        return None
    arrays, left = [], MAXIMUM_BYTES
    with unchanged(files):  # so that the labels are those of the images
        for file, stem in zip(files, FILE_STEMS, strict=True):
            most = left if "images" in stem else min(left, MOST_BYTES_OF_LABELS)
            arrays.append(read_idx(file, maximum_bytes=most))
            left -= arrays[-1].nbytes
    for file, array, md5 in zip(files, arrays, MD5_SUMS.get(name, ()), strict=False):
        _check_md5(file, array, md5, name)
    train_images, train_labels, test_images, test_labels = arrays
    return make_dataset(name, train_images, train_labels, test_images, test_labels, source=source)


def _check_md5(path: Path, array: np.ndarray, expected: str, name: str) -> None:
    """Checks the checksum of the decompressed file, from its array: an array has only one encoding in IDX."""
    digest = hashlib.md5(usedforsecurity=False)
    for part in _encode(path, array):
        digest.update(part)
    found = digest.hexdigest()
    remedy = "Fetch the file again, or give the data set another name if it is not the original."
    check_data(str(path), found, f"the MD5 {expected} of {name}'s decompressed file", found == expected, remedy)
