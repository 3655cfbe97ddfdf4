"""Keras on its JAX backend: `fit` without metrics."""

import os

os.environ["KERAS_BACKEND"] = "jax"  # Keras reads it when it is imported

import jax
import keras

from benchmarks.data import Mnist
from benchmarks.peers import Peer
from benchmarks.w1 import BATCH_SIZE, LEARNING_RATE, SIZES

LIBRARIES = ("keras", "jax", "jaxlib")


def fit(mnist: Mnist, seed: int) -> Peer:
    """`fit` without metrics except the loss."""
    keras.utils.set_random_seed(seed)
    inputs, hidden_1, hidden_2, outputs = SIZES
    model = keras.Sequential(
        [
            keras.Input((inputs,)),
            keras.layers.Dense(hidden_1, activation="relu"),
            keras.layers.Dense(hidden_2, activation="relu"),
            keras.layers.Dense(outputs),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.Adam(LEARNING_RATE),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[],
        jit_compile=True,
    )

    def train_epoch() -> None:
        model.fit(mnist.train_images, mnist.train_labels, batch_size=BATCH_SIZE, epochs=1, verbose=0)
        jax.block_until_ready([variable.value for variable in model.variables + model.optimizer.variables])

    return Peer(train_epoch, lambda images: model.predict(images, batch_size=1_000, verbose=0))
