"""The evaluation of traced programs: the same results as JAX, and a hook that sees and may change every equation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from functional_nn.jaxprs.evaluate import bind, evaluate
from functional_nn.jaxprs.walk import CALLS, called_program, inner_programs


@jax.custom_vjp
def doubled(x):
    return 2 * x


doubled.defvjp(lambda x: (doubled(x), None), lambda _, y_bar: (2 * y_bar,))


@jax.custom_jvp
def tripled(x):
    return 3 * x


tripled.defjvp(lambda primals, tangents: (tripled(*primals), 3 * tangents[0]))


@jax.custom_batching.custom_vmap
def halved(x):
    return x / 2


halved.def_vmap(lambda size, batched, x: (x / 2, True))


def scanned(x):
    """Constants, a carry, inputs and outputs."""
    carry, ys = lax.scan(lambda carry, row: (carry * row + x[0], carry - row), x[1], x, reverse=True)
    return carry, ys


def looped(x):
    """A condition and a body that both have constants."""
    limit, factor = x.sum() + 10, x[0, 0] ** 2 + 1.5
    return lax.while_loop(lambda carry: carry[0] < limit, lambda carry: (carry[0] + 1, carry[1] * factor), (0.0, x))[1]


def branched(x):
    place = (x[0, 0] > 0).astype(int) + 1
    return lax.switch(place, [jnp.sin, jnp.cos, jnp.exp], x) + lax.cond(x[0, 0] > 0, jnp.sin, jnp.cos, x)


PROGRAMS = {
    "jit": jax.jit(jnp.sin),
    "checkpoint": jax.checkpoint(jnp.sin),
    "custom_vjp": doubled,
    "custom_jvp": tripled,
    "custom_vmap": halved,
    "scan": scanned,
    "while": looped,
    "cond": branched,
    "constants": lambda x: x + np.arange(5.0, dtype=np.float32)[None] + 1,
    "all in each other": lambda x: jax.jit(lambda x: scanned(branched(jax.checkpoint(looped)(doubled(x)))))(x),
}
X = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5)), jnp.float32)


@pytest.mark.parametrize("function", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_results_are_those_of_jax(function):
    program = jax.make_jaxpr(function)(X)
    expected = jax.tree.leaves(function(X))
    for found in (
        evaluate(program, [X]),
        evaluate(program, [X], lambda path, equation, operands, compute: compute(operands)),
    ):
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-6)
            assert ours.dtype == theirs.dtype
    traced = jax.jit(jax.vmap(lambda x: evaluate(program, [x])))(jnp.stack([X, -X]))
    for ours, theirs in zip(traced, expected, strict=True):
        np.testing.assert_allclose(ours[0], theirs, rtol=1e-5)


@pytest.mark.parametrize("name", ["jit", "checkpoint", "custom_vjp", "custom_jvp", "custom_vmap"])
def test_every_call_is_known(name):
    (equation,) = jax.make_jaxpr(PROGRAMS[name])(X).eqns
    assert equation.primitive.name in CALLS
    assert [program.jaxpr for program in inner_programs(equation)] == [called_program(equation).jaxpr]


def test_a_hook_sees_every_equation_once_for_each_time_that_it_is_traced():
    seen = []

    def hook(path, equation, operands, compute):
        seen.append((path, equation.primitive.name))
        return compute(operands)

    evaluate(jax.make_jaxpr(lambda x: jax.jit(lambda x: branched(x) * 2)(jnp.sin(x)))(X), [X], hook)
    names = [name for _, name in seen]
    assert names[:2] == ["sin", "jit"]
    assert {"cos", "exp", "cond", "mul"} <= set(names)
    paths = [path for path, _ in seen]
    assert len(set(paths)) == len(paths)
    assert paths[:2] == [(0,), (1,)]
    assert all(path[:2] == (1, 0) for path in paths[2:])
    assert {path[3] for path in paths if len(path) == 5} == {0, 1, 2}


def test_a_hook_may_change_operands_and_results():
    def hook(path, equation, operands, compute):
        if equation.primitive.name == "sin":
            return bind(equation, [operands[0] + 1])
        if equation.primitive.name == "mul":
            return [-result for result in compute(operands)]
        return compute(operands)

    program = jax.make_jaxpr(lambda x: lax.scan(lambda carry, row: (carry, jnp.sin(row) * 2), 0.0, x)[1])(X)
    np.testing.assert_allclose(evaluate(program, [X], hook)[0], -2 * jnp.sin(X + 1), rtol=1e-6)
