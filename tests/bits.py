"""What the same training leaves again to the last bit, whatever time it takes: for comparisons of folders and rows."""

import csv
import json
from pathlib import Path

from safetensors import safe_open


def without_times(row: dict) -> dict:
    """A row without measured times."""
    return {name: value for name, value in row.items() if not name.startswith("seconds")}


def bits(path: Path) -> object:
    """What a file says, but for measured times. A page shows what other files say, with times, so it says nothing."""
    if path.suffix == ".jsonl":
        return [without_times(json.loads(line)) for line in path.read_text().splitlines()]
    if path.suffix == ".csv":
        with open(path, newline="") as file:
            return [without_times(row) for row in csv.DictReader(file)]
    if path.suffix == ".safetensors":
        with safe_open(path, "np") as file:
            about, arrays = file.metadata() or {}, {name: file.get_tensor(name) for name in sorted(file.keys())}
        arrays.pop("history", None)  # of a checkpoint: the metrics of all epochs, with their times
        members = [without_times(member) for member in json.loads(about.get("members", "[]"))]
        return about.get("fingerprint"), members, {name: (a.dtype, a.shape, a.tobytes()) for name, a in arrays.items()}
    return None if path.name == "report.html" else path.read_bytes()


def contents(folder: Path) -> dict[str, object]:
    """All files of a folder, but for its lock, which has the number of a process."""
    files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: bits(path) for name, path in files.items() if name != ".functional_nn.lock"}
