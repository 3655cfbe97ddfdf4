"""PyTorch: the loop of its quickstart tutorial, tensors in memory with fused Adam, `torch.compile`, and ensembles.

Its threads wait for each other at every operation. So small steps are faster with one thread, and large ones with a
thread for each core. In the growth of cost, a few steps are tried in both ways, and the faster way is kept for a size.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn.functional import cross_entropy, gelu, linear, relu, rms_norm, scaled_dot_product_attention
from torch.utils.data import DataLoader, Dataset, TensorDataset

from benchmarks import w1, w3, w4, w5, w6, w7
from benchmarks.data import Mnist, Sonnets, load, read_letters, read_sonnets, share_of_right_characters
from benchmarks.growth.work import LEARNING_RATE as GROWTH_RATE
from benchmarks.growth.work import Work
from benchmarks.peers import CannotRun, Peer, available_cores, script
from benchmarks.peers.population import in_processes, one_after_another, shuffled_rows
from benchmarks.w2 import FEW, Member, members, sizes
from functional_nn.data import write_idx

LIBRARIES = ("torch",)
WARM_UP_STEPS = 3
"""Steps before a step is recorded. In the first ones, libraries and the optimizer allocate their memory."""
TRIED = 8
"""The number of steps by which the number of threads is chosen."""


def network(sizes: Sequence[int] = w1.SIZES) -> nn.Sequential:
    layers = [layer for pair in pairwise(sizes) for layer in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def quickstart(dataset: Dataset, seed: int) -> Peer:
    """The loop of pytorch.org/tutorials/beginner/basics/quickstart_tutorial.html."""
    torch.manual_seed(seed)
    device = best_device()
    dataloader = DataLoader(dataset, batch_size=w1.BATCH_SIZE, shuffle=True)
    model = nn.Sequential(nn.Flatten(), network()).to(device)
    loss_function = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=w1.LEARNING_RATE)

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
    make_network: Callable[[], nn.Module],
    learning_rate: float,
    batch_size: int,
    *,
    shaped: Callable[[Tensor], Tensor] = lambda images: images,
    memory_format: torch.memory_format = torch.preserve_format,
    compile_network: bool = False,
    recorded: bool = False,
    threads: int | None = None,
) -> Peer:
    """All images in one tensor that is shuffled by index, and fused Adam; on the GPU if PyTorch can use one."""
    torch.manual_seed(seed)
    if threads is not None:
        torch.set_num_threads(threads)
    device = best_device()
    images = shaped(torch.from_numpy(mnist.train_images)).to(device)
    labels = torch.from_numpy(mnist.train_labels).long().to(device)
    model = make_network().to(device, memory_format=memory_format)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True, capturable=recorded)

    def loss_function(batch_images: Tensor, batch_labels: Tensor) -> Tensor:
        return cross_entropy(model(batch_images), batch_labels)

    if compile_network:
        loss_function = torch.compile(loss_function, dynamic=False)

    def step(rows: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss_function(images[rows], labels[rows]).backward()
        optimizer.step()

    train_epoch = epochs(step, optimizer, len(images), batch_size, device, recorded=recorded)
    return peer(train_epoch, model, device, shaped)


def mlp(mnist: Mnist, seed: int, **options) -> Peer:
    return resident(mnist, seed, network, w1.LEARNING_RATE, w1.BATCH_SIZE, **options)


def tuned(mnist: Mnist, seed: int) -> Peer:
    """All images in one tensor, with PyTorch's default number of threads."""
    return mlp(mnist, seed)


def compiled(mnist: Mnist, seed: int) -> Peer:
    """All images in one tensor; network and loss are compiled by `torch.compile`."""
    return mlp(mnist, seed, compile_network=True)


def cuda_graph(mnist: Mnist, seed: int) -> Peer:
    """All images in one tensor; the step is recorded once as a CUDA graph. It needs a GPU."""
    return mlp(mnist, seed, recorded=True)


def one_model(mnist: Mnist, member: Member, hidden: Sequence[int], threads: int | None = None) -> Peer:
    """All images in one tensor that is shuffled by index, and fused Adam."""
    units = sizes(hidden)
    return resident(mnist, member.seed, lambda: network(units), member.learning_rate, w1.BATCH_SIZE, threads=threads)


def one_model_1_thread(mnist: Mnist, member: Member, hidden: Sequence[int]) -> Peer:
    return one_model(mnist, member, hidden, threads=1)


def population_in_turn(mnist: Mnist, seed: int, models: int, hidden: Sequence[int]) -> Peer:
    """One model after another, with PyTorch's default number of threads."""
    return one_after_another([one_model(mnist, member, hidden) for member in members(seed, models, FEW)])


def population_processes(mnist: Mnist, seed: int, models: int, hidden: Sequence[int]) -> Peer:
    """One process per core, each with one thread."""
    return in_processes(one_model_1_thread, mnist, seed, models, hidden, device_name(best_device()))


def population_ensemble(mnist: Mnist, seed: int, models: int, hidden: Sequence[int]) -> Peer:
    """All models together, as in the tutorial on ensembles, and fused Adam with a parameter group for each model."""
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
        return cross_entropy(functional_call(base, params, (batch_images,)), batch_labels)

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


def cnn() -> nn.Sequential:
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


def cnn_resident(mnist: Mnist, seed: int, memory_format: torch.memory_format, **options) -> Peer:
    height, width, channels = w3.IMAGE_SHAPE

    def shaped(images: Tensor) -> Tensor:
        return images.reshape(-1, channels, height, width).contiguous(memory_format=memory_format)

    options |= {"shaped": shaped, "memory_format": memory_format}
    return resident(mnist, seed, cnn, w3.LEARNING_RATE, w3.BATCH_SIZE, **options)


def cnn_contiguous(mnist: Mnist, seed: int) -> Peer:
    """With channels as the first axis in memory, as PyTorch has them by default."""
    return cnn_resident(mnist, seed, torch.contiguous_format)


def cnn_channels_last(mnist: Mnist, seed: int) -> Peer:
    """With channels as the last axis in memory, which oneDNN prefers."""
    return cnn_resident(mnist, seed, torch.channels_last)


def cnn_compiled(mnist: Mnist, seed: int) -> Peer:
    """Channels last; network and loss are compiled by `torch.compile`."""
    return cnn_resident(mnist, seed, torch.channels_last, compile_network=True)


def cnn_cuda_graph(mnist: Mnist, seed: int) -> Peer:
    """Channels last; the step is recorded once as a CUDA graph. It needs a GPU."""
    return cnn_resident(mnist, seed, torch.channels_last, recorded=True)


class Lstm(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(w4.COLUMNS, w4.HIDDEN_SIZE, batch_first=True)
        self.dense = nn.Linear(w4.HIDDEN_SIZE, w4.CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        outputs, _ = self.lstm(images.reshape(-1, w4.ROWS, w4.COLUMNS))
        return self.dense(outputs[:, -1])


def lstm(mnist: Mnist, seed: int, **options) -> Peer:
    """`nn.LSTM`, with PyTorch's default number of threads."""
    return resident(mnist, seed, Lstm, w4.LEARNING_RATE, w4.BATCH_SIZE, **options)


def lstm_compiled(mnist: Mnist, seed: int) -> Peer:
    """Network and loss are compiled by `torch.compile`."""
    return lstm(mnist, seed, compile_network=True)


def lstm_cuda_graph(mnist: Mnist, seed: int) -> Peer:
    """The step is recorded once as a CUDA graph. It needs a GPU."""
    return lstm(mnist, seed, recorded=True)


def script_tuned(mnist: Mnist, seed: int) -> Peer:
    """All images in one tensor, fused Adam, and a one-cycle schedule."""
    return script(mnist, seed, w5.GOAL, "mnist_pytorch.py", "tuned")


def script_tutorial(mnist: Mnist, seed: int) -> Peer:
    """The loop of the quickstart tutorial, until the goal is reached."""
    return script(mnist, seed, w5.GOAL, "mnist_pytorch.py", "tutorial")


class Block(nn.Module):
    """A transformer block, norms first. Queries, keys and values are one product."""

    def __init__(self, sizes: w6.LanguageSizes):
        super().__init__()
        features, self.heads = sizes.features, sizes.heads
        self.attention_norm, self.dense_norm = nn.LayerNorm(features), nn.LayerNorm(features)
        self.projections = nn.Linear(features, 3 * features)
        self.output = nn.Linear(features, features)
        self.first, self.second = nn.Linear(features, 4 * features), nn.Linear(4 * features, features)

    def forward(self, x: Tensor) -> Tensor:
        projections = self.projections(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1))
        query, key, value = projections.permute(2, 0, 3, 1, 4)
        attended = scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.output(attended.transpose(1, 2).flatten(2))
        return x + self.second(gelu(self.first(self.dense_norm(x))))


class LanguageModel(nn.Module):
    """Tokens (batch, time) to logits (batch, time, count), with the vectors of the embedding for both."""

    def __init__(self, sizes: w6.LanguageSizes):
        super().__init__()
        self.embedding = nn.Embedding(sizes.count, sizes.features)
        nn.init.normal_(self.embedding.weight, std=sizes.features**-0.5)  # the default is too large for logits
        self.positions = nn.Parameter(0.02 * torch.randn(sizes.time, sizes.features))
        self.blocks = nn.Sequential(*[Block(sizes) for _ in range(sizes.depth)])
        self.norm = nn.LayerNorm(sizes.features)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.positions
        return linear(self.norm(self.blocks(x)), self.embedding.weight)


class TinyGpt(nn.Module):
    """The network of W7. Queries, keys and values are one product."""

    def __init__(self, sizes: w6.LanguageSizes):
        super().__init__()
        features, self.heads = sizes.features, sizes.heads
        self.embedding, self.positions = nn.Embedding(sizes.count, features), nn.Embedding(sizes.time, features)
        self.projections = nn.Linear(features, 3 * features, bias=False)
        self.attended = nn.Linear(features, features, bias=False)
        self.first = nn.Linear(features, 4 * features, bias=False)
        self.second = nn.Linear(4 * features, features, bias=False)
        self.output = nn.Linear(features, sizes.count, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.norm(self.embedding(tokens) + self.positions.weight)
        projections = self.projections(self.norm(x)).unflatten(-1, (3, self.heads, -1))
        query, key, value = projections.permute(2, 0, 3, 1, 4)
        attended = scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.attended(attended.transpose(1, 2).flatten(2))
        return self.output(x + self.second(relu(self.first(self.norm(x)))))

    def norm(self, x: Tensor) -> Tensor:
        return rms_norm(x, x.shape[-1:], eps=1e-5)


def epochs_of_text(
    network: Callable[[w6.LanguageSizes], nn.Module],
    sizes: w6.LanguageSizes,
    text: Sonnets,
    seed: int,
    *,
    compile_network: bool = False,
    threads: int | None = None,
) -> Peer:
    """A peer of W6 or W7; on the GPU if PyTorch can use one."""
    torch.manual_seed(seed)
    if threads is not None:
        torch.set_num_threads(threads)
    device = best_device()
    windows, held_out = (torch.from_numpy(part).long().to(device) for part in text)
    model = network(sizes).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=sizes.learning_rate, fused=True)

    def loss_function(batch: Tensor) -> Tensor:
        return cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())

    if compile_network:
        loss_function = torch.compile(loss_function, dynamic=False)

    def step(rows: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss_function(windows[rows]).backward()
        optimizer.step()

    def accuracy() -> float:
        with torch.no_grad():
            logits = model(held_out[:, :-1]).cpu().numpy()
        return share_of_right_characters(logits, text.test)

    train_epoch = epochs(step, optimizer, len(windows), sizes.batch, device)
    return Peer(train_epoch, None, torch.get_num_threads(), accuracy=accuracy, device=device_name(device))


def sonnets(mnist: Mnist, seed: int, **options) -> Peer:
    """With PyTorch's default number of threads."""
    return epochs_of_text(LanguageModel, w6.SIZES, read_sonnets(), seed, **options)


def sonnets_compiled(mnist: Mnist, seed: int) -> Peer:
    """Network and loss are compiled by `torch.compile`."""
    return sonnets(mnist, seed, compile_network=True)


def letters(mnist: Mnist, seed: int, **options) -> Peer:
    """With one thread: the operations are too small to be divided."""
    return epochs_of_text(TinyGpt, w7.SIZES, read_letters(), seed, threads=1, **options)


def letters_compiled(mnist: Mnist, seed: int) -> Peer:
    """Network and loss are compiled by `torch.compile`."""
    return letters(mnist, seed, compile_network=True)


class GrowthLstm(nn.Module):
    """An LSTM, and a dense layer on its last state."""

    def __init__(self, work: Work):
        super().__init__()
        self.lstm = nn.LSTM(work.features, work.width, batch_first=True)
        self.dense = nn.Linear(work.width, work.classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(self.lstm(x)[0][:, -1])


class GrowthAttention(nn.Module):
    """Attention with a residual connection, and a dense layer on every time step."""

    def __init__(self, work: Work):
        super().__init__()
        self.attention = nn.MultiheadAttention(work.features, work.heads, batch_first=True)
        self.dense = nn.Linear(work.features, work.classes)

    def forward(self, x: Tensor) -> Tensor:
        # Without the weights as a second result, PyTorch computes attention in its fused way.
        return self.dense(x + self.attention(x, x, x, need_weights=False)[0])


def growth_network(work: Work) -> nn.Module:
    if work.network == "lstm":
        return GrowthLstm(work)
    if work.network == "attention":
        return GrowthAttention(work)
    return network(work.sizes)


def growth_turn(work: Work) -> Callable[[], float]:
    torch.manual_seed(0)
    x, labels = (torch.from_numpy(array) for array in work.data())
    labels, model = labels.long(), growth_network(work)
    optimizer = torch.optim.Adam(model.parameters(), lr=GROWTH_RATE, fused=True)

    def train_on(batches: Sequence[Tensor]) -> float:
        begin = time.perf_counter()
        for batch in batches:
            optimizer.zero_grad(set_to_none=True)
            logits = model(x[batch]).reshape(-1, work.classes)
            cross_entropy(logits, labels[batch].reshape(-1)).backward()
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


def peer(
    train_epoch: Callable[[], None],
    model: nn.Module,
    device: torch.device,
    shaped: Callable[[Tensor], Tensor] = lambda images: images,
) -> Peer:
    """A peer of one model, whose images get a shape first."""

    def predict(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return model(shaped(torch.from_numpy(images)).to(device)).cpu().numpy()

    return Peer(train_epoch, predict, torch.get_num_threads(), device=device_name(device))


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
