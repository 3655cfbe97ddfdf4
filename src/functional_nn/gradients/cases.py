"""Cases to compare: small layers, losses and penalties, one or more for every public one."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

import functional_nn as fnn
from functional_nn.core.layer import Params, State
from functional_nn.core.trees import PyTree
from functional_nn.gradients.compare.problem import draw_input, draw_parameters

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


def draw_inputs(case: LayerCase, seed: int = 0) -> tuple[Params, State, PyTree]:
    """Draws parameters and a state at random everywhere, so that no bias is 0, and an input."""
    random = np.random.default_rng(seed)
    params, state = draw_parameters(case.layer, case.in_shape, random)
    return params, state, jax.tree.map(as_input, case.make_x(case.in_shape, random, BATCH))


def as_input(array: ArrayLike) -> jax.Array:
    """Converts floating-point numbers to JAX's default type. Other numbers keep their type."""
    array = np.asarray(array)
    # NumPy converts them, since JAX would compile a program for each shape.
    return jnp.asarray(array.astype(jnp.result_type(float)) if np.issubdtype(array.dtype, np.floating) else array)


def masked(in_shape: tuple[int, ...], random: np.random.Generator, batch: int) -> fnn.Masked:
    """Makes sequences (time, …) of normal numbers with different lengths; the first is full, the next has one step."""
    lengths = random.integers(1, in_shape[0] + 1, batch)
    lengths[:2] = in_shape[0], 1
    return fnn.Masked(random.normal(size=(batch, *in_shape)), np.arange(in_shape[0]) < lengths[:, None])


def ties(in_shape: tuple[int, ...], random: np.random.Generator, batch: int) -> np.ndarray:
    """Makes inputs of the numbers 0, 1 and 2, so that several elements of a window are often the largest."""
    return random.integers(0, 3, (batch, *in_shape)).astype(float)


NEURONS = [LayerCase(f"neuron_{f.name}", fnn.neuron(f), (5,)) for f in (fnn.sigmoid, fnn.tanh, fnn.relu)]
ACTIVATIONS = [LayerCase(name, f.as_layer(), (5, 3)) for name, f in fnn.activations.ACTIVATIONS.items()]

CORE = [
    LayerCase("neuron", fnn.neuron(), (5,)),
    *NEURONS,
    LayerCase("dense", fnn.dense(3), (5,)),
    LayerCase("dense_without_bias", fnn.dense(3, bias=False), (5,)),
    LayerCase("dense_on_sequences", fnn.dense(3), (11, 5)),
    LayerCase("flatten", fnn.flatten(), (2, 3, 5)),
    LayerCase("flatten_keeping_rows", fnn.flatten(keep=1), (2, 3, 5)),
    LayerCase("reshape", fnn.reshape((3, -1)), (2, 15)),
    LayerCase("chain_empty", fnn.chain(), (5,)),
    LayerCase("chain", fnn.chain(fnn.dense(3), fnn.tanh, fnn.dense(2)), (5,)),
    LayerCase("chain_of_chains", fnn.chain(fnn.chain(fnn.dense(3), fnn.gelu), fnn.chain(fnn.dropout(0.5))), (5,), True),
    *ACTIVATIONS,
]


uneven = {"stride": (2, 1), "padding": ((2, 1), (0, 3)), "dilation": (1, 2)}

CONV = [
    LayerCase("conv", fnn.conv(3, (3, 2), lowering="product"), (5, 7, 2)),
    LayerCase("conv_native", fnn.conv(6, (3, 2), **uneven, groups=2, lowering="native"), (5, 7, 4)),
    LayerCase("conv_strided", fnn.conv(3, (3, 2), **uneven, lowering="product"), (5, 7, 2)),
    LayerCase("conv_causal", fnn.conv(5, 3, padding="causal", dilation=2, bias=False), (7, 3)),
    LayerCase("conv_of_volumes", fnn.conv(2, (2, 1, 2), padding="valid"), (3, 2, 5, 3)),
    LayerCase("conv_of_single_places", fnn.conv(5, 1, stride=2), (7, 3)),
    LayerCase("conv_grouped", fnn.conv(6, 2, groups=2, lowering="product"), (5, 4)),
    LayerCase("conv_depthwise", fnn.conv(6, 3, groups=3, stride=2, lowering="product"), (7, 3)),
    LayerCase("conv_transpose", fnn.conv_transpose(3, (3, 2), **uneven, lowering="product"), (3, 5, 2)),
    LayerCase("conv_transpose_grouped", fnn.conv_transpose(6, 2, stride=3, groups=2, lowering="product"), (5, 4)),
    LayerCase("max_pool", fnn.max_pool(2), (5, 7, 3)),
    LayerCase("max_pool_of_ties", fnn.max_pool(2), (5, 7, 3), make_x=ties),
    LayerCase("max_pool_overlapping", fnn.max_pool((3, 2), stride=(2, 1), padding="same"), (5, 7, 3)),
    LayerCase("average_pool", fnn.average_pool((2, 3), padding="same"), (5, 7, 3)),
    LayerCase("average_pool_overlapping", fnn.average_pool(3, stride=2, padding=((1, 2),), count_padding=True), (7, 3)),
    LayerCase("global_average_pool", fnn.global_average_pool(), (2, 3, 5)),
    LayerCase("global_average_pool_over_masked", fnn.global_average_pool(), (11, 5), make_x=masked),
    LayerCase("global_max_pool", fnn.global_max_pool(), (2, 3, 5)),
    LayerCase("global_max_pool_over_masked", fnn.global_max_pool(), (11, 5), make_x=masked),
]


NORM = [
    LayerCase("batch_norm", fnn.batch_norm(), (5,)),
    LayerCase("batch_norm_on_images", fnn.batch_norm(momentum=0.7, epsilon=1e-3), (2, 3, 5)),
    LayerCase("batch_norm_with_axes", fnn.batch_norm(axes=(0, -1)), (3, 5)),
    LayerCase("batch_norm_over_masked", fnn.batch_norm(), (11, 5), make_x=masked),
    LayerCase("layer_norm", fnn.layer_norm(), (11, 5)),
    LayerCase("layer_norm_over_masked", fnn.layer_norm(axes=(1, 2)), (11, 5), make_x=masked),
    LayerCase("rms_norm", fnn.rms_norm(), (3, 5)),
    LayerCase("group_norm", fnn.group_norm(2), (3, 5, 14)),
    LayerCase("group_norm_over_masked", fnn.group_norm(2), (11, 6), make_x=masked),
    LayerCase("instance_norm", fnn.instance_norm(), (11, 5)),
    LayerCase("prelu", fnn.prelu(), (3, 5)),
]


DROPOUT = [
    LayerCase("dropout", fnn.dropout(0.3), (13,), draws=True),
    LayerCase("spatial_dropout", fnn.spatial_dropout(0.3), (3, 5), draws=True),
    LayerCase("stochastic_depth", fnn.stochastic_depth(0.3), (3, 5), draws=True),
    LayerCase("random_shift", fnn.random_shift(1), (5, 2), draws=True),
    LayerCase("random_shift-2-axes", fnn.random_shift(2), (4, 5, 2), draws=True),
    LayerCase("random_deformation", fnn.random_deformation(0.4), (5, 2), draws=True),
    LayerCase("random_deformation-2-axes", fnn.random_deformation(0.3), (4, 5, 2), draws=True),
]


def tokens(in_shape, random, batch):
    """Makes sequences of tokens, out of eleven."""
    return random.integers(0, 11, (batch, *in_shape))


EMBEDDING = [
    LayerCase("embedding", fnn.embedding(11, 3), (5,), make_x=tokens),
    LayerCase("unembedding", fnn.unembedding(11), (5, 3)),
]


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

RECURRENT = [
    LayerCase("rnn_cell", fnn.rnn_cell(HIDDEN), CELL_SHAPES),
    LayerCase("lstm_cell", fnn.lstm_cell(HIDDEN), ((5,), ((HIDDEN,), (HIDDEN,)))),
    LayerCase("gru_cell", fnn.gru_cell(HIDDEN), CELL_SHAPES),
    LayerCase("gru_cell_reset_before", fnn.gru_cell(HIDDEN, reset_after=False), CELL_SHAPES),
    LayerCase("rnn_relu_sequence", fnn.rnn(HIDDEN, activation=fnn.relu, returns="sequence"), SEQUENCE),
    LayerCase("rnn_learned_masked", fnn.rnn(HIDDEN, initial_state="learned"), SEQUENCE, make_x=masked),
    LayerCase("lstm", fnn.lstm(HIDDEN), SEQUENCE),
    LayerCase("lstm_learned", fnn.lstm(HIDDEN, initial_state="learned", initializer="pytorch"), SEQUENCE),
    LayerCase(
        "lstm_given_masked_sequence",
        fnn.lstm(HIDDEN, initial_state="given", returns="sequence"),
        (SEQUENCE, ((HIDDEN,), (HIDDEN,))),
        make_x=masked_with_state,
    ),
    LayerCase("gru_masked_sequence", fnn.gru(HIDDEN, returns="sequence"), SEQUENCE, make_x=masked),
    LayerCase(
        "gru_given_reset_before", fnn.gru(HIDDEN, reset_after=False, initial_state="given"), (SEQUENCE, (HIDDEN,))
    ),
    LayerCase("recurrent_stacked_masked", stacked, SEQUENCE, make_x=masked),
]


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


ATTENTION = [
    LayerCase("dot_product_attention", fnn.dot_product_attention(), HEADS),
    LayerCase(
        "dot_product_attention_of_grouped_heads",
        fnn.dot_product_attention(causal=True, window=2, rotary=True),
        GROUPED_HEADS,
    ),
    LayerCase(
        "dot_product_attention_with_bias_and_mask",
        fnn.dot_product_attention(scale=0.7, score_cap=1.5),
        (*HEADS, (2, 5, 3)),
        make_x=with_bias_and_mask,
    ),
    LayerCase(
        "dot_product_attention_with_bias_of_each_head",
        fnn.dot_product_attention(causal=True, queries_at_once=2),
        (*GROUPED_HEADS, (4, 3, 5)),
    ),
    LayerCase("attention", fnn.attention(2, causal=True, rotary=True, head_size=4), ATTENDED),
    LayerCase("attention_over_masked", fnn.attention(3), ATTENDED, make_x=masked),
    LayerCase(
        "attention_to_masked_memory",
        fnn.attention(2, head_size=5, out_size=4, bias=False),
        (ATTENDED, MEMORY),
        make_x=with_masked_memory,
    ),
    LayerCase(
        "attention_of_grouped_heads",
        fnn.attention(4, key_value_heads=2, head_size=2, causal=True, window=2, score_cap=2.0),
        ATTENDED,
    ),
    LayerCase("attention_with_bias_and_mask", fnn.attention(2), (ATTENDED, (2, 5, 5)), make_x=with_bias_and_mask),
    LayerCase(
        "attention_to_memory_with_bias_and_mask",
        fnn.attention(3),
        (ATTENDED, MEMORY, (3, 5, 3)),
        make_x=with_bias_and_mask,
    ),
    LayerCase("sinusoidal_positions", fnn.sinusoidal_positions(), ATTENDED),
    LayerCase("learned_positions", fnn.learned_positions(7), ATTENDED),
    LayerCase(
        "transformer_block",
        fnn.models.transformer_block(3, hidden_size=7, dropout=0.2),
        ATTENDED,
        draws=True,
        make_x=masked,
    ),
]


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

COMBINATORS = [
    LayerCase("parallel_sum", fnn.parallel(*branches), (5,)),
    LayerCase("parallel_product", fnn.parallel(*branches, fnn.dense(3), combine="product"), (5,)),
    LayerCase("parallel_concatenate", fnn.parallel(fnn.dense(3), fnn.dropout(0.3), combine="concatenate"), (5,), True),
    LayerCase("parallel_over_masked", fnn.parallel(*branches), (11, 5), make_x=masked),
    LayerCase("residual", fnn.residual(fnn.chain(fnn.dense(5), fnn.tanh, fnn.batch_norm())), (5,)),
    LayerCase("residual_of_named", fnn.residual(fnn.dense(5), fnn.tanh, last=fnn.dense(5)), (5,)),
    LayerCase("residual_with_shortcut", fnn.residual(fnn.dense(3), shortcut=fnn.dense(3, bias=False)), (5,)),
    LayerCase("residual_over_masked", fnn.residual(fnn.dense(5)), (11, 5), make_x=masked),
    LayerCase("bidirectional", fnn.bidirectional(fnn.dense(3), fnn.dense(2)), (11, 5)),
    LayerCase("reverse_time", fnn.reverse_time(fnn.dense(3)), (11, 5)),
    LayerCase("repeat", fnn.repeat(fnn.residual(fnn.chain(fnn.dense(5), fnn.tanh, fnn.dropout(0.3))), 3), (5,), True),
    LayerCase("repeat_with_state", fnn.repeat(fnn.chain(fnn.dense(5, bias=False), fnn.batch_norm()), 2), (5,)),
    LayerCase("repeat_over_masked", fnn.repeat(fnn.residual(fnn.dense(5)), 2), (11, 5), make_x=masked),
    LayerCase("remat", fnn.remat(fnn.chain(fnn.dense(3), fnn.tanh, fnn.dropout(0.3))), (5,), True),
    LayerCase("compose", fnn.compose({"gate": fnn.dense(3), "value": fnn.dense(3)}, gated), (5,)),
    LayerCase("compose_sampling", fnn.compose({"encoder": fnn.dense(4), "decoder": fnn.dense(3)}, sampled), (5,), True),
    LayerCase(
        "compose_shared", fnn.compose({"encoder": twice_used, "head": fnn.dense(2)}, distance), ((5,), (5,)), True
    ),
    LayerCase("compose_products", fnn.compose({"weights": fnn.dense(6)}, products), (3,)),
    LayerCase("compose_indices", fnn.compose({"message": fnn.dense(3), "update": fnn.dense(2)}, messages), (5, 3)),
    LayerCase("shared", fnn.shared(fnn.chain(fnn.dense(5), fnn.tanh, fnn.dense(5)), {"dense_1": "dense_0"}), (5,)),
    LayerCase(
        "frozen", fnn.frozen(fnn.models.mlp(3, hidden=(11, 7), batch_norm=True), ["dense_0/*", "*scale"]), (5, 2)
    ),
    LayerCase("with_hand_vjp", fnn.with_hand_vjp(fnn.chain(fnn.dense(3), fnn.tanh, fnn.dropout(0.3))), (5,), True),
]


MOVED_KINK = "rounded to 8 bits, numbers that max pooling compares become equal, and the kink moves"
"""The reason why networks with max pooling are not compared in bfloat16."""
MODELS = [
    LayerCase("mlp", fnn.models.mlp(3, hidden=(11, 7)), (5, 2)),
    LayerCase(
        "mlp_with_all",
        fnn.models.mlp(3, hidden=(11, 7), dropout=0.2, batch_norm=True, activation=fnn.silu),
        (5, 2),
        True,
    ),
    LayerCase("cnn", fnn.model("cnn", 3, hidden=(2, 5), activation=fnn.tanh), (7, 5, 2), no_bfloat16=MOVED_KINK),
    LayerCase(
        "lenet", fnn.model("lenet", 3, hidden=(2, 3, 5), activation=fnn.tanh), (13, 11, 1), no_bfloat16=MOVED_KINK
    ),
    LayerCase(
        "deep_cnn",
        fnn.model("deep_cnn", 3, hidden=(2, 2, 2, 3), activation=fnn.tanh, dropout=0.2),
        (12, 10, 1),
        True,
        no_bfloat16=MOVED_KINK,
    ),
    LayerCase("residual_block", fnn.models.residual_block(3, projection=True, activation=fnn.tanh), (5, 3, 2)),
    LayerCase("resnet", fnn.model("resnet", 3, hidden=(2, 3), activation=fnn.tanh), (5, 3, 2)),
    *(LayerCase(f"{name}_model", fnn.model(name, 3, hidden=(5, 2)), (3, 2, 2)) for name in ("rnn", "lstm", "gru")),
    LayerCase(
        "language_model",
        fnn.models.language_model(
            5, 4, features=4, depth=2, heads=2, key_value_heads=1, window=2, positions="learned"
        ).layer,
        (4,),
        make_x=lambda in_shape, random, batch: random.integers(0, 5, (batch, *in_shape)),
    ),
    LayerCase("transformer", fnn.model("transformer", 3, hidden=(4, 4), heads=2), (3, 5)),
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
    LossCase("mean_squared_error", fnn.mean_squared_error, _logits, _targets),
    LossCase("mean_squared_error_of_vectors", fnn.mean_squared_error, _logits[:, 0], _targets[:, 0]),
    LossCase("mean_absolute_error", fnn.mean_absolute_error, _logits, _targets),
    LossCase("huber", fnn.huber, _logits, _targets),
    LossCase("huber_with", fnn.losses.huber_with(0.3), _logits, _targets),
    LossCase("cosine_distance", fnn.cosine_distance, _logits, _targets),
    LossCase("hinge", fnn.hinge, _logits, (_targets > 0).astype(int)),
    LossCase("binary_cross_entropy", fnn.binary_cross_entropy, _logits, (_targets > 0).astype(int)),
    LossCase("binary_cross_entropy_soft", fnn.binary_cross_entropy, _logits, _soft),
    LossCase(
        "binary_cross_entropy_from_probabilities",
        fnn.losses.binary_cross_entropy_from_probabilities,
        1 / (1 + np.exp(-_logits)),
        (_targets > 0).astype(int),
    ),
    LossCase("cross_entropy", fnn.cross_entropy, _logits, _integers),
    LossCase("cross_entropy_soft", fnn.cross_entropy, _logits, _soft),
    LossCase("cross_entropy_on_sequences", fnn.cross_entropy, _logits.reshape(1, BATCH, 5), _integers[None]),
    LossCase("cross_entropy_smoothed", fnn.losses.cross_entropy_with(label_smoothing=0.2), _logits, _integers),
    LossCase("cross_entropy_smoothed_ignoring", _smoothed, _logits, _some_ignored),
    LossCase("cross_entropy_smoothed_soft", _smoothed, _logits, _soft),
    LossCase(
        "cross_entropy_weighted",
        fnn.losses.cross_entropy_with(class_weights=[0.3, 2.0, 1.0, 0.7, 0.0]),
        _logits,
        _integers,
    ),
    LossCase("cross_entropy_weighted_smoothed_ignoring", _weighted, _logits, _some_ignored),
    LossCase("cross_entropy_weighted_smoothed_soft", _weighted, _logits, _soft),
    LossCase("multiclass_hinge", fnn.multiclass_hinge, _logits, _integers),
    LossCase("multiclass_hinge_on_sequences", fnn.multiclass_hinge, _logits.reshape(1, BATCH, 5), _integers[None]),
    LossCase("negative_log_likelihood", fnn.negative_log_likelihood, _log_probabilities, _integers),
    LossCase("kl_divergence", fnn.kl_divergence, _log_probabilities, _soft),
]

PENALTIES = [
    ("l1", fnn.l1(0.3)),
    ("l2", fnn.l2(0.7)),
    ("l1_by_path", fnn.l1(0.3, paths=["*bias", "dense_1/*"])),
    ("l2_by_function", fnn.l2(0.7, paths=lambda path: "dense_0" in path)),
]


LAYERS = [*CORE, *COMBINATORS, *RECURRENT, *ATTENTION, *EMBEDDING, *CONV, *NORM, *DROPOUT, *MODELS]
