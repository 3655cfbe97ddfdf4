"""Every mutant is the formula with one error, the population is what each of them gives alone, and none is missed."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import functional_nn as fnn
from functional_nn.core.errors import InputError
from functional_nn.gradients.mutation.mutants import mutate

pytestmark = pytest.mark.usefixtures("float64")


def drawn(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape) + 2)


def survivors(mutants, formula, *arguments):
    """The mutants that give what the formula gives."""
    bars = jax.tree.leaves(mutants.evaluate(*arguments))
    truth = [np.asarray(leaf) for leaf in jax.tree.leaves(formula(*arguments))]
    same = [
        [np.allclose(one, true, rtol=1e-11, atol=0, equal_nan=False) for one in np.asarray(bar)]
        for bar, true in zip(bars, truth, strict=True)
    ]
    return [str(mutant) for mutant in mutants if all(leaf[mutant.number] for leaf in same)]


def texts(mutants, families=("equation",)):
    return [mutant.description for mutant in mutants if mutant.family in families]


def dense_backward(residuals, y_bar):
    x, weight = residuals
    return {"weight": x.T @ y_bar / x.shape[0], "bias": y_bar.mean(0)}, y_bar @ weight.T


def test_population_is_what_each_mutant_gives_alone():
    arguments = (drawn(5, 3), drawn(3, 4, seed=1)), drawn(5, 4, seed=2)
    mutants = mutate(dense_backward, *arguments)
    together = mutants.evaluate(*arguments)
    for mutant in list(mutants)[::5]:
        alone = mutant(*arguments)
        jax.tree.map(lambda a, b, k=mutant.number: np.testing.assert_allclose(a[k], b, rtol=1e-13), together, alone)
    assert survivors(mutants, dense_backward, *arguments) == []


def test_equivalent_mutants_are_seen_to_survive():
    def formula(x, y_bar):
        return jnp.where(x > 0, x, jnp.ones_like(x)) * y_bar

    arguments = drawn(5) ** 2, drawn(5, seed=1)
    found = survivors(mutate(formula, *arguments), formula, *arguments)
    found = [text.split(": ", 1)[1] for text in found if "select_n" in text]
    assert found == ["select_n: as if the condition were always true"]


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        (lambda x, y_bar: x + y_bar, {"add: first term dropped", "add: second term dropped", "add: + became −"}),
        (lambda x, y_bar: x / y_bar, {"div: divisor dropped", "div: inverted", "div: numerator dropped"}),
        (lambda x, y_bar: y_bar / 7, {"div: 7 became 6", "div: 7 became 8"}),
        (lambda x, y_bar: -jnp.exp(x) * y_bar, {"neg: dropped", "exp: dropped"}),
        (lambda x, y_bar: y_bar / jnp.sqrt(x * x + 1e-5), {"sqrt: dropped", "add: second term dropped"}),
        (lambda x, y_bar: x**3 * y_bar, {"integer_pow: power 3 became 2", "integer_pow: power 3 became 4"}),
        (lambda x, y_bar: jnp.where(x > 2, x, y_bar), {"select_n: branches exchanged"}),
        (lambda x, y_bar: (x > 2).astype(x.dtype) * y_bar, {"gt: inverted"}),
        (lambda x, y_bar: jnp.cumsum(x * y_bar, 0), {"cumsum: direction reversed"}),
        (lambda x, y_bar: x[::-1] * y_bar, {"rev: dropped"}),
        (lambda x, y_bar: jnp.outer(x, y_bar) @ x, {"dot_general: first operand off by one along axis 1"}),
        (lambda x, y_bar: jnp.concatenate([x, y_bar]), {"concatenate: parts 1 and 2 exchanged"}),
        (
            lambda x, y_bar: jnp.pad(y_bar[1:], (1, 0)),
            {"pad: off by one along axis 0", "slice: off by one along axis 0"},
        ),
        (
            lambda x, y_bar: jnp.zeros(3).at[jnp.array([1, 1, 0, 2, 1])].add(y_bar),
            {"scatter-add: repeated indices overwrite each other"},
        ),
    ],
)
def test_equations_have_their_mutants_and_all_die(formula, expected):
    arguments = drawn(5), drawn(5, seed=1)
    mutants = mutate(formula, *arguments)
    assert expected <= set(texts(mutants))
    assert survivors(mutants, formula, *arguments) == []


def looped(x, y_bar):
    def step(h_bar, inputs):
        x_t, y_t = inputs
        h_bar = jnp.tanh(h_bar * x_t) + y_t
        return h_bar, h_bar * x_t

    return lax.scan(step, y_bar[0], (x, y_bar), reverse=True)[1]


@jax.custom_vjp
def custom(x):
    return jnp.exp(x)


custom.defvjp(lambda x: (custom(x), x), lambda x, y_bar: (y_bar,))


@pytest.mark.parametrize(
    ("formula", "inside"),
    [
        (looped, "tanh: dropped"),
        (lambda x, y_bar: jax.jit(lambda a: a * y_bar)(x), "mul: second factor dropped"),
        (lambda x, y_bar: custom(x) * y_bar, "exp: dropped"),
        (lambda x, y_bar: jax.checkpoint(jnp.cos)(x) * y_bar, "cos: became sin"),
        (lambda x, y_bar: lax.cond(x[0] > 0, jnp.sin, jnp.exp, x) * y_bar, "sin: dropped"),
    ],
    ids=["scan", "jit", "custom_vjp", "checkpoint", "cond"],
)
def test_equations_inside_of_others_are_mutated(formula, inside):
    arguments = drawn(5) / 3, drawn(5, seed=1)
    mutants = mutate(formula, *arguments)
    assert inside in texts(mutants)
    together = mutants.evaluate(*arguments)
    (number,) = [m.number for m in mutants if m.description == inside][:1]
    assert not np.allclose(together[number], formula(*arguments))
    np.testing.assert_allclose(together[number], jax.jit(mutants[number])(*arguments), rtol=1e-12)


def test_time_is_mutated():
    arguments = drawn(5, 3), drawn(5, 3, seed=1)
    mutants = mutate(looped, *arguments)
    steps = {"scan: input 1 one time step off", "scan: output 1 one time step off", "scan: carry 1 starts from 0"}
    assert steps | {"scan: the loop runs in the other direction"} <= set(texts(mutants))
    assert survivors(mutants, looped, *arguments) == []


def test_a_loop_that_might_never_end_is_left_alone():
    def halved(x, y_bar):
        return lax.while_loop(lambda a: jnp.max(a) > 0.1, lambda a: a / 2, x) * y_bar

    mutants = mutate(halved, drawn(3), drawn(3))
    assert not [text for text in texts(mutants) if text.startswith("div")]
    mutants.evaluate(drawn(3), drawn(3))


def test_places_are_lines_of_the_one_who_wrote_the_formula():
    def formula(x, y_bar):
        return jnp.where(jnp.mean(x) > 0, x, y_bar)

    lines = Path(__file__).read_text("utf-8").splitlines()
    line = next(k for k, text in enumerate(lines, 1) if "jnp.where(jnp.mean(x)" in text)
    found = {mutant.place for mutant in mutate(formula, drawn(5), drawn(5)) if mutant.family != "bar"}
    assert found == {f"test_mutants.py:{line} ({formula.__qualname__})"}


def test_the_formula_of_a_child_has_its_mutants_in_the_check_of_the_child():
    net = fnn.compose({"child": fnn.tanh}, lambda net, x: net.child(x) * x)
    _, _, residuals = net.forward({}, {}, drawn(5), train=True)
    found = [mutant for mutant in mutate(net.backward, residuals, drawn(5)) if mutant.family != "bar"]
    assert found
    assert {Path(__file__).name} == {mutant.place.partition(":")[0] for mutant in found}


def test_bars_have_their_mutants():
    def formula(x, mask, y_bar):
        return {"a": y_bar * x, "b": x, "mask": mask, "c": (y_bar @ y_bar.T)[0]}

    arguments = drawn(4, 4), jnp.arange(4), drawn(4, 4, seed=1)
    mutants = mutate(formula, *arguments)
    found = [(mutant.place, mutant.description) for mutant in mutants if mutant.family == "bar"]
    assert {place for place, _ in found} == {"a", "b", "c"}
    expected = {"sign flipped", "factor 2", "left out", "axes 0 and 1 exchanged", "off by one along axis 1"}
    expected |= {"largest component × (1 + 1e-6)", "middle component × (1 + 1e-6)", "quarters 2 and 3 exchanged"}
    assert expected | {"divided by the batch size 4"} <= {text for place, text in found if place == "a"}
    one = mutants.evaluate(*arguments)
    number = found.index(("a", "largest component × (1 + 1e-6)"))
    off = np.asarray(one["a"][number]) / np.asarray(formula(*arguments)["a"]) - 1
    np.testing.assert_allclose(np.sort(off.ravel())[[-2, -1]], [0, 1e-6], atol=1e-12)
    np.testing.assert_array_equal(one["b"][number], arguments[0])


def test_limit_keeps_the_bars_and_the_same_draw():
    arguments = drawn(5, 3), drawn(5, 3, seed=1)
    everything = mutate(looped, *arguments)
    some = mutate(looped, *arguments, limit=7, seed=3)
    assert texts(some, ["bar"]) == texts(everything, ["bar"])
    assert len(texts(some)) == 7
    assert [str(m) for m in some] == [str(m) for m in mutate(looped, *arguments, limit=7, seed=3)]
    assert [str(m) for m in some] != [str(m) for m in mutate(looped, *arguments, limit=7, seed=4)]
    assert [mutant.number for mutant in some] == list(range(len(some)))
    assert survivors(some, looped, *arguments) == []
    with pytest.raises(InputError, match="limit"):
        mutate(looped, *arguments, limit=-1)


def test_every_mutant_of_a_layer_dies_or_is_known():
    """The known ones: masks that hold everywhere, numbers that are 0 or 1 here."""
    layer, shape = fnn.layer_norm(), (4,)
    params, state = layer.init(jax.random.key(0), shape)
    params = jax.tree.map(lambda leaf: drawn(*leaf.shape) / 3, params)
    y, _, pullback = layer.vjp(params, state, drawn(7, *shape, seed=1), train=True)
    arguments = (*pullback.args, drawn(*y.shape, seed=2))
    mutants = mutate(layer.backward, *arguments)
    assert len(mutants) >= 40
    found = survivors(mutants, partial(layer.backward), *arguments)
    assert len(found) <= 0.02 * len(mutants), found
