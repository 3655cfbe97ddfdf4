"""Every fault of the table in docs/reference/faults.md has a test that carries its number."""

import ast
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests"
FAULTS = range(1, 99)


@cache
def numbered() -> dict[int, set[str]]:
    """The files with tests of each fault, by the numbers in the tests' names: ``test_fault_06_07_a_bad_label``."""
    files = defaultdict(set)
    for path in TESTS.rglob("test_*.py"):
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_fault_"):
                name = re.match(r"test_fault(?:(?:_and)?_\d\d)+(?=_)", node.name)
                assert name, f"{node.name}: write its number with two digits"
                for number in re.findall(r"\d\d", name.group()):
                    files[int(number)].add(path.relative_to(TESTS).as_posix())
    return files


def table() -> dict[int, set[str]]:
    """The files that docs/reference/faults.md names for each fault."""
    rows = re.findall(
        r"^\| (\d+) \|.*\|([^|]*)\|$", (ROOT / "docs" / "reference" / "faults.md").read_text("utf-8"), re.MULTILINE
    )
    assert [int(number) for number, _ in rows] == list(FAULTS)
    return {int(number): set(re.findall(r"`([^`]+)`", files)) for number, files in rows}


def test_every_fault_has_a_test_with_its_number():
    files = numbered()
    assert [number for number in FAULTS if not files[number]] == []
    assert set(files) <= set(FAULTS)


def test_the_table_names_files_with_tests_of_the_fault():
    files = numbered()
    for number, named in table().items():
        assert named <= files[number], f"fault {number}: no test of it in {', '.join(named - files[number])}"
        assert named, f"fault {number}: docs/reference/faults.md names no test"
