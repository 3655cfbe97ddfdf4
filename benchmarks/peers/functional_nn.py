"""functional_nn: the programs of `fit` and `sweep`, with the images as bytes on the device, and whole processes."""

import math
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import optax

import functional_nn as fnn
from benchmarks import w1, w3, w4, w5, w6, w7
from benchmarks.data import Mnist, Sonnets, load, read_letters, read_sonnets, share_of_right_characters
from benchmarks.growth.work import LEARNING_RATE as GROWTH_RATE
from benchmarks.growth.work import Work
from benchmarks.peers import Peer, available_cores, processes
from benchmarks.peers.jax_loops import bytes_at_once, forget_programs
from benchmarks.w2 import BATCH_SIZE, FEW, PRECISION, Member, members, sizes
from functional_nn.data.dataset import Split
from functional_nn.training.epoch import EpochResult
from functional_nn.training.precision import as_precision
from functional_nn.training.programs import Programs, ProgramSpec, shapes_of
from functional_nn.training.recipe import Hyperparameters, Recipe, RecipeFunctions
from functional_nn.training.state import TrainState

LIBRARIES = ("functional-nn", "jax", "jaxlib", "optax")


def fit(mnist: Mnist, seed: int) -> Peer:
    """The epoch of `fit`."""
    _, *hidden, classes = w1.SIZES
    return epochs_of_fit(fnn.models.mlp(classes, hidden=hidden), w1, mnist, seed)


def epochs_of_fit(net: fnn.Layer, workload: ModuleType, mnist: Mnist, seed: int, devices: int = 1) -> Peer:
    """The programs that `fit` runs for a network, with the learning rate and the batch size of a workload.

    `devices` is the number of devices into which the CPU is divided.
    """
    data = load(mnist.folder)
    split = Split(data.train_images, data.train_labels, data.test_images, data.test_labels)
    training = Training(net, split, workload.LEARNING_RATE, workload.BATCH_SIZE, seed, workload.PRECISION, devices)
    image_shape = data.train_images.shape[1:]
    return Peer(
        train_epoch=lambda: jax.block_until_ready(training.epoch()),
        predict=lambda images: training.logits(images.reshape(-1, *image_shape)),
    )


class Training:
    """The programs that `fit` runs for a network, on data that are on the device, and the state of the training."""

    def __init__(
        self,
        net: fnn.Layer,
        split: Split,
        learning_rate: float,
        batch_size: int,
        seed: int,
        precision: str = "float32",
        devices: int = 1,
    ):
        if devices > 1:  # this cannot be set after JAX has started
            jax.config.update("jax_num_cpu_devices", devices)
        devices = min(devices, len(jax.local_devices()))
        recipe = Recipe(net, fnn.cross_entropy, optax.adam(learning_rate))
        spec = ProgramSpec(recipe, batch_size, as_precision(precision), data=shapes_of(split), devices=devices)
        self.net, self.programs = net, Programs(spec)
        self.inputs, self.labels = jax.device_put((split.train_x, split.train_labels), self.programs.sharding)
        self.train_state = self.programs.start(jax.random.key(seed))
        self.epochs = 0

    def epoch(self) -> EpochResult:
        """Trains one epoch, and returns its loss and what belongs to it, which may not be computed yet."""
        number = jnp.int32(self.epochs)
        self.train_state, result = self.programs.epoch(self.train_state, self.inputs, self.labels, number)
        self.epochs += 1
        return result

    def logits(self, inputs: np.ndarray) -> np.ndarray:
        return np.asarray(self.net.apply(self.train_state.params, self.train_state.state, inputs, train=False)[0])


def threads(mnist: Mnist, seed: int, models: int, hidden: Sequence[int]) -> Peer:
    """One thread per core; each takes the next model and trains it for an epoch."""
    return epochs_of_sweep(members(seed, models), available_cores(), mnist, hidden)


def solo(mnist: Mnist, seed: int, models: int, hidden: Sequence[int]) -> Peer:
    """One model after another, each on all cores."""
    return epochs_of_sweep(members(seed, models, FEW), 1, mnist, hidden)


def mapped(mnist: Mnist, seed: int, models: int, hidden: Sequence[int]) -> Peer:
    """All models in one program, by `vmap`, as `sweep` trains them on a GPU or a TPU."""
    population = members(seed, models)
    net, split, programs = sweep_programs(mnist, hidden, workers=1, mapped=models)
    h = {"learning_rate": jnp.asarray([member.learning_rate for member in population], jnp.float32)}
    images, labels = jax.device_put((split.train_x, split.train_labels))
    image_shape = images.shape[1:]
    train_state = programs.start(jnp.stack([jax.random.key(member.seed) for member in population]), h)
    number = 0

    def train_epoch() -> None:
        nonlocal train_state, number
        train_state, _ = jax.block_until_ready(programs.epoch(train_state, images, labels, jnp.int32(number), h))
        number += 1

    def predict(images: np.ndarray) -> np.ndarray:
        images = images.reshape(-1, *image_shape)
        each = (train_state.params, train_state.state)
        return np.asarray(jax.lax.map(lambda one: net.apply(*one, images, train=False)[0], each))

    return Peer(train_epoch, predict, models_a_round=models)


def epochs_of_sweep(population: Sequence[Member], workers: int, mnist: Mnist, hidden: Sequence[int]) -> Peer:
    """Epochs of all models, with `workers` models at a time."""
    net, split, programs = sweep_programs(mnist, hidden, workers)
    own = [{"learning_rate": jnp.float32(member.learning_rate)} for member in population]
    images, labels = jax.device_put((split.train_x, split.train_labels))
    image_shape = images.shape[1:]
    train_states = [programs.start(jax.random.key(member.seed), h) for h, member in zip(own, population, strict=True)]
    number = 0
    executor = ThreadPoolExecutor(workers)

    def train_member(h: Hyperparameters, train_state: TrainState) -> TrainState:
        train_state, _ = jax.block_until_ready(programs.epoch(train_state, images, labels, jnp.int32(number), h))
        return train_state

    def train_epoch() -> None:
        nonlocal train_states, number
        train_states = list(executor.map(train_member, own, train_states))
        number += 1

    def predict(images: np.ndarray) -> np.ndarray:
        images = images.reshape(-1, *image_shape)
        return np.stack([net.apply(each.params, each.state, images, train=False)[0] for each in train_states])

    return Peer(train_epoch, predict, models_a_round=len(population))


def sweep_programs(
    mnist: Mnist, hidden: Sequence[int], workers: int, mapped: int | None = None
) -> tuple[fnn.Layer, fnn.data.Split, Programs]:
    """The network, the data and the programs of a sweep, which `workers` threads run at the same time.

    One program trains `mapped` models; None: one model.
    """
    _, *hidden_sizes, classes = sizes(hidden)
    net = fnn.models.mlp(classes, hidden=hidden_sizes)
    data = load(mnist.folder)
    split = fnn.data.Split(data.train_images, data.train_labels, data.test_images, data.test_labels)
    make_recipe = RecipeFunctions(net, lambda h: optax.adam(h["learning_rate"]), fnn.cross_entropy, None)
    precision = as_precision(PRECISION)
    rate = jax.ShapeDtypeStruct((), np.dtype(precision.parameters))
    rates = (("learning_rate", rate),)
    spec = ProgramSpec(
        make_recipe, BATCH_SIZE, precision, shapes_of(split), rates, members=mapped, in_threads=workers > 1
    )
    return net, split, Programs(spec)


def cnn() -> fnn.Layer:
    blocks = [layer for size in w3.CHANNELS for layer in (fnn.conv(size, 3), fnn.relu, fnn.max_pool(2))]
    return fnn.chain(*blocks, fnn.flatten(), fnn.dense(w3.CLASSES))


def cnn_formula() -> fnn.Layer:
    """The network with the hand-derived backward passes of its layers."""
    return fnn.with_hand_vjp(cnn())


def cnn_by_hand(mnist: Mnist, seed: int) -> Peer:
    """Differentiated by the formulas."""
    return epochs_of_fit(cnn_formula(), w3, mnist, seed)


def cnn_by_hand_divided(mnist: Mnist, seed: int) -> Peer:
    """Differentiated by the formulas; each core computes its share of a batch."""
    return epochs_of_fit(cnn_formula(), w3, mnist, seed, devices=math.gcd(available_cores(), w3.BATCH_SIZE))


def cnn_by_grad(mnist: Mnist, seed: int) -> Peer:
    """Differentiated by `jax.grad`."""
    return epochs_of_fit(cnn(), w3, mnist, seed)


def lstm_network(lstm: fnn.Layer) -> fnn.Layer:
    return fnn.chain(fnn.reshape((w4.ROWS, w4.COLUMNS)), lstm, fnn.dense(w4.CLASSES))


def lstm_formula() -> fnn.Layer:
    return lstm_network(fnn.with_hand_vjp(fnn.lstm(w4.HIDDEN_SIZE)))


def lstm_by_hand(mnist: Mnist, seed: int) -> Peer:
    """Backpropagation through time by the layer's formula; each core computes its share of a batch."""
    return epochs_of_fit(lstm_formula(), w4, mnist, seed, devices=math.gcd(available_cores(), w4.BATCH_SIZE))


def lstm_by_hand_undivided(mnist: Mnist, seed: int) -> Peer:
    """The same on one device, where the cores share each matrix product."""
    return epochs_of_fit(lstm_formula(), w4, mnist, seed)


def lstm_by_grad(mnist: Mnist, seed: int) -> Peer:
    """`jax.grad` of the layer's forward pass."""
    return epochs_of_fit(lstm_network(fnn.lstm(w4.HIDDEN_SIZE)), w4, mnist, seed)


def train_command(mnist: Mnist, *flags: str) -> list[str]:
    recipe = ["--schedule", "one-cycle", "--learning-rate", str(w5.LEARNING_RATE)]
    recipe += ["--batch-size", str(w5.BATCH_SIZE), "--epochs", str(w5.EPOCHS)]
    data = ["--dataset", "mnist", "--data-dir", str(mnist.folder)]
    return [sys.executable, "-m", "functional_nn", "train", *data, *recipe, "--quiet", *flags]


def later_start(mnist: Mnist, seed: int) -> Peer:
    """The command with its cache: it finds the programs that an earlier start compiled."""
    return processes(train_command(mnist), seed, w5.GOAL)


def first_start(mnist: Mnist, seed: int) -> Peer:
    """The command without its cache: it compiles everything."""
    return processes(train_command(mnist, "--no-compilation-cache"), seed, w5.GOAL)


def language_network(sizes: w6.LanguageSizes) -> fnn.Layer:
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
    return epochs_of_text(fnn.with_hand_vjp(language_network(w6.SIZES)), w6, read_sonnets(), seed)


def sonnets_by_grad(mnist: Mnist, seed: int) -> Peer:
    """W6, differentiated by `jax.grad`."""
    return epochs_of_text(language_network(w6.SIZES), w6, read_sonnets(), seed)


def tiny_gpt(sizes: w6.LanguageSizes) -> fnn.Layer:
    """The network of W7."""
    norm = fnn.rms_norm(scale=False)
    return fnn.chain(
        fnn.embedding(sizes.count, sizes.features),
        fnn.learned_positions(sizes.time),
        norm,
        fnn.residual(norm, fnn.attention(sizes.heads, causal=True, bias=False)),
        fnn.residual(norm, fnn.dense(4 * sizes.features, bias=False), fnn.relu, fnn.dense(sizes.features, bias=False)),
        fnn.dense(sizes.count, bias=False),
    )


def letters_by_hand(mnist: Mnist, seed: int) -> Peer:
    """W7, differentiated by the formulas."""
    return epochs_of_text(fnn.with_hand_vjp(tiny_gpt(w7.SIZES)), w7, read_letters(), seed)


def letters_by_grad(mnist: Mnist, seed: int) -> Peer:
    """W7, differentiated by `jax.grad`."""
    return epochs_of_text(tiny_gpt(w7.SIZES), w7, read_letters(), seed)


def epochs_of_text(net: fnn.Layer, workload: ModuleType, text: Sonnets, seed: int) -> Peer:
    """The programs that `fit` runs for W6 or W7."""
    split = windows_as_data(*text)
    training = Training(net, split, workload.LEARNING_RATE, workload.BATCH_SIZE, seed, workload.PRECISION)

    def accuracy() -> float:
        return share_of_right_characters(training.logits(text.test[:, :-1]), text.test)

    return Peer(lambda: jax.block_until_ready(training.epoch()), None, accuracy=accuracy)


def windows_as_data(train: np.ndarray, test: np.ndarray) -> Split:
    """Windows of tokens as data: what the network reads, and the next tokens."""
    return Split(train[:, :-1], train[:, 1:], test[:, :-1], test[:, 1:])


def growth_network(work: Work) -> fnn.Layer:
    if work.network == "lstm":
        return fnn.chain(fnn.with_hand_vjp(fnn.lstm(work.width)), fnn.dense(work.classes))
    if work.network == "attention":
        return fnn.chain(fnn.residual(fnn.with_hand_vjp(fnn.attention(work.heads))), fnn.dense(work.classes))
    if work.way == "repeat":
        block = fnn.chain(fnn.dense(work.width), fnn.relu)
        return fnn.chain(fnn.repeat(block, work.depth), fnn.dense(work.classes))
    return fnn.models.mlp(work.classes, hidden=[work.width] * work.depth)


def growth_turn(work: Work) -> Callable[[], float]:
    if work.models:
        return _growth_sweep_turn(work)
    net, optimizer, data = growth_network(work), optax.adam(GROWTH_RATE), fnn.data.Split(*work.data())

    def train() -> float:
        run = fnn.fit(
            net,
            fnn.cross_entropy,
            optimizer,
            data,
            epochs=work.epochs,
            batch_size=work.batch_size,
            progress=False,
        )
        return run.history[-1].seconds

    return train


def _growth_sweep_turn(work: Work) -> Callable[[], float]:
    sweep = _growth_sweep(work)
    return lambda: sweep().seconds["train"]


def _growth_sweep(work: Work) -> Callable[[], fnn.sweeps.SweepResult]:
    net, data = growth_network(work), fnn.data.Split(*work.data())
    members = fnn.grid(learning_rate=[GROWTH_RATE], seed=range(work.models))

    def make_optimizer(h):
        return optax.adam(h["learning_rate"])

    def train() -> fnn.sweeps.SweepResult:
        return fnn.sweep(
            net,
            make_optimizer,
            members,
            data,
            epochs=work.epochs,
            batch_size=work.batch_size,
            plan=work.plan,
            progress=False,
        )

    return train


def growth_compile_seconds(work: Work) -> float:
    """A new network has programs of its own, so nothing is taken from an earlier call."""
    forget_programs()
    if work.models:
        return _growth_sweep(work)().seconds["compile"]
    data = fnn.data.Split(*work.data())
    optimizer = optax.adam(GROWTH_RATE)
    run = fnn.fit(
        growth_network(work),
        fnn.cross_entropy,
        optimizer,
        data,
        epochs=1,
        batch_size=work.batch_size,
        progress=False,
    )
    return run.seconds["compile"]


def growth_memory(work: Work) -> int:
    net, optimizer = growth_network(work), optax.adam(GROWTH_RATE)
    step = fnn.training.make_train_step(net, fnn.cross_entropy, optimizer, keep_finite=False)
    epoch = fnn.training.make_epoch(step, work.batch_size)
    start = jax.eval_shape(
        lambda key: fnn.training.create_train_state(net, optimizer, key, work.example_shape), jax.random.key(0)
    )
    x, labels = work.data()
    compiled = jax.jit(epoch, donate_argnums=0).lower(start, x, labels, jnp.int32(0)).compile()
    return bytes_at_once(compiled)
