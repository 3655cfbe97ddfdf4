"""`python -m benchmarks compile`: both sides compile, and the page shows what was recorded."""

import pytest
from benchmarks import compilation
from benchmarks.summary import around

SMALL = compilation.Sizes(train=256, test=64)


@pytest.mark.parametrize("side", compilation.SIDES)
def test_a_side_compiles_anew_each_time(side):
    for _ in range(2):
        assert compilation.SIDES[side]("mlp", SMALL) > 0


def test_the_page_shows_what_was_recorded():
    runs = compilation.newest_runs(compilation.records.RESULTS / "compile.jsonl")
    before, after = around(compilation.PAGE, compilation.MARK)
    assert compilation.PAGE.read_text("utf-8") == f"{before}\n\n{compilation.table(runs)}\n\n{after}"
