"""Tables in CSV files as data sets: what is read, how it is scaled and divided, and what is refused."""

from pathlib import Path

import numpy as np
import pytest

from functional_nn import load_dataset
from functional_nn.core.errors import DataError, InputError
from functional_nn.data import csv_table, from_csv
from functional_nn.data.dataset import Features

ROWS = [(number, 5.0, 10 * number, ("b", "a")[number % 2]) for number in range(20)]


def table(folder: Path, rows: list[tuple] = ROWS, head: str = "x,constant,y,kind", separator: str = ",") -> Path:
    file = folder / "table.csv"
    lines = [head.replace(",", separator), *(separator.join(map(str, row)) for row in rows)]
    file.write_text("\n".join(lines), "utf-8")
    return file


def test_columns_are_standardized_by_the_training_rows(tmp_path):
    data = load_dataset(f"csv:{table(tmp_path)}", label="kind")
    assert data.features is not None
    assert data.features.names == ("x", "constant", "y")
    assert data.class_names == ("a", "b")
    assert data.train_images.dtype == np.float32
    np.testing.assert_allclose(data.train_images.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(data.train_images.std(axis=0), [1, 0, 1], atol=1e-6)
    assert np.bincount(data.train_labels).tolist() == [8, 8]
    assert np.bincount(data.test_labels).tolist() == [2, 2]
    units = data.features.in_units(np.concatenate([data.train_images, data.test_images]))
    found = zip(units[:, 0].round().tolist(), [*data.train_labels, *data.test_labels], strict=True)
    assert sorted(found) == [(number, 1 - number % 2) for number in range(20)]
    assert repr(data.with_validation(0.25)).endswith(
        "12 training, 4 validation and 4 test rows, 3 features, 2 classes>"
    )


def test_a_known_label_is_not_compared_with_the_other_names(tmp_path, monkeypatch):
    """In a table with millions of columns, that took longer than everything else."""
    monkeypatch.setattr(csv_table, "suggest", lambda *_: pytest.fail("compared"))
    assert from_csv(table(tmp_path), "kind").class_names == ("a", "b")


@pytest.mark.parametrize("rows", [[[5.0], [6.0]], [5.0, 6.0, 7.0], 5.0, [[1j, 1, 1]], [["1", "2", "3"]]], ids=str)
def test_rows_to_standardize_have_a_real_number_for_each_feature(rows):
    features = Features(("a", "b", "c"), (1.0, 2.0, 3.0), (1.0, 2.0, 4.0))
    for convert in (features.standardized, features.in_units):
        with pytest.raises(InputError, match=r"expected a(n array of numbers| batch of examples, \(examples, 3\))"):
            convert(rows)
    assert features.standardized([[2, 4, 7]]).tolist() == [[1, 1, 1]]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_files_of_spreadsheet_programs(tmp_path, separator):
    """A byte order mark, a separator and a line break inside of quotes, other line ends, empty lines at the end."""
    expected = from_csv(table(tmp_path), "kind")
    file = table(tmp_path, separator=separator)
    lines = file.read_text().replace("x", f'"x{separator}\n1"', 1) + f"\n{separator * 3}\n\n"
    file.write_bytes(lines.replace("\n", "\r\n").encode("utf-8-sig"))
    data = from_csv(file, "kind")
    assert data.checksum() == expected.checksum()
    assert data.features is not None
    assert data.features.names[0].startswith(f"x{separator}")


@pytest.mark.parametrize("codes", [("01234", "1234"), ("9007199254740992", "9007199254740993")])
def test_codes_are_no_numbers(tmp_path, codes):
    assert from_csv(table(tmp_path, [(n, codes[n % 2]) for n in range(16)], "x,kind"), "kind").class_names == codes


@pytest.mark.parametrize("rows", ['1,a,"\n2,b,x\n', '1,a,"x"y\n2,b,x\n'])
def test_quotes_that_do_not_end_take_no_rows_away(tmp_path, rows):
    (tmp_path / "table.csv").write_text(f"x,kind,note\n{rows}")
    with pytest.raises(DataError, match="a table as text"):
        from_csv(tmp_path / "table.csv", "kind")


def test_tiny_numbers_have_no_infinite_features(tmp_path):
    data = from_csv(table(tmp_path, [(n * 1e-200, n, "ab"[n % 2]) for n in range(16)], "x,y,kind"), "kind")
    assert np.isfinite(data.train_images).all()


def test_a_table_that_is_written_again_while_it_is_read_is_refused(tmp_path, monkeypatch):
    path, check = table(tmp_path, ROWS), csv_table._checked_columns

    def write_again(*about):
        path.write_text(path.read_text().replace("a", "b"))
        return check(*about)

    monkeypatch.setattr(csv_table, "_checked_columns", write_again)
    with pytest.raises(DataError, match="another one than before"):
        from_csv(path, "kind")


@pytest.mark.timeout(60)
def test_a_wide_table(tmp_path):
    """Its first line is longer than a cell may be, and names are not compared with all others."""
    names = [f"gene_{number}" for number in range(20_000)]
    file = table(tmp_path, [(*[1] * len(names), row % 2) for row in range(6)], ",".join([*names, "kind"]))
    assert from_csv(file, "kind").train_images.shape == (4, 20_000)


def test_zero_has_no_sign(tmp_path):
    data = from_csv(table(tmp_path, [(n, ("0", "-0", "0.0", 1)[n % 4]) for n in range(16)], "x,kind"), "kind")
    assert data.class_names == ("0", "1")


def test_classes_that_are_numbers_are_sorted_as_numbers(tmp_path):
    data = from_csv(table(tmp_path, [(n, (10, "9.0", 9, 1234567.5)[n % 4]) for n in range(16)], "x,kind"), "kind")
    assert data.class_names == ("9", "10", "1234567.5")
    assert np.bincount(np.concatenate([data.train_labels, data.test_labels])).tolist() == [8, 4, 4]


@pytest.mark.parametrize(
    ("head", "rows", "words"),
    [
        (
            "x,kind",
            [(1, "a"), ("", "b"), ("?", "b")],
            "line 3, column 'x': expected a number .* an empty cell.*: x .2.\\.",
        ),
        ("x,kind", [("1,5", "a"), (2, "b")], "line 2: expected 2 cells, as in the first line, got 3"),
        ("x,kind", [(1, "a"), ("inf", "b"), ("1e39", "a")], "column 'x': expected a number .*'inf'.*x .2."),
        ("x,kind", [(1, "a"), (2, " ")], "line 3, column 'kind': expected a class"),
        ("x,kind", [(1, "a"), (2, "a"), (3, "a")], "column 'kind': expected at least two classes, got one: a"),
        ("x,kind", [(n, n / 7) for n in range(9)], "expected at least 3 rows of each class, got 9 .* measured numbers"),
        ("x,kind", [("1_5", "a"), (2, "b")], "column 'x': expected a number .*'1_5'"),
        ("x,Kind", [(1, "a")], r"label: expected the name .* got 'kind'\. Did you mean Kind\?"),
        (",kind", [(1, "a")], "expected a name for each column, got none for column 1.*index=False"),
        ("x,x,kind", [(1, 2, "a")], "expected a different name for each column, got 'x'"),
        ("x,kind", [], "expected rows below the names"),
        ("x", [], "expected the names of at least two columns"),
        ("", [], "an empty file"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path, head, rows, words):
    file = tmp_path / "table.csv"
    file.write_text("\n".join([head, *(",".join(map(str, row)) for row in rows)]))
    with pytest.raises(DataError, match=f"(?s){words}"):
        from_csv(file, "kind")


def test_files_that_are_no_tables(tmp_path, monkeypatch):
    file = table(tmp_path)
    for words, content in (
        ("UTF-8", "größe,kind\n1,a".encode("latin-1")),
        ("UTF-8", b"PK\3\4\xff"),
        ("field", b"a" * 200_000),
    ):
        file.write_bytes(content)
        with pytest.raises(DataError, match=words):
            from_csv(file, "kind")
    monkeypatch.setattr("functional_nn.data.csv_table.MOST_LETTERS", 1)
    with pytest.raises(DataError, match="expected classes with 1 letters at most, got "):
        from_csv(table(tmp_path), "kind")
    for label in (None, 3, np.ones(2)):
        with pytest.raises(DataError, match="label: expected the name of the column"):
            from_csv(table(tmp_path), label)  # pyright: ignore[reportArgumentType]
    monkeypatch.setattr("functional_nn.data.csv_table.MOST_BYTES", 100)
    with pytest.raises(DataError, match="a file of more than 100 bytes"):
        from_csv(file, "kind")
    with pytest.raises(DataError, match="Is a directory"):
        from_csv(tmp_path, "kind")
    with pytest.raises(DataError, match="data_dir: expected nothing for csv:PATH"):
        load_dataset("csv:x.csv", tmp_path, label="kind")
    with pytest.raises(InputError, match=r"label: expected nothing for 'mnist5k' \(only for csv:PATH\)"):
        load_dataset(label="kind")
    with pytest.raises(InputError, match=rf"For {file}, write csv:{file}\."):
        load_dataset(str(file), label="kind")
