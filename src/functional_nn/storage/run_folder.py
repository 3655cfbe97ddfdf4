"""The folder of a run: its configuration, metrics, parameters and result, which are verified together.

Checkpoints and the page are in the same folder; other modules write them.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from itertools import islice
from pathlib import Path

from functional_nn.core.errors import DataError, InputError, check_data, escaped, reading
from functional_nn.core.layer import Params, State
from functional_nn.storage import files
from functional_nn.storage.arrays import LARGEST_HEADER, save_parameters
from functional_nn.storage.checkpoints import steps
from functional_nn.storage.identity import check_kind, check_nothing_lost

CONFIGURATION = "config.json"
METRICS = "metrics.jsonl"
PARAMETERS = "model.safetensors"
RESULT = "result.json"
CHECKPOINTS = "checkpoints"
LAYER_STATISTICS = "layer_statistics.jsonl"
REPORT = "report.html"

OUT = "--out"
"""The flag that names the folder, for errors."""

VERIFIED = (CONFIGURATION, METRICS, PARAMETERS)
"""The files whose checksums are in the result."""

PARTS = ("train_", "validation_", "test_")
"""How the names of metrics begin."""

MOST_ROWS = 10**6
"""The largest number of lines that are read from a file of rows, and of epochs of a sweep's member. A row has over a
hundred bytes, so no run has more."""

NUMBERS = {...: (float, None)}
"""The schema of a line of metrics."""

VERSIONS = ({...: (str, None)}, None)
"""The schema of an entry with versions of packages."""

CONFIGURATION_SCHEMA = {"versions": VERSIONS, **dict.fromkeys(("from", "imported_from"), ({...: files.PLAIN}, None))}
"""The schema of what no other reader of the configuration checks, such as ``Configuration.from_dict``."""

RESULT_SCHEMA = {
    "seconds": ({...: float}, None),
    "versions": VERSIONS,
    **dict.fromkeys(("status", "message", "device"), (str, None)),
    **dict.fromkeys(("epochs", "kept_epoch"), (int, None)),
    ...: (*files.PLAIN, {...: (*files.PLAIN, [files.PLAIN])}),
}

STATISTICS_SCHEMA = {
    "epoch": int,
    "examples": int,
    "outputs": {...: {"units": float, "dead": float, ...: (float, None)}},
    "gradients": {...: NUMBERS},
}
"""The schema of the statistics of layers after an epoch."""


@contextmanager
def opened_run_folder(folder: Path, resume: bool = False) -> Iterator[None]:
    """Makes the folder of a run, and locks it. A new folder in which nothing is written is removed at the end.

    If there is no error, half-written files of a killed writer are removed.

    Args:
        folder: the folder.
        resume: whether it may have a run that goes on.

    Raises:
        InputError: if the folder already contains a run, or other files of the same names, which would be lost; if it
            has links in it; if it cannot be written to, or another process writes to it; or if ``resume`` is given for
            a run without checkpoints.
    """
    files.check_new_folder(OUT, folder)
    check_kind(OUT, folder, "a run")
    with files.one_writer(OUT, folder):
        files.check_no_links(OUT, folder, CHECKPOINTS)
        has_checkpoints = bool(steps(folder / CHECKPOINTS))
        has_configuration = CONFIGURATION in files.names_in(folder)
        has_run = has_checkpoints or has_configuration
        if has_run and not resume:
            remedy = "Use another folder." + (" With --resume the run in it goes on." if has_checkpoints else "")
            raise InputError(OUT, "a folder without a run in it", f"{folder}, which has one", remedy)
        if has_run and not has_checkpoints:
            given = f"{folder}, whose run has none"
            raise InputError("--resume", "a run with checkpoints, or a new folder", given, "Use another folder.")
        if not has_configuration:  # a run writes it before all other files, except for its first checkpoint
            check_nothing_lost(OUT, folder, (METRICS, PARAMETERS, RESULT, LAYER_STATISTICS, REPORT))
        files.remove_leftovers(folder)
        yield


def create_run_folder(folder: Path, configuration: Mapping[str, object]) -> None:
    """Writes the configuration, which makes the folder a run's folder, and an empty file of metrics.

    The configuration has a checksum, so that the page of a run that has not ended shows no damaged one.
    """
    files.write_whole(folder / CONFIGURATION, files.signed_text(configuration))
    files.write_whole(folder / METRICS, "")


def read_configuration(folder: Path) -> files.JsonObject:
    """Reads the configuration of a run. Control characters in names of classes become escapes.

    Raises:
        DataError: if it is missing, damaged or cannot be read.
    """
    path = folder / CONFIGURATION
    remedy = "Give a folder that 'functional-nn train --out', 'import' or 'export --to hub' wrote."
    of_file = " fnn.storage.load_parameters reads a file of parameters." if folder.is_file() else ""
    files.check_folder(folder, "the folder of a run", remedy + of_file)
    if (folder / CHECKPOINTS).is_dir():
        remedy = f"If the run is yours, keep only its folder {CHECKPOINTS}, and train with --resume and the same flags."
    with reading(path, "a run's configuration, as it was written", remedy):
        configuration = files.read_signed(files.read_file(path), CONFIGURATION_SCHEMA)
    names = configuration.get("class_names")
    if isinstance(names, list):
        configuration["class_names"] = [escaped(name) if isinstance(name, str) else name for name in names]
    return configuration


def origin(folder: Path) -> files.JsonObject:
    """Which run another one starts from, for its configuration: the name of its folder and its parameters' checksum."""
    return {"run": folder.resolve().name, "sha256": files.checksum_of(folder / PARAMETERS)}


def append_metrics(folder: Path, metrics: Mapping[str, float | None]) -> None:
    """Appends the metrics of an epoch as a line of JSON."""
    _append(folder / METRICS, _metrics_line(metrics))


def read_metrics(folder: Path) -> list[files.JsonObject]:
    """Reads the metrics of the epochs. A last line that a killed run left half-written is left out.

    Raises:
        DataError: if another line is no JSON object of numbers with the number of its epoch.
    """
    path = folder / METRICS
    with reading(path, "the metrics of a run"):
        content = files.read_file(path, files.MOST_BYTES_OF_ROWS)
    rows = []
    for number, line in _lines(content):
        row = None
        with suppress(ValueError, RecursionError):
            row = files.parsed(line)
        fits = isinstance(row, dict) and row.get("epoch") == number and not files.misfit(row, NUMBERS)
        check_data(f"{path}, line {number}", line[:100], f"the metrics of epoch {number}, as numbers", fits)
        rows.append(row)
    return rows


def read_result(folder: Path) -> files.JsonObject:
    """Reads the result of a run, as ``finish_run_folder`` wrote it. Call ``verify_run_folder`` first.

    Raises:
        DataError: if an entry has another type, or a number has another size, than what runs write.
    """
    with reading(folder / RESULT, "the result of a run"):
        result = files.read_signed(files.read_file(folder / RESULT))
        metrics = dict.fromkeys((name for name in result if name.startswith(PARTS)), (float, None))
        files.check_fits(result, RESULT_SCHEMA | metrics)
    return result


def kept_epoch(result: Mapping[str, object], epochs: int) -> int:
    """The number of the epoch whose parameters a run kept: the last one, unless the result names another one.

    Args:
        result: the result of the run.
        epochs: the number of its epochs.
    """
    kept = result.get("kept_epoch")
    return kept if isinstance(kept, int) and 1 <= kept <= epochs else epochs


def create_layer_statistics(folder: Path, rows: Iterable[Mapping[str, object]] = ()) -> None:
    """Writes a file of layer statistics, with the rows of epochs before, if the run goes on."""
    files.write_whole(folder / LAYER_STATISTICS, "".join(files.signed_text(row, indent=None) for row in rows))


def append_layer_statistics(folder: Path, row: Mapping[str, object]) -> None:
    """Appends the layer statistics of an epoch."""
    _append(folder / LAYER_STATISTICS, files.signed_text(row, indent=None))


def read_layer_statistics(folder: Path) -> list[files.JsonObject]:
    """Reads the layer statistics that a run has. Damaged lines, and repeated ones, are left out with one warning.

    The numbers are only shown, so a missing line harms nothing. A run that goes on writes the file again.
    """
    path = folder / LAYER_STATISTICS
    try:
        content = files.read_file(path, files.MOST_BYTES_OF_ROWS)
    except OSError:
        return []
    rows, damaged = [], []
    for number, line in _lines(content):
        row = None
        with suppress(ValueError, RecursionError):
            row = files.read_signed(line, STATISTICS_SCHEMA, indent=None)
        if row is None or (rows and row["epoch"] <= rows[-1]["epoch"]):
            damaged.append(number)
        else:
            rows.append(row)
    if damaged:
        others = f" The same holds for {len(damaged) - 1:,} more." if len(damaged) > 1 else ""
        warnings.warn(f"{path}, line {damaged[0]}: it is damaged, and is left out.{others}", stacklevel=2)
    return rows


def finish_run_folder(
    folder: Path,
    params: Params,
    state: State,
    history: Iterable[Mapping[str, float | None]],
    result: Mapping[str, object],
) -> None:
    """Writes the metrics, the parameters and the result of a finished run.

    The result has the checksums of the other files, so that ``verify_run_folder`` knows that they belong together.

    Args:
        folder: the folder of the run.
        params, state: the parameters and the state of the trained network.
        history: the metrics of each epoch.
        result: anything that JSON can hold.
    """
    files.write_whole(folder / METRICS, "".join(_metrics_line(metrics) for metrics in history))
    save_parameters(folder / PARAMETERS, params, state)
    # The result is written last: it has the checksums of the others, and its presence shows that the run has finished.
    written = files.names_in(folder)
    checksums = {name: files.checksum_of(folder / name) for name in VERIFIED if name in written}
    files.write_whole(folder / RESULT, files.signed_text({**result, "files": checksums}))


def unchanged(folder: Path) -> AbstractContextManager[None]:
    """A context in which the files of a finished run must stay the same; see ``files.unchanged``."""
    return files.unchanged([folder / name for name in (*VERIFIED, RESULT)])


def verify_run_folder(folder: Path, bytes_of_parameters: int | None = None) -> None:
    """Checks that the configuration, the metrics and the parameters are those that the run wrote.

    Args:
        folder: the folder of the run.
        bytes_of_parameters: how many the numbers of its network take. A larger file is not read, which could take for
            ever: a file can be larger than what it takes on the disk.

    Raises:
        DataError: if a file was changed, or the run has not finished. The error names the file.
    """
    path = folder / RESULT
    remedy = "Finish the run by functional-nn train … --resume, or write the folder again."
    with reading(path, "the result of a run, as it was written", remedy):
        checksums = files.read_signed(files.read_file(path)).get("files")
    most = None if bytes_of_parameters is None else bytes_of_parameters + LARGEST_HEADER
    limits = {CONFIGURATION: files.MOST_BYTES, METRICS: files.MOST_BYTES_OF_ROWS, PARAMETERS: most}
    for name in VERIFIED:
        expected = checksums.get(name) if isinstance(checksums, dict) else None
        with reading(folder / name, "a file of the run"):
            found = files.checksum_of(folder / name, limits[name])
        if found != expected:
            remedy = "Take the file from a copy, or make the folder again. Finish an interrupted run with --resume."
            raise DataError(str(folder / name), "the file that belongs to result.json", "another one", remedy)


def _append(path: Path, line: str) -> None:
    with (
        reading(path, "a file that can be written", errors=OSError),
        open(path, "a", encoding="utf-8", opener=files.unlinked_file) as file,
    ):
        file.write(line)


def _metrics_line(metrics: Mapping[str, float | None]) -> str:
    return json.dumps(files.finite_json(dict(metrics))) + "\n"


def _lines(content: bytes) -> Iterator[tuple[int, bytes]]:
    """The lines of a file of rows with their numbers, but not one that a killed run left half-written at the end."""
    lines = enumerate(islice(io.BytesIO(content), MOST_ROWS), start=1)
    # A signed row ends with '"}', and has it only there. A line with it was written whole, and lost its end afterwards.
    return ((number, line) for number, line in lines if line.endswith(b"\n") or b'"}' in line)
