"""W1 with PyTorch: the loop of its quickstart tutorial, all images in one tensor, and `torch.compile`."""

import tempfile
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from benchmarks.mnist import Mnist, load
from benchmarks.peers import Peer
from benchmarks.peers.pytorch_steps import best_device, device_name, epochs, finish
from benchmarks.w1 import BATCH_SIZE, LEARNING_RATE, SIZES
from functional_nn.data import write_idx

LIBRARIES = ("torch",)


def network(sizes: Sequence[int] = SIZES) -> nn.Sequential:
    layers = [layer for pair in pairwise(sizes) for layer in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def peer(train_epoch: Callable[[], None], model: nn.Module, device: torch.device) -> Peer:
    def predict(images: np.ndarray) -> np.ndarray:
        model.eval()
        with torch.no_grad():
            return model(torch.from_numpy(images).to(device)).cpu().numpy()

    return Peer(train_epoch, predict, torch.get_num_threads(), device=device_name(device))


def quickstart(dataset: Dataset, seed: int) -> Peer:
    """The loop of pytorch.org/tutorials/beginner/basics/quickstart_tutorial.html."""
    torch.manual_seed(seed)
    device = best_device()
    dataloader = DataLoader(dataset, batch_size=BATCH_SIZE, shuffle=True)
    model = nn.Sequential(nn.Flatten(), network()).to(device)
    loss_function = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)

    def train_epoch() -> None:
        model.train()
        for batch, (images, labels) in enumerate(dataloader):
            loss = loss_function(model(images.to(device)), labels.to(device))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if batch % 100 == 0:
                loss.item()  # the tutorial prints it
        finish(device)

    return peer(train_epoch, model, device)


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
        data = load(mnist.folder)
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
    recorded: bool = False,
    threads: int | None = None,
    device: torch.device | None = None,
) -> Peer:
    """All images in one tensor that is shuffled by index, and fused Adam; on the GPU if PyTorch can use one."""
    torch.manual_seed(seed)
    if threads is not None:
        torch.set_num_threads(threads)
    device = device or best_device()
    images = torch.from_numpy(mnist.train_images).to(device)
    labels = torch.from_numpy(mnist.train_labels).long().to(device)
    model = network(sizes).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True, capturable=recorded)

    def loss_function(batch_images: Tensor, batch_labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(model(batch_images), batch_labels)

    if compile_network:
        loss_function = torch.compile(loss_function, dynamic=False)

    def step(rows: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss_function(images[rows], labels[rows]).backward()
        optimizer.step()

    steps = epochs(step, optimizer, len(images), BATCH_SIZE, device, recorded=recorded)

    def train_epoch() -> None:
        model.train()
        steps()

    return peer(train_epoch, model, device)


def tuned(mnist: Mnist, seed: int) -> Peer:
    """All images in one tensor, with PyTorch's default number of threads."""
    return resident(mnist, seed)


def tuned_1_thread(mnist: Mnist, seed: int) -> Peer:
    """All images in one tensor, with one thread. For small networks a second thread can make it slower."""
    return resident(mnist, seed, threads=1)


def compiled(mnist: Mnist, seed: int) -> Peer:
    """All images in one tensor; network and loss are compiled by `torch.compile`."""
    return resident(mnist, seed, compile_network=True)


def cuda_graph(mnist: Mnist, seed: int) -> Peer:
    """All images in one tensor; the step is recorded once as a CUDA graph. It needs a GPU."""
    return resident(mnist, seed, recorded=True)
