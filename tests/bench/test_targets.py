"""Functions and networks compiled for a chip; the CPU stands for the chip where libtpu is not needed."""

import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import functional_nn as fnn
from functional_nn.bench import targets as target_module
from functional_nn.bench.compiled_program import Memory
from functional_nn.bench.network_programs import STEPS, BenchmarkCase, MeasuredNetwork, cases_of, epoch_spec
from functional_nn.bench.targets import Chip, TargetReport, epoch_program, flops_by_cost, target_case
from functional_nn.jaxprs.counts import least_bytes
from functional_nn.jaxprs.walk import trace
from functional_nn.names import CHIPS
from functional_nn.training.programs import Programs


@pytest.fixture
def network():
    return MeasuredNetwork(fnn.models.mlp(3, hidden=(4,)), fnn.cross_entropy, optax.sgd, (5,), 3)


@pytest.fixture
def cpu_for_chip(monkeypatch):
    monkeypatch.setattr(target_module, "device_of", lambda chip: jax.devices("cpu")[0])


@pytest.mark.usefixtures("cpu_for_chip")
def test_arrays_and_shapes_give_one_report():
    shape = jax.ShapeDtypeStruct((4, 8), jnp.float32)
    reports = [
        fnn.bench.target(jnp.matmul, left, np.ones((8, 2), np.float32), chip="tpu-v5e")
        for left in (shape, jnp.ones((4, 8)))
    ]
    for report in reports:
        assert (report.name, report.compiles, report.flops) == ("matmul", True, 2 * 4 * 8 * 2)
        assert report.least_bytes == 4 * (4 * 8 + 8 * 2 + 4 * 2)
    assert reports[0].to_dict().keys() == reports[1].to_dict().keys()


@pytest.mark.usefixtures("cpu_for_chip")
def test_what_does_not_compile_is_reported(monkeypatch):
    def failing(lowered, options):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of memory: 2.5G. HLO module: f.\nSee a page.")

    monkeypatch.setattr(target_module, "compile_lowered", failing)
    report = fnn.bench.target(jnp.sin, jnp.ones(3), chip="tpu-v5e")
    assert (report.compiles, report.reason, report.memory) == (False, "Ran out of memory: 2.5G.", None)
    assert report.flops == 3


@pytest.mark.parametrize(
    ("chip", "module", "extra"),
    [("tpu-v5e", "libtpu", "tpu-target"), ("cuda-h100", "jax_cuda13_plugin", "cuda-target")],
)
def test_without_the_compiler(monkeypatch, chip, module, extra):
    target_module.device_of.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(fnn.InputError, match=rf"pip install 'functional-nn\[{extra}\]'"):
        fnn.bench.target(jnp.sin, jnp.ones(3), chip=chip)


def test_an_epoch_is_the_program_that_is_trained(network):
    spec = epoch_spec(network, BenchmarkCase("sweep", 2, "float32", 2))
    made = epoch_program(spec)
    assert str(jax.jit(made.function).trace(*made.arguments).jaxpr) == str(Programs(spec).jaxprs["full"])


@pytest.mark.usefixtures("cpu_for_chip")
def test_the_programs_of_a_network(network):
    cases = cases_of(["step", "train", "sweep"], [2], ["float32"], [3])
    step, train, sweep = (target_case(network, case, CHIPS["tpu-v5e"]) for case in cases)
    assert (step.steps, train.steps, sweep.steps) == (1, STEPS, STEPS)
    by_hand = 2 * 2 * (2 * 5 * 4 + 3 * 4 * 3)
    assert step.products == {1: by_hand}
    assert train.products == {1: STEPS * by_hand}
    assert sweep.products == {1: 3 * STEPS * by_hand}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "module"), [("tpu-v5e", "libtpu"), ("cuda-h100", "jax_cuda13_plugin")])
def test_an_mlp_compiles_for_a_chip(name, module, monkeypatch):
    pytest.importorskip(module, reason="needs the extra tpu-target or cuda-target")
    monkeypatch.delenv("XLA_FLAGS", raising=False)  # libtpu ends a process if one of them is for a CPU
    network = MeasuredNetwork(fnn.models.mlp(10), fnn.cross_entropy, optax.adam, (28, 28, 1), 10)
    for case in cases_of(["step", "train"], [8], ["float32"]):
        report = target_case(network, case, CHIPS[name])
        assert report.compiles, report.reason
        assert report.fits


# Numbers counted by hand

V5E, H100 = CHIPS["tpu-v5e"], CHIPS["cuda-h100"]


def products(function, *shapes, chip=V5E, dtype=jnp.float32):
    return flops_by_cost(trace(function, *(jnp.ones(shape, dtype) for shape in shapes)), chip)


def test_products_count_in_loops_and_have_the_cost_of_their_precision():
    def steps(x, w):
        return lax.fori_loop(0, 5, lambda _, x: jnp.matmul(x, w, precision="highest"), x)

    assert products(steps, (8, 128), (128, 128)) == {6: 5 * 2 * 8 * 128 * 128}
    narrow = products(lambda x, w: jnp.matmul(x, w, precision="highest"), (8, 8), (8, 8), dtype=jnp.bfloat16)
    assert narrow.keys() == {1}
    for chip, cost in ((V5E, 1), (H100, 0.5)):
        assert products(jnp.matmul, (8, 8), (8, 8), chip=chip, dtype=jnp.float8_e4m3fn).keys() == {cost}
    assert products(jnp.matmul, (8, 8), (8, 8), dtype=jnp.int32) == {}


@pytest.mark.parametrize(
    ("function", "read"),
    [
        (lambda x: jnp.sum(x), 400 + 4),
        (lambda x: x.reshape(4, 25)[1] * 2, 100),
        (lambda x: lax.scan(lambda sum, row: (sum + row, None), jnp.zeros(10), x)[0], 400 + 40),
        (lambda x: lax.fori_loop(0, 3, lambda i, sum: sum + x[i], jnp.zeros(10)), 40),
        (lambda x: (x, x), 0),
        (lambda x: x.T, 400 + 400),
        (lambda x: x.reshape(4, 25), 0),  # as a donated argument it stays in its place
        (lambda x: lax.dynamic_update_slice(x, jnp.zeros((1, 10)), (3, 0)), 40),
        (lambda x: lax.dynamic_update_slice(2 * x, jnp.zeros((1, 10)), (3, 0)), 400 + 400),
        (lambda x: x.at[3].set(0.0, mode="promise_in_bounds"), 40),
        (lambda x: lax.fori_loop(0, 3, lambda i, x: x.at[i].set(0.0, mode="promise_in_bounds"), x), 40),
    ],
)
def test_least_bytes(function, read):
    """Of 10 x 10 numbers, all or a part is needed; the result counts if it is computed."""
    assert least_bytes(trace(function, jnp.ones((10, 10)))) == read


CHIP = Chip("chip", "", {}, 100.0, 10.0, memory=1000, cache=0, float32_costs={}, float8_cost=1)
"""It computes 100 operations and moves 10 bytes in a second."""


def report(**changes):
    values = {
        "name": "mine",
        "chip": CHIP,
        "stages": {"compile": 1.0},
        "reason": "",
        "memory": Memory(600, 100, 350, 50, None),
        "flops": 500,
        "least_bytes": 40,
        "products": {3: 200},
    }
    return TargetReport(**{**values, **changes})


def test_the_lower_bound_is_the_larger_of_two_times():
    by_products = report()
    assert (by_products.product_seconds, by_products.byte_seconds) == (6, 4)
    assert by_products.lower_bound == 6
    assert report(least_bytes=80).lower_bound == 8
    assert report(least_bytes=80, chip=replace(CHIP, cache=30)).byte_seconds == 5
    assert report(least_bytes=20, chip=replace(CHIP, cache=30)).byte_seconds == 0
    assert by_products.fits
    assert not report(memory=Memory(600, 100, 550, 50, None)).fits
