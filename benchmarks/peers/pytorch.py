"""W1 with PyTorch: the loop of its quickstart tutorial, all images in one tensor, and `torch.compile`."""

import tempfile
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from benchmarks.mnist import Mnist
from benchmarks.peers import Peer
from benchmarks.w1 import BATCH_SIZE, LEARNING_RATE, SIZES
from functional_nn import load_dataset
from functional_nn.data import write_idx

LIBRARIES = ("torch",)


def network(sizes: Sequence[int] = SIZES) -> nn.Sequential:
    layers = [layer for pair in pairwise(sizes) for layer in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def peer(train_epoch: Callable[[], None], model: nn.Module) -> Peer:
    def predict(images: np.ndarray) -> np.ndarray:
        model.eval()
        with torch.no_grad():
            return model(torch.from_numpy(images)).numpy()

    return Peer(train_epoch, predict, torch.get_num_threads())


def quickstart(dataset: Dataset, seed: int) -> Peer:
    """The loop of pytorch.org/tutorials/beginner/basics/quickstart_tutorial.html."""
    torch.manual_seed(seed)
    dataloader = DataLoader(dataset, batch_size=BATCH_SIZE, shuffle=True)
    model = nn.Sequential(nn.Flatten(), network())
    loss_function = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)

    def train_epoch() -> None:
        model.train()
        for batch, (images, labels) in enumerate(dataloader):
            loss = loss_function(model(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if batch % 100 == 0:
                loss.item()  # the tutorial prints it

    return peer(train_epoch, model)


def tutorial(mnist: Mnist, seed: int) -> Peer:
    """A DataLoader over float images that are already in memory."""
    images = torch.from_numpy(mnist.train_images).reshape(-1, 1, 28, 28)
    return quickstart(TensorDataset(images, torch.from_numpy(mnist.train_labels).long()), seed)


def torchvision_tutorial(mnist: Mnist, seed: int) -> Peer:
    """A DataLoader over torchvision's data set, which converts each image to a tensor when it is drawn."""
    from torchvision import datasets
    from torchvision.transforms import ToTensor

    with tempfile.TemporaryDirectory() as folder:  # the data set keeps its images in memory
        raw = Path(folder) / "MNIST" / "raw"
        raw.mkdir(parents=True)
        data = load_dataset("mnist", mnist.folder)
        for part, images, labels in (
            ("train", data.train_images, data.train_labels),
            ("t10k", data.test_images, data.test_labels),
        ):
            write_idx(raw / f"{part}-images-idx3-ubyte", images[..., 0])
            write_idx(raw / f"{part}-labels-idx1-ubyte", labels.astype("uint8"))
        dataset = datasets.MNIST(folder, train=True, transform=ToTensor())
    return quickstart(dataset, seed)


def resident(
    mnist: Mnist,
    seed: int,
    *,
    sizes: Sequence[int] = SIZES,
    learning_rate: float = LEARNING_RATE,
    compile_network: bool = False,
    threads: int | None = None,
) -> Peer:
    """All images in one tensor that is shuffled by index, and fused Adam."""
    torch.manual_seed(seed)
    if threads is not None:
        torch.set_num_threads(threads)
    images, labels = torch.from_numpy(mnist.train_images), torch.from_numpy(mnist.train_labels).long()
    model = network(sizes)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True)

    def loss_function(batch_images: Tensor, batch_labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(model(batch_images), batch_labels)

    if compile_network:
        loss_function = torch.compile(loss_function, dynamic=False)

    def train_epoch() -> None:
        model.train()
        for batch in torch.randperm(len(images)).split(BATCH_SIZE):
            optimizer.zero_grad(set_to_none=True)
            loss_function(images[batch], labels[batch]).backward()
            optimizer.step()

    return peer(train_epoch, model)


def tuned(mnist: Mnist, seed: int) -> Peer:
    """All images in one tensor, with PyTorch's default number of threads."""
    return resident(mnist, seed)


def tuned_1_thread(mnist: Mnist, seed: int) -> Peer:
    """All images in one tensor, with one thread. For small networks a second thread can make it slower."""
    return resident(mnist, seed, threads=1)


def compiled(mnist: Mnist, seed: int) -> Peer:
    """All images in one tensor; network and loss are compiled by `torch.compile`."""
    return resident(mnist, seed, compile_network=True)
