"""W7: a tiny GPT with 4,192 parameters, trained on one window of 16 letters at a time; Adam 1e-2.

The network is that of Karpathy's microgpt: vectors of tokens and of positions, one block with causal attention and two
dense layers, RMS norms without parameters, and no biases. A step computes so little that a library's overhead counts.

`PEERS` lists the peers, as in `benchmarks.w1`. The text is `examples/data/sonnets.txt`, in lower case, with one token
for all that lies between two words. A round is one pass over its windows. The accuracy is the share of right next
letters in the sonnets that are held out.
"""

from benchmarks.w6 import LanguageSizes

RECIPE = "W7: sonnets by letters, microgpt (1 block, 4 heads, 16 features, 4,192 parameters), Adam 1e-2, a window of 16"
UNIT = "µs/step"

STRIDE = 16
WINDOWS = STEPS = 2599
SIZES = LanguageSizes(count=27, time=16, features=16, depth=1, heads=4, batch=1, learning_rate=1e-2)
PARAMETERS = 4192
LEARNING_RATE, BATCH_SIZE = SIZES.learning_rate, SIZES.batch
SCALE = 1e6 / STEPS  # converts seconds per epoch to UNIT
PRECISION = "float32"
EPOCHS_A_TURN = 2  # only the second is timed, as in W1: these steps are even shorter
OPTIONS = {}

PEERS = {
    "functional_nn": "benchmarks.peers.functional_nn:letters_by_hand",
    "functional_nn_autodiff": "benchmarks.peers.functional_nn:letters_by_grad",
    "c": "benchmarks.peers.c:letters",
    "jax_scan": "benchmarks.peers.plain_jax:letters_scan",
    "equinox": "benchmarks.peers.equinox:letters",
    "flax_nnx": "benchmarks.peers.flax_nnx:letters",
    "pytorch": "benchmarks.peers.pytorch:letters",
    "pytorch_compile": "benchmarks.peers.pytorch:letters_compiled",
}

NAMES = {
    "functional_nn": "functional_nn",
    "functional_nn_autodiff": "functional_nn, differentiated by `jax.grad`",
    "c": "C, one loop without a library",
    "jax_scan": "plain JAX, one `jax.lax.scan`",
    "equinox": "Equinox, partitioned once",
    "flax_nnx": "Flax NNX, functional step",
    "pytorch": "PyTorch",
    "pytorch_compile": "PyTorch, `torch.compile`",
}
SHOWN = tuple(PEERS)
WORK, OURS, PYTORCH = "a tiny GPT, one step", "functional_nn", "pytorch"
