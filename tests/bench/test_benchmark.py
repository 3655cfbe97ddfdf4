"""What ``benchmark`` gives: every stage apart, arguments that stay, shares that make sense."""

import json
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import functional_nn as fnn
from functional_nn.bench.compiled_program import Memory, Timing, clocked, memory_of, out_of_memory, race
from functional_nn.bench.layer_times import OUTSIDE, layer_costs
from functional_nn.bench.measured_peaks import Peaks, Rate, Trial, _square_product, heaviest_products, trials
from functional_nn.bench.network_programs import MeasuredNetwork, cases_of, measure, workload
from functional_nn.bench.units import in_bytes, in_flops, in_seconds
from functional_nn.jaxprs.counts import flops_by_scope, product_name
from functional_nn.jaxprs.walk import trace

pytestmark = pytest.mark.usefixtures("small_peaks")


@pytest.fixture(scope="module")
def network():
    return MeasuredNetwork(fnn.models.mlp(3, hidden=(4,)), fnn.cross_entropy, optax.sgd, (5,), 3)


@pytest.fixture(scope="module")
def measured(network, small_peaks):
    """A train step that is donated its state, and taken apart as well."""
    step = workload("step", network, 6)
    return fnn.benchmark(step.function, *step.arguments, name="step", donate=0, seconds=0.01, layers=True)


def test_every_stage_is_there_and_the_numbers_fit(measured):
    assert list(measured.stages) == ["trace", "lower", "compile", "first_run"]
    assert all(seconds > 0 for seconds in measured.stages.values())
    assert measured.donate == (0,)
    assert measured.seconds == measured.donated.median
    assert measured.steady.quartiles[0] <= measured.steady.median <= measured.steady.quartiles[1]
    assert len(measured.steady.rounds) >= 5
    assert measured.memory.shared > 0
    assert measured.memory.device_peak is None
    assert measured.flops_per_second == measured.flops / measured.seconds
    assert set(measured.shares) == {"compute", "memory", "launch"}
    assert measured.shares[measured.nearest_bound] == max(measured.shares.values())
    assert measured.roofline == max(measured.shares["compute"], measured.shares["memory"])


def test_the_device_s_peak_is_the_largest_of_the_program_s_devices():
    def on_device(peak):
        device = Mock()
        device.memory_stats.return_value = {"peak_bytes_in_use": peak}
        return Mock(addressable_devices=[device])

    compiled = Mock(input_shardings=[on_device(5), on_device(7)], output_shardings=on_device(6))
    assert memory_of(compiled).device_peak == 7


def test_it_prints_and_goes_into_json(measured):
    assert max(map(len, str(measured).splitlines())) <= 80
    read = json.loads(json.dumps(measured.to_dict()))
    assert read["memory"]["peak"] == measured.memory.peak
    assert read["roofline"] == measured.roofline
    assert len(read["donated"]["round_medians"]) == len(read["reference"]["round_medians"])
    assert {layer["layer"] for layer in read["layers"]} >= {"dense_0", "dense_1", OUTSIDE}


def test_a_suite_measures_all_cases(network):
    cases = cases_of(["train", "predict", "sweep"], [2], ["float32"], [3])
    assert [(case.what, case.members, case.steps) for case in cases] == [
        ("train", 1, 32),
        ("predict", 1, 1),
        ("sweep", 3, 32),
    ]
    several = [measure(network, case, seconds=0.005, layers=True) for case in cases]
    assert [one.case for one in several] == cases
    train, predict, three = (measured.result for measured in several)
    assert not any(cost.timing for cost in three.layers)  # only single steps are measured layer by layer
    assert [result.name for result in (train, predict, three)] == ["train", "predict", "sweep of 3"]
    assert list(train.stages) == ["compile", "first_run"]
    assert {cost.layer for cost in train.layers if cost.timing} >= {"dense_0", "dense_1", OUTSIDE}
    assert several[0].step.median == pytest.approx(train.seconds / 32)
    assert several[2].seconds_per_example == pytest.approx(three.seconds / 32 / 2 / 3)
    read = json.loads(json.dumps(several[2].to_dict()))
    assert (read["what"], read["members"], read["steps"]) == ("sweep", 3, 32)
    for result in (train, three):
        assert "donation" not in result.findings.kinds  # fit and sweep keep the state on purpose


def test_arguments_that_are_given_away_stay_with_the_caller():
    x = jnp.ones(5)
    result = fnn.benchmark(lambda x: x + 1, x, donate=0, seconds=0.01)
    assert result.donated
    assert not x.is_deleted()
    np.testing.assert_array_equal(x, jnp.ones(5))


def test_a_peak_of_several_devices_is_multiplied():
    trial = Trial("product", lambda: 0.0, repeats=2, flops=10, bytes=20)
    assert trial.rate(Timing(((4.0,),))) == ("product", 5.0, 10.0)
    assert trial.rate(Timing(((4.0,),)), 3) == ("product", 15.0, 30.0)


def test_an_error_of_memory_says_what_was_needed():
    error = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 17592186044416 bytes.")
    assert out_of_memory(error) == "out of memory: 17.6 TB could not be allocated"
    assert out_of_memory(MemoryError()) == "out of memory"
    assert out_of_memory(jax.errors.JaxRuntimeError("INTERNAL: allocating 3 bytes")) is None


def test_operations_without_a_count_are_said():
    def factor(x):
        return jnp.linalg.cholesky(x) @ x

    result = fnn.benchmark(factor, jnp.eye(4), seconds=0.01)
    assert result.uncounted == json.loads(json.dumps(result.to_dict()))["not_counted"] == {"cholesky": 1}
    assert "not counted   cholesky (1)" in str(result)
    assert "/s: at least " in str(result)
    complete = fnn.benchmark(jnp.dot, jnp.eye(4), jnp.eye(4), seconds=0.01)
    assert not complete.uncounted
    assert "at least" not in f"{complete}{complete!r}"


def test_peaks_are_the_best_of_anything():
    peaks = Peaks((Rate("a", 5.0, 1.0), Rate("b", 2.0, 7.0)))
    assert (peaks.flops_per_second, peaks.bytes_per_second) == (5.0, 7.0)


def test_the_peaks_are_tried_at_the_programs_own_heaviest_products():
    def program(x, w, v, kernel):
        y = jax.lax.scan(lambda y, _: (y @ v, None), x @ w, length=50)[0]
        return y, jax.lax.conv_general_dilated(
            x.reshape(1, 4, 8, 1), kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    arguments = jnp.ones((4, 8)), jnp.ones((8, 6)), jnp.ones((6, 6)), jnp.ones((3, 3, 1, 2))
    traced = trace(program, *arguments)
    names = [product_name(equation) for equation in heaviest_products(traced)]
    assert names == ["4×6 · 6×6", "1×4×8×1 · 3×3×1×2 convolution", "4×8 · 8×6"]
    tried = trials(traced, 1000)
    assert [trial.name for trial in tried[:4]] == ["32³", *names]
    assert tried[1].flops == 2 * 4 * 6 * 6
    assert tried[1].bytes == 4 * (24 + 36 + 24)
    assert all(trial.run() > 0 for trial in tried)
    assert [_square_product(4, jnp.dtype(number), None).flops for number in ("float32", "complex64")] == [128, 512]


def test_the_parts_of_a_program_are_timed_and_add_up():
    """A layer inside a residual block is a part of its own. A loop is one part, with what it runs."""
    net = fnn.chain(fnn.residual(fnn.dense(4), fnn.relu), fnn.repeat(fnn.residual(fnn.dense(4)), 2), fnn.dense(3))
    made = workload("gradient", MeasuredNetwork(net, fnn.cross_entropy, optax.sgd, (4,), 3), 6)
    program = trace(made.function, *made.arguments)
    costs = layer_costs(program, made.arguments, 0.001)
    places = [(cost.layer, cost.backward) for cost in costs]
    layers = ["residual_0/dense_0", "residual_0/relu_0", "residual_0", "repeat_0", "dense_0"]
    assert [place for place in places if place != (OUTSIDE, False)][:5] == [(layer, False) for layer in layers]
    assert {layer for layer, backward in places if backward} == {*layers} - {"residual_0"}  # the input has no gradient
    assert places.index(("dense_0", True)) < places.index(("repeat_0", True)) < places.index((layers[0], True))
    assert all(cost.timing for cost in costs)
    assert sum(cost.flops for cost in costs) == flops_by_scope(program).total()
    assert not any(cost.timing for cost in layer_costs(program, made.arguments, 0))


def test_the_gradient_by_hand_is_that_of_jax(network):
    hand, automatic = (workload(what, network, 4) for what in ("hand", "gradient"))
    a, b = (jax.jit(made.function)(*made.arguments) for made in (hand, automatic))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), a, b)


def test_contestants_take_turns():
    calls = []
    times = race({name: lambda name=name: calls.append(name) or 0.01 for name in "abc"}, 1e-6)
    assert {name: len(timing.rounds) for name, timing in times.items()} == dict.fromkeys("abc", 5)
    assert "".join(calls[6:]) == "abcbcacababcbca"


def test_clocked_waits_for_every_output():
    def slow(x):
        return {"late": jax.lax.fori_loop(0, 1000, lambda i, x: jnp.sin(x), x), "soon": x}

    _, outputs = clocked(jax.jit(slow), jnp.ones(1000))
    assert all(leaf.is_ready() for leaf in jax.tree.leaves(outputs))


def test_timing_of_one_call_and_of_many():
    one = Timing(((0.5,),))
    assert (one.median, one.quartiles, one.best) == (0.5, (0.5, 0.5), 0.5)
    many = Timing(((4.0, 1.0), (2.0, 3.0, 5.0)))
    assert (many.median, many.quartiles, many.best) == (3.0, (2.0, 4.0), 1.0)
    assert many.to_dict()["round_medians"] == [2.5, 3.0]
    assert str(many) == "3.00 s (2.00-4.00, n=5)"


def test_figures_are_read_easily():
    assert list(map(in_seconds, (1800, 0.9996, 0.123456, 9.999e-4))) == ["1800 s", "1.00 s", "123 ms", "1.00 ms"]
    assert [in_bytes(n) for n in (0, 999, 1000, 5e9, 2e13)] == ["0 B", "999 B", "1 kB", "5 GB", "20 TB"]
    assert in_flops(999) == "999 FLOP"
    assert str(Memory(10, 20, 30, 5, 100)).startswith("55 B at the peak: 10 B in, 20 B out, 30 B scratch, 5 B shared")
    assert "device 100 B" in str(Memory(10, 20, 30, 5, 100))
