"""The page of benchmarks and its pictures, of made-up measurements."""

import dataclasses
import io
import math
from html.parser import HTMLParser

import numpy as np
import PIL.Image
import pytest

from functional_nn.bench.benchmark import Benchmark
from functional_nn.bench.compiled_program import Memory, Timing
from functional_nn.bench.diagnose import Explanation, Finding
from functional_nn.bench.layer_times import LayerCost
from functional_nn.bench.peaks import Peaks, Rate
from functional_nn.bench.records import Ratio, RecordComparison
from functional_nn.bench.suite import BenchmarkCase, Measured
from functional_nn.core.errors import InputError
from functional_nn.reports import benchmark as plots
from functional_nn.reports.benchmark import comparisons, figures, shares, times, write_page

ABOUT = {
    **{"model": "mlp", "device": "a <fast> device", "platform": "gpu", "cores": 2, "date": "2026-01-01"},
    **{"commit": "abc", "versions": {"jax": "0"}, "matmul_precision": None},
}
TRACED = {"trace": 0.1, "lower": 0.1}
"""The programs of ``fit`` and ``sweep`` are traced while others are compiled, so these have no such stages."""

FINDING = Finding("donation", "dense_0", "argument 0 comes back changed.", "Give it <away>.")


def timing(seconds):
    return Timing(((0.9 * seconds, seconds), (seconds, 1.2 * seconds)))


def measured(what="train", batch_size=8, members=1, seconds=1e-3, precision="float32", layers=(), memory=True):
    case = BenchmarkCase(what, batch_size, precision, members)
    result = Benchmark(
        name=f"sweep of {members}" if what == "sweep" else what,
        stages=({} if what in ("train", "sweep") else TRACED) | {"compile": 1.0, "first_run": 0.01},
        steady=timing(seconds * case.steps),
        donated=None,
        donate=(),
        dispatch=1e-5,
        launch=timing(1e-5),
        memory=Memory(10, 20, 30, 0, None) if memory else None,
        flops=10**6 * batch_size * members * case.steps,
        bytes=(10**5 + 1000 * batch_size) * case.steps,
        peaks=Peaks((Rate("1024³", 1e11, 1e9), Rate("stream", 1e8, 2e10))),
        reference=timing(1e-3),
        layers=tuple(layers),
        findings=Explanation((FINDING,)),
    )
    return Measured(case, result)


LAYERS = [LayerCost("dense_0", False, 10, 10, timing(1e-4)), LayerCost("dense_0", True, 10, 10, timing(2e-4)),
          LayerCost("outside", False, 10, 10, timing(5e-5)), LayerCost("lstm_0", False, 10, 10, None)]  # fmt: skip
SWEPT = [measured("sweep", members=k, seconds=1e-3 * (0.5 + k / 2)) for k in (1, 2, 4, 8)]
SIZES = [measured(what, 2**n, seconds=1e-4 * (1 + 2**n / 64)) for what in ("train", "predict") for n in range(13)]


def texts(figure):
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text) if text.get_visible() and text.get_text()]


def drawn(figure):
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    with PIL.Image.open(stream) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert len(np.unique(pixels @ (65536, 256, 1))) > 5
    return texts(figure)


def test_roofline_shows_its_roof_and_every_program():
    shown = drawn(
        plots.roofline([measured("train"), measured("predict", 128), measured("train", precision="bfloat16")])
    )
    assert {"100 GFLOP/s", "20 GB/s", "train", "predict", "train, bfloat16", "batch 128"} <= set(shown)
    drawn(plots.roofline([measured(seconds=1e3)]))
    near = [measured(what, seconds=seconds) for seconds in (1e-3, 1.01e-3) for what in ("train", "predict", "hand")]
    labels = [text for text in plots.roofline(near).axes[0].texts if text.get_text() == "batch 8"]
    boxes = [label.get_window_extent() for label in labels]
    assert labels
    assert not any(box.overlaps(other) for box in boxes for other in boxes if other is not box)
    drawn(plots.roofline(SIZES))


def test_batch_sizes_are_on_both_axes():
    shown = drawn(plots.batch_sizes(SIZES))
    assert shown.count("256") == 2
    assert {"ms per step", "examples per second"} <= set(shown)


def test_populations_are_beside_one_after_another():
    shown = drawn(plots.populations(SWEPT))
    assert {"sweep, float32", "one after another, float32", "1", "2", "4", "8"} <= set(shown)
    drawn(plots.populations(SWEPT[1:]))


def test_layers_have_bars_in_both_directions():
    shown = drawn(plots.layer_times(LAYERS))
    assert {"dense_0", "outside", "forward", "backward", "100", "200"} <= set(shown)
    assert "lstm_0" not in shown


def test_only_what_was_measured_is_drawn():
    assert list(figures([])) == []
    assert list(figures([measured()])) == ["Roofline"]
    assert list(figures([*SWEPT, *SIZES, measured(layers=LAYERS)])) == [
        *("Roofline", "Time against batch size", "Time against the number of models"),
        "Layers of a train step, batch 8, float32",
    ]


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.open, self.tags = [], []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in ("meta", "path", "use", "rect", "image", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in ("path", "use", "rect", "image"):
            assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)


def test_the_page_holds_everything(tmp_path):
    compared = [RecordComparison("mlp train", "2025", Ratio(1.5, 1.4, 1.6), Ratio(1.5, 1.4, 1.6), True)]
    path = tmp_path / "page.html"
    write_page(path, ABOUT, [measured(layers=LAYERS), measured("predict", memory=False), *SWEPT], compared)
    text = path.read_text("utf-8")
    assert Page(text).tags.count("svg") == 3
    for part in (
        "a &lt;fast&gt; device",
        "TF32",
        "Give it &lt;away&gt;.",
        "1.50 (1.40-1.60)",
        "not reported",
        "slower",
    ):
        assert part in text, part
    assert "http" not in text.split("<main>")[1]
    write_page(path, ABOUT, [])
    Page(path.read_text("utf-8"))
    with pytest.raises(InputError, match="can be written"):
        write_page(tmp_path / "none" / "page.html", ABOUT, [])


def test_tables_are_aligned():
    several = [measured(), measured("predict", 4096, seconds=2.5)]
    table = times(several).splitlines()
    assert len(table) == 3
    assert table[0].index("batch") == table[1].index("8  ") == table[2].index("4096")
    assert table[1].split()[:6] == ["train", "8", "float32", "1.00", "s", "1.00"]
    assert table[2].endswith("2.50 s (2.44-2.62)   610 µs")
    one = RecordComparison("mlp train", "2025", Ratio(2.0, 1.9, 2.1), Ratio(2.0, 1.9, 2.1), True)
    assert "mlp train: slower" in comparisons([one])
    assert one._replace(time=Ratio(math.nan, math.nan, math.nan)).verdict == "level"


def test_the_share_of_the_roofline_is_shown():
    """8 million operations in a millisecond are 8% of 100 GFLOP/s, and 108,000 bytes are 0.5% of 20 GB/s."""
    row = shares([measured()]).splitlines()[1]
    assert row.split() == ["train", "8", "float32", "8", "GFLOP/s", "108", "MB/s", "8%", "compute", "8%"]


def test_operations_without_a_count_stand_below_the_shares():
    one = measured()
    partly = one._replace(result=dataclasses.replace(one.result, uncounted={"fft": 2, "while": 1}))
    lines = shares([one, partly]).splitlines()
    assert "at least 8%" in lines[2]
    assert "at least" not in lines[1]
    assert lines[3:] == ["not counted in train: fft (2), while (1)"]


def test_tables_fit_80_columns():
    wide = [measured("sweep", 65536, 1024, 123.4, "bfloat16"), measured("gradient", 4096, seconds=0.999e-3)]
    result = wide[0].result
    one = RecordComparison(
        "transformer sweep of 1024, batch 65536, bfloat16",
        "2026-11-26T10:00:00+00:00",
        Ratio(123.45, 100.0, 150.25),
        Ratio(123.45, 100.0, 150.25),
        False,
        differences=("xla_flags: " + "--xla_gpu_autotune_level=4 " * 4 + ", was none",),
    )
    for text in (times(wide), shares(wide), comparisons([one]), str(result)):
        assert max(map(len, text.splitlines())) <= 80, text
