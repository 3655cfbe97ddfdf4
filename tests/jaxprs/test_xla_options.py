"""The options of XLA, and compiling as if JAX's cache on disk were not there, whether it was looked into or not."""

import os
import re
from dataclasses import replace
from functools import reduce
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import functional_nn as fnn
from functional_nn.jaxprs.xla_options import (
    FIRST_LEVEL,
    ONE_BY_ONE,
    QUICK,
    RUN_ONCE,
    SUMS_AND_PRODUCTS,
    compile_lowered,
    compiling_anew,
    quick_jit,
    step_options,
    sum_options,
)
from functional_nn.training import programs
from functional_nn.training.precision import as_precision
from functional_nn.training.programs import ProgramSpec
from functional_nn.training.recipe import Recipe

LIBRARY = "xla_cpu_experimental_ynn_fusion_type"


def products_are_the_librarys(function, *shapes, loops=0):
    program = jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes))
    return "DOT" in step_options(program, loops)[LIBRARY]


@pytest.mark.parametrize(
    ("shapes", "library"),
    [
        (((64, 784), (784, 128)), False),
        (((64, 784), (784, 129)), True),
        (((1000, 3), (3,)), False),
        (((0, 200), (200, 0)), False),
        (((128, 128), (128, 128)), True),
        (((1, 129), (129, 128)), False),
    ],
)
def test_thin_products_that_are_not_small_stay_with_xla(shapes, library):
    assert products_are_the_librarys(jax.jit(jnp.matmul), *shapes) is library


@pytest.mark.parametrize("loops", [1, 2])
def test_loops_around_the_steps_are_told_from_loops_in_them(loops):
    def looped(step):
        return lambda x, w: jax.lax.scan(lambda x, _: (step(x, w), None), x, length=3)[0]

    steps = reduce(lambda step, _: looped(step), range(loops), lambda x, w: x @ w @ w.T)
    assert not products_are_the_librarys(steps, (4, 200), (200, 8), loops=loops)
    assert products_are_the_librarys(steps, (4, 200), (200, 8), loops=loops - 1)


def test_loops_in_the_steps_are_worth_optimizing():
    x = jnp.ones((3, 4))
    assert FIRST_LEVEL.items() <= step_options(jax.make_jaxpr(jnp.sin)(x), loops=0).items()
    for looped in (lambda x: jax.lax.map(jnp.sin, x), lambda x: jax.lax.while_loop(lambda x: x[0, 0] < 9, jnp.exp, x)):
        options = step_options(jax.make_jaxpr(looped)(x), loops=0)
        assert not FIRST_LEVEL.keys() & options.keys()
        assert "DOT" in options[LIBRARY]


def options_for_sums(function, *shapes):
    return sum_options(jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)))


@pytest.mark.parametrize(
    ("function", "shapes", "short"),
    [
        (jnp.sum, [(256,)], True),
        (jnp.sum, [(257,)], False),
        (lambda x: (x.sum(axis=0), x.sum(axis=1)), [(256, 500)], False),
        (lambda x: x.sum(axis=1), [(0, 3)], True),
        (jnp.dot, [(256,), (256,)], True),
        (jnp.dot, [(3, 257), (257,)], False),
        (lambda x, w: (x @ w).sum(), [(3, 257), (257,)], True),
        (jax.vmap(jnp.dot), [(4, 257), (4, 257)], False),
        (lambda x: jax.lax.scan(lambda total, row: (total + row.sum(), None), 0.0, x)[0], [(3, 257)], False),
        (lambda x: jax.lax.scan(lambda total, row: (total + row.sum(), None), 0.0, x)[0], [(257, 3)], True),
    ],
)
def test_short_sums_go_one_by_one(function, shapes, short):
    assert options_for_sums(function, *shapes) == (ONE_BY_ONE if short else {})


def test_one_by_one_is_a_kernel_less():
    lowered = jax.jit(jnp.sum).lower(jnp.ones(200))
    assert "reduce-window" in lowered.compile().as_text()
    compiled = lowered.compile(ONE_BY_ONE)
    assert "reduce-window" not in compiled.as_text()
    assert compiled(jnp.ones(200)) == 200


def test_a_gradient_of_a_maximum_is_not_nan():
    """At level 0, LLVM rounds a row in two ways, and none of its elements would equal its maximum."""

    def sum_of_maxima(x):
        return jnp.sum(jnp.max(jax.lax.cond(x[0, 0] < 9, lambda x: 1.7 * x + 0.3, jnp.tanh, x), 1))

    x = jax.random.normal(jax.random.key(0), (9, 12))
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", False)  # as users have it
    try:
        for function in (sum_of_maxima, lambda x: jnp.sum(jnp.max(1.7 * x + 0.3, 1))):
            assert np.all(np.isfinite(quick_jit(jax.grad(function))(x)))
    finally:
        jax.config.update("jax_disable_most_optimizations", before)


def test_each_program_of_a_run_has_its_own_options(monkeypatch):
    """The full batches have XLA's newer kernels. No program with a gradient is compiled without optimization."""
    found = {}

    def compile_lowered(lowered, options):
        found[re.search(r"module @jit_+(\w+)", lowered.as_text()).group(1)] = options
        return SimpleNamespace(memory_analysis=lambda: None)

    monkeypatch.setattr(programs, "compile_lowered", compile_lowered)
    x, labels = jax.ShapeDtypeStruct((101, 200), jnp.float32), jax.ShapeDtypeStruct((101,), jnp.int32)
    recipe = Recipe(fnn.dense(3), fnn.cross_entropy, optax.sgd(0.1))
    spec = ProgramSpec(recipe, 2, as_precision("float32"), fnn.data.Split(x, labels, x, labels))
    programs.Programs(spec, programs.ProgramCache())  # nothing is compiled
    steps = found["full_batches"]
    assert steps[LIBRARY] == "LIBRARY_FUSION_TYPE_REDUCE"
    assert FIRST_LEVEL.items() <= steps.items()
    assert not steps.keys() & QUICK.keys()
    assert found["last_batch"] == steps | QUICK
    assert (found["start"], found["draw_order"]) == (QUICK | RUN_ONCE, QUICK | FIRST_LEVEL)
    assert found["evaluate"] == QUICK | SUMS_AND_PRODUCTS | ONE_BY_ONE


def test_programs_that_run_side_by_side_leave_no_tasks_to_the_thread_pool(monkeypatch):
    """XLA writes the number of tasks of an operation into its program."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("with one core, no operation is divided")
    monkeypatch.setattr(programs, "on_each", lambda devices: None)  # tests have one device
    x, labels = jax.ShapeDtypeStruct((512, 784), jnp.float32), jax.ShapeDtypeStruct((512,), jnp.int32)
    recipe = Recipe(fnn.chain(fnn.dense(512), fnn.tanh, fnn.dense(3)), fnn.cross_entropy, optax.sgd(0.1))
    alone = ProgramSpec(recipe, 512, as_precision("float32"), fnn.data.Split(x, labels))
    specs = alone, replace(alone, in_threads=True), replace(alone, devices=2)
    texts = [programs.Programs(spec).compiled["full"].as_text() for spec in specs]
    tasks = [re.search(r'"outer_dimension_partitions":\["\d', text) is not None for text in texts]
    assert tasks == [True, False, False]


def test_an_option_that_xla_does_not_have_is_left_out():
    lowered = jax.jit(lambda x: x * 2).lower(jnp.ones(3))
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_of_tomorrow"):
        lowered.compile({"xla_of_tomorrow": 1})
    assert compile_lowered(lowered, {"xla_of_tomorrow": 1, **RUN_ONCE})(jnp.ones(3)).tolist() == [2, 2, 2]
    with pytest.raises(jax.errors.JaxRuntimeError, match="not a valid"):
        compile_lowered(lowered, {"xla_cpu_parallel_codegen_split_count": "x"})


@pytest.fixture
def hits():
    """A list that grows by one for each program that JAX finds in its cache."""
    found = []

    def listen(event, **about):
        if event.endswith("/cache_hits"):
            found.append(event)

    jax.monitoring.register_event_listener(listen)
    yield found
    jax.monitoring.clear_event_listeners()


def test_compiling_anew_finds_nothing_and_writes_nothing(cache_of_jax, hits):
    def compile(factor):
        jax.jit(lambda x: jnp.sin(x) * factor).lower(jnp.ones(3)).compile()
        return len(hits), len(list(cache_of_jax.glob("*-cache")))

    jnp.ones(3)
    before, files = compile(2)
    assert compile(2) == (before + 1, files)
    with compiling_anew():
        assert compile(2) == (before + 1, files)
        assert compile(3) == (before + 1, files)
    assert compile(2) == (before + 2, files)
    assert compile(3) == (before + 2, files + 1)
