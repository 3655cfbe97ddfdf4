"""W4 without a library: an LSTM over `lax.scan`, differentiated automatically."""

import jax
import jax.numpy as jnp

from benchmarks import w4
from benchmarks.mnist import Mnist
from benchmarks.peers import Peer
from benchmarks.peers.donated_loop import python_loop

LIBRARIES = ("jax", "jaxlib", "optax")


def start(key: jax.Array) -> dict[str, jax.Array]:
    """The parameters, with the weights of all gates side by side."""
    keys = jax.random.split(key, 3)
    glorot, gates = jax.nn.initializers.glorot_uniform(), 4 * w4.HIDDEN_SIZE
    return {
        "input": glorot(keys[0], (w4.COLUMNS, gates)),
        "hidden": glorot(keys[1], (w4.HIDDEN_SIZE, gates)),
        "bias": jnp.zeros(gates),
        "dense": glorot(keys[2], (w4.HIDDEN_SIZE, w4.CLASSES)),
        "dense_bias": jnp.zeros(w4.CLASSES),
    }


def network(params: dict[str, jax.Array], rows: jax.Array) -> jax.Array:
    """The logits of rows (batch, time, columns). The products with the input are computed before the scan."""

    def step(state, row):
        hidden, cell = state
        i, f, g, o = jnp.split(row + hidden @ params["hidden"], 4, axis=-1)
        cell = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
        return (jax.nn.sigmoid(o) * jnp.tanh(cell), cell), None

    zeros = jnp.zeros((len(rows), w4.HIDDEN_SIZE))
    inputs = jnp.swapaxes(rows, 0, 1) @ params["input"] + params["bias"]
    (hidden, _), _ = jax.lax.scan(step, (zeros, zeros), inputs)
    return hidden @ params["dense"] + params["dense_bias"]


def scan(mnist: Mnist, seed: int) -> Peer:
    """All gates in one product."""
    return python_loop(network, start(jax.random.key(seed)), w4, (w4.ROWS, w4.COLUMNS), mnist, seed)
