"""Messages to users of PyTorch: images channels first, loaders, tensors, losses and modules."""

import jax
import numpy as np
import optax
import pytest

import functional_nn as fnn
from functional_nn.data import Split, make_dataset

IMAGES, LABELS = np.ones((20, 3, 8, 8), np.float32), np.arange(20) % 4
VECTORS = np.ones((20, 5), np.float32)
TRANSPOSE = r"The images look channels first, as in PyTorch\. Write x\.transpose\(0, 2, 3, 1\)\."


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


def trained(net, loss=fnn.cross_entropy, data=None):
    return fnn.fit(net, loss, optax.adam(1e-3), data or Split(VECTORS, LABELS), epochs=1, batch_size=10)


@pytest.mark.parametrize("layer", [fnn.max_pool(4), fnn.average_pool(4), fnn.conv(2, 4, padding="valid")])
def test_a_window_that_is_too_large_for_images_channels_first(layer):
    with pytest.raises(fnn.InputError, match=TRANSPOSE):
        trained(fnn.chain(layer, fnn.flatten(), fnn.dense(4)), data=Split(IMAGES, LABELS))


def test_a_convolution_of_images_channels_first():
    net = fnn.conv(4, 3)
    params, state = net.init(jax.random.key(0), (8, 8, 3))
    with pytest.raises(fnn.InputError, match=f"3 channels on the last axis.*{TRANSPOSE}"):
        net.apply(params, state, IMAGES, train=False)


def test_other_images_are_not_said_to_be_channels_first():
    net = fnn.conv(4, 3)
    params, state = net.init(jax.random.key(0), (8, 8, 3))
    with pytest.raises(fnn.InputError, match="Initialize with this in_shape"):
        net.apply(params, state, IMAGES.transpose(0, 2, 3, 1)[..., :1], train=False)


def test_a_data_set_of_images_channels_first():
    images = IMAGES.astype(np.uint8)
    with pytest.raises(fnn.DataError, match=f"mine training images: .*{TRANSPOSE}"):
        make_dataset("mine", images, LABELS, images, LABELS, source="a test")


@pytest.mark.parametrize("batches", [Loader(), (batch for batch in [(VECTORS, LABELS)])], ids=["loader", "generator"])
def test_batches_without_a_stream(batches):
    with pytest.raises(fnn.InputError, match=r"fnn\.data\.Stream\(loader\)"):
        trained(fnn.dense(4), data=batches)


def test_predict_takes_tensors_and_apply_says_how_to_convert_them():
    net = fnn.dense(2)
    params, state = net.init(jax.random.key(0), (5,))
    assert fnn.training.predict(net, params, state, Tensor(VECTORS)).shape == (20, 2)
    with pytest.raises(fnn.InputError, match=r"Write x\.numpy\(\)\."):
        net.apply(params, state, Tensor(VECTORS), train=False)


def test_a_loss_of_pytorch():
    with pytest.raises(fnn.InputError, match=r"got CrossEntropyLoss of PyTorch\. Write fnn\.cross_entropy\."):
        trained(fnn.dense(4), CrossEntropyLoss())


def test_a_module_of_pytorch():
    with pytest.raises(fnn.InputError, match=r"got a PyTorch module, Module\. .*from_torch"):
        trained(fnn.chain(fnn.flatten(), Module()))


@pytest.mark.parametrize("net", [fnn.dense(3), fnn.chain(fnn.flatten(), fnn.dense(3))])
def test_a_traced_in_shape(net):
    remedy = r"Write jax\.eval_shape\(lambda key: net\.init\(key, \(28, 28, 1\)\), key\)"
    with pytest.raises(fnn.InputError, match=remedy):
        jax.eval_shape(net.init, jax.random.key(0), (28, 28, 1))


def test_an_optimizer_of_a_sweep_that_is_no_function_of_the_hyper_parameters():
    with pytest.raises(fnn.InputError, match=r'Write lambda h: optax\.adam\(h\["learning_rate"\]\)\.'):
        fnn.sweep(fnn.dense(4), optax.adam, fnn.grid(learning_rate=[0.1]), Split(VECTORS, LABELS), epochs=1)
