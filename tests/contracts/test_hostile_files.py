"""Files made to do harm: every reader gives what is in the file, or a ``DataError``, within bounded memory."""

import gzip
import io
import random
import resource
import struct
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from tests.other_process import python

from functional_nn.configuration.settings import Configuration
from functional_nn.core.errors import InputError
from functional_nn.data import from_csv, read_idx
from functional_nn.data.images import read_image
from functional_nn.storage.arrays import load_parameters, packed
from functional_nn.storage.files import signed_text
from functional_nn.storage.run_folder import read_configuration
from functional_nn.sweeps.grid import read_grid

ARRAYS = {"params/weight": np.ones((2, 3), np.float32), "params/bias": np.zeros(3, np.float32)}
LIKE = ({"weight": ARRAYS["params/weight"], "bias": ARRAYS["params/bias"]}, {})
IDX = b"\0\0\x08\x03" + struct.pack(">3I", 2, 3, 4) + bytes(range(24))
TOML = b"""[grid]
learning_rate = [1e-3, 1e-2]
hidden = [[32, 16], [64]]
[draws]
number = 3
seed = 1
dropout = {uniform = [0.0, 0.5]}
decay = {log_uniform = [1e-5, 1e-2]}
"""
CONFIGURATION = signed_text(
    {"dataset": "mnist", "data_dir": None, "model": "mlp", "hidden": [8], "activation": "relu", "dropout": 0.0}
    | {"batch_norm": False, "l1": 0.0, "l2": 0.0, "optimizer": "sgd", "learning_rate": 0.1, "schedule": "constant"}
    | {"epochs": 1, "batch_size": 64, "seed": 0, "precision": "float32", "gradient": "jax", "weight_decay": None}
).encode()


def picture(form: str) -> bytes:
    image = PIL.Image.fromarray(np.arange(0, 256, 4, dtype=np.uint8).reshape(8, 8))
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


def bomb(size: int) -> bytes:
    """A PNG of so many pixels a side, all black, which packs a thousandfold."""
    buffer = io.BytesIO()
    PIL.Image.new("1", (size, size)).save(buffer, "PNG")
    return buffer.getvalue()


def transparent(size: int) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new("RGBA", (size, size)).save(buffer, "PNG")
    return buffer.getvalue()


def configuration(path: Path) -> Configuration:
    return Configuration.from_dict(read_configuration(path.parent), path)


CSV = b'\xef\xbb\xbf"size";"kind"\r\n' + b"1.5;a\r\n2;b\r\n" * 3
NAMES = {"toml": "grid.toml", "json": "config.json"}
MANY = b"[grid]\n" + b"".join(b"a%d = [1, 2, 3, 4, 5, 6, 7, 8]\n" % i for i in range(30))
WIDE = (
    b"[grid]\na = [" + b"1," * 250 + b"]\nb = [" + b"1," * 200 + b"]\n" + b"".join(b"c%d = [1]\n" % i for i in range(8))
)
"""As many members, and as many values, as there may be."""
ZEROS = gzip.compress(bytes(30 * 2**20))
HEAVY = {"idx": [gzip.compress(IDX) + ZEROS, ZEROS], "toml": [WIDE], "image": [bomb(7000), transparent(3000)]}
"""Bombs, which take their time, so that they are few."""
READERS = {
    "idx": (read_idx, [IDX, gzip.compress(IDX)]),
    "safetensors": (
        lambda path: load_parameters(path, LIKE),
        [packed(ARRAYS, {}), packed({}, {}), packed(ARRAYS, {"a": "b"})],
    ),
    "toml": (read_grid, [TOML, MANY, b"[[members]]\na = 1\n", b"a = " + b"[" * 3000 + b"]" * 3000]),
    "json": (configuration, [CONFIGURATION, b"[" * 5000, b'{"hidden": ' + b"9" * 5000 + b"}"]),
    "csv": (lambda path: from_csv(path, "kind"), [CSV, CSV.replace(b";", b"\t"), CSV.replace(b"2", b"9" * 400)]),
    "image": (
        lambda path: read_image(path, (8, 8, 1), digits=True),
        [*map(picture, ("PNG", "GIF", "BMP", "JPEG", "WEBP"))],
    ),
}


def mutated(seed: bytes, others: list[bytes], chance: random.Random) -> bytes:
    """A file like the valid ones: bits flipped, cut, spliced, numbers made huge, or nothing but noise."""
    content = bytearray(seed)
    for _ in range(chance.choice((1, 1, 2, 5))):
        place = chance.randrange(len(content) + 1)
        match chance.randrange(8):
            case 0 | 1 if content:
                content[place % len(content)] ^= 1 << chance.randrange(8)
            case 2:
                del content[place:]
            case 3:
                other = chance.choice(others)
                content[place:] = other[chance.randrange(len(other) + 1) :][:10_000]
            case 4:
                number = chance.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1))
                width, order = chance.choice((4, 8)), chance.choice(("little", "big"))
                content[place : place + width] = (number % 2 ** (8 * width)).to_bytes(width, order)
            case 5:
                content[place:place] = chance.choice((b"\0", b"9" * 400, b"-1", b"[", b'"', b"1e999", b"\xff\xfe"))
            case 6 if content:
                end = min(len(content), place + chance.randrange(1, 20))
                content[place:place] = content[place:end]
            case _:
                content = bytearray(chance.randbytes(chance.randrange(200)))
    return bytes(content)


def fuzz(folder: Path, inputs: int, seed: int) -> dict[str, int]:
    """Reads so many files, in turn by each reader; counts those that were read and those that were refused."""
    chance, counts = random.Random(seed), {"read": 0, "refused": 0}
    for number in range(inputs):
        name = list(READERS)[number % len(READERS)]
        reader, seeds = READERS[name]
        path = folder / NAMES.get(name, "file")
        heavy = number % 997 < len(READERS) and HEAVY.get(name)
        content = chance.choice(heavy or seeds)
        if not heavy or chance.random() < 0.5:
            content = mutated(content, seeds, chance)
        path.write_bytes(content)
        try:
            reader(path)
            counts["read"] += 1
        except InputError:
            counts["refused"] += 1
        except BaseException:
            print(f"input {number} of seed {seed}, for {name}: {content[:300]!r}", file=sys.stderr)
            raise
    return counts


def in_process(inputs: int, seed: int, folder: Path) -> dict[str, int]:
    """Fuzzes in a process of its own, whose memory may not grow by 200 MB, and whose address space is bounded too."""
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_hostile_files as hostile\n"
        f"print(hostile.measured({inputs}, {seed}, {str(folder)!r}))"
    )
    read, refused, grown = map(int, python(code, PYTHONWARNINGS="ignore").stdout.split())
    assert grown < 200 * 2**20
    return {"read": read, "refused": refused}


def measured(inputs: int, seed: int, folder: str) -> str:
    """What a process of its own prints: files read, files refused, bytes that its memory grew by."""
    for name, (reader, (valid, *_)) in READERS.items():
        path = Path(folder) / NAMES.get(name, "file")
        path.write_bytes(valid)
        reader(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    counts = fuzz(Path(folder), inputs, seed)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    return f"{counts['read']} {counts['refused']} {grown}"


def test_hundreds_of_hostile_files(tmp_path):
    counts = in_process(800, seed=0, folder=tmp_path)
    assert counts["read"] > 40
    assert counts["refused"] > 480


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_million_hostile_files(tmp_path):
    for seed in range(1, 11):
        counts = in_process(100_000, seed, tmp_path)
        assert counts["refused"] > 60_000
