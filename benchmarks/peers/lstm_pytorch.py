"""W4 with PyTorch: `nn.LSTM`, all images in one tensor that is shuffled by index, and fused Adam."""

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import w4
from benchmarks.mnist import Mnist
from benchmarks.peers import Peer
from benchmarks.peers.pytorch_steps import best_device, device_name, epochs

LIBRARIES = ("torch",)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(w4.COLUMNS, w4.HIDDEN_SIZE, batch_first=True)
        self.dense = nn.Linear(w4.HIDDEN_SIZE, w4.CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        outputs, _ = self.lstm(images.reshape(-1, w4.ROWS, w4.COLUMNS))
        return self.dense(outputs[:, -1])


def resident(
    mnist: Mnist,
    seed: int,
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
    images = torch.from_numpy(mnist.train_images).to(device)
    labels = torch.from_numpy(mnist.train_labels).long().to(device)
    model = Network().to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=w4.LEARNING_RATE, fused=True, capturable=recorded)

    def step(rows: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(model(images[rows]), labels[rows]).backward()
        optimizer.step()

    def predict(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return model(torch.from_numpy(images).to(device)).cpu().numpy()

    train_epoch = epochs(step, optimizer, len(images), w4.BATCH_SIZE, device, recorded=recorded)
    return Peer(train_epoch, predict, torch.get_num_threads(), device=device_name(device))


def resident_1_thread(mnist: Mnist, seed: int) -> Peer:
    """With one thread."""
    return resident(mnist, seed, threads=1)


def cuda_graph(mnist: Mnist, seed: int) -> Peer:
    """The step is recorded once as a CUDA graph. It needs a GPU."""
    return resident(mnist, seed, recorded=True)
