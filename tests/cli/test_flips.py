"""One bit flipped in any file that a run or a sweep leaves: noticed, or without effect, never a wrong number."""

import random
import re
import shutil
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from functional_nn.cli import run
from functional_nn.core.errors import InputError
from functional_nn.storage.arrays import unpacked
from functional_nn.storage.checkpoints import newest
from functional_nn.storage.files import read_signed
from functional_nn.storage.run_folder import RESULT, VERIFIED, verify_run_folder

FOR_PEOPLE = (".png", ".csv", ".jsonl", ".html")
"""Files that the package writes and does not read, but for a run's metrics."""


@pytest.fixture(scope="module")
def folders(tiny, tmp_path_factory, no_pages) -> Path:
    place = tmp_path_factory.mktemp("flips")
    assert run([*tiny, "--epochs", "3", "--out", str(place / "run"), "--quiet"]) == 0
    assert run(["sweep", *tiny[1:], "--seeds", "2", "--out", str(place / "sweep"), "--quiet"]) == 0
    return place


def resumed(folder: Path) -> tuple:
    """What a run would go on from: every bit of the newest good checkpoint."""
    found = newest(folder)
    assert found is not None
    return {name: array.tobytes() for name, array in found.arrays.items()}, found.about


def read(folders: Path, path: Path) -> object:
    """Reads a file as the package does; raises where it is not as it was written."""
    if path.name in (*VERIFIED, RESULT):
        return verify_run_folder(path.parent)
    if "checkpoints" in path.parts:
        return resumed(folders / "run" / "checkpoints")
    if path.name == "sweep.json":
        return read_signed(path.read_bytes())
    arrays, about = unpacked(path)
    return {name: array.tobytes() for name, array in arrays.items()}, about


def flips(files: list[Path], seen: Callable[[Path], tuple[object, object]], count: int, seed: int) -> Counter:
    """Flips bits. ``seen`` gives what a file says, and the words about it. A change without another word is silent."""
    chance, outcomes = random.Random(seed), Counter()
    good = {path: (path.read_bytes(), *seen(path)) for path in files}
    for number in range(count):
        path = files[number % len(files)]
        content, expected, usual = good[path]
        flipped = bytearray(content)
        flipped[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        path.write_bytes(flipped)
        try:
            found, words = seen(path)
            silent = f"silent: {path.name}"
            outcomes["without effect" if found == expected else "said" if words != usual else silent] += 1
        except (InputError, ValueError, RecursionError):
            outcomes["refused"] += 1
        path.write_bytes(content)
    assert not [outcome for outcome in outcomes if outcome.startswith("silent")]
    return outcomes


def test_flips_in_every_file(folders, tmp_path):
    copy = shutil.copytree(folders, tmp_path / "copy")
    everything = [path for path in sorted(copy.rglob("*")) if path.is_file() and path.name != ".functional_nn.lock"]

    def seen(path: Path) -> tuple[object, int]:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            return read(copy, path), len(said)

    files = [path for path in everything if path.suffix not in FOR_PEOPLE or path.name in VERIFIED]
    assert flips(files, seen, 200, 0).keys() == {"refused", "said", "without effect"}


NOTE = re.compile(r'\s*<p class="note">.*?</p>')


def report_of(folder: Path, capsys) -> tuple[str, str]:
    """What ``report`` says of a folder: the page without its notes, and the notes with what it printed."""
    page = folder / "report.html"
    page.unlink(missing_ok=True)
    capsys.readouterr()  # what another call printed
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        if run(["report", str(folder)]) != 0:
            raise ValueError("refused")
    text = page.read_text("utf-8")
    words = [*NOTE.findall(text), *(str(warning.message) for warning in said), capsys.readouterr().err]
    return NOTE.sub("", text), "".join(words)


def unfinished(folder: Path) -> Path:
    """Makes a finished run or sweep look as if it had been killed before its end."""
    for name in ("result.json", "model.safetensors", "members.csv", "members.jsonl", "report.html"):
        (folder / name).unlink(missing_ok=True)
    for batch in sorted(folder.glob("batches/*"))[1:]:
        batch.unlink()
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["run", "sweep"])
@pytest.mark.parametrize("state", ["finished", "unfinished"])
def test_no_flip_changes_a_page_without_a_word(folders, tmp_path, capsys, kind, state):
    folder = shutil.copytree(folders / kind, tmp_path / kind)
    if state == "unfinished":
        unfinished(folder)
    files = [path for path in sorted(folder.rglob("*")) if path.suffix in (".json", ".jsonl", ".safetensors")]
    files = [path for path in files if path.name != "members.jsonl"]
    outcomes = flips(files, lambda path: report_of(folder, capsys), 500, 2)
    assert outcomes["refused"] + outcomes["said"] > 0
