"""Loops over steps in bfloat16, which XLA on a CPU would slow down."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import functional_nn as fnn
from functional_nn.core.products import tracing_for
from functional_nn.core.scan import scan
from functional_nn.jaxprs.walk import all_equations, scan_parts

LAYERS = {
    "recurrent": (fnn.lstm(3, returns="sequence"), (5, 2)),
    "repeated": (fnn.repeat(fnn.residual(fnn.dense(4), fnn.tanh, fnn.dropout(0.5)), 5), (4,)),
    "in_blocks": (fnn.attention(2, causal=True), (300, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_no_step_on_a_cpu_writes_into_an_array_of_bfloat16(name):
    """The program would convert all of it in each step. Programs for other platforms do not. The bits are the same."""
    net, in_shape = LAYERS[name]
    params, state = net.init(jax.random.key(0), in_shape)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    x = jax.random.normal(jax.random.key(1), (2, *in_shape)).astype(jnp.bfloat16)

    def both_passes(params, x):
        y, _, pullback = net.vjp(params, state, x, train=True, key=jax.random.key(2))
        return y, pullback(y)

    results, narrow = {}, {}
    for platform in ("cpu", "tpu"):
        with tracing_for(platform):
            traced = jax.jit(both_passes).trace(params, x)
            scans = [equation for equation in all_equations(traced.jaxpr) if equation.primitive.name == "scan"]
            stacked = [variable for equation in scans for variable in equation.outvars[scan_parts(equation).carried :]]
            narrow[platform] = sum(variable.aval.dtype == jnp.bfloat16 for variable in stacked)
            results[platform] = jax.tree.map(np.asarray, traced.lower().compile()(params, x))
    assert narrow["cpu"] == 0
    if name != "in_blocks":  # other platforms compute no blocks
        assert narrow["tpu"] > 0
        jax.tree.map(np.testing.assert_array_equal, results["cpu"], results["tpu"])
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(results))


def test_other_outputs_stay_as_they_are():
    def step(total, x):
        return total + x, (total, x.astype(jnp.bfloat16), None, True, jax.random.key(0))

    ours, theirs = (loop(step, jnp.float32(0), jnp.arange(3.0), reverse=True) for loop in (scan, lax.scan))
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for own, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert own.dtype == other.dtype
        assert (own == other).all()
