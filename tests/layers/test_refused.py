"""Layers whose settings do not fit each other or the input: one error with the layer's name, before anything is drawn.

What depends on more than shapes stands with the layer's other tests.
"""

import jax
import pytest

import functional_nn as fnn

REFUSED = [
    (lambda: fnn.attention(4), (5, 6), "heads: expected a divisor of the 6 features, got 4"),
    (lambda: fnn.attention(2), (6,), r"in_shape: expected a shape \(time, in_size\)"),
    (lambda: fnn.attention(2, rotary=True), (5, 6), "rotary: expected an even head_size"),
    (lambda: fnn.attention(2, causal=True), ((5, 6), (4, 6)), "x: expected at least as many keys as queries"),
    (lambda: fnn.attention(2, window=2), (5, 6), "window: expected causal=True with it, got 2"),
    (lambda: fnn.dot_product_attention(score_cap=0.0), (), "score_cap: expected a positive number"),
    (lambda: fnn.conv(3, 6, padding="valid"), (5, 7, 2), r"window: expected at most the padded input, \(5, 7\)"),
    (lambda: fnn.conv(3, 3, padding="valid", dilation=3), (5, 2), r"\(3,\), which covers \(7,\) with its dilation"),
    (lambda: fnn.conv(4, 3, groups=4), (5, 7, 6), "groups: expected a divisor of the 6 input channels, got 4"),
    (lambda: fnn.conv_transpose(3, 2, padding=((3, 3),)), (5, 2), "padding: expected less than the output"),
    (lambda: fnn.conv(3, (3, 3)), (5, 2), r"x: expected a batch axis, 2 spatial axes \(the window's\)"),
    (lambda: fnn.conv(3, 3, padding="causal"), (5, 7, 2), "one pair for each spatial axis"),
    (lambda: fnn.conv(3, 3, stride=(1, 1)), (5, 2), "each spatial axis of x, here 1"),
    (lambda: fnn.global_max_pool(), (0, 3), "at least one place to pool over"),
    (lambda: fnn.average_pool(4), (3, 7, 2), r"window: expected at most the padded input, \(3, 7\)"),
    (lambda: fnn.max_pool(2), (3,), "x: expected a batch axis, one to three spatial axes"),
    (lambda: fnn.max_pool(2, padding="causal"), (5, 1), "padding: expected 'valid', 'same'"),
    (lambda: fnn.max_pool(2, padding=((2, 0),)), (5, 1), r"padding: expected less than the window, \(2,\)"),
    (lambda: fnn.batch_norm(epsilon=-1e-5), (3,), "epsilon: expected a number not below 0"),
    (lambda: fnn.rms_norm(axes=(0, -4)), (3, 2, 5), "expected different axes of an input of 4 axes"),
    (lambda: fnn.batch_norm(axes=(1,)), (3, 2, 5), "expected different axes of an input of 4 axes"),
    (lambda: fnn.layer_norm(axes=(0, 1)), (3, 2, 5), "without the batch axis 0"),
    (lambda: fnn.group_norm(2), (3, 5), "groups: expected a divisor of the 5 channels, got 2"),
    (lambda: fnn.instance_norm(), (1, 5), "x: expected at least two values to normalize"),
    (lambda: fnn.sinusoidal_positions(), (4, 3), "sinusoidal_positions_0: x: expected an even number of features"),
    (lambda: fnn.learned_positions(3), (4, 2), "x: expected at most max_time = 3 steps, got .*, 4, 2"),
    (lambda: fnn.reshape((4,)), (5,), "reshape_0: x: expected examples that fill the shape"),
    (lambda: fnn.reshape((-1, 3)), (5,), "reshape_0: x: expected examples that fill the shape"),
    (lambda: fnn.reshape((2, 2)), (8,), "reshape_0: x: expected examples that fill the shape"),
    (lambda: fnn.parallel(fnn.dense(3), fnn.dense(1)), (5,), r"equal shapes, got {'dense_0': \(3,\), 'dense_1'"),
    (
        lambda: fnn.parallel(fnn.dense(3), fnn.reshape((5, 1)), combine="concatenate"),
        (5,),
        "parallel_0: layers: expected outputs of equal shapes, except on the last axis",
    ),
    (
        lambda: fnn.repeat(fnn.dense(3), 2),
        (5,),
        r"repeat_0: layer: expected an output of the input's shape \(5,\)",
    ),
    (lambda: fnn.bidirectional(fnn.dense(3)), (5,), r"x: expected one sequence, \(batch, time, features\)"),
    (lambda: fnn.random_shift(1), (4,), r"x: expected \(batch, position, …, channels\), got .*, 4\)"),
    (lambda: fnn.random_deformation(0.1), (4,), r"x: expected \(batch, position, …, channels\), got .*, 4\)"),
]


@pytest.mark.parametrize(("layer", "in_shape", "words"), REFUSED)
def test_what_does_not_fit(layer, in_shape, words):
    with pytest.raises(fnn.InputError, match=words):
        fnn.chain(layer()).init(jax.random.key(0), in_shape)
