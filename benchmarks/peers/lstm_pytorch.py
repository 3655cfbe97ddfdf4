"""W4 with PyTorch: `nn.LSTM`, all images in one tensor that is shuffled by index, and fused Adam."""

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import w4
from benchmarks.mnist import Mnist
from benchmarks.peers import Peer

LIBRARIES = ("torch",)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(w4.COLUMNS, w4.HIDDEN_SIZE, batch_first=True)
        self.dense = nn.Linear(w4.HIDDEN_SIZE, w4.CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        outputs, _ = self.lstm(images.reshape(-1, w4.ROWS, w4.COLUMNS))
        return self.dense(outputs[:, -1])


def resident(mnist: Mnist, seed: int, threads: int | None = None) -> Peer:
    """With PyTorch's default number of threads, unless another is given."""
    torch.manual_seed(seed)
    if threads is not None:
        torch.set_num_threads(threads)
    images, labels = torch.from_numpy(mnist.train_images), torch.from_numpy(mnist.train_labels).long()
    model = Network()
    optimizer = torch.optim.Adam(model.parameters(), lr=w4.LEARNING_RATE, fused=True)

    def train_epoch() -> None:
        for batch in torch.randperm(len(images)).split(w4.BATCH_SIZE):
            optimizer.zero_grad(set_to_none=True)
            nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()

    def predict(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return model(torch.from_numpy(images)).numpy()

    return Peer(train_epoch, predict, torch.get_num_threads())


def resident_1_thread(mnist: Mnist, seed: int) -> Peer:
    """With one thread."""
    return resident(mnist, seed, threads=1)
