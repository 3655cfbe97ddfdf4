"""W4 without a library and with Haiku: an LSTM over `lax.scan`, differentiated automatically."""

import haiku as hk
import jax
import jax.numpy as jnp

from benchmarks import w4
from benchmarks.mnist import Mnist
from benchmarks.peers import Peer
from benchmarks.peers.donated_loop import python_loop

LIBRARIES = ("dm-haiku", "jax", "jaxlib", "optax")


def scan(mnist: Mnist, seed: int) -> Peer:
    """All gates in one product. The products with the input are computed for all rows before the scan."""
    keys = jax.random.split(jax.random.key(seed), 3)
    glorot, gates = jax.nn.initializers.glorot_uniform(), 4 * w4.HIDDEN_SIZE
    params = {
        "input": glorot(keys[0], (w4.COLUMNS, gates)),
        "hidden": glorot(keys[1], (w4.HIDDEN_SIZE, gates)),
        "bias": jnp.zeros(gates),
        "dense": glorot(keys[2], (w4.HIDDEN_SIZE, w4.CLASSES)),
        "dense_bias": jnp.zeros(w4.CLASSES),
    }

    def network(params, rows):
        def step(state, row):
            hidden, cell = state
            i, f, g, o = jnp.split(row + hidden @ params["hidden"], 4, axis=-1)
            cell = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
            return (jax.nn.sigmoid(o) * jnp.tanh(cell), cell), None

        zeros = jnp.zeros((len(rows), w4.HIDDEN_SIZE))
        inputs = jnp.swapaxes(rows, 0, 1) @ params["input"] + params["bias"]
        (hidden, _), _ = jax.lax.scan(step, (zeros, zeros), inputs)
        return hidden @ params["dense"] + params["dense_bias"]

    return python_loop(network, params, w4, (w4.ROWS, w4.COLUMNS), mnist, seed)


def haiku_lstm(mnist: Mnist, seed: int) -> Peer:
    """`hk.dynamic_unroll` of `hk.LSTM`."""

    def forward(rows):
        lstm = hk.LSTM(w4.HIDDEN_SIZE)
        _, state = hk.dynamic_unroll(lstm, rows, lstm.initial_state(len(rows)), time_major=False)
        return hk.Linear(w4.CLASSES)(state.hidden)

    network = hk.without_apply_rng(hk.transform(forward))
    params = network.init(jax.random.key(seed), jnp.zeros((1, w4.ROWS, w4.COLUMNS)))
    return python_loop(network.apply, params, w4, (w4.ROWS, w4.COLUMNS), mnist, seed)
