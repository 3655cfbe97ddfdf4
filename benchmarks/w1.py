"""W1: one epoch of MNIST (60,000 images) for a 784-128-64-10 ReLU network, Adam 1e-3, batch 64, shuffled.

`PEERS` names who takes part: each is a function `(mnist, seed) -> Peer` (see `benchmarks.peers`), imported by
its own worker only. A peer is added with its function and one line here.
"""

RECIPE = "W1: MNIST 60,000, 784-128-64-10 ReLU, Adam 1e-3, batch 64"
UNIT = "s/epoch"
SCALE = 1  # from seconds an epoch to UNIT

IMAGES = 60_000
SIZES = (784, 128, 64, 10)
LEARNING_RATE = 1e-3
BATCH_SIZE = 64
STEPS = -(-IMAGES // BATCH_SIZE)  # the last batch, of 32 images, is kept
PRECISION = "float32"
EPOCHS_A_TURN = 2  # the first is not timed: the machine was seen slower just after another process
OPTIONS = ()

PEERS = {
    "functional_nn": "benchmarks.peers.functional_nn:fit",
    "pytorch_torchvision": "benchmarks.peers.pytorch:torchvision_tutorial",
    "pytorch_tutorial": "benchmarks.peers.pytorch:tutorial",
    "pytorch_tuned": "benchmarks.peers.pytorch:tuned",
    "pytorch_1_thread": "benchmarks.peers.pytorch:tuned_1_thread",
    "pytorch_compile": "benchmarks.peers.pytorch:compiled",
    "keras_jax": "benchmarks.peers.keras_jax:tutorial",
    "keras_jax_tuned": "benchmarks.peers.keras_jax:without_metrics",
    "flax_nnx": "benchmarks.peers.flax_nnx:tutorial",
    "flax_nnx_cached": "benchmarks.peers.flax_nnx:cached",
    "flax_nnx_functional": "benchmarks.peers.flax_nnx:functional",
    "equinox": "benchmarks.peers.equinox:tutorial",
    "equinox_tuned": "benchmarks.peers.equinox:partitioned",
    "haiku": "benchmarks.peers.haiku:tutorial",
    "haiku_tuned": "benchmarks.peers.haiku:donated",
    "stax": "benchmarks.peers.stax:tutorial",
    "stax_tuned": "benchmarks.peers.stax:donated",
    "jax_scan": "benchmarks.peers.jax_scan:whole_epoch",
}

SHOWN = {
    "functional_nn": "functional_nn",
    "jax_scan": "plain `jax.lax.scan`, nothing tuned",
    "stax_tuned": "stax, donated buffers",
    "haiku_tuned": "Haiku, donated buffers",
    "equinox_tuned": "Equinox, partitioned once",
    "equinox": "Equinox, as its tutorial writes it",
    "flax_nnx_functional": "Flax NNX, functional step",
    "flax_nnx": "Flax NNX, as its tutorial writes it",
    "keras_jax_tuned": "Keras 3 on JAX, no metrics",
    "pytorch_tuned": "PyTorch, resident tensors, fused Adam",
    "pytorch_compile": "PyTorch, `torch.compile`",
    "pytorch_tutorial": "PyTorch with `DataLoader`, as its tutorial writes it",
    "pytorch_torchvision": "the same with torchvision's transforms",
}
"""Who takes part in `python -m benchmarks all`, and as what."""
