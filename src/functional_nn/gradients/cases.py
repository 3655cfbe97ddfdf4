"""Cases to compare: small layers, losses and penalties, one or more for every public one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import functional_nn as fnn
from functional_nn.core.layer import Params, State
from functional_nn.core.trees import PyTree
from functional_nn.gradients.compare.problem import cast, draw_input, draw_parameters

BATCH = 7


class LayerCase(NamedTuple):
    """A layer with an input to try it on.

    Args:
        name: the name in tests and reports. It is, or begins with, the name of a public function.
        layer: the layer.
        in_shape: the argument of ``init``.
        draws: whether it draws random numbers in training.
        make_x: ``make_x(in_shape, random, batch) -> x``, for an input other than arrays of normal numbers: integers, a
            ``Masked`` sequence, or a mask.
        no_bfloat16: the reason why it cannot be compared in bfloat16, if it cannot.
    """

    name: str
    layer: fnn.Layer
    in_shape: PyTree
    draws: bool = False
    make_x: Callable[[PyTree, np.random.Generator, int], PyTree] = draw_input
    no_bfloat16: str = ""


class LossCase(NamedTuple):
    """A loss with an output and labels to try it on."""

    name: str
    loss: fnn.Loss
    y: np.ndarray
    labels: np.ndarray


def layer_case(layer: fnn.Layer, in_shape: PyTree, variant: str = "", **others: Any) -> LayerCase:
    """A case whose name is that of the layer, and of the variant if there are several."""
    return LayerCase(f"{layer.name}_{variant}" if variant else layer.name, layer, in_shape, **others)


def loss_case(loss: fnn.Loss, y: np.ndarray, labels: np.ndarray, variant: str = "") -> LossCase:
    """A case whose name is that of the loss, and of the variant if there are several."""
    return LossCase(f"{loss.name}_{variant}" if variant else loss.name, loss, y, labels)


def draw_inputs(case: LayerCase, seed: int = 0) -> tuple[Params, State, PyTree]:
    """Draws parameters and a state at random everywhere, so that no bias is 0, and an input."""
    random = np.random.default_rng(seed)
    params, state = draw_parameters(case.layer, case.in_shape, random)
    return (
        params,
        state,
        jax.tree.map(jnp.asarray, cast(case.make_x(case.in_shape, random, BATCH), jnp.result_type(float))),
    )


def masked(in_shape: tuple[int, ...], random: np.random.Generator, batch: int) -> fnn.Masked:
    """Makes sequences (time, …) of normal numbers with different lengths; the first is full, the next has one step."""
    lengths = random.integers(1, in_shape[0] + 1, batch)
    lengths[:2] = in_shape[0], 1
    return fnn.Masked(random.normal(size=(batch, *in_shape)), np.arange(in_shape[0]) < lengths[:, None])


def ties(in_shape: tuple[int, ...], random: np.random.Generator, batch: int) -> np.ndarray:
    """Makes inputs of the numbers 0, 1 and 2, so that several elements of a window are often the largest."""
    return random.integers(0, 3, (batch, *in_shape)).astype(float)


uneven = {"stride": (2, 1), "padding": ((2, 1), (0, 3)), "dilation": (1, 2)}


def tokens(in_shape, random, batch):
    """Makes sequences of tokens, out of five."""
    return random.integers(0, 5, (batch, *in_shape))


SEQUENCE, HIDDEN = (11, 5), 3
CELL_SHAPES = ((5,), (HIDDEN,))
"""Shapes of the input of one step and of the state."""


def masked_with_state(in_shape, random, batch):
    """Makes a masked sequence and an initial state."""
    sequence, state = in_shape
    return masked(sequence, random, batch), draw_input(state, random, batch)


stacked = fnn.chain(
    fnn.bidirectional(fnn.gru(3, returns="sequence"), fnn.lstm(2, returns="sequence")),
    fnn.dense(5),
    fnn.bidirectional(fnn.lstm(2)),
)

ATTENDED, MEMORY = (5, 6), (3, 2)
HEADS = (5, 2, 4), (3, 2, 4), (3, 2, 3)
GROUPED_HEADS = (3, 4, 2), (5, 2, 2), (5, 2, 3)


def with_masked_memory(in_shape, random, batch):
    """Makes a sequence and a memory; one example of the memory is masked completely."""
    memory = masked(MEMORY, random, batch)
    memory.mask[2] = False
    return masked(ATTENDED, random, batch), memory


def with_bias_and_mask(in_shape, random, batch):
    """Makes arrays, a bias of the scores that all heads share, and a mask for each head, which has the last shape.

    In the first example no head sees anything from the last step.
    """
    *shapes, (heads, time, keys) = in_shape
    bias = random.normal(size=(batch, 1, time, keys))
    mask = random.uniform(size=(batch, heads, time, keys)) < 0.7
    mask[0, :, -1] = False
    return (*draw_input(tuple(shapes), random, batch), bias, mask)


twice_used = fnn.chain(fnn.dense(3, bias=False), fnn.batch_norm(), fnn.tanh, fnn.dropout(0.3))


def gated(net, x):
    return net.value(x) * jax.nn.sigmoid(net.gate(x)) + net.gate(2 * x)


def sampled(net, x, *, train, key):
    """A variational autoencoder."""
    mean, log_variance = jnp.split(net.encoder(x), 2, axis=-1)
    z = mean + jnp.exp(log_variance / 2) * jax.random.normal(key, mean.shape).astype(mean.dtype) if train else mean
    return net.decoder(z), mean, log_variance


def distance(net, x):
    left, right = (net.encoder(part) for part in x)
    return net.head(jnp.concatenate([(left - right) ** 2, left * right], axis=-1))


def products(net, x):
    weight = net.weights(x).reshape(-1, 3, 2)
    return jnp.einsum("bi,bij->bj", x, weight) + jnp.einsum("bij,bkj->bik", weight, weight)[:, 0, :2]


def messages(net, x):
    """A graph network: every edge sends a message from its source, and every node adds up the messages it gets."""
    sources, targets = jnp.array([0, 0, 1, 3, 4]), jnp.array([1, 2, 2, 2, 0])
    sent = net.message(x[:, sources])
    return net.update(x.at[:, targets].add(sent))


branches = fnn.dense(3), fnn.chain(fnn.dense(3), fnn.tanh)

MOVED_KINK = "rounded to 8 bits, numbers that max pooling compares become equal, and the kink moves"
"""The reason why networks with max pooling are not compared in bfloat16."""
language = fnn.models.language_model(
    5, 4, features=4, depth=2, heads=2, key_value_heads=1, window=2, positions="learned"
)
MODELS = [
    layer_case(fnn.models.mlp(3, hidden=(11, 7)), (5, 2)),
    layer_case(
        fnn.models.mlp(3, hidden=(11, 7), dropout=0.2, batch_norm=True, activation=fnn.silu),
        (5, 2),
        "with_all",
        draws=True,
    ),
    layer_case(fnn.model("cnn", 3, hidden=(2, 5), activation=fnn.tanh), (7, 5, 2), no_bfloat16=MOVED_KINK),
    layer_case(fnn.model("lenet", 3, hidden=(2, 3, 5), activation=fnn.tanh), (13, 11, 1), no_bfloat16=MOVED_KINK),
    layer_case(
        fnn.model("deep_cnn", 3, hidden=(2, 2, 2, 3), activation=fnn.tanh, dropout=0.2),
        (12, 10, 1),
        draws=True,
        no_bfloat16=MOVED_KINK,
    ),
    layer_case(fnn.models.residual_block(3, projection=True, activation=fnn.tanh), (5, 3, 2)),
    layer_case(fnn.model("resnet", 3, hidden=(2, 3), activation=fnn.tanh), (5, 3, 2)),
    *(LayerCase(f"{name}_model", fnn.model(name, 3, hidden=(5, 2)), (3, 2, 2)) for name in ("rnn", "lstm", "gru")),
    layer_case(language.layer, (4,), make_x=tokens),
    layer_case(fnn.model("transformer", 3, hidden=(4, 4), heads=2), (3, 5)),
]


LAYERS = [
    # The core
    layer_case(fnn.neuron(), (5,)),
    *(layer_case(fnn.neuron(f), (5,), f.name) for f in (fnn.sigmoid, fnn.tanh, fnn.relu)),
    layer_case(fnn.dense(3), (5,)),
    layer_case(fnn.dense(3, bias=False), (5,), "without_bias"),
    layer_case(fnn.dense(3), (11, 5), "on_sequences"),
    layer_case(fnn.flatten(), (2, 3, 5)),
    layer_case(fnn.flatten(keep=1), (2, 3, 5), "keeping_rows"),
    layer_case(fnn.reshape((3, -1)), (2, 15)),
    layer_case(fnn.chain(), (5,), "empty"),
    layer_case(fnn.chain(fnn.dense(3), fnn.tanh, fnn.dense(2)), (5,)),
    layer_case(
        fnn.chain(fnn.chain(fnn.dense(3), fnn.gelu), fnn.chain(fnn.dropout(0.5))), (5,), "of_chains", draws=True
    ),
    *(LayerCase(name, f.as_layer(), (5, 3)) for name, f in fnn.activations.ACTIVATIONS.items()),
    # Combinators
    layer_case(fnn.parallel(*branches), (5,), "sum"),
    layer_case(fnn.parallel(*branches, fnn.dense(3), combine="product"), (5,), "product"),
    layer_case(fnn.parallel(fnn.dense(3), fnn.dropout(0.3), combine="concatenate"), (5,), "concatenate", draws=True),
    layer_case(fnn.parallel(*branches), (11, 5), "over_masked", make_x=masked),
    layer_case(fnn.residual(fnn.chain(fnn.dense(5), fnn.tanh, fnn.batch_norm())), (5,)),
    layer_case(fnn.residual(fnn.dense(5), fnn.tanh, last=fnn.dense(5)), (5,), "of_named"),
    layer_case(fnn.residual(fnn.dense(3), shortcut=fnn.dense(3, bias=False)), (5,), "with_shortcut"),
    layer_case(fnn.residual(fnn.dense(5)), (11, 5), "over_masked", make_x=masked),
    layer_case(fnn.bidirectional(fnn.dense(3), fnn.dense(2)), (11, 5)),
    LayerCase("reverse_time", fnn.reverse_time(fnn.dense(3)), (11, 5)),
    layer_case(fnn.repeat(fnn.residual(fnn.chain(fnn.dense(5), fnn.tanh, fnn.dropout(0.3))), 3), (5,), draws=True),
    layer_case(fnn.repeat(fnn.chain(fnn.dense(5, bias=False), fnn.batch_norm()), 2), (5,), "with_state"),
    layer_case(fnn.repeat(fnn.residual(fnn.dense(5)), 2), (11, 5), "over_masked", make_x=masked),
    LayerCase("remat", fnn.remat(fnn.chain(fnn.dense(3), fnn.tanh, fnn.dropout(0.3))), (5,), True),
    layer_case(fnn.compose({"gate": fnn.dense(3), "value": fnn.dense(3)}, gated), (5,)),
    layer_case(fnn.compose({"encoder": fnn.dense(4), "decoder": fnn.dense(3)}, sampled), (5,), "sampling", draws=True),
    layer_case(
        fnn.compose({"encoder": twice_used, "head": fnn.dense(2)}, distance), ((5,), (5,)), "shared", draws=True
    ),
    layer_case(fnn.compose({"weights": fnn.dense(6)}, products), (3,), "products"),
    layer_case(fnn.compose({"message": fnn.dense(3), "update": fnn.dense(2)}, messages), (5, 3), "indices"),
    LayerCase("shared", fnn.shared(fnn.chain(fnn.dense(5), fnn.tanh, fnn.dense(5)), {"dense_1": "dense_0"}), (5,)),
    LayerCase(
        "frozen", fnn.frozen(fnn.models.mlp(3, hidden=(11, 7), batch_norm=True), ["dense_0/*", "*scale"]), (5, 2)
    ),
    LayerCase("with_hand_vjp", fnn.with_hand_vjp(fnn.chain(fnn.dense(3), fnn.tanh, fnn.dropout(0.3))), (5,), True),
    # Recurrent layers
    layer_case(fnn.rnn_cell(HIDDEN), CELL_SHAPES),
    layer_case(fnn.lstm_cell(HIDDEN), ((5,), ((HIDDEN,), (HIDDEN,)))),
    layer_case(fnn.gru_cell(HIDDEN), CELL_SHAPES),
    layer_case(fnn.gru_cell(HIDDEN, reset_after=False), CELL_SHAPES, "reset_before"),
    layer_case(fnn.rnn(HIDDEN, activation=fnn.relu, returns="sequence"), SEQUENCE, "relu_sequence"),
    layer_case(fnn.rnn(HIDDEN, initial_state="learned"), SEQUENCE, "learned_masked", make_x=masked),
    layer_case(fnn.lstm(HIDDEN), SEQUENCE),
    layer_case(fnn.lstm(HIDDEN, initial_state="learned", initializer="pytorch"), SEQUENCE, "learned"),
    layer_case(
        fnn.lstm(HIDDEN, initial_state="given", returns="sequence"),
        (SEQUENCE, ((HIDDEN,), (HIDDEN,))),
        "given_masked_sequence",
        make_x=masked_with_state,
    ),
    layer_case(fnn.gru(HIDDEN, returns="sequence"), SEQUENCE, "masked_sequence", make_x=masked),
    layer_case(fnn.gru(HIDDEN, reset_after=False, initial_state="given"), (SEQUENCE, (HIDDEN,)), "given_reset_before"),
    LayerCase("recurrent_stacked_masked", stacked, SEQUENCE, make_x=masked),
    # Attention
    layer_case(fnn.dot_product_attention(), HEADS),
    layer_case(fnn.dot_product_attention(causal=True, window=2, rotary=True), GROUPED_HEADS, "of_grouped_heads"),
    layer_case(
        fnn.dot_product_attention(scale=0.7, score_cap=1.5),
        (*HEADS, (2, 5, 3)),
        "with_bias_and_mask",
        make_x=with_bias_and_mask,
    ),
    layer_case(
        fnn.dot_product_attention(causal=True, queries_at_once=2),
        (*GROUPED_HEADS, (4, 3, 5)),
        "with_bias_of_each_head",
    ),
    layer_case(fnn.attention(2, causal=True, rotary=True, head_size=4), ATTENDED),
    layer_case(fnn.attention(3), ATTENDED, "over_masked", make_x=masked),
    layer_case(
        fnn.attention(2, head_size=5, out_size=4, bias=False),
        (ATTENDED, MEMORY),
        "to_masked_memory",
        make_x=with_masked_memory,
    ),
    layer_case(
        fnn.attention(4, key_value_heads=2, head_size=2, causal=True, window=2, score_cap=2.0),
        ATTENDED,
        "of_grouped_heads",
    ),
    layer_case(fnn.attention(2), (ATTENDED, (2, 5, 5)), "with_bias_and_mask", make_x=with_bias_and_mask),
    layer_case(
        fnn.attention(3), (ATTENDED, MEMORY, (3, 5, 3)), "to_memory_with_bias_and_mask", make_x=with_bias_and_mask
    ),
    layer_case(fnn.sinusoidal_positions(), ATTENDED),
    layer_case(fnn.learned_positions(7), ATTENDED),
    layer_case(fnn.models.transformer_block(3, hidden_size=7, dropout=0.2), ATTENDED, draws=True, make_x=masked),
    # Embeddings
    layer_case(fnn.embedding(11, 3), (5,), make_x=tokens),
    layer_case(fnn.unembedding(11), (5, 3)),
    # Convolutions and pooling
    layer_case(fnn.conv(3, (3, 2), lowering="product"), (5, 7, 2)),
    layer_case(fnn.conv(6, (3, 2), **uneven, groups=2, lowering="native"), (5, 7, 4), "native"),
    layer_case(fnn.conv(3, (3, 2), **uneven, lowering="product"), (5, 7, 2), "strided"),
    layer_case(fnn.conv(5, 3, padding="causal", dilation=2, bias=False), (7, 3), "causal"),
    layer_case(fnn.conv(2, (2, 1, 2), padding="valid"), (3, 2, 5, 3), "of_volumes"),
    layer_case(fnn.conv(5, 1, stride=2), (7, 3), "of_single_places"),
    layer_case(fnn.conv(6, 2, groups=2, lowering="product"), (5, 4), "grouped"),
    layer_case(fnn.conv(6, 3, groups=3, stride=2, lowering="product"), (7, 3), "depthwise"),
    layer_case(fnn.conv_transpose(3, (3, 2), **uneven, lowering="product"), (3, 5, 2)),
    layer_case(fnn.conv_transpose(6, 2, stride=3, groups=2, lowering="product"), (5, 4), "grouped"),
    layer_case(fnn.max_pool(2), (5, 7, 3)),
    layer_case(fnn.max_pool(2), (5, 7, 3), "of_ties", make_x=ties),
    layer_case(fnn.max_pool((3, 2), stride=(2, 1), padding="same"), (5, 7, 3), "overlapping"),
    layer_case(fnn.average_pool((2, 3), padding="same"), (5, 7, 3)),
    layer_case(fnn.average_pool(3, stride=2, padding=((1, 2),), count_padding=True), (7, 3), "overlapping"),
    layer_case(fnn.global_average_pool(), (2, 3, 5)),
    layer_case(fnn.global_average_pool(), (11, 5), "over_masked", make_x=masked),
    layer_case(fnn.global_max_pool(), (2, 3, 5)),
    layer_case(fnn.global_max_pool(), (11, 5), "over_masked", make_x=masked),
    # Normalization
    layer_case(fnn.batch_norm(), (5,)),
    layer_case(fnn.batch_norm(momentum=0.7, epsilon=1e-3), (2, 3, 5), "on_images"),
    layer_case(fnn.batch_norm(axes=(0, -1)), (3, 5), "with_axes"),
    layer_case(fnn.batch_norm(), (11, 5), "over_masked", make_x=masked),
    layer_case(fnn.layer_norm(), (11, 5)),
    layer_case(fnn.layer_norm(axes=(1, 2)), (11, 5), "over_masked", make_x=masked),
    layer_case(fnn.rms_norm(), (3, 5)),
    layer_case(fnn.group_norm(2), (3, 5, 14)),
    layer_case(fnn.group_norm(2), (11, 6), "over_masked", make_x=masked),
    layer_case(fnn.instance_norm(), (11, 5)),
    layer_case(fnn.prelu(), (3, 5)),
    # Layers that draw random numbers, or move images
    layer_case(fnn.dropout(0.3), (13,), draws=True),
    layer_case(fnn.spatial_dropout(0.3), (3, 5), draws=True),
    layer_case(fnn.stochastic_depth(0.3), (3, 5), draws=True),
    layer_case(fnn.random_shift(1), (5, 2), draws=True),
    LayerCase("random_shift-2-axes", fnn.random_shift(2), (4, 5, 2), draws=True),
    layer_case(fnn.random_deformation(0.4), (5, 2), draws=True),
    LayerCase("random_deformation-2-axes", fnn.random_deformation(0.3), (4, 5, 2), draws=True),
    *MODELS,
]


_random = np.random.default_rng(0)
_logits = _random.normal(size=(BATCH, 5)) * 3
_integers = _random.integers(0, 5, BATCH)
_soft = _random.dirichlet(np.ones(5), BATCH)
_targets = _random.normal(size=(BATCH, 5))
_some_ignored = np.where(_integers == 2, -1, _integers)
_log_probabilities = np.log(_random.dirichlet(np.ones(5), BATCH))
_smoothed = fnn.losses.cross_entropy_with(label_smoothing=0.1, ignore_index=-1)
_weighted = fnn.losses.cross_entropy_with(label_smoothing=0.1, ignore_index=-1, class_weights=[0.3, 2.0, 1.0, 0.7, 0.0])

LOSSES = [
    loss_case(fnn.mean_squared_error, _logits, _targets),
    loss_case(fnn.mean_squared_error, _logits[:, 0], _targets[:, 0], "of_vectors"),
    loss_case(fnn.mean_absolute_error, _logits, _targets),
    loss_case(fnn.huber, _logits, _targets),
    loss_case(fnn.losses.huber_with(0.3), _logits, _targets, "with"),
    loss_case(fnn.cosine_distance, _logits, _targets),
    loss_case(fnn.hinge, _logits, (_targets > 0).astype(int)),
    loss_case(fnn.binary_cross_entropy, _logits, (_targets > 0).astype(int)),
    loss_case(fnn.binary_cross_entropy, _logits, _soft, "soft"),
    loss_case(
        fnn.losses.binary_cross_entropy_from_probabilities, 1 / (1 + np.exp(-_logits)), (_targets > 0).astype(int)
    ),
    loss_case(fnn.cross_entropy, _logits, _integers),
    loss_case(fnn.cross_entropy, _logits, _soft, "soft"),
    loss_case(fnn.cross_entropy, _logits.reshape(1, BATCH, 5), _integers[None], "on_sequences"),
    loss_case(fnn.losses.cross_entropy_with(label_smoothing=0.2), _logits, _integers, "smoothed"),
    loss_case(_smoothed, _logits, _some_ignored, "smoothed_ignoring"),
    loss_case(_smoothed, _logits, _soft, "smoothed_soft"),
    loss_case(fnn.losses.cross_entropy_with(class_weights=[0.3, 2.0, 1.0, 0.7, 0.0]), _logits, _integers, "weighted"),
    loss_case(_weighted, _logits, _some_ignored, "weighted_smoothed_ignoring"),
    loss_case(_weighted, _logits, _soft, "weighted_smoothed_soft"),
    loss_case(fnn.multiclass_hinge, _logits, _integers),
    loss_case(fnn.multiclass_hinge, _logits.reshape(1, BATCH, 5), _integers[None], "on_sequences"),
    loss_case(fnn.negative_log_likelihood, _log_probabilities, _integers),
    loss_case(fnn.kl_divergence, _log_probabilities, _soft),
]

PENALTIES = [
    ("l1", fnn.l1(0.3)),
    ("l2", fnn.l2(0.7)),
    ("l1_by_path", fnn.l1(0.3, paths=["*bias", "dense_1/*"])),
    ("l2_by_function", fnn.l2(0.7, paths=lambda path: "dense_0" in path)),
]
