"""W4 with Haiku: its LSTM, differentiated automatically."""

import haiku as hk
import jax
import jax.numpy as jnp

from benchmarks import w4
from benchmarks.mnist import Mnist
from benchmarks.peers import Peer
from benchmarks.peers.donated_loop import python_loop

LIBRARIES = ("dm-haiku", "jax", "jaxlib", "optax")


def unrolled(mnist: Mnist, seed: int) -> Peer:
    """`hk.dynamic_unroll` of `hk.LSTM`."""

    def forward(rows):
        lstm = hk.LSTM(w4.HIDDEN_SIZE)
        _, state = hk.dynamic_unroll(lstm, rows, lstm.initial_state(len(rows)), time_major=False)
        return hk.Linear(w4.CLASSES)(state.hidden)

    network = hk.without_apply_rng(hk.transform(forward))
    params = network.init(jax.random.key(seed), jnp.zeros((1, w4.ROWS, w4.COLUMNS)))
    return python_loop(network.apply, params, w4, (w4.ROWS, w4.COLUMNS), mnist, seed)
