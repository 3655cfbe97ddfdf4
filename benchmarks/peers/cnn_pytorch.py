"""W3 with PyTorch: `nn.Conv2d`, all images in one tensor that is shuffled by index, and fused Adam."""

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import w3
from benchmarks.mnist import Mnist
from benchmarks.peers import Peer
from benchmarks.peers.pytorch_steps import best_device, device_name, epochs

LIBRARIES = ("torch",)


def network() -> nn.Sequential:
    (height, width, inputs), (first, second) = w3.IMAGE_SHAPE, w3.CHANNELS
    return nn.Sequential(
        nn.Conv2d(inputs, first, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(first, second, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(second * (height // 4) * (width // 4), w3.CLASSES),
    )


def resident(
    mnist: Mnist,
    seed: int,
    memory_format: torch.memory_format = torch.contiguous_format,
    threads: int | None = None,
    *,
    recorded: bool = False,
    device: torch.device | None = None,
) -> Peer:
    """With PyTorch's default number of threads, unless another is given; on the GPU if PyTorch can use one."""
    torch.manual_seed(seed)
    if threads is not None:
        torch.set_num_threads(threads)
    device = device or best_device()
    height, width, channels = w3.IMAGE_SHAPE

    def as_tensor(images: np.ndarray) -> Tensor:
        shaped = torch.from_numpy(images).reshape(-1, channels, height, width)
        return shaped.contiguous(memory_format=memory_format).to(device)

    images, labels = as_tensor(mnist.train_images), torch.from_numpy(mnist.train_labels).long().to(device)
    model = network().to(device, memory_format=memory_format)
    optimizer = torch.optim.Adam(model.parameters(), lr=w3.LEARNING_RATE, fused=True, capturable=recorded)

    def step(rows: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(model(images[rows]), labels[rows]).backward()
        optimizer.step()

    def predict(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return model(as_tensor(images)).cpu().numpy()

    train_epoch = epochs(step, optimizer, len(images), w3.BATCH_SIZE, device, recorded=recorded)
    return Peer(train_epoch, predict, torch.get_num_threads(), device=device_name(device))


def channels_last(mnist: Mnist, seed: int) -> Peer:
    """With channels as the last axis in memory, which oneDNN prefers."""
    return resident(mnist, seed, torch.channels_last)


def channels_last_1_thread(mnist: Mnist, seed: int) -> Peer:
    """The same with one thread."""
    return resident(mnist, seed, torch.channels_last, threads=1)


def cuda_graph(mnist: Mnist, seed: int) -> Peer:
    """Channels last; the step is recorded once as a CUDA graph. It needs a GPU."""
    return resident(mnist, seed, torch.channels_last, recorded=True)
