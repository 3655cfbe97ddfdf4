"""Cases of attention, of position encodings, and of a transformer block."""

import functional_nn as fnn
from functional_nn.gradients.cases.case import LayerCase, masked

SEQUENCE, MEMORY = (5, 6), (3, 2)
HEADS = (5, 2, 4), (3, 2, 4), (3, 2, 3)
GROUPED_HEADS = (3, 4, 2), (5, 2, 2), (5, 2, 3)


def of_shapes(*shapes):
    """Makes an input of several arrays of normal numbers with these shapes."""
    return lambda random, batch: tuple(random.normal(size=(batch, *shape)) for shape in shapes)


def with_masked_memory(random, batch):
    """Makes a sequence and a memory; one example of the memory is masked completely."""
    memory = masked(MEMORY)(random, batch)
    memory.mask[2] = False
    return masked(SEQUENCE)(random, batch), memory


def with_bias_and_mask(*shapes, heads, time, keys):
    """Makes arrays of these shapes, a bias of the scores that all heads share, and a mask for each head.

    In the first example no head sees anything from the last step.
    """

    def make_x(random, batch):
        bias = random.normal(size=(batch, 1, time, keys))
        mask = random.uniform(size=(batch, heads, time, keys)) < 0.7
        mask[0, :, -1] = False
        return (*of_shapes(*shapes)(random, batch), bias, mask)

    return make_x


LAYERS = [
    LayerCase("dot_product_attention", fnn.dot_product_attention(), HEADS, make_x=of_shapes(*HEADS)),
    LayerCase(
        "dot_product_attention_of_grouped_heads",
        fnn.dot_product_attention(causal=True, window=2, rotary=True),
        GROUPED_HEADS,
        make_x=of_shapes(*GROUPED_HEADS),
    ),
    LayerCase(
        "dot_product_attention_with_bias_and_mask",
        fnn.dot_product_attention(scale=0.7, score_cap=1.5),
        HEADS,
        make_x=with_bias_and_mask(*HEADS, heads=2, time=5, keys=3),
    ),
    LayerCase(
        "dot_product_attention_with_bias_of_each_head",
        fnn.dot_product_attention(causal=True),
        GROUPED_HEADS,
        make_x=of_shapes(*GROUPED_HEADS, (4, 3, 5)),
    ),
    LayerCase("attention", fnn.attention(2, causal=True, rotary=True, head_size=4), SEQUENCE),
    LayerCase("attention_over_masked", fnn.attention(3), SEQUENCE, make_x=masked(SEQUENCE)),
    LayerCase(
        "attention_to_masked_memory",
        fnn.attention(2, head_size=5, out_size=4, bias=False),
        (SEQUENCE, MEMORY),
        make_x=with_masked_memory,
    ),
    LayerCase(
        "attention_of_grouped_heads",
        fnn.attention(4, key_value_heads=2, head_size=2, causal=True, window=2, score_cap=2.0),
        SEQUENCE,
    ),
    LayerCase(
        "attention_with_bias_and_mask",
        fnn.attention(2),
        (SEQUENCE, (2, 5, 5)),
        make_x=with_bias_and_mask(SEQUENCE, heads=2, time=5, keys=5),
    ),
    LayerCase(
        "attention_to_memory_with_bias_and_mask",
        fnn.attention(3),
        (SEQUENCE, MEMORY, (3, 5, 3)),
        make_x=with_bias_and_mask(SEQUENCE, MEMORY, heads=3, time=5, keys=3),
    ),
    LayerCase("sinusoidal_positions", fnn.sinusoidal_positions(), SEQUENCE),
    LayerCase("learned_positions", fnn.learned_positions(7), SEQUENCE),
    LayerCase(
        "transformer_block",
        fnn.models.transformer_block(3, hidden_size=7, dropout=0.2),
        SEQUENCE,
        draws=True,
        make_x=masked(SEQUENCE),
    ),
]
