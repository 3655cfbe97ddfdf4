"""The files of the figures to touch: they load nothing, take in shared code, and hold right numbers."""

from __future__ import annotations

import importlib.util
import json
import re
import runpy
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

DOCS = Path(__file__).parents[2] / "docs"
NAMES = ("neuron", "backpropagation", "learning", "optimizers", "where_grad_is_wrong")
figure_files = runpy.run_path(str(DOCS / "_extensions" / "figure_files.py"))
read_figure = figure_files["read_figure"]


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_takes_in_the_shared_style_and_script(name: str) -> None:
    figure = read_figure(name)
    for file in figure_files["SHARED"]:
        assert figure.count((DOCS / "figures" / file).read_text("utf-8")) == 1


def test_nothing_is_loaded_and_no_id_is_used_twice() -> None:
    text = "".join(map(read_figure, NAMES))
    assert not re.search(r"""\b(src|href)=|url\(["']?(?!#)|@import|fetch\(""", text)
    ids = re.findall(r'\sid="([^"$]+)"', text)
    assert len(ids) == len(set(ids))


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    pytest.importorskip("mpmath")
    path = DOCS / "figures" / "make_where_grad_is_wrong.py"
    spec = importlib.util.spec_from_file_location("make_where_grad_is_wrong", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look for their module
    spec.loader.exec_module(module)
    return module


def test_data_of_wrong_gradients_are_small_and_their_right_numbers_are_right(maker: ModuleType) -> None:
    start = '<script type="application/json" class="data">'
    text = read_figure("where_grad_is_wrong").partition(start)[2].partition("</script>")[0]
    assert len(text.encode()) < 150_000
    functions = {function["name"]: function for function in json.loads(text)["functions"]}
    assert len(functions) >= 20
    maker.mp.mp.dps = 60
    for case in (maker.CASES[0], maker.CASES[-2]):
        x, curves = (
            np.frombuffer(maker.base64.b64decode(functions[case.name]["x"]), "<f4"),
            functions[case.name]["curves"],
        )
        assert len(x) > 100
        assert np.all(np.diff(x) > 0)
        for k in range(0, len(x), 20):
            exact, _ = maker.exact_numbers(case, x[k])
            for curve in curves:
                right = np.frombuffer(maker.base64.b64decode(curve["exact"]), "<f4")[k]
                assert right == np.float32(float(exact[maker.QUANTITIES.index(curve["quantity"])]))
