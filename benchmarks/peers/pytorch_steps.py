"""The device of PyTorch's peers, and epochs of their steps: one by one, or recorded as a CUDA graph."""

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.peers import CannotRun

WARM_UP_STEPS = 3
"""Steps before a step is recorded. In the first ones, libraries and the optimizer allocate their memory."""


def best_device() -> torch.device:
    """The GPU if PyTorch can use one, otherwise the CPU.

    On a GPU, products of float32 may then be computed in TF32, as JAX does by default and as PyTorch does in
    convolutions.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.set_float32_matmul_precision("high")
    return torch.device("cuda")


def device_name(device: torch.device) -> str:
    """The name of a device, as JAX writes it: `cpu`, or the name of the GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def finish(device: torch.device) -> None:
    """Waits until all work on a GPU is done. Work on the CPU is done when a call returns."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def epochs(
    step: Callable[[Tensor], None],
    optimizer: torch.optim.Optimizer,
    examples: int,
    batch_size: int,
    device: torch.device,
    *,
    recorded: bool = False,
) -> Callable[[], None]:
    """A function that trains one epoch: `step(rows)` for each batch of row numbers, in a new order each time.

    With `recorded`, the step on a full batch is recorded once as a CUDA graph, and then replayed.
    """
    full_step = recorded_step(step, optimizer, batch_size, device) if recorded else step

    def train_epoch() -> None:
        for rows in torch.randperm(examples, device=device).split(batch_size):
            if len(rows) == batch_size:
                full_step(rows)
            else:
                step(rows)
        finish(device)

    return train_epoch


def recorded_step(
    step: Callable[[Tensor], None], optimizer: torch.optim.Optimizer, batch_size: int, device: torch.device
) -> Callable[[Tensor], None]:
    """A step that a GPU replays from a recording, so that Python starts one operation instead of dozens.

    The recording follows PyTorch's notes on CUDA graphs: steps on another stream come first, and gradients do not exist
    when the recording begins, so that they get memory that belongs to the graph.
    """
    if device.type != "cuda":
        raise CannotRun("a CUDA graph needs a GPU that PyTorch can use, and PyTorch found none")
    rows = torch.arange(batch_size, device=device)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP_STEPS):
            step(rows)
    torch.cuda.current_stream().wait_stream(stream)
    optimizer.zero_grad(set_to_none=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        step(rows)

    def replay(batch: Tensor) -> None:
        rows.copy_(batch)
        graph.replay()

    return replay
