"""Messages to new users, and to users of PyTorch: names, sizes, labels, images channels first, loaders, tensors."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import functional_nn as fnn
from functional_nn.core import texts
from functional_nn.core.texts import suggest
from functional_nn.data import Split


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("desne", "Did you mean dense?"),
        ("Adam", "use optax.adam."),
        ("make_epoch", "Did you mean fnn.training.make_epoch?"),
        ("qqqqqq", "See docs/reference/index.md for all names."),
    ],
)
def test_a_name_that_the_package_does_not_have(name, remedy):
    with pytest.raises(AttributeError) as caught:
        getattr(fnn, name)
    assert str(caught.value).startswith(f"module 'functional_nn' has no attribute {name!r}. ")
    assert str(caught.value).endswith(remedy)


def test_a_remedy_lists_the_nearest_of_very_many_names():
    nearest = "layer_7, layer_97, layer_87, layer_79, layer_78, … 95 more"
    assert suggest("layer_7", [f"layer_{i}" for i in range(100)]) == f"Did you mean layer_7? Known: {nearest}."


def test_a_remedy_compares_so_many_names_that_it_comes_soon(monkeypatch):
    """A table can have millions of columns. To compare all their names took longer than to read the table."""
    compared = []
    ratio = texts.difflib.SequenceMatcher.ratio
    monkeypatch.setattr(texts.difflib.SequenceMatcher, "ratio", lambda self: compared.append(self) or ratio(self))
    remedy = suggest("column", map(str, range(100_000)))
    assert remedy.endswith(f"… {100_000 - texts.NEAR} more.")
    assert 0 < len(compared) <= 2 * texts.MOST_COMPARED


class Tensor:
    """What a tensor of PyTorch has: no array of NumPy or JAX, but one can be made of it."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return self.values

    def numpy(self):
        return self.values


class Module:
    __module__ = "torch.nn.modules.loss"

    def __call__(self, x, labels=None):
        return x


class CrossEntropyLoss(Module):
    """As in PyTorch, by its name and its base class."""


class Loader:
    def __iter__(self):
        yield VECTORS, LABELS


VECTORS, LABELS = np.ones((20, 5), np.float32), np.arange(20) % 4
IMAGES, CHANNELS_FIRST = Split(np.zeros((20, 7, 7, 1)), LABELS), Split(np.ones((20, 3, 8, 8)), LABELS)
BYTES = Split(np.zeros((20, 7), np.uint8), LABELS)
OF_TOKENS = fnn.chain(fnn.embedding(5, 3), fnn.flatten(), fnn.dense(4))
POOLED = fnn.chain(fnn.max_pool(4), fnn.flatten(), fnn.dense(4))
TRANSPOSE = r"The images look channels first, as in PyTorch\. Write x\.transpose\(0, 2, 3, 1\)\."


def trained(net=fnn.dense(4), loss=fnn.cross_entropy, optimizer=None, data=Split(VECTORS, LABELS)):  # noqa: B008
    return fnn.fit(net, loss, optimizer or optax.adam(1e-3), data, epochs=1, batch_size=10)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: fnn.dense(784, 10), r"dense: expected out_size alone, got 784, 10\..*Write dense\(10\)\."),
        (lambda: fnn.conv(1, 32, 3), r"conv: expected out_size and window, got 1, 32, 3\..*Write conv\(32, 3\)\."),
        (lambda: fnn.batch_norm(8), r"batch_norm: expected only named arguments, got 8\..*Write batch_norm\(\)\."),
        (lambda: trained(data=IMAGES), r"put flatten\(\) before dense, which keeps every axis but the last"),
        (
            lambda: fnn.dense(2).apply(*fnn.dense(2).init(jax.random.key(0), (49,)), IMAGES.train_x, train=False),
            r"If x are images, put flatten\(\) before this layer\.",
        ),
        # ``fit`` turns bytes into x / 255, so the embedding is given float32.
        (lambda: trained(OF_TOKENS, data=BYTES), r"Give tokens as int32.* fit converts uint8 to floating-point"),
        (
            lambda: trained(loss=optax.sgd(0.1), optimizer=fnn.cross_entropy),
            r"look swapped: .* as in fit\(net, loss, optimizer, data\)",
        ),
        (lambda: trained(data=Split(VECTORS.T, LABELS)), r"Examples are along the first axis: write x\.T"),
        (lambda: trained(POOLED, data=CHANNELS_FIRST), TRANSPOSE),
        (lambda: trained(data=Loader()), r"fnn\.data\.Stream\(loader\)"),
        (lambda: trained(loss=CrossEntropyLoss()), r"got CrossEntropyLoss of PyTorch\. Write fnn\.cross_entropy\."),
        (lambda: trained(fnn.chain(fnn.flatten(), Module())), r"got a PyTorch module, Module\. .*from_torch"),
        (
            lambda: jax.eval_shape(fnn.chain(fnn.flatten(), fnn.dense(3)).init, jax.random.key(0), (28, 28, 1)),
            r"Write jax\.eval_shape\(lambda key: net\.init\(key, \(28, 28, 1\)\), key\)",
        ),
        (
            lambda: fnn.sweep(fnn.dense(4), optax.adam, fnn.grid(learning_rate=[0.1]), Split(VECTORS, LABELS)),
            r'Write lambda h: optax\.adam\(h\["learning_rate"\]\)\.',
        ),
    ],
)
def test_a_mistake_is_explained(call, words):
    with pytest.raises(fnn.InputError, match=words):
        call()


CLASSES = np.array([0, 1, 2, 1])
NAMES = ["cat", "dog", "cow", "dog"]


@pytest.mark.parametrize(
    ("labels", "outputs", "given", "remedy"),
    [
        (CLASSES.astype(float), 3, "floating-point numbers of shape (4,)", "Write labels.astype(int)."),
        (CLASSES + 1, 3, "3 at index (2,)", "Subtract 1 from the labels, or give the network more outputs. To leave"),
        (CLASSES % 2, 1, "1 at index (1,)", "write dense(2). Or use the loss binary_cross_entropy, with labels of"),
        (CLASSES[:, None] % 2 / 1, 1, "a row with sum 0", "write dense(2). Or use the loss binary_cross_entropy"),
        (CLASSES, 1, "1 at index (1,)", "A network has one output for each class: write dense(3)."),
        (NAMES, 3, str(NAMES), "Write np.unique(labels, return_inverse=True)[1]."),
    ],
)
def test_labels_that_do_not_fit(labels, outputs, given, remedy):
    data = Split(np.zeros((4, 2)), labels)
    for call in (
        lambda: fnn.fit(fnn.dense(outputs), fnn.cross_entropy, optax.sgd(0.1), data),
        lambda: fnn.cross_entropy(jnp.zeros((4, outputs)), labels),
    ):
        with pytest.raises(fnn.InputError) as caught:
            call()
        assert f"got {given}" in str(caught.value)
        assert remedy in str(caught.value)


def test_arrays_of_another_library_or_layout():
    net = fnn.dense(2)
    params, state = net.init(jax.random.key(0), (5,))
    assert fnn.training.predict(net, params, state, Tensor(VECTORS)).shape == (20, 2)
    with pytest.raises(fnn.InputError, match=r"Write x\.numpy\(\)\."):
        net.apply(params, state, Tensor(VECTORS), train=False)
    net = fnn.conv(4, 3)
    params, state = net.init(jax.random.key(0), (8, 8, 3))
    with pytest.raises(fnn.InputError, match=f"3 channels on the last axis.*{TRANSPOSE}"):
        net.apply(params, state, CHANNELS_FIRST.train_x, train=False)
