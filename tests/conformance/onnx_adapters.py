"""ONNX's operators by our layers: channels last for channels first, and the attributes in our words.

An adapter takes attributes and inputs by name and gives the outputs by name, as many as our layer has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tests.conformance import onnx_attention, onnx_recurrent
from tests.conformance.weight_maps import channels_first, channels_last, convolution

import functional_nn as fnn
from functional_nn.jaxprs.xla_options import quick_jit


def outputs(layer, params, x, state=None, *, train=False):
    """(y, new state) of a layer, compiled at once."""
    params, state, x = jax.tree.map(jnp.asarray, (params, state or {}, x))
    return quick_jit(lambda params, state, x: layer.apply(params, state, x, train=train))(params, state, x)


def images(layer, x, params=None, **options):
    """The output of a layer of images, in ONNX's layout."""
    return channels_first(outputs(layer, params or {}, channels_last(x), **options)[0])


def _pads(attributes, sizes, window, strides):
    """Our padding for ``pads`` and ``auto_pad``, of which SAME_LOWER has the odd element before."""
    axes = len(window)
    match attributes.get("auto_pad", b"NOTSET"):
        case b"SAME_UPPER":
            return "same"
        case b"SAME_LOWER":
            totals = [max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(sizes, window, strides, strict=True)]
            return [(total - total // 2, total // 2) for total in totals]
    pads = attributes.get("pads", [0] * 2 * axes)
    return list(zip(pads[:axes], pads[axes:], strict=True))


def conv(attributes, inputs):
    x, weight = inputs["X"], inputs["W"]
    window = weight.shape[2:]
    strides = attributes.get("strides", [1] * len(window))
    params = convolution({"weight": jnp.asarray(weight)} | ({"bias": inputs["B"]} if "B" in inputs else {}))
    layer = fnn.conv(
        weight.shape[0],
        window,
        stride=strides,
        padding=_pads(attributes, x.shape[2:], window, strides),
        dilation=attributes.get("dilations", 1),
        groups=attributes.get("group", 1),
        bias="B" in inputs,
    )
    return {"Y": images(layer, x, params)}


def conv_transpose(attributes, inputs):
    """The spec's formulas: a given output_shape fixes how much is cut off in all, auto_pad on which side of it."""
    x, weight = inputs["X"], inputs["W"]
    sizes, window = x.shape[2:], weight.shape[2:]
    axes, groups = len(window), attributes.get("group", 1)
    strides, dilations = (attributes.get(name, [1] * axes) for name in ("strides", "dilations"))
    extra, pads = attributes.get("output_padding", [0] * axes), attributes.get("pads", [0] * 2 * axes)
    pads = list(zip(pads[:axes], pads[axes:], strict=True))
    upper = attributes.get("auto_pad") == b"SAME_UPPER"
    wanted = [n * s for n, s in zip(sizes, strides, strict=True)] if upper else attributes.get("output_shape")
    if wanted is not None:
        settings = zip(sizes, strides, extra, window, dilations, wanted, strict=True)
        totals = [s * (n - 1) + q + (k - 1) * d + 1 - out for n, s, q, k, d, out in settings]
        halves = [(total // 2, total - total // 2) for total in totals]
        pads = halves if upper else [(more, less) for less, more in halves]
    layer = fnn.conv_transpose(
        weight.shape[1] * groups,
        window,
        stride=strides,
        padding=[(before, after - q) for (before, after), q in zip(pads, extra, strict=True)],
        dilation=dilations,
        groups=groups,
        bias=False,
    )
    return {"Y": images(layer, x, convolution({"weight": jnp.asarray(weight)}))}


def pool(kind):
    def adapter(attributes, inputs):
        x, window = inputs["X"], tuple(attributes["kernel_shape"])
        strides = tuple(attributes.get("strides", [1] * len(window)))
        padding = _pads(attributes, x.shape[2:], window, strides)
        options = {} if kind is fnn.max_pool else {"count_padding": bool(attributes.get("count_include_pad", 0))}
        return {"Y": images(kind(window, stride=strides, padding=padding, **options), x)}

    return adapter


def global_pool(kind):
    def adapter(attributes, inputs):
        x = inputs["X"]
        y, _ = outputs(kind(), {}, channels_last(x))
        return {"Y": y.reshape(*x.shape[:2], *[1] * (x.ndim - 2))}

    return adapter


def batch_normalization(attributes, inputs):
    """ONNX keeps the biased variance of the batch, we the unbiased one, as PyTorch does."""
    x, momentum, train = inputs["X"], attributes.get("momentum", 0.9), bool(attributes.get("training_mode", 0))
    layer = fnn.batch_norm(momentum=momentum, epsilon=attributes.get("epsilon", 1e-5))
    params = {"scale": inputs["scale"], "bias": inputs["B"]}
    state = {"mean": inputs["input_mean"], "variance": inputs["input_var"]}
    y, new_state = outputs(layer, params, channels_last(x), state, train=train)
    found = {"Y": channels_first(y)}
    if train:
        m, kept = x.size // x.shape[1], momentum * state["variance"]
        found["running_mean"] = new_state["mean"]
        found["running_var"] = kept + (new_state["variance"] - kept) * (m - 1) / m
    return found


def layer_norm(kind):
    def adapter(attributes, inputs):
        """ONNX normalizes from an axis to the last, the batch axis too if it is that one: we put one before."""
        x = jnp.asarray(inputs["X"])[None]
        axis = attributes.get("axis", -1) % inputs["X"].ndim + 1
        names = {"Scale": "scale", "scale": "scale", "B": "bias"}
        params = {names[name]: value for name, value in inputs.items() if name in names}
        layer = kind(axes=tuple(range(axis, x.ndim)), epsilon=attributes.get("epsilon", 1e-5))
        return {"Y": outputs(layer, params, x)[0][0]}

    return adapter


def group_normalization(attributes, inputs):
    layer = fnn.group_norm(attributes["num_groups"], epsilon=attributes.get("epsilon", 1e-5))
    return {"Y": images(layer, inputs["X"], {"scale": inputs["scale"], "bias": inputs["bias"]})}


def instance_normalization(attributes, inputs):
    layer = fnn.instance_norm(epsilon=attributes.get("epsilon", 1e-5))
    return {"output": images(layer, inputs["input"], {"scale": inputs["scale"], "bias": inputs["B"]})}


def along_axis(activation):
    def adapter(attributes, inputs):
        axis = attributes.get("axis", -1)
        x = jnp.moveaxis(jnp.asarray(inputs["input"]), axis, -1)
        return {"output": jnp.moveaxis(activation(x), -1, axis)}

    return adapter


def elementwise(activation, x="X", y="Y"):
    return lambda attributes, inputs: {y: activation(inputs[x])}


def prelu(attributes, inputs):
    return {"Y": outputs(fnn.prelu(), {"negative_slope": inputs["slope"]}, inputs["X"])[0]}


def softmax_cross_entropy(attributes, inputs):
    """Classes are on axis 1, and have weights; an ignored label has no class."""
    ignored = attributes.get("ignore_index")
    loss = fnn.losses.cross_entropy_with(ignore_index=ignored, class_weights=inputs.get("weights"))
    labels, reduction = inputs["labels"].astype(np.int32), attributes.get("reduction", b"mean")

    def reduced(scores):
        y = channels_last(scores)
        values = {
            b"mean": lambda: loss(y, labels),
            b"sum": lambda: loss.totals(y, labels)[0],
            b"none": lambda: loss.per_example(y, labels),
        }
        return {"output": values[reduction](), "log_prob": channels_first(fnn.log_softmax(y))}

    return quick_jit(reduced)(inputs["scores"])


def gemm(attributes, inputs):
    weight = inputs["B"].T if attributes.get("transB") else inputs["B"]
    bias = np.broadcast_to(inputs.get("C", np.float32(0)), (1, weight.shape[1]))[0]
    return {"Y": outputs(fnn.dense(weight.shape[1]), {"weight": weight, "bias": bias}, inputs["A"])[0]}


def not_run(attributes, inputs):
    """Of an operator whose every test has a reason to be skipped."""
    raise AssertionError


def recurrent(operator):
    def adapter(attributes, inputs):
        return dict(zip(("Y", "Y_h", "Y_c"), onnx_recurrent.run(operator, attributes, inputs), strict=False))

    return adapter


ADAPTERS: Mapping[str, Callable[[Any, Any], dict[str, Any]]] = {
    **{operator: recurrent(operator) for operator in ("RNN", "LSTM", "GRU")},
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "MaxPool": pool(fnn.max_pool),
    "AveragePool": pool(fnn.average_pool),
    "GlobalAveragePool": global_pool(fnn.global_average_pool),
    "GlobalMaxPool": global_pool(fnn.global_max_pool),
    "BatchNormalization": batch_normalization,
    "LayerNormalization": layer_norm(fnn.layer_norm),
    "RMSNormalization": layer_norm(fnn.rms_norm),
    "GroupNormalization": group_normalization,
    "InstanceNormalization": instance_normalization,
    "Attention": onnx_attention.attention,
    "Softmax": along_axis(fnn.softmax),
    "LogSoftmax": along_axis(fnn.log_softmax),
    "SoftmaxCrossEntropyLoss": softmax_cross_entropy,
    "NegativeLogLikelihoodLoss": not_run,
    "Gemm": gemm,
    "PRelu": prelu,
    "Flatten": lambda attributes, inputs: {"output": outputs(fnn.flatten(), {}, inputs["input"])[0]},
    "Dropout": lambda attributes, inputs: {"output": outputs(fnn.dropout(0.5), {}, inputs["data"])[0]},
    "Identity": elementwise(fnn.identity, "input", "output"),
    "Sigmoid": elementwise(fnn.sigmoid),
    "Tanh": elementwise(fnn.tanh, "input", "output"),
    "Relu": elementwise(fnn.relu),
    "LeakyRelu": lambda attributes, inputs: {
        "Y": fnn.activations.leaky_relu_with(attributes.get("alpha", 0.01))(inputs["X"])
    },
    "Elu": lambda attributes, inputs: {"Y": fnn.activations.elu_with(attributes.get("alpha", 1.0))(inputs["X"])},
    "Selu": elementwise(fnn.selu),
    "Softplus": elementwise(fnn.softplus),
    "Softsign": elementwise(fnn.softsign, "input", "output"),
    "Mish": elementwise(fnn.mish),
    "HardSwish": elementwise(fnn.hard_silu),
    "Swish": elementwise(fnn.silu),
    "HardSigmoid": not_run,
    "Gelu": lambda attributes, inputs: {
        "Y": (fnn.gelu_tanh if attributes.get("approximate") == b"tanh" else fnn.gelu)(inputs["X"])
    },
}
