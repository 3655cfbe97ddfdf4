"""W4: an LSTM of size 128 that reads an image row by row, and a dense layer on its last state; Adam 1e-3, batch 128.

`PEERS` lists the peers, as in `benchmarks.w1`. A round is an epoch of MNIST. The table shows milliseconds per step.
"""

RECIPE = "W4: MNIST's 28 rows, LSTM 128, dense 10 on its last state, Adam 1e-3, batch 128"
UNIT = "ms/step"

IMAGES = 60_000
ROWS, COLUMNS, HIDDEN_SIZE, CLASSES = 28, 28, 128, 10
LEARNING_RATE = 1e-3
BATCH_SIZE = 128
STEPS = -(-IMAGES // BATCH_SIZE)  # the last batch, of 96 images, is kept
SCALE = 1000 / STEPS  # converts seconds per epoch to UNIT
PRECISION = "float32"
EPOCHS_A_TURN = 1
OPTIONS = {}

PEERS = {
    "functional_nn": "benchmarks.peers.functional_nn:lstm_by_hand",
    "functional_nn_undivided": "benchmarks.peers.functional_nn:lstm_by_hand_undivided",
    "functional_nn_autodiff": "benchmarks.peers.functional_nn:lstm_by_grad",
    "pytorch": "benchmarks.peers.pytorch:lstm",
    "pytorch_compile": "benchmarks.peers.pytorch:lstm_compiled",
    "pytorch_cuda_graph": "benchmarks.peers.pytorch:lstm_cuda_graph",
    "jax_scan": "benchmarks.peers.plain_jax:lstm_scan",
    "haiku": "benchmarks.peers.haiku:lstm",
    "equinox": "benchmarks.peers.equinox:lstm",
}

NAMES = {
    "functional_nn": "functional_nn, the batch divided among the cores",
    "functional_nn_undivided": "functional_nn, on one device",
    "functional_nn_autodiff": "functional_nn, on one device, differentiated by `jax.grad`",
    "pytorch": "PyTorch, `nn.LSTM`",
    "pytorch_compile": "PyTorch, `nn.LSTM`, `torch.compile`",
    "pytorch_cuda_graph": "PyTorch, `nn.LSTM`, the step as a CUDA graph",
    "jax_scan": "plain JAX, a `jax.lax.scan` over time",
    "haiku": "Haiku, `dynamic_unroll`",
    "equinox": "Equinox, `LSTMCell` in a `jax.lax.scan`",
}
SHOWN = (
    "functional_nn",
    "functional_nn_undivided",
    "functional_nn_autodiff",
    "pytorch",
    "pytorch_compile",
    "jax_scan",
    "haiku",
    "equinox",
)
WORK, OURS, PYTORCH = "an LSTM, one step", "functional_nn", "pytorch"
