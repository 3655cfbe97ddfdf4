"""PyTorch: its layers, tensors in memory, shuffled by index, and fused Adam.

Its threads wait for each other at every operation. So small steps are faster with one thread, and large ones with a
thread for each core. A few steps are tried in both ways before, and the faster way is kept for this size.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from benchmarks.growth.work import LEARNING_RATE, Work
from benchmarks.peers import available_cores

LIBRARIES = ("torch",)
TRIED = 8
"""The number of steps by which the number of threads is chosen."""


class Recurrent(nn.Module):
    """An LSTM, and a dense layer on its last state."""

    def __init__(self, work: Work):
        super().__init__()
        self.lstm = nn.LSTM(work.features, work.width, batch_first=True)
        self.dense = nn.Linear(work.width, work.classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(self.lstm(x)[0][:, -1])


class Attending(nn.Module):
    """Attention with a residual connection, and a dense layer on every time step."""

    def __init__(self, work: Work):
        super().__init__()
        self.attention = nn.MultiheadAttention(work.features, work.heads, batch_first=True)
        self.dense = nn.Linear(work.features, work.classes)

    def forward(self, x: Tensor) -> Tensor:
        # Without the weights as a second result, PyTorch computes attention in its fused way.
        return self.dense(x + self.attention(x, x, x, need_weights=False)[0])


def network(work: Work) -> nn.Module:
    if work.network == "lstm":
        return Recurrent(work)
    if work.network == "attention":
        return Attending(work)
    layers = [layer for pair in pairwise(work.sizes) for layer in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def turn(work: Work) -> Callable[[], float]:
    torch.manual_seed(0)
    x, labels = (torch.from_numpy(array) for array in work.data())
    labels, model = labels.long(), network(work)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)

    def train_on(batches: Sequence[Tensor]) -> float:
        begin = time.perf_counter()
        for batch in batches:
            optimizer.zero_grad(set_to_none=True)
            logits = model(x[batch]).reshape(-1, work.classes)
            nn.functional.cross_entropy(logits, labels[batch].reshape(-1)).backward()
            optimizer.step()
        return time.perf_counter() - begin

    def train() -> float:
        seconds = 0.0
        for _ in range(work.epochs):
            begin = time.perf_counter()
            train_on(torch.randperm(work.examples).split(work.batch_size))
            seconds = time.perf_counter() - begin
        return seconds

    few = torch.randperm(work.examples).split(work.batch_size)[:TRIED]
    tried = {}
    for threads in sorted({1, available_cores()}):
        torch.set_num_threads(threads)
        train_on(few)  # the first steps take longer
        tried[threads] = min(train_on(few), train_on(few))
    torch.set_num_threads(min(tried, key=lambda threads: tried[threads]))
    return train
