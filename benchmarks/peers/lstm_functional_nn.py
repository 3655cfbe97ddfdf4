"""W4 with functional_nn: the programs of `fit`, differentiated by the LSTM's formula and by `jax.grad`."""

import math

import functional_nn as fnn
from benchmarks import w4
from benchmarks.mnist import Mnist
from benchmarks.peers import Peer, available_cores
from benchmarks.peers.functional_nn import LIBRARIES as LIBRARIES
from benchmarks.peers.functional_nn import epochs_of_fit


def network(lstm: fnn.Layer) -> fnn.Layer:
    return fnn.chain(fnn.reshape((w4.ROWS, w4.COLUMNS)), lstm, fnn.dense(w4.CLASSES))


def formula() -> fnn.Layer:
    return network(fnn.with_hand_vjp(fnn.lstm(w4.HIDDEN_SIZE)))


def by_hand(mnist: Mnist, seed: int) -> Peer:
    """Backpropagation through time by the layer's formula; each core computes its share of a batch."""
    return epochs_of_fit(formula(), w4, mnist, seed, devices=math.gcd(available_cores(), w4.BATCH_SIZE))


def by_hand_undivided(mnist: Mnist, seed: int) -> Peer:
    """The same on one device, where the cores share each matrix product."""
    return epochs_of_fit(formula(), w4, mnist, seed)


def automatically(mnist: Mnist, seed: int) -> Peer:
    """`jax.grad` of the layer's forward pass."""
    return epochs_of_fit(network(fnn.lstm(w4.HIDDEN_SIZE)), w4, mnist, seed)
