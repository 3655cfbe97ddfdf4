"""One point of a curve: the sizes of a network, of its data and of its training."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class Work:
    """What is trained. Every entry makes the same network with its own library.

    Args:
        network: `mlp`, dense layers with ReLU; `lstm`, a dense layer on its last state; or `attention`, with a residual
            connection and a dense layer on every time step.
        examples, batch_size, features, classes: of the data.
        width: units of each hidden layer, or of the LSTM. Attention keeps the number of features.
        depth: the number of hidden layers of an `mlp`.
        time: the length of a sequence; 0 for an `mlp`.
        heads: of attention.
        models: how many models are trained together; 0 for one model, trained on its own.
        epochs: a turn trains this many.
        way: how an `mlp` is built: `chain`, layer by layer; or `repeat`, where all hidden layers share one piece of the
            program. For `repeat`, `features` has to equal `width`.
        plan: how a sweep trains its models, as `fnn.sweep` takes it.
    """

    network: str = "mlp"
    examples: int = 4096
    batch_size: int = 64
    features: int = 64
    classes: int = 10
    width: int = 128
    depth: int = 2
    time: int = 0
    heads: int = 4
    models: int = 0
    epochs: int = 2
    way: str = "chain"
    plan: str = "auto"

    @property
    def steps(self) -> int:
        """The number of steps in an epoch. All batches are full."""
        return self.examples // self.batch_size

    @property
    def example_shape(self) -> tuple[int, ...]:
        return (self.time, self.features) if self.time else (self.features,)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The units of each layer of an `mlp`, from the features to the classes."""
        return (self.features, *[self.width] * self.depth, self.classes)

    def unusual(self) -> dict[str, str | int]:
        """The values that differ from the defaults, which a record keeps."""
        return {own.name: value for own in fields(self) if (value := getattr(self, own.name)) != own.default}

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """Random examples and labels. Attention has a label for every time step."""
        generator = np.random.default_rng(0)
        x = generator.standard_normal((self.examples, *self.example_shape), np.float32)
        shape = (self.examples, self.time) if self.network == "attention" else (self.examples,)
        return x, generator.integers(0, self.classes, shape, np.int32)

    def floating_point_operations(self) -> float:
        """Those of a step, roughly: two for each weight and example, and twice as many again for the gradient."""
        width = self.width
        if self.network == "lstm":
            products = self.time * 4 * width * (self.features + width)
        elif self.network == "attention":
            products = self.time * (4 * self.features**2 + 2 * self.time * self.features)
        else:
            products = sum(rows * columns for rows, columns in zip(self.sizes, self.sizes[1:], strict=False))
        return 6.0 * self.batch_size * products
