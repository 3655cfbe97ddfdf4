"""The tables of benchmarks, of made-up measurements."""

import math

from functional_nn.bench.benchmark import Benchmark
from functional_nn.bench.compiled_program import Memory, Timing
from functional_nn.bench.diagnose import Explanation, Finding
from functional_nn.bench.measured_peaks import Peaks, Rate
from functional_nn.bench.network_programs import BenchmarkCase, Measured
from functional_nn.bench.records import Ratio, RecordComparison
from functional_nn.reports.benchmark import comparisons, shares, times

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


def test_tables_are_aligned():
    several = [measured(), measured("predict", 4096, seconds=2.5)]
    table = times(several).splitlines()
    assert len(table) == 3
    assert table[0].index("batch") == table[1].index("8  ") == table[2].index("4096")
    assert table[1].split()[:6] == ["train", "8", "float32", "1.00", "s", "1.00"]
    assert table[2].endswith("2.50 s (2.44-2.62)   610 µs")
    one = RecordComparison("mlp train", "2025", Ratio(2.0, 1.9, 2.1), Ratio(2.0, 1.9, 2.1))
    assert "mlp train: slower" in comparisons([one])
    assert one._replace(time=Ratio(math.nan, math.nan, math.nan)).verdict == "level"


def test_the_share_of_the_roofline_is_shown():
    """8 million operations in a millisecond are 8% of 100 GFLOP/s, and 108,000 bytes are 0.5% of 20 GB/s."""
    row = shares([measured()]).splitlines()[1]
    assert row.split() == ["train", "8", "float32", "8", "GFLOP/s", "108", "MB/s", "8%", "compute", "8%"]
