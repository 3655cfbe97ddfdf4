"""Plans for many devices: formulas by hand, limits, and what must grow or shrink."""

import dataclasses
import itertools

import jax
import pytest

import functional_nn as fnn
from functional_nn.bench import Network, Rates, SweepRates, scaling_limits, sweep_plan, training_plan
from functional_nn.bench.measure.workloads import named_network
from functional_nn.bench.scaling.measure import all_reduces

# A step of b examples takes 2 + b ms.
RATES = Rates("mlp", "a CPU", 1, (1, 11), (0.003, 0.013), (1000, 200), 500, 10, 3)
DEVICES = (1, 2, 3, 4, 7, 8, 64, 4096)
NETWORK = Network(latency=1e-4, bandwidth=1e6)
SWEEP = dataclasses.replace(RATES, sweep=SweepRates(2, 100, 4.0, 0.5, 0.25, 1000, 10, 0.01))


@pytest.fixture(autouse=True)
def strict_promotion():
    """Overrides the rule of other tests, since Optax is not strict about promotion."""
    return


@pytest.mark.parametrize(
    ("size", "devices"), [(1000, 0), (1000, -1), (1000, 2.5), (1000, "2"), (-1, 2), (float("nan"), 2), ("1", 2)]
)
def test_an_all_reduce_needs_a_size_and_a_number_of_devices(size, devices):
    with pytest.raises(fnn.InputError, match="not below 0" if devices == 2 else "devices: expected a positive integer"):
        NETWORK.all_reduce(size, devices)


def test_all_reduces_by_hand():
    assert NETWORK.all_reduce(1000, 4) == pytest.approx(6 * 1e-4 + 1.5e-3)
    assert Network(1e-4, 1e6, "halving").all_reduce(1000, 5) == pytest.approx(6 * 1e-4 + 1.6e-3)
    for algorithm in ("ring", "halving"):
        assert Network(1e-4, 1e6, algorithm).all_reduce(1000, 1) == 0


def test_steps_lie_on_the_line_through_the_measured_ones():
    assert [RATES.step(examples) for examples in (1, 5, 11, 100)] == pytest.approx([0.003, 0.007, 0.013, 0.102])
    bent = Rates("mlp", "a CPU", 1, (1, 2, 4), (0.004, 0.004, 0.01), (1,), 0, 0, 0)
    assert [bent.step(examples) for examples in (2, 3, 4, 6)] == pytest.approx([0.004, 0.007, 0.01, 0.016])
    # Noise may make a larger batch the faster one. Then the line does not go on below a positive time.
    assert Rates("mlp", "a CPU", 1, (8, 16), (0.01, 0.018), (1,), 0, 0, 0).step(1) == pytest.approx(0.005)


def test_training_plan_by_hand():
    plan = training_plan(RATES, 20, 3, NETWORK, examples=50)
    assert (plan.share, plan.batch_size) == (7, 20)
    assert plan.compute_seconds == pytest.approx(0.009)
    assert plan.all_reduce_seconds == pytest.approx(2 * 4e-4 + 4 / 3 * 1200 / 1e6)
    assert plan.step_seconds == pytest.approx(0.0114)
    assert plan.epoch_seconds == pytest.approx(3 * 0.0114)
    assert plan.speedup == pytest.approx(0.022 / 0.0114)
    assert plan.efficiency == pytest.approx(0.022 / 0.0114 / 3)
    assert plan.all_reduce_share == pytest.approx(0.0024 / 0.0114)
    assert plan.memory == 500 + 7 * 10 + 50 * 3


def test_batch_that_grows_by_hand():
    plan = training_plan(RATES, 20, 3, NETWORK, weak=True, examples=100)
    assert (plan.batch_size, plan.share) == (60, 20)
    assert plan.step_seconds == pytest.approx(0.022 + 0.0024)
    assert plan.efficiency == pytest.approx(0.022 / 0.0244)
    assert plan.epoch_seconds == pytest.approx(2 * 0.0244)


def test_shared_cores_are_used_in_turn():
    own = training_plan(RATES, 16, 4, NETWORK)
    shared = training_plan(RATES, 16, 4, NETWORK, cores=2)
    assert shared.compute_seconds == pytest.approx(2 * own.compute_seconds)
    assert shared.all_reduce_seconds == own.all_reduce_seconds
    assert training_plan(RATES, 16, 4, NETWORK, cores=8) == own
    # The measured device had two cores, so two of them on two cores take turns.
    of_two_cores = dataclasses.replace(RATES, cores=2)
    assert training_plan(of_two_cores, 16, 2, NETWORK, cores=2).compute_seconds == pytest.approx(2 * RATES.step(8))


def test_one_device_exchanges_nothing():
    plan = training_plan(RATES, 8, 1, NETWORK)
    assert (plan.all_reduce_seconds, plan.all_reduce_share, plan.efficiency, plan.speedup) == (0, 0, 1, 1)


def test_more_devices_than_examples_are_of_no_use():
    many = [training_plan(RATES, 4, devices, NETWORK) for devices in (4, 8, 16)]
    assert [plan.share for plan in many] == [1, 1, 1]
    assert [plan.compute_seconds for plan in many] == [RATES.step(1)] * 3
    assert scaling_limits(RATES, 4, NETWORK).fastest <= 4


@pytest.mark.parametrize("algorithm", ["ring", "halving"])
def test_what_grows_and_what_shrinks(algorithm):
    network = dataclasses.replace(NETWORK, algorithm=algorithm)
    plans = [training_plan(RATES, 256, devices, network) for devices in DEVICES]
    for fewer, more in itertools.pairwise(plans):
        assert more.compute_seconds <= fewer.compute_seconds
        assert more.all_reduce_seconds >= fewer.all_reduce_seconds
        assert more.efficiency <= fewer.efficiency
        assert more.memory <= fewer.memory
    faster = dataclasses.replace(network, latency=1e-5)
    assert all(training_plan(RATES, 256, plan.devices, faster).speedup >= plan.speedup for plan in plans)


def test_where_devices_stop_paying():
    fastest, worthwhile = scaling_limits(RATES, 64, NETWORK)
    steps = [training_plan(RATES, 64, devices, NETWORK).step_seconds for devices in range(1, 65)]
    assert steps[fastest - 1] == min(steps)
    assert training_plan(RATES, 64, worthwhile, NETWORK).efficiency >= 0.5
    assert training_plan(RATES, 64, 2 * worthwhile, NETWORK).efficiency < 0.5
    slow = Network(latency=10.0, bandwidth=1.0)
    assert scaling_limits(RATES, 64, slow) == (1, 1)


def test_sweep_by_hand():
    plan = sweep_plan(SWEEP, 1000, 3, epochs=4, examples=50)
    assert plan.members_of_a_part == 334
    assert plan.seconds == pytest.approx(4 + 334 * 0.75)
    assert plan.machine_seconds == pytest.approx(3 * 4 + 1000 * 0.75)
    assert plan.members_a_second == pytest.approx(1000 / (4 + 334 * 0.75))
    assert (plan.files, plan.size, plan.merged_size) == (1006, 1_000_000 + 3 * 10_000, 1_010_000)
    assert plan.merge_seconds == pytest.approx(10)


def test_sweeps_of_few_members_and_on_shared_cores():
    assert sweep_plan(SWEEP, 2, 5, epochs=2, examples=100).machines == 2
    own, shared = (sweep_plan(SWEEP, 8, 2, epochs=2, examples=100, cores=cores) for cores in (None, 1))
    assert shared.seconds == pytest.approx(2 * own.seconds)


def test_rates_in_files(tmp_path):
    SWEEP.save(tmp_path / "rates.json")
    assert fnn.bench.load_rates(tmp_path / "rates.json") == SWEEP
    (tmp_path / "other.json").write_text('{"model": "mlp"}', "utf-8")
    for name in ("other.json", "missing.json"):
        with pytest.raises(fnn.DataError, match="a file of rates"):
            fnn.bench.load_rates(tmp_path / name)


@pytest.mark.parametrize(
    ("changed", "argument"),
    [
        ({"batch_sizes": (4, 2)}, "batch_sizes"),
        ({"batch_sizes": (1,), "step_seconds": (1.0,)}, "batch_sizes"),
        ({"step_seconds": (0.1,)}, "step_seconds"),
        ({"step_seconds": (0.1, -1.0)}, "step_seconds"),
        ({"all_reduces": (0,)}, "all_reduces"),
        ({"state_bytes": -1}, "state_bytes"),
        ({"cores": 0}, "cores"),
        ({"sweep": 3}, "sweep"),
    ],
)
def test_wrong_rates(changed, argument):
    with pytest.raises(fnn.InputError, match=argument):
        dataclasses.replace(RATES, **changed)


def test_wrong_networks():
    for wrong in ({"latency": 0}, {"bandwidth": -1.0}, {"algorithm": "tree"}):
        with pytest.raises(fnn.InputError, match=next(iter(wrong))):
            dataclasses.replace(NETWORK, **wrong)


def test_a_sweep_needs_its_rates():
    with pytest.raises(fnn.InputError, match="rates"):
        sweep_plan(RATES, 10)


def test_bytes_of_all_reduces():
    of_mlp = [4 * 784 * 128, 4 * 128, 4 * 128 * 64, 4 * 64, 4 * 64 * 10, 4 * 10, 4]
    assert sorted(all_reduces(named_network("mlp"))) == sorted(of_mlp)
    # The program of lenet for two devices adds up 30 arrays: 11 gradients, the loss, and 18 sums of three batch norms.
    assert len(all_reduces(named_network("lenet"))) == 30


@pytest.mark.slow
def test_rates_are_measured():
    rates = fnn.bench.measure_rates("mlp", batch_sizes=(1, 8), members=2, seconds=0.01)
    assert rates.batch_sizes == (1, 8)
    assert min(rates.step_seconds) > 0
    # Parameters, and Adam's two moments, before and after a step.
    params, _ = jax.eval_shape(lambda: named_network("mlp").net.init(jax.random.key(0), (28, 28, 1)))
    numbers = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert rates.state_bytes == pytest.approx(2 * 3 * 4 * numbers, rel=0.001)
    assert rates.sweep is not None
    assert rates.sweep.file_bytes == pytest.approx(4 * numbers, rel=0.01)
    assert rates.sweep.merge_seconds > 0
