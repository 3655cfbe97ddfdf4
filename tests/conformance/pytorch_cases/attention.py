"""Attention alone, with projections, masked and causal, and the whole transformer block."""

import jax.numpy as jnp
import numpy as np
from tests.conformance.comparison import BATCH, Case, torch
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


class Attend(nn.Module):
    """``MultiheadAttention`` of x to itself or to a memory, with boolean masks, True where a key is padding."""

    def __init__(self, module, *, keys=None, queries=None, causal=False):
        super().__init__()
        self.module, self.keys, self.queries, self.causal = module, keys, queries, causal

    def named_parameters(self, *arguments, **options):
        return self.module.named_parameters(*arguments, **options)

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
        return (
            x if queries is None else fnn.Masked(x, queries),
            memory if keys is None else fnn.Masked(memory, keys),
        )

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


def dot_product(*, causal=False, masked=False, value_size=HEAD):
    """PyTorch has heads before time; ours are after it."""
    keys_time = TIME if causal else MEMORY
    keys = real(keys_time) if masked else None
    shapes = (BATCH, 3, TIME, HEAD), (BATCH, 3, keys_time, HEAD), (BATCH, 3, keys_time, value_size)

    def theirs(q, k, v):
        mask = None
        if masked:
            mask = torch.from_numpy(keys)[:, None, None, :].expand(BATCH, 1, TIME, keys_time)
            mask = mask & torch.ones(TIME, keys_time, dtype=torch.bool).tril() if causal else mask
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal and not masked)

    return Case(
        f"dot_product_attention-causal={causal}-masked={masked}-value_size={value_size}",
        fnn.dot_product_attention(causal=causal),
        theirs,
        shapes,
        x=lambda *parts: tuple(jnp.swapaxes(part, 1, 2) for part in parts),
        complete=lambda x: (x[0], fnn.Masked(x[1], keys), x[2]) if masked else x,
        y=lambda y: jnp.swapaxes(y, 1, 2),
    )


class Encode(nn.Module):
    """``TransformerEncoderLayer``, compared where steps are real."""

    def __init__(self, module, *, mask=None, causal=False):
        super().__init__()
        self.module, self.mask, self.causal = module, mask, causal

    def named_parameters(self, *arguments, **options):
        return self.module.named_parameters(*arguments, **options)

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
    *(dot_product(causal=causal, masked=masked) for causal in BOTH for masked in BOTH),
    *(dot_product(causal=causal, value_size=4) for causal in BOTH),
    *(
        block(2, norm_first=norm_first, causal=causal, masked=masked)
        for norm_first in (True, False)
        for causal in BOTH
        for masked in BOTH
    ),
    *(block(3, norm_first=norm_first, activation="relu") for norm_first in (True, False)),
]
