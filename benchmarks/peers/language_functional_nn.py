"""The language model with functional_nn: the epoch of `fit`, differentiated by the formulas and by `jax.grad`."""

import math

import jax
import numpy as np

import functional_nn as fnn
from benchmarks import w6
from benchmarks.mnist import Mnist
from benchmarks.peers import Peer, available_cores
from benchmarks.peers.functional_nn import LIBRARIES as LIBRARIES
from benchmarks.peers.functional_nn import Training
from benchmarks.sonnets import read_sonnets, share_of_right_characters
from functional_nn.data.dataset import Split


def network(sizes: w6.LanguageSizes) -> fnn.Layer:
    return fnn.models.language_model(
        sizes.count,
        sizes.time,
        features=sizes.features,
        depth=sizes.depth,
        heads=sizes.heads,
        positions="learned",
    ).layer


def sonnets_by_hand(mnist: Mnist, seed: int) -> Peer:
    """W6, differentiated by the formulas."""
    return sonnets(fnn.with_hand_vjp(network(w6.SIZES)), seed)


def sonnets_by_hand_divided(mnist: Mnist, seed: int) -> Peer:
    """W6, differentiated by the formulas; each core computes its share of a batch."""
    return sonnets(fnn.with_hand_vjp(network(w6.SIZES)), seed, devices=math.gcd(available_cores(), w6.BATCH_SIZE))


def sonnets_automatically(mnist: Mnist, seed: int) -> Peer:
    """W6, differentiated by `jax.grad`."""
    return sonnets(network(w6.SIZES), seed)


def sonnets(net: fnn.Layer, seed: int, devices: int = 1) -> Peer:
    """The programs that `fit` runs for W6."""
    text = read_sonnets()
    training = Training(net, split(*text), w6.LEARNING_RATE, w6.BATCH_SIZE, seed, w6.PRECISION, devices)

    def accuracy() -> float:
        return share_of_right_characters(training.logits(text.test[:, :-1]), text.test)

    return Peer(lambda: jax.block_until_ready(training.epoch()), None, accuracy=accuracy)


def split(train: np.ndarray, test: np.ndarray) -> Split:
    """Windows of tokens as data: what the network reads, and the next tokens."""
    return Split(train[:, :-1], train[:, 1:], test[:, :-1], test[:, 1:])
