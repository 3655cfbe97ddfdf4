"""W5: a whole process, from its start to its end, that trains a model to 98% accuracy on MNIST's test images.

`PEERS` lists the peers, as in `benchmarks.w1`. A round is one process, each with another seed. A process that
ends below `GOAL` is not a result, and ends the race for its peer.
"""

RECIPE = "W5: from a process's start to 98% of MNIST's test images, 784-128-64-10 ReLU"
UNIT = "s"
SCALE = 1  # converts seconds per process to UNIT

GOAL = 0.98
LEARNING_RATE = 0.01  # the largest one of the one-cycle schedule
BATCH_SIZE = 256
EPOCHS = 7
STEPS = None  # differs between the peers
PRECISION = "float32"
EPOCHS_A_TURN = 1
OPTIONS = {}

PEERS = {
    "functional_nn": "benchmarks.peers.functional_nn:later_start",
    "functional_nn_first": "benchmarks.peers.functional_nn:first_start",
    "pytorch_tuned": "benchmarks.peers.pytorch:script_tuned",
    "pytorch_tutorial": "benchmarks.peers.pytorch:script_tutorial",
    "equinox": "benchmarks.peers.equinox:whole_script",
}

NAMES = {
    "functional_nn": "functional_nn, programs compiled by an earlier start",
    "functional_nn_first": "functional_nn, nothing compiled before",
    "pytorch_tuned": "PyTorch, resident tensors, fused Adam, the same schedule",
    "pytorch_tutorial": "PyTorch, the tutorial's loop",
    "equinox": "Equinox, `filter_jit` with donation, the same schedule",
}
SHOWN = (
    "functional_nn",
    "functional_nn_first",
    "pytorch_tuned",
    "pytorch_tutorial",
    "equinox",
)
WORK, OURS, PYTORCH = "a whole process, until 98% of the digits are right", "functional_nn_first", "pytorch_tutorial"
