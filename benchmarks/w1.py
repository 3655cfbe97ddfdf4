"""W1: one epoch of MNIST (60,000 images) for a 784-128-64-10 ReLU network, Adam 1e-3, batch 64, shuffled.

`PEERS` lists the peers. Each is a function `(mnist, seed) -> Peer` (see `benchmarks.peers`), which only its own worker
imports. To add a peer, write its function, and add a line to `PEERS` and to `NAMES`.
"""

RECIPE = "W1: MNIST 60,000, 784-128-64-10 ReLU, Adam 1e-3, batch 64"
UNIT = "s/epoch"
SCALE = 1  # converts seconds per epoch to UNIT

IMAGES = 60_000
SIZES = (784, 128, 64, 10)
LEARNING_RATE = 1e-3
BATCH_SIZE = 64
STEPS = -(-IMAGES // BATCH_SIZE)  # the last batch, of 32 images, is kept
PRECISION = "float32"
EPOCHS_A_TURN = 2  # only the second is timed: after another process the machine is slower for a moment
OPTIONS = {}

PEERS = {
    "functional_nn": "benchmarks.peers.functional_nn:fit",
    "pytorch_torchvision": "benchmarks.peers.pytorch:torchvision_tutorial",
    "pytorch_tutorial": "benchmarks.peers.pytorch:tutorial",
    "pytorch_tuned": "benchmarks.peers.pytorch:tuned",
    "pytorch_compile": "benchmarks.peers.pytorch:compiled",
    "pytorch_cuda_graph": "benchmarks.peers.pytorch:cuda_graph",
    "keras_jax_tuned": "benchmarks.peers.keras_jax:fit",
    "flax_nnx": "benchmarks.peers.flax_nnx:tutorial",
    "flax_nnx_functional": "benchmarks.peers.flax_nnx:functional",
    "equinox": "benchmarks.peers.equinox:tutorial",
    "equinox_tuned": "benchmarks.peers.equinox:partitioned",
    "haiku_tuned": "benchmarks.peers.haiku:mlp",
    "stax_tuned": "benchmarks.peers.stax:mlp",
    "jax_scan": "benchmarks.peers.plain_jax:whole_epoch",
    "numpy": "benchmarks.peers.numpy_loop:mlp",
    "scikit_learn": "benchmarks.peers.scikit_learn:mlp",
}

NAMES = {
    "functional_nn": "functional_nn",
    "pytorch_torchvision": "PyTorch, the tutorial's loop with torchvision's data set",
    "pytorch_tutorial": "PyTorch, the tutorial's loop over a `DataLoader`",
    "pytorch_tuned": "PyTorch, resident tensors, fused Adam",
    "pytorch_compile": "PyTorch, `torch.compile`",
    "pytorch_cuda_graph": "PyTorch, the step as a CUDA graph",
    "keras_jax_tuned": "Keras on JAX, no metrics",
    "flax_nnx": "Flax NNX, the tutorial's loop",
    "flax_nnx_functional": "Flax NNX, functional step",
    "equinox": "Equinox, the tutorial's loop",
    "equinox_tuned": "Equinox, partitioned once",
    "haiku_tuned": "Haiku, donated buffers",
    "stax_tuned": "stax, donated buffers",
    "jax_scan": "plain JAX, one `jax.lax.scan`",
    "numpy": "NumPy, a loop with OpenBLAS",
    "scikit_learn": "scikit-learn, `MLPClassifier`",
}
"""The name of each peer in the tables."""
SHOWN = (
    "functional_nn",
    "jax_scan",
    "stax_tuned",
    "haiku_tuned",
    "equinox_tuned",
    "equinox",
    "flax_nnx_functional",
    "flax_nnx",
    "keras_jax_tuned",
    "pytorch_tuned",
    "pytorch_compile",
    "pytorch_tutorial",
    "pytorch_torchvision",
    "numpy",
    "scikit_learn",
)
"""The peers of `python -m benchmarks all`."""
WORK, OURS, PYTORCH = "one network, one epoch", "functional_nn", "pytorch_tutorial"
"""For the row in the README: the work, the peer that stands for functional_nn, and the peer that stands for PyTorch."""
