"""W3: a small convolutional network on MNIST; Adam 1e-3, batch 128.

`PEERS` lists the peers, as in `benchmarks.w1`. A round is an epoch of MNIST. The table shows milliseconds per step.
"""

RECIPE = "W3: MNIST, conv 3×3×16, ReLU, pool 2, conv 3×3×32, ReLU, pool 2, dense 10; Adam 1e-3, batch 128"
UNIT = "ms/step"

IMAGES = 60_000
IMAGE_SHAPE = (28, 28, 1)
CHANNELS, CLASSES = (16, 32), 10
LEARNING_RATE = 1e-3
BATCH_SIZE = 128
STEPS = -(-IMAGES // BATCH_SIZE)  # the last batch, of 96 images, is kept
SCALE = 1000 / STEPS  # converts seconds per epoch to UNIT
PRECISION = "float32"
EPOCHS_A_TURN = 1
OPTIONS = {}

PEERS = {
    "functional_nn": "benchmarks.peers.functional_nn:cnn_by_hand",
    "functional_nn_divided": "benchmarks.peers.functional_nn:cnn_by_hand_divided",
    "functional_nn_autodiff": "benchmarks.peers.functional_nn:cnn_by_grad",
    "pytorch": "benchmarks.peers.pytorch:cnn_contiguous",
    "pytorch_channels_last": "benchmarks.peers.pytorch:cnn_channels_last",
    "pytorch_compile": "benchmarks.peers.pytorch:cnn_compiled",
    "pytorch_cuda_graph": "benchmarks.peers.pytorch:cnn_cuda_graph",
    "jax_loop": "benchmarks.peers.plain_jax:cnn_loop",
    "flax_nnx": "benchmarks.peers.flax_nnx:cnn",
    "haiku": "benchmarks.peers.haiku:cnn",
    "equinox": "benchmarks.peers.equinox:cnn",
}

NAMES = {
    "functional_nn": "functional_nn",
    "functional_nn_divided": "functional_nn, the batch divided among the cores",
    "functional_nn_autodiff": "functional_nn, differentiated by `jax.grad`",
    "pytorch": "PyTorch",
    "pytorch_channels_last": "PyTorch, channels last",
    "pytorch_compile": "PyTorch, channels last, `torch.compile`",
    "pytorch_cuda_graph": "PyTorch, channels last, the step as a CUDA graph",
    "jax_loop": "plain JAX, `conv_general_dilated` and `reduce_window`",
    "flax_nnx": "Flax NNX, functional step",
    "haiku": "Haiku, donated buffers",
    "equinox": "Equinox, partitioned once",
}
SHOWN = (
    "functional_nn",
    "functional_nn_divided",
    "functional_nn_autodiff",
    "pytorch",
    "pytorch_channels_last",
    "pytorch_compile",
    "jax_loop",
    "flax_nnx",
    "haiku",
    "equinox",
)
WORK, OURS, PYTORCH = "a convolutional network, one step", "functional_nn", "pytorch"
