"""A script for PyTorch: `python mnist_pytorch.py tuned --data-dir DIR --seed 0` prints the test accuracy."""

import argparse
from pathlib import Path

import torch
from mnist_task import GOAL, SIZES, TUNED, arrays
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

TUTORIAL = {"learning_rate": 1e-3, "batch_size": 64, "epochs": 40}


def tensors(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    images, labels = arrays(folder, part)
    return torch.from_numpy(images), torch.from_numpy(labels)


def network() -> nn.Module:
    inputs, first, second, classes = SIZES
    hidden = nn.Linear(inputs, first), nn.ReLU(), nn.Linear(first, second), nn.ReLU()
    return nn.Sequential(*hidden, nn.Linear(second, classes))


def test_accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        return (model(images).argmax(dim=1) == labels).float().mean().item()


def train_tuned(folder: Path, learning_rate: float, batch_size: int, epochs: int) -> float:
    """All images in one tensor, fused Adam, a one-cycle schedule, and large batches."""
    (images, labels), test = tensors(folder, "train"), tensors(folder, "t10k")
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    steps = epochs * -(-len(images) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(batch_size):
            optimizer.zero_grad(set_to_none=True)
            nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
            schedule.step()
    return test_accuracy(model, *test)


def train_as_tutorial(folder: Path, learning_rate: float, batch_size: int, epochs: int) -> float:
    """The loop of the quickstart tutorial over a DataLoader, until the test accuracy reaches the goal."""
    train, test = TensorDataset(*tensors(folder, "train")), tensors(folder, "t10k")
    dataloader = DataLoader(train, batch_size=batch_size, shuffle=True)
    model, loss_function = network(), nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    accuracy = 0.0
    for _ in range(epochs):
        for images, labels in dataloader:
            loss = loss_function(model(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        accuracy = test_accuracy(model, *test)
        if accuracy >= GOAL:
            break
    return accuracy


WAYS = {"tuned": (train_tuned, TUNED), "tutorial": (train_as_tutorial, TUTORIAL)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    train, recipe = WAYS[arguments.way]
    print(f"test accuracy {train(arguments.data_dir, **recipe):.4f}")


if __name__ == "__main__":
    main()
