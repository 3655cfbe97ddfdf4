"""Tables in CSV files as data sets: columns of numbers are features, and one column has the classes."""

from __future__ import annotations

import csv
import io
import math
import os
import re
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from functional_nn.core.errors import DataError, check_data, reading, shortened, shown
from functional_nn.core.texts import counted, suggest
from functional_nn.data.dataset import MOST_LETTERS, Dataset, Features, standardize, training_and_validation
from functional_nn.storage.files import check_path, opened, unchanged

PREFIX = "csv:"
"""Names of data sets that begin with this are paths of CSV files."""

SEPARATORS = ",;\t"
"""The characters that may stand between cells. The one that gives the first line the most cells is used."""

MOST_BYTES = 4 * 2**30
"""The largest file that is read, since all rows are in memory."""

LARGEST = 1e38
"""The largest number in a cell, which float32 holds."""

CODE = re.compile(r"[+-]?0\d")
"""The start of a number that is a code: zeros at its start matter."""

TEST_SHARE = 0.2
"""The share of the rows of each class that is for testing."""

LEAST_ROWS = 3
"""The smallest number of rows of a class: one in five, rounded, is at least one row for testing."""


class Rows(NamedTuple):
    """The features of a table and their numbers (rows, features); each row's text for the label, and its line."""

    names: tuple[str, ...]
    x: np.ndarray
    labels: Sequence[str]
    lines: Sequence[int]


def from_csv(path: str | os.PathLike[str], label: str | None) -> Dataset:
    """Reads a table whose rows have classes as a data set. See docs/how_to/csv_and_arrays.md for the rules.

    The first line has the names of the columns. All columns but that of the label are features, and have numbers. One
    row in five of each class is for testing, always the same ones. Features are standardized: from each column, the
    mean of the training rows is subtracted, and the result is divided by their standard deviation.

    Args:
        path: a text file in UTF-8, with commas, semicolons or tabs between its cells.
        label: the name of the column of the classes, which may be words or numbers. Classes are sorted.

    Raises:
        DataError: names the line or the column that cannot be used.

    An example is in ``docs/how_to/csv_and_arrays.md``.
    """
    file = check_path("path", path)
    rows = _read(file, None, label)
    if "" in rows.labels:
        line = rows.lines[rows.labels.index("")]
        raise DataError(f"{file}, line {line}, column {shown(label)}", "a class", "an empty cell", "Remove the row.")
    class_names, labels = _classes(f"{file}, column {shown(label)}", rows.labels)
    train, test = training_and_validation(len(labels), labels, TEST_SHARE, seed=0)
    x = rows.x[train]
    # Rounding can give a column of equal numbers a deviation that is not quite 0, and tiny numbers one of 0.
    deviation = np.where((np.ptp(x, axis=0) > 0) & (x.std(axis=0) > 0), x.std(axis=0), 1.0)
    features = Features(rows.names, tuple(x.mean(axis=0).tolist()), tuple(deviation.tolist()))
    x = standardize(rows.x, features)
    arrays = x[train], labels[train], x[test], labels[test]
    source = f"the file {file} (1 row in 5 of each class is for testing)"
    data = Dataset(f"{PREFIX}{file}", *arrays, len(class_names), source)
    return data._replace(class_names=class_names, features=features)


def read_rows(path: str | os.PathLike[str], names: Sequence[str]) -> Rows:
    """Reads new rows for a network that was trained on a table with these features. Other columns are ignored."""
    return _read(check_path("path", path), names, None)


def _read(path: Path, names: Sequence[str] | None, label: str | None) -> Rows:
    """Reads a table. If no names of features are given, they are all columns but the label's."""
    with unchanged([path]):
        return _rows(path, _lines(path), names, label)


def _rows(path: Path, table: Iterator[tuple[int, list[str]]], names: Sequence[str] | None, label: str | None) -> Rows:
    """The same, from the number and the cells of each line."""
    _, columns = next(table, (1, []))
    columns = _checked_columns(path, [name.strip() for name in columns])
    place_of = {name: place for place, name in enumerate(columns)}
    if names is None:
        expected = f"the name of the column of {path} that has the classes (--label)"
        word = label if isinstance(label, str) else ""
        if word not in place_of:
            raise DataError("label", expected, shown(label), suggest(word, columns))
        names = [name for name in columns if name != label]
    elif absent := [name for name in names if name not in place_of]:
        given = f"a table without {', '.join(map(shown, absent[:5]))}"
        expected = "the columns that the network was trained on"
        raise DataError(f"{path}, line 1", expected, given, suggest(absent[0], columns))
    places, label_place = [place_of[name] for name in names], place_of[label] if label else None
    numbers, labels, lines = array("d"), [], array("q")
    first_wrong: list[str] = []
    for line, cells in table:
        expected = f"{counted(len(columns), 'cell')}, as in the first line"
        check_data(f"{path}, line {line}", len(cells), expected, len(cells) == len(columns))
        row = [_number(cells[place]) for place in places]
        if not first_wrong and not all(map(math.isfinite, row)):
            first_wrong = cells
        numbers.extend(row)
        labels.append("" if label_place is None else cells[label_place].strip())
        lines.append(line)
    if not lines:
        raise DataError(str(path), "rows below the names of the columns", "none")
    x = np.frombuffer(numbers).reshape(len(lines), len(names))
    wrong = ~np.isfinite(x)
    if wrong.any():
        row, feature = np.argwhere(wrong)[0]
        text = first_wrong[places[feature]].strip()
        place = f"{path}, line {lines[row]}, column {shown(names[feature])}"
        counts = [f"{shortened(name)} ({count})" for name, count in zip(names, wrong.sum(axis=0), strict=True) if count]
        remedy = "Write a number for each word or empty cell, or remove the row or the column. Cells without a number: "
        remedy += f"{', '.join(counts[:5])}{', …' if len(counts) > 5 else '.'}"
        raise DataError(place, "a number such as 1.5", shown(text) if text else "an empty cell", remedy)
    return Rows(tuple(names), x, labels, lines)


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The number and the cells of each line of a table. Spreadsheets can end in lines of empty cells: left out."""
    expected, remedy = "a table as text in UTF-8", "In a spreadsheet program, save it as CSV UTF-8."
    with (
        reading(path, expected, remedy, errors=(UnicodeError, csv.Error)),
        reading(path, "a file that can be read", errors=OSError),
        opened(path, most=MOST_BYTES, follow_links=True) as file,
        io.TextIOWrapper(file, "utf-8-sig", newline="") as text,
    ):

        def cells_of_first_line(separator: str) -> int:
            text.seek(0)
            # Split by a wrong separator, the first line of a wide table can be a single cell that is too long.
            with suppress(csv.Error):
                return len(next(csv.reader(text, delimiter=separator), ()))
            return 0

        separator = max(SEPARATORS, key=cells_of_first_line)
        text.seek(0)
        reader, first = csv.reader(text, delimiter=separator, strict=True), 1
        for cells in reader:
            if any(cells):
                yield first, cells
            first = reader.line_num + 1  # a quoted cell may have several lines


def _checked_columns(path: Path, columns: list[str]) -> list[str]:
    """The names in the first line: different ones, and at least two."""
    place = f"{path}, line 1"
    if len(columns) < 2:
        given, remedy = shown(columns) if columns else "an empty file", "Write commas, semicolons or tabs between them."
        raise DataError(place, "the names of at least two columns", given, remedy)
    if "" in columns:
        remedy = "Name it, or remove it: pandas writes no row numbers with index=False."
        raise DataError(place, "a name for each column", f"none for column {columns.index('') + 1}", remedy)
    name, number = Counter(columns).most_common(1)[0]
    check_data(place, name, "a different name for each column", number == 1, f"{counted(number, 'column')} have it.")
    return columns


def _number(text: str) -> float:
    """The number in a cell; NaN if there is none that float32 holds."""
    try:
        number = float(text)
    except ValueError:
        return math.nan
    return number if abs(number) <= LARGEST and "_" not in text else math.nan  # Python reads 1_5 as 15


def _classes(place: str, texts: Sequence[str]) -> tuple[tuple[str, ...], np.ndarray]:
    """The names of the classes, sorted as numbers if all are numbers, and the class of each row."""
    numbers = [_number(text) for text in texts]
    # A text such as 0123 is a code. Large numbers may be equal in float64 although their texts are not.
    are_numbers = all(abs(number) < 2**53 for number in numbers) and not any(map(CODE.match, texts))
    if are_numbers:
        texts = [np.format_float_positional(number + 0.0, trim="-") for number in numbers]  # -0.0 + 0.0 is 0.0
    names = tuple(sorted(set(texts), key=float if are_numbers else None))
    number_of = {name: number for number, name in enumerate(names)}
    letters = sum(map(len, names))
    check_data(place, f"{letters:,}", f"classes with {MOST_LETTERS:,} letters at most", letters <= MOST_LETTERS)
    labels = np.array([number_of[text] for text in texts], np.int32)
    if len(names) == 1:
        raise DataError(place, "at least two classes", f"one: {shortened(names[0])}")
    rare = [shortened(name) for name, count in zip(names, np.bincount(labels), strict=True) if count < LEAST_ROWS]
    if rare:
        given = f"{len(names):,} classes, of which {len(rare):,} have fewer, such as {rare[0]}"
        remedy = "Remove these rows, or put several classes into one."
        if are_numbers:
            remedy += " If the column has measured numbers, train with fit: see docs/how_to/csv_and_arrays.md."
        raise DataError(place, f"at least {LEAST_ROWS} rows of each class", given, remedy)
    return names, labels
