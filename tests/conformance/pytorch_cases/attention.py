"""Attention alone, with projections, masked and causal, and the whole transformer block."""

import jax.numpy as jnp
import numpy as np
from tests.conformance.comparison import BATCH, Case, Wrapped, torch
from tests.conformance.weight_maps import attention, transformer_block

import functional_nn as fnn

nn, functional = torch.nn, torch.nn.functional
TIME, MEMORY, HEAD = 5, 7, 2
BOTH = (False, True)


def real(time):
    """Sequences of different lengths, one of them full, one of a single step."""
    return np.arange(time) < np.array([time, 1, 3])[:, None]


def compared(y):
    """The values of a masked output, which are 0 at padding."""
    return y.values if isinstance(y, fnn.Masked) else y


class Attend(Wrapped):
    """``MultiheadAttention`` of x to itself or to a memory, with boolean masks, True where a key is padding."""

    def __init__(self, module, *, keys=None, queries=None, causal=False):
        super().__init__(module)
        self.keys, self.queries, self.causal = keys, queries, causal

    def forward(self, x, memory=None):
        memory = x if memory is None else memory
        later = torch.ones(x.shape[1], memory.shape[1], dtype=torch.bool).triu(1) if self.causal else None
        padding = None if self.keys is None else torch.from_numpy(~self.keys)
        y, _ = self.module(x, memory, memory, key_padding_mask=padding, attn_mask=later, need_weights=False)
        return y if self.queries is None else y * torch.from_numpy(self.queries)[:, :, None]


def to_itself(heads, *, causal=False, masked=False, bias=True):
    mask = real(TIME) if masked else None
    module = nn.MultiheadAttention(heads * HEAD, heads, bias=bias, batch_first=True)
    return Case(
        f"attention-heads={heads}-causal={causal}-masked={masked}-bias={bias}",
        fnn.attention(heads, causal=causal, bias=bias),
        Attend(module, keys=mask, queries=mask, causal=causal),
        ((BATCH, TIME, heads * HEAD),),
        attention(heads),
        complete=(lambda x: fnn.Masked(x, mask)) if masked else (lambda x: x),
        y=compared,
    )


def to_memory(heads, *, memory_size=None, masked=(), bias=True):
    size = heads * HEAD
    memory_size = memory_size or size
    keys, queries = real(MEMORY) if "memory" in masked else None, real(TIME) if "x" in masked else None
    module = nn.MultiheadAttention(size, heads, bias=bias, kdim=memory_size, vdim=memory_size, batch_first=True)

    def complete(x):
        x, memory = x
        return (x if queries is None else fnn.Masked(x, queries), memory if keys is None else fnn.Masked(memory, keys))

    return Case(
        f"attention-to-memory-heads={heads}-size={memory_size}-masked={'+'.join(masked)}-bias={bias}",
        fnn.attention(heads, bias=bias),
        Attend(module, keys=keys, queries=queries),
        ((BATCH, TIME, size), (BATCH, MEMORY, memory_size)),
        attention(heads),
        x=lambda x, memory: (x, memory),
        complete=complete,
        y=compared,
    )


def visible(time, keys_time, window=None):
    """The pairs of causal attention whose last query is at the last key, in a window of the last keys."""
    earlier = keys_time - time
    seen = np.tri(time, keys_time, earlier, dtype=bool)
    return seen if window is None else seen & ~np.tri(time, keys_time, earlier - window, dtype=bool)


def seen_by_chance(heads, keys_time=MEMORY):
    """A mask for each head in which every query sees a key: PyTorch gives NaN for one that sees none."""
    mask = np.random.default_rng(1).uniform(size=(BATCH, heads, TIME, keys_time)) < 0.6
    return mask | (np.arange(keys_time) == 0)


def dot_product(
    name,
    *,
    heads=(3, 3),
    keys_time=MEMORY,
    bias_heads=None,
    mask=None,
    real_keys=False,
    window=None,
    causal=False,
    scale=None,
    cap=None,
):
    """One combination of options. PyTorch gets all that hides keys as one mask, and repeats the heads of keys itself.

    It has no cap on scores, so with one its part is written out. It has heads before time; ours are after it.
    """
    heads, groups = heads
    pairs = [] if bias_heads is None else [(BATCH, bias_heads, TIME, keys_time)]
    hidden = np.ones((1, 1, TIME, keys_time), bool)
    if causal:
        hidden = hidden & visible(TIME, keys_time, window)
    if mask is not None:
        hidden = hidden & mask
    keys = real(keys_time)
    if real_keys:
        hidden = hidden & keys[:, None, None]
    additive = torch.zeros(hidden.shape, dtype=torch.float64).masked_fill(torch.from_numpy(~hidden), -torch.inf)

    def theirs(q, k, v, bias=None):
        total = additive if bias is None else additive + bias
        if cap is None:
            return functional.scaled_dot_product_attention(
                q, k, v, attn_mask=total, scale=scale, enable_gqa=heads != groups
            )
        k, v = (part.repeat_interleave(heads // groups, dim=1) for part in (k, v))
        scores = q @ k.mT * (HEAD**-0.5 if scale is None else scale)
        return torch.softmax(cap * torch.tanh(scores / cap) + total, -1) @ v

    return Case(
        f"dot_product_attention-{name}",
        fnn.dot_product_attention(causal=causal, window=window, scale=scale, score_cap=cap),
        theirs,
        ((BATCH, heads, TIME, HEAD), (BATCH, groups, keys_time, HEAD), (BATCH, groups, keys_time, HEAD + 1), *pairs),
        x=lambda q, k, v, *bias: (*(jnp.swapaxes(part, 1, 2) for part in (q, k, v)), *bias),
        complete=lambda x: (
            x[0],
            fnn.Masked(x[1], keys) if real_keys else x[1],
            *x[2:],
            *([] if mask is None else [mask]),
        ),
        y=lambda y: jnp.swapaxes(y, 1, 2),
    )


class Encode(Wrapped):
    """``TransformerEncoderLayer``, compared where steps are real."""

    def __init__(self, module, *, mask=None, causal=False):
        super().__init__(module)
        self.mask, self.causal = mask, causal

    def forward(self, x):
        padding = None if self.mask is None else torch.from_numpy(~self.mask)
        later = torch.ones(TIME, TIME, dtype=torch.bool).triu(1) if self.causal else None
        y = self.module(x, src_mask=later, src_key_padding_mask=padding)
        return y if self.mask is None else y * torch.from_numpy(self.mask)[:, :, None]


def block(heads, *, norm_first, causal=False, masked=False, activation="gelu", hidden=11):
    mask = real(TIME) if masked else None
    size = heads * HEAD
    module = nn.TransformerEncoderLayer(
        size, heads, hidden, dropout=0.0, activation=activation, batch_first=True, norm_first=norm_first
    )
    return Case(
        f"transformer_block-heads={heads}-{activation}-norm_first={norm_first}-causal={causal}-masked={masked}",
        fnn.models.transformer_block(
            heads,
            hidden_size=hidden,
            activation=fnn.activations.activation(activation),
            causal=causal,
            norm_first=norm_first,
        ),
        Encode(module, mask=mask, causal=causal),
        ((BATCH, TIME, size),),
        transformer_block(heads, norm_first=norm_first),
        complete=(lambda x: fnn.Masked(x, mask)) if masked else (lambda x: x),
        y=(lambda y: jnp.where(mask[:, :, None], y.values, 0)) if masked else (lambda y: y),
    )


CASES = [
    *(to_itself(heads, causal=causal, masked=masked) for heads in (1, 3) for causal in BOTH for masked in BOTH),
    to_itself(2, bias=False),
    to_itself(2, bias=False, causal=True),
    *(to_memory(heads, masked=masked) for heads in (1, 3) for masked in ((), ("memory",), ("x",), ("x", "memory"))),
    *(to_memory(2, memory_size=5, masked=masked) for masked in ((), ("memory",))),
    to_memory(3, memory_size=5, bias=False),
    dot_product("plain"),
    dot_product("causal", causal=True, keys_time=TIME),
    dot_product("masked keys", real_keys=True),
    dot_product("causal and masked keys", causal=True, keys_time=TIME, real_keys=True),
    dot_product("mask", mask=seen_by_chance(3)),
    dot_product("mask for all heads", mask=seen_by_chance(1)),
    dot_product("bias", bias_heads=3),
    dot_product("bias for all heads", bias_heads=1),
    dot_product("bias and mask", bias_heads=3, mask=seen_by_chance(3)),
    dot_product("grouped heads", heads=(6, 2)),
    dot_product("one head of keys", heads=(4, 1), causal=True, keys_time=TIME),
    dot_product("causal to a longer memory", causal=True),
    dot_product("window=2", causal=True, window=2),
    dot_product("window=1", causal=True, window=1, keys_time=TIME),
    dot_product("scale", scale=0.3),
    dot_product("score_cap", cap=0.7),
    dot_product(
        "all options",
        heads=(4, 2),
        causal=True,
        window=4,
        bias_heads=4,
        mask=seen_by_chance(4) | visible(TIME, MEMORY, 1),
        scale=1.3,
        cap=1.1,
    ),
    *(
        block(2, norm_first=norm_first, causal=causal, masked=masked)
        for norm_first in (True, False)
        for causal in BOTH
        for masked in BOTH
    ),
    *(block(3, norm_first=norm_first, activation="relu") for norm_first in (True, False)),
]
