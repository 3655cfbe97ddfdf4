"""W6: a decoder-only transformer that reads sonnets character by character; Adam 1e-3, batches of 32 × 64 characters.

`PEERS` lists the peers, as in `benchmarks.w1`. The text is `examples/data/sonnets.txt`. A round is one pass over its
windows. The table shows milliseconds per step. The accuracy is the share of right next characters in the sonnets that
are held out.
"""

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


RECIPE = (
    "W6: sonnets by characters, transformer, 4 blocks, 4 heads, 128 features, Adam 1e-3, 32 windows of 64 characters"
)
UNIT = "ms/step"

WINDOWS = 1312
"""One every `STRIDE` characters. The last 28, which do not fill a batch, are left out."""
STRIDE = 32
SIZES = LanguageSizes(count=58, time=64)
LEARNING_RATE, BATCH_SIZE = SIZES.learning_rate, SIZES.batch
STEPS = WINDOWS // BATCH_SIZE
SCALE = 1000 / STEPS  # converts seconds per epoch to UNIT
PRECISION = "float32"
EPOCHS_A_TURN = 1
OPTIONS = {}

PEERS = {
    "functional_nn": "benchmarks.peers.functional_nn:sonnets_by_hand",
    "functional_nn_autodiff": "benchmarks.peers.functional_nn:sonnets_by_grad",
    "pytorch": "benchmarks.peers.pytorch:sonnets",
    "pytorch_compile": "benchmarks.peers.pytorch:sonnets_compiled",
    "flax_nnx": "benchmarks.peers.flax_nnx:sonnets",
    "equinox": "benchmarks.peers.equinox:sonnets",
}

NAMES = {
    "functional_nn": "functional_nn",
    "functional_nn_autodiff": "functional_nn, differentiated by `jax.grad`",
    "pytorch": "PyTorch, `scaled_dot_product_attention`",
    "pytorch_compile": "PyTorch, `torch.compile`",
    "flax_nnx": "Flax NNX, functional step",
    "equinox": "Equinox, partitioned once",
}
SHOWN = (
    "functional_nn",
    "functional_nn_autodiff",
    "pytorch",
    "pytorch_compile",
    "flax_nnx",
    "equinox",
)
WORK, OURS, PYTORCH = "a language model of characters, one step", "functional_nn", "pytorch"
