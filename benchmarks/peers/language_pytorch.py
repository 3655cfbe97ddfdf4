"""W6 with PyTorch: `scaled_dot_product_attention`, all windows in one tensor that is shuffled by index, fused Adam."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, linear, scaled_dot_product_attention

from benchmarks import w6
from benchmarks.mnist import Mnist
from benchmarks.peers import Peer
from benchmarks.peers.pytorch_steps import best_device, device_name, epochs
from benchmarks.sonnets import read_sonnets, share_of_right_characters

LIBRARIES = ("torch",)


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


class Network(nn.Module):
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


def sonnets(mnist: Mnist, seed: int, *, compile_network: bool = False) -> Peer:
    """With PyTorch's default number of threads; on the GPU if PyTorch can use one."""
    torch.manual_seed(seed)
    device, text = best_device(), read_sonnets()
    windows, held_out = (torch.from_numpy(part).long().to(device) for part in text)
    model = Network(w6.SIZES).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=w6.LEARNING_RATE, fused=True)

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

    train_epoch = epochs(step, optimizer, len(windows), w6.BATCH_SIZE, device)
    return Peer(train_epoch, None, torch.get_num_threads(), accuracy=accuracy, device=device_name(device))


def sonnets_compiled(mnist: Mnist, seed: int) -> Peer:
    """Network and loss are compiled by `torch.compile`."""
    return sonnets(mnist, seed, compile_network=True)
