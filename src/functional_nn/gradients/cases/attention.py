"""Cases of attention, of position encodings, and of a transformer block."""

import functional_nn as fnn
from functional_nn.gradients.cases.case import LayerCase, masked

SEQUENCE, MEMORY = (5, 6), (3, 2)
HEADS = (5, 2, 4), (3, 2, 4), (3, 2, 3)


def of_shapes(*shapes):
    """Makes an input of several arrays of normal numbers with these shapes."""
    return lambda random, batch: tuple(random.normal(size=(batch, *shape)) for shape in shapes)


def with_masked_memory(random, batch):
    """Makes a sequence and a memory; one example of the memory is masked completely."""
    memory = masked(MEMORY)(random, batch)
    memory.mask[2] = False
    return masked(SEQUENCE)(random, batch), memory


LAYERS = [
    LayerCase("dot_product_attention", fnn.dot_product_attention(), HEADS, make_x=of_shapes(*HEADS)),
    LayerCase("attention", fnn.attention(2, causal=True, rotary=True, head_size=4), SEQUENCE),
    LayerCase("attention_over_masked", fnn.attention(3), SEQUENCE, make_x=masked(SEQUENCE)),
    LayerCase(
        "attention_to_masked_memory",
        fnn.attention(2, head_size=5, out_size=4, bias=False),
        (SEQUENCE, MEMORY),
        make_x=with_masked_memory,
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
