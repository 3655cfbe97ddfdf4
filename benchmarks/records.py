"""Records of results as JSON lines, with date, commit, machine and versions."""

import datetime
import json
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

from benchmarks.peers import available_cores

RESULTS = Path(__file__).resolve().parent / "results"


def cpu_model() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def commit() -> str:
    """The current commit, with `-dirty` at the end if tracked files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, cwd=RESULTS.parent, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def versions(libraries: tuple[str, ...]) -> dict[str, str]:
    return {library: version(library) for library in libraries}


def circumstances() -> dict:
    """The date, the commit, the machine, and its load in the last minute."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "cpu": cpu_model(),
        "cores": available_cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load_average": round(os.getloadavg()[0], 2),
    }


def is_of_documents(path: Path) -> bool:
    """Whether a file is in the folder of recorded results, from which the documents are made."""
    return path.resolve().parent == RESULTS


def append(path: Path, records: list[dict]) -> None:
    """Appends one JSON line for each record."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
