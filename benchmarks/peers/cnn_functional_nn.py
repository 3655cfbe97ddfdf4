"""W3 with functional_nn: the programs of `fit`, differentiated by the layers' formulas and by `jax.grad`."""

import math

import functional_nn as fnn
from benchmarks import w3
from benchmarks.mnist import Mnist
from benchmarks.peers import Peer, available_cores
from benchmarks.peers.functional_nn import LIBRARIES as LIBRARIES
from benchmarks.peers.functional_nn import epochs_of_fit


def network() -> fnn.Layer:
    blocks = [layer for size in w3.CHANNELS for layer in (fnn.conv(size, 3), fnn.relu, fnn.max_pool(2))]
    return fnn.chain(*blocks, fnn.flatten(), fnn.dense(w3.CLASSES))


def formula() -> fnn.Layer:
    """The network with the hand-derived backward passes of its layers."""
    return fnn.with_hand_vjp(network())


def by_hand(mnist: Mnist, seed: int) -> Peer:
    """Differentiated by the formulas."""
    return epochs_of_fit(formula(), w3, mnist, seed)


def by_hand_divided(mnist: Mnist, seed: int) -> Peer:
    """Differentiated by the formulas; each core computes its share of a batch."""
    return epochs_of_fit(formula(), w3, mnist, seed, devices=math.gcd(available_cores(), w3.BATCH_SIZE))


def automatically(mnist: Mnist, seed: int) -> Peer:
    """Differentiated by `jax.grad`."""
    return epochs_of_fit(network(), w3, mnist, seed)
