"""Functions and networks compiled for a chip; the CPU stands for the chip where libtpu is not needed."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import functional_nn as fnn
from functional_nn.bench import chips
from functional_nn.bench.chips import CHIPS
from functional_nn.bench.network_programs import STEPS, MeasuredNetwork, fit_spec, sweep_spec
from functional_nn.bench.suite import cases_of
from functional_nn.bench.targets import epoch_program, targets
from functional_nn.training.programs import CompiledPrograms


@pytest.fixture(autouse=True)
def strict_promotion():
    """Overrides the rule of other tests, since these train with Optax."""


@pytest.fixture
def network():
    return MeasuredNetwork(fnn.models.mlp(3, hidden=(4,)), fnn.cross_entropy, optax.sgd, (5,), 3)


@pytest.fixture
def cpu_for_chip(monkeypatch):
    monkeypatch.setattr(chips, "device_of", lambda chip: jax.devices("cpu")[0])


@pytest.mark.usefixtures("cpu_for_chip")
def test_arrays_and_shapes_give_one_report():
    shape = jax.ShapeDtypeStruct((4, 8), jnp.float32)
    reports = [
        fnn.bench.target(jnp.matmul, left, np.ones((8, 2), np.float32), chip="tpu-v5e")
        for left in (shape, jnp.ones((4, 8)))
    ]
    for report in reports:
        assert (report.name, report.compiles, report.flops) == ("matmul", True, 2 * 4 * 8 * 2)
        assert report.least_bytes == report.bytes == 4 * (4 * 8 + 8 * 2 + 4 * 2)
    assert reports[0].to_dict().keys() == reports[1].to_dict().keys()


@pytest.mark.usefixtures("cpu_for_chip")
def test_what_does_not_compile_is_reported(monkeypatch):
    def failing(lowered, options):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of memory: 2.5G. HLO module: f.\nSee a page.")

    monkeypatch.setattr(chips, "compile_lowered", failing)
    report = fnn.bench.target(jnp.sin, jnp.ones(3), chip="tpu-v5e")
    assert (report.compiles, report.reason, report.memory) == (False, "Ran out of memory: 2.5G.", None)
    assert report.flops == 3


@pytest.mark.parametrize(
    ("chip", "module", "extra"),
    [("tpu-v5e", "libtpu", "tpu-target"), ("cuda-h100", "jax_cuda13_plugin", "cuda-target")],
)
def test_without_the_compiler(monkeypatch, chip, module, extra):
    chips.device_of.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(fnn.InputError, match=rf"pip install 'functional-nn\[{extra}\]'"):
        fnn.bench.target(jnp.sin, jnp.ones(3), chip=chip)


@pytest.mark.parametrize("members", [None, 2])
def test_an_epoch_is_the_program_that_is_trained(network, members):
    spec = fit_spec(network, 2, "float32") if members is None else sweep_spec(network, 2, "float32", members)
    made = epoch_program(spec)
    assert str(jax.jit(made.function).trace(*made.arguments).jaxpr) == str(
        CompiledPrograms(spec).jaxprs["full_batches"]
    )


@pytest.mark.usefixtures("cpu_for_chip")
def test_the_programs_of_a_network(network):
    cases = cases_of(["step", "train", "sweep"], [2], ["float32"], [3])
    step, train, sweep = (one.report for one in targets(network, cases, CHIPS["tpu-v5e"]))
    assert (step.steps, train.steps, sweep.steps) == (1, STEPS, STEPS)
    by_hand = 2 * 2 * (2 * 5 * 4 + 3 * 4 * 3)
    assert sum(product.flops for product in step.products) == by_hand
    assert sum(product.flops for product in train.products) == STEPS * by_hand
    assert sum(product.flops for product in sweep.products) == 3 * STEPS * by_hand
    assert train.findings.findings == ()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "module"), [("tpu-v5e", "libtpu"), ("cuda-h100", "jax_cuda13_plugin")])
def test_an_mlp_compiles_for_a_chip(name, module, monkeypatch):
    pytest.importorskip(module, reason="needs the extra tpu-target or cuda-target")
    monkeypatch.delenv("XLA_FLAGS", raising=False)  # libtpu ends a process if one of them is for a CPU
    network = MeasuredNetwork(fnn.models.mlp(10), fnn.cross_entropy, optax.adam, (28, 28, 1), 10)
    for one in targets(network, cases_of(["step", "train"], [8], ["float32"]), CHIPS[name]):
        assert one.report.compiles, one.report.reason
        assert one.report.fits
