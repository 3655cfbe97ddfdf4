"""Hand-derived rules of JAX's operations: against ``jax.vjp``, and against finite differences in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import functional_nn as fnn
from functional_nn.jaxprs.backward_rules import INDEXED, ONE_OPERAND, SEVERAL_OPERANDS, TWO_OPERANDS, WITHOUT_DERIVATIVE

pytestmark = pytest.mark.usefixtures("float64")

MATRIX = (3, 4)
ELEMENTWISE = {
    "neg": jnp.negative,
    "abs": jnp.abs,
    "square": jnp.square,
    "integer_pow": lambda x: x**3,
    "integer_pow of -2": lambda x: lax.integer_pow(x, -2),
    "sqrt": lambda x: jnp.sqrt(x * x + 1),
    "rsqrt": lambda x: lax.rsqrt(x * x + 1),
    "exp": jnp.exp,
    "exp2": jnp.exp2,
    "expm1": jnp.expm1,
    "log": lambda x: jnp.log(x * x + 1),
    "log1p": lambda x: jnp.log1p(x * x),
    "sin": jnp.sin,
    "cos": jnp.cos,
    "tanh": jnp.tanh,
    "logistic": jax.nn.sigmoid,
    "erf": lax.erf,
    "erfc": lax.erfc,
}
OF_ONE = {
    "reduce_sum": lambda x: jnp.sum(x, axis=0) + jnp.sum(x),
    "mean and variance": lambda x: jnp.mean(x, axis=1, keepdims=True) * jnp.var(x, axis=1, keepdims=True),
    "reduce_max": lambda x: jnp.max(x, axis=1) * jnp.max(x),
    "reduce_min": lambda x: jnp.min(x, axis=(0, 1)),
    "cumsum": lambda x: jnp.cumsum(x, axis=0) + lax.cumsum(x, 1, reverse=True),
    "broadcast_in_dim": lambda x: (
        jnp.broadcast_to(x[:, None, :1], (3, 2, 5)) * jnp.broadcast_to(x[0, 0], (5,))[None, None]
    ),
    "reshape": lambda x: x.reshape(2, 6),
    "squeeze": lambda x: jnp.squeeze(x[:1], 0),
    "expand_dims": lambda x: jnp.expand_dims(x, (0, 2)),
    "transpose": lambda x: jnp.transpose(x.reshape(3, 2, 2), (2, 0, 1)),
    "rev": lambda x: x[::-1] + jnp.flip(x, 1),
    "slice": lambda x: x[1:, ::2],
    "slice with steps": lambda x: lax.slice(x, (0, 0), (3, 4), (2, 3)),
    "slice of one": lambda x: x[-1, 1],
    "empty slice": lambda x: jnp.concatenate([x, x[2:2]]),
    "split": lambda x: (lambda a, b, c: a * c)(*jnp.split(x, [1, 3], axis=1)),
    "convert_element_type": lambda x: x.astype(jnp.float32).astype(jnp.float64),
    "copy": lambda x: jnp.array(x, copy=True),
    "softmax": lambda x: jax.nn.softmax(x, axis=-1),
    "log_softmax": lambda x: jax.nn.log_softmax(x, axis=0),
    "norm": lambda x: jnp.linalg.norm(x, axis=1),
    "relu": lambda x: fnn.relu(x) * jax.nn.relu(-x + 1),
    "gelu": fnn.gelu,
    "silu": fnn.silu,
    "stop_gradient": lambda x: x * lax.stop_gradient(x),
    "floor": lambda x: x * jnp.floor(x) + jnp.ceil(x) + jnp.round(x) + jnp.sign(x),
    "select_n": lambda x: jnp.where(x > 0, jnp.sin(x), x * x),
    "select of three": lambda x: lax.select_n(jnp.arange(12).reshape(3, 4) % 3, x, 2 * x, x * x),
    "clamp": lambda x: jnp.clip(x, -0.5, 0.5) + lax.clamp(-0.5, x, 0.5),
    "pad": lambda x: lax.pad(x, 1.0, ((1, 2, 0), (0, -1, 2))),
    "pad by zero": lambda x: jnp.pad(x, 1),
    "concatenate": lambda x: jnp.concatenate([x, 2 * x, x[:1]], axis=0),
    "stack": lambda x: jnp.stack([x, x * x], axis=1),
    "gather": lambda x: x[:, jnp.array([2, 0, 2, -1])],
    "gather rows": lambda x: jnp.take(x, jnp.array([[0, 2], [2, 2]]), axis=0),
    "gather along an axis": lambda x: jnp.take_along_axis(x, jnp.argsort(x, axis=1), axis=1),
    "gather outside": lambda x: jnp.take(x, jnp.array([1, 7]), axis=0, mode="clip"),
    "gather with zeros": lambda x: jnp.take(x, jnp.array([1, 7]), axis=0, mode="fill", fill_value=0),
    "scatter-add": lambda x: (
        x.at[jnp.array([0, 2, 0])].add(2 * x) * jnp.zeros((3, 4)).at[:, jnp.array([1, 3, 1, 9])].add(x)
    ),
    "segment sum": lambda x: jax.ops.segment_sum(x, jnp.array([1, 0, 1]), num_segments=2),
    "used often": lambda x: x * x + x * jnp.tanh(x) - x,
    "integers": lambda x: x * jnp.arange(4)[None] + jnp.argmax(x, axis=1)[:, None],
}
OF_TWO = {
    "add": jnp.add,
    "sub": jnp.subtract,
    "mul": jnp.multiply,
    "div": lambda a, b: a / (b * b + 1),
    "pow": lambda a, b: (a * a + 0.5) ** b,
    "max": jnp.maximum,
    "min": jnp.minimum,
    "atan2": jnp.arctan2,
    "with a row": lambda a, b: a * b[:1] + b[:, :1] / (1 + a * a),
    "with a number": lambda a, b: a * b[0, 0] - 2 * b,
    "pad": lambda a, b: lax.pad(a, b[0, 0], ((1, 2, 1), (-1, 0, 0))),
    "dot_general": lambda a, b: a @ b.T,
    "einsum": lambda a, b: jnp.einsum("ij,kj->jik", a, b),
    "batched product": lambda a, b: jnp.einsum("bij,bkj->bik", a.reshape(3, 2, 2), b.reshape(3, 2, 2)),
    "contracting two": lambda a, b: lax.dot_general(
        a.reshape(3, 2, 2), b.reshape(2, 3, 2), (((0, 2), (1, 2)), ((), ()))
    ),
    "batch in the middle": lambda a, b: jnp.einsum("ibj,kjb->bki", a.reshape(3, 2, 2), b.reshape(3, 2, 2)),
    "vectors": lambda a, b: jnp.dot(a[0], b[0]) * jnp.outer(a[1], b[2]),
}


def normal(seed, shape=MATRIX):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def check(function, arguments):
    """The formula of a function without children agrees with ``jax.vjp`` and with finite differences."""
    net = fnn.compose({}, lambda net, x: function(*x))

    @jax.jit
    def both(arguments):
        y, _, pullback = net.vjp({}, {}, arguments, train=True)
        y_bar = jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)
        return y_bar, pullback(y_bar)[1], jax.vjp(lambda *x: function(*x), *arguments)[1](y_bar)

    y_bar, ours, theirs = both(arguments)
    for own, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-12, atol=1e-13)
    directions = [normal(7 + i, argument.shape) for i, argument in enumerate(arguments)]
    step = 1e-6
    ahead, behind = (function(*(a + s * d for a, d in zip(arguments, directions, strict=True))) for s in (step, -step))
    difference = jnp.sum(y_bar * (ahead - behind)) / (2 * step)
    return float(difference), float(sum(jnp.sum(bar * d) for bar, d in zip(ours, directions, strict=True)))


@pytest.mark.parametrize("name", [*ELEMENTWISE, *OF_ONE])
def test_rules_of_one_operand(name):
    difference, along = check({**ELEMENTWISE, **OF_ONE}[name], (normal(0),))
    if name not in ("stop_gradient", "convert_element_type"):  # the rounding to float32 is larger than the step
        np.testing.assert_allclose(along, difference, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", OF_TWO)
def test_rules_of_two_operands(name):
    difference, along = check(OF_TWO[name], (normal(1), normal(2)))
    np.testing.assert_allclose(along, difference, rtol=1e-6, atol=1e-6)


TIES = {
    "relu": lambda x: jax.nn.relu(x),
    "max": lambda x: jnp.maximum(x, 0.0),
    "min of two": lambda x: jnp.minimum(x, jnp.zeros_like(x)),
    "reduce_max": lambda x: jnp.max(x, axis=0),
    "reduce_min": lambda x: jnp.min(x),
    "abs": jnp.abs,
    "clamp": lambda x: lax.clamp(-1.0, x, 1.0),
    "power": lambda x: x**2.0,
    "power of zero": lambda x: lax.integer_pow(x, 0) * x,
}


@pytest.mark.parametrize("name", TIES)
def test_at_ties_and_kinks_the_choice_is_that_of_jax(name):
    check(TIES[name], (jnp.array([[0.0, 1.0, -1.0], [0.0, 1.0, 2.0]]),))


def test_every_rule_is_tried():
    """Each rule is used by one of the functions above."""
    used = set()
    functions = [(f, 1) for f in (*ELEMENTWISE.values(), *OF_ONE.values())] + [(f, 2) for f in OF_TWO.values()]
    for function, count in functions:
        program = jax.make_jaxpr(function)(*(normal(i) for i in range(count)))
        used |= {located.equation.primitive.name for located in fnn.jaxprs.walk.equations(program)}
    used.add("relu")  # a call, which this walk enters
    known = {*ONE_OPERAND, *TWO_OPERANDS, *SEVERAL_OPERANDS, *INDEXED, *WITHOUT_DERIVATIVE}
    # These appear in traced programs of some versions of JAX only, or are made by JAX's own derivatives.
    rare = {
        "add_any",
        "reduce_precision",
        "copy_p",
        "copy",
        "scatter_add",
        "expand_dims",
        "stack",
        "concatenate",
        "square",
        "exp2",
    }
    assert known - used <= rare


def test_bfloat16_keeps_its_type():
    net = fnn.compose({}, lambda net, x: jnp.einsum("ij,kj->ik", x, x, preferred_element_type=jnp.float32) * 2)
    x = normal(0).astype(jnp.bfloat16)
    y, _, pullback = net.vjp({}, {}, x, train=True)
    assert y.dtype == jnp.float32
    assert pullback(y)[1].dtype == jnp.bfloat16


def test_pullbacks_under_vmap():
    net = fnn.compose({}, lambda net, x: jnp.tanh(x[:, :2]) @ x[:, 2:].T)
    x = normal(0)

    def bar(x):
        y, _, pullback = net.vjp({}, {}, x, train=True)
        return pullback(jnp.ones_like(y))[1]

    np.testing.assert_allclose(jax.vmap(bar)(jnp.stack([x, 2 * x]))[1], bar(2 * x), rtol=1e-12)
