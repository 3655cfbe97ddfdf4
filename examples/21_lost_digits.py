"""Ten small training runs with jax.grad, and with formulas that keep the digits which jax.grad loses.

    python examples/21_lost_digits.py [NUMBER …] [--quick]

docs/explanation/where_autodiff_loses_digits.md has ten functions of JAX and Optax that have wrong digits in float32, or
whose derivatives have. You learn what each of them does to training. Two runs begin with the same parameters: one uses
jax.grad of the usual code, and the other one uses a formula, in most cases that of this package. With jax.grad, some
runs stay where they begin, some become NaN, one goes astray, and one is not harmed. All ten take about half a minute.
"""

import argparse
from collections import namedtuple

import jax
import jax.numpy as jnp
import optax

import functional_nn as fnn


def layer(layer):
    """A layer without parameters as a function. ``jax.grad`` of it uses the layer's formula."""
    layer = fnn.with_hand_vjp(layer)
    return lambda x: layer.apply({}, {}, jnp.atleast_2d(x), train=True)[0].reshape(x.shape)


def loss(loss, labels):
    """A loss as a function of the outputs. ``jax.grad`` of it uses the loss's formula."""
    function = jax.custom_vjp(lambda y: loss(y, labels))
    function.defvjp(lambda y: (loss(y, labels), y), lambda y, loss_bar: (loss_bar * loss.gradient(y, labels),))
    return lambda y: function(jnp.atleast_2d(y))


def error(function, target):
    """The mean squared distance of a function from its target."""
    return lambda x: jnp.mean(jnp.square(function(x) - target))


def network(width, activation, outputs):
    return fnn.chain(fnn.dense(width), activation, fnn.dense(outputs))


# 3: all sums of two numbers modulo 11. Each number is a row with a single 1.
PAIRS = jnp.stack(jnp.divmod(jnp.arange(121), 11), axis=1)
SUMS = PAIRS.sum(axis=1) % 11


def sum_loss(cross_entropy):
    x = jax.nn.one_hot(PAIRS, 11).reshape(121, 22)
    return lambda params: jnp.mean(cross_entropy(network(32, fnn.relu, 11).apply(params, {}, x, train=True)[0]))


def newton(loss):
    """4: Newton's method, with steps of at most 1."""
    return optax.stateless(lambda gradient, x: -jnp.clip(gradient / jax.grad(jax.grad(loss))(x), -1, 1))


def repetition_loss(activation):
    """6: a network repeats its input. The missing input is 1e20, as in files of climate data, and is not counted."""
    x = jnp.array([[0.5], [1.0], [-1.0], [2.0], [1e20]])
    y = lambda params: network(8, activation, 1).apply(params, {}, x, train=True)[0]  # noqa: E731
    return lambda params: jnp.sum(jnp.where(x < 1e20, y(params) - x, 0) ** 2) / 4


# 7: the direction that the outputs of a linear layer should have.
DIRECTION = jnp.array([1.0, 2.0, 3.0])

# 8: air pressures in pascals, eight in a row, and by how many standard deviations they rise from the first to the last.
PRESSURES = 101325 + 16 * jax.random.normal(jax.random.key(0), (256, 8))
RISES = jax.nn.standardize(PRESSURES - 101325) @ jnp.array([-1.0, 0, 0, 0, 0, 0, 0, 1])


def second_element(normalize):
    """9: a vector is divided by its norm. Its second element has the trained scale e^s."""
    return error(lambda s: normalize(jnp.stack([jnp.ones(()), jnp.exp(s)])), 0.5)


def density_loss(squareplus):
    """10: -log of a normal density, 0.001 from its mean. Its standard deviation is squareplus(10,000 w)."""
    return lambda w: jnp.log(squareplus(1e4 * w)) + jnp.square(0.001 / squareplus(1e4 * w)) / 2


# What is trained, its loss by the usual code and by a formula, its first parameters, and how it is trained.
Run = namedtuple("Run", "name plain formula start steps optimizer", defaults=(2000, lambda loss: optax.adam(0.01)))
RUNS = [
    Run("sigmoid unit, sum 17, target 0.5", error(jax.nn.sigmoid, 0.5), error(layer(fnn.sigmoid), 0.5), 17.0),
    Run("tanh unit, sum 9.5, target 0.5", error(jnp.tanh, 0.5), error(layer(fnn.tanh), 0.5), 9.5),
    Run(
        "network that adds modulo 11",
        sum_loss(lambda logits: optax.losses.softmax_cross_entropy_with_integer_labels(logits, SUMS)),
        sum_loss(loss(fnn.cross_entropy, SUMS)),
        network(32, fnn.relu, 11).init(jax.random.key(0), (22,))[0],
        steps=20_000,
    ),
    Run(
        "Newton's method, logit -17, label 1",
        lambda x: optax.losses.sigmoid_binary_cross_entropy(x, 1.0),
        loss(fnn.binary_cross_entropy, jnp.ones((1, 1))),
        -17.0,
        steps=30,
        optimizer=newton,
    ),
    Run("GELU unit, sum -5.2, target -0.1", error(jax.nn.gelu, -0.1), error(layer(fnn.gelu_tanh), -0.1), -5.2),
    Run(
        "GELU network, missing value 1e20",
        repetition_loss(jax.nn.gelu),
        repetition_loss(fnn.with_hand_vjp(fnn.gelu_tanh)),
        network(8, jax.nn.gelu, 1).init(jax.random.key(0), (1,))[0],
    ),
    Run(
        "direction, features of 1e-20",
        lambda weight: 1 - optax.losses.cosine_similarity(1e-20 * weight, DIRECTION),
        lambda weight: loss(fnn.cosine_distance, DIRECTION[None])(1e-20 * weight),
        jnp.ones(3),
    ),
    Run(
        "standardized pressures near 101,325",
        error(lambda weight: jax.nn.standardize(PRESSURES) @ weight, RISES),
        error(lambda weight: layer(fnn.layer_norm(scale=False, bias=False))(PRESSURES) @ weight, RISES),
        jnp.zeros(8),
    ),
    Run(
        "(1, e^s) divided by its norm, s = 9",
        second_element(lambda x: x[1] / jnp.linalg.norm(x)),
        second_element(lambda x: 1 - loss(fnn.cosine_distance, jnp.array([[0.0, 1.0]]))(x)),
        9.0,
    ),
    Run(
        "standard deviation by squareplus",
        density_loss(jax.nn.squareplus),
        density_loss(lambda x: 2 / (jnp.sqrt(x * x + 4) - x)),  # the same for x < 0, where nothing is subtracted
        -1.0,
    ),
]


def trained(run, loss, steps):
    """The parameters after training."""
    optimizer = run.optimizer(loss)

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.jit(lambda start: jax.lax.scan(step, (start, optimizer.init(start)), length=steps)[0][0])(run.start)


def main(numbers, most_steps):
    for number in numbers:
        run = RUNS[number - 1]
        run = run._replace(start=jax.tree.map(jnp.asarray, run.start))
        ends = [trained(run, loss, min(run.steps, most_steps)) for loss in (run.plain, run.formula)]
        # All three by the formula, since the usual code says 0 where it loses all digits.
        start, plain, formula = (f"{run.formula(params):.1e}" for params in (run.start, *ends))
        print(f"{number:2} {run.name:36} start {start}, jax.grad {plain}, formula {formula}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("numbers", nargs="*", type=int, default=range(1, 11), help="the findings; without them, all")
    parser.add_argument("--quick", action="store_true", help="a hundred steps")
    options = parser.parse_args()
    main(options.numbers, 100 if options.quick else 20_000)
