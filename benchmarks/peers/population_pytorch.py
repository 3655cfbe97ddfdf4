"""W2 with PyTorch: one model after another, one process per core, and an ensemble by `torch.func`."""

from collections.abc import Sequence
from copy import deepcopy

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap

from benchmarks.mnist import Mnist
from benchmarks.peers import Peer
from benchmarks.peers.population import in_processes, one_after_another, shuffled_rows
from benchmarks.peers.pytorch import LIBRARIES as LIBRARIES
from benchmarks.peers.pytorch import network, resident
from benchmarks.peers.pytorch_steps import best_device, device_name, finish
from benchmarks.w2 import FEW, Member, members, sizes


def one_model(mnist: Mnist, member: Member, hidden: Sequence[int], threads: int | None = None) -> Peer:
    """All images in one tensor that is shuffled by index, and fused Adam."""
    return resident(mnist, member.seed, sizes=sizes(hidden), learning_rate=member.learning_rate, threads=threads)


def one_model_1_thread(mnist: Mnist, member: Member, hidden: Sequence[int]) -> Peer:
    return one_model(mnist, member, hidden, threads=1)


def in_turn(mnist: Mnist, seed: int, models: int, hidden: Sequence[int]) -> Peer:
    """One model after another, with PyTorch's default number of threads."""
    return one_after_another([one_model(mnist, member, hidden) for member in members(seed, models, FEW)])


def in_turn_1_thread(mnist: Mnist, seed: int, models: int, hidden: Sequence[int]) -> Peer:
    """One model after another, with one thread."""
    return one_after_another([one_model_1_thread(mnist, member, hidden) for member in members(seed, models, FEW)])


def processes(mnist: Mnist, seed: int, models: int, hidden: Sequence[int]) -> Peer:
    """One process per core, each with one thread."""
    return in_processes(one_model_1_thread, mnist, seed, models, hidden, device_name(best_device()))


def ensemble(mnist: Mnist, seed: int, models: int, hidden: Sequence[int], threads: int | None = None) -> Peer:
    """All models together, as in the tutorial on ensembles, and fused Adam with a parameter group for each model."""
    if threads is not None:
        torch.set_num_threads(threads)
    torch.manual_seed(seed)
    population = members(seed, models)
    generators = [np.random.default_rng(member.seed) for member in population]
    device = best_device()
    images = torch.from_numpy(mnist.train_images).to(device)
    labels = torch.from_numpy(mnist.train_labels).long().to(device)
    networks = [network(sizes(hidden)).to(device) for _ in population]
    base = deepcopy(networks[0]).to("meta")
    stacked = {name: stack.detach() for name, stack in stack_module_state(networks)[0].items()}
    own = [{name: stack[number] for name, stack in stacked.items()} for number in range(models)]  # views
    optimizer = torch.optim.Adam(
        [
            {"params": list(params.values()), "lr": member.learning_rate}
            for params, member in zip(own, population, strict=True)
        ],
        fused=True,
    )

    def loss_function(params: dict[str, Tensor], batch_images: Tensor, batch_labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(functional_call(base, params, (batch_images,)), batch_labels)

    gradients = vmap(grad(loss_function))

    def train_epoch() -> None:
        for rows in shuffled_rows(generators, len(images)):
            batch = torch.from_numpy(rows).to(device)
            gradient = gradients(stacked, images[batch], labels[batch])
            for number, params in enumerate(own):
                for name, param in params.items():
                    param.grad = gradient[name][number]
            optimizer.step()
        finish(device)

    def predict(images: np.ndarray) -> np.ndarray:
        batch = torch.from_numpy(images).to(device)
        with torch.no_grad():
            return np.stack([functional_call(base, params, (batch,)).cpu().numpy() for params in own])

    return Peer(train_epoch, predict, torch.get_num_threads(), models, device=device_name(device))


def ensemble_1_thread(mnist: Mnist, seed: int, models: int, hidden: Sequence[int]) -> Peer:
    """The same with one thread."""
    return ensemble(mnist, seed, models, hidden, threads=1)
