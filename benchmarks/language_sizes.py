"""The sizes of a language model and of its batches, which the peers of `language` and of W6 get."""

from typing import NamedTuple


class LanguageSizes(NamedTuple):
    """A decoder-only transformer, and the batches it is trained on.

    Args:
        count: the number of different tokens.
        time: the number of tokens in a sequence.
        features: the length of the vector of a token.
        depth: the number of blocks.
        heads: the number of heads of each attention.
        batch: the number of sequences in a batch.
        learning_rate: Adam's.
    """

    count: int
    time: int
    features: int = 128
    depth: int = 4
    heads: int = 4
    batch: int = 32
    learning_rate: float = 1e-3
