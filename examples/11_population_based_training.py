"""Population-based training: many models, each with a learning rate and dropout of its own, copied from better ones.

After each epoch, the worst models take parameters and hyper-parameters of the best ones (exploit) and change their own
numbers at random (explore). Everything is jax.vmap of public functions, so all models train in one compiled program.

python examples/11_population_based_training.py [--dataset mnist5k] [--data-dir DIR] [--models 16] [--quick]

Jaderberg et al. 2017, "Population based training of neural networks".
"""

import argparse
import time

import jax
import jax.numpy as jnp
import optax

import functional_nn as fnn


def recipe(hyperparameters):
    """The network and the optimizer of one model. Both numbers may be traced."""
    drop = fnn.dropout(hyperparameters["dropout"])
    net = fnn.chain(fnn.dense(128), fnn.relu, drop, fnn.dense(64), fnn.relu, drop, fnn.dense(10))
    return net, optax.adam(hyperparameters["learning_rate"])


def start(key, hyperparameters):
    net, optimizer = recipe(hyperparameters)
    return fnn.training.create_train_state(net, optimizer, key, (784,))


def train_epoch(train_state, hyperparameters, number, x, labels, validation_x, validation_labels):
    net, optimizer = recipe(hyperparameters)
    step = fnn.training.make_train_step(net, fnn.cross_entropy, optimizer)
    train_state, _ = fnn.training.make_epoch(step, batch_size=64)(train_state, x, labels, number)
    evaluation = fnn.training.make_evaluate(net, fnn.cross_entropy)(train_state, validation_x, validation_labels)
    return train_state, evaluation.accuracy


@jax.jit
def exploit_and_explore(key, population, hyperparameters, accuracy):
    """Puts a model of the best quarter in the place of each of the worst quarter, and changes its numbers a little."""
    models = len(accuracy)
    quarter = models // 4
    order = jnp.argsort(accuracy)  # the worst first
    parents = jnp.arange(models).at[order[:quarter]].set(order[models - quarter :])
    population, hyperparameters = jax.tree.map(lambda leaf: leaf[parents], (population, hyperparameters))
    key_rate, key_drop = jax.random.split(key)
    copied = parents != jnp.arange(models)
    factor = jnp.where(copied, 1.5 ** jax.random.uniform(key_rate, (models,), minval=-1, maxval=1), 1)
    shift = jnp.where(copied, jax.random.uniform(key_drop, (models,), minval=-0.1, maxval=0.1), 0)
    rates = hyperparameters["learning_rate"] * factor
    return population, {"learning_rate": rates, "dropout": jnp.clip(hyperparameters["dropout"] + shift, 0.0, 0.8)}


def main(dataset, data_dir, models, epochs):
    data = fnn.load_dataset(dataset, data_dir).with_validation(0.1)
    flat = lambda images: jnp.asarray(images.reshape(len(images), -1))  # noqa: E731
    arrays = flat(data.train_images), data.train_labels, flat(data.validation_images), data.validation_labels

    key = jax.random.key(0)
    key_rate, key_drop, key_start = jax.random.split(key, 3)
    hyperparameters = {
        "learning_rate": 10 ** jax.random.uniform(key_rate, (models,), minval=-5, maxval=-1.5),
        "dropout": jax.random.uniform(key_drop, (models,), maxval=0.6),
    }
    population = jax.jit(jax.vmap(start))(jax.random.split(key_start, models), hyperparameters)
    train = jax.jit(jax.vmap(train_epoch, in_axes=(0, 0, None, None, None, None, None)))

    for number in range(epochs):
        clock = time.perf_counter()
        population, accuracy = train(population, hyperparameters, jnp.int32(number), *arrays)
        best = int(jnp.argmax(accuracy))
        rate, dropout = (float(hyperparameters[name][best]) for name in ("learning_rate", "dropout"))
        print(
            f"epoch {number + 1}: validation accuracy {accuracy[best]:.4f} at best (rate {rate:.1e}, dropout "
            f"{dropout:.2f}), {jnp.median(accuracy):.4f} in the middle, {time.perf_counter() - clock:.1f} s"
        )
        if number + 1 < epochs:
            key_explore = jax.random.fold_in(key, number)
            population, hyperparameters = exploit_and_explore(key_explore, population, hyperparameters, accuracy)

    # The test images are used once, for the model that was chosen on the validation images.
    chosen = jax.tree.map(lambda leaf: leaf[best], population)
    net, _ = recipe({"dropout": 0.0, "learning_rate": 0.0})
    outputs = fnn.training.predict(net, chosen.params, chosen.state, data.test_images.reshape(-1, 784))
    print(f"test accuracy {fnn.metrics.accuracy(outputs, data.test_labels):.4f}; compiled {train._cache_size()} time")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="mnist5k")
    parser.add_argument("--data-dir")
    parser.add_argument("--models", type=int, default=16)
    parser.add_argument("--quick", action="store_true", help="four models, three epochs")
    arguments = parser.parse_args()
    models, epochs = (4, 3) if arguments.quick else (arguments.models, 10)
    main(arguments.dataset, arguments.data_dir, models, epochs)
