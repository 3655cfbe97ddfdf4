"""A graph network with messages along edges, with Equinox and Optax."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

NODES, EDGES = 8, 20


def graphs(random, count):
    """Random graphs: a number at each node, and edges from senders to receivers; what to predict for each node."""
    numbers = random.uniform(size=(count, NODES)).astype(np.float32)
    edges = random.integers(0, NODES, (count, 2, EDGES)).astype(np.int32)
    graph = np.arange(count)[:, None]
    total = np.zeros_like(numbers)
    np.add.at(total, (graph, edges[:, 1]), numbers[graph, edges[:, 0]])
    twice = np.zeros_like(numbers)
    np.add.at(twice, (graph, edges[:, 1]), total[graph, edges[:, 0]])
    return numbers[..., None], edges, twice[..., None]


class MessagePassing(eqx.Module):
    encoder: eqx.nn.Linear
    message: eqx.nn.Linear
    update: eqx.nn.MLP
    decoder: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 4)
        self.encoder = eqx.nn.Linear(1, 16, key=keys[0])
        self.message = eqx.nn.Linear(16, 16, key=keys[1])
        self.update = eqx.nn.MLP(32, 16, 32, 1, key=keys[2])
        self.decoder = eqx.nn.Linear(16, 1, key=keys[3])

    def __call__(self, numbers, edges):
        senders, receivers = edges
        nodes = jax.vmap(self.encoder)(numbers)
        for _ in range(2):
            received = jax.ops.segment_sum(jax.vmap(self.message)(nodes[senders]), receivers, NODES)
            nodes = jax.vmap(self.update)(jnp.concatenate([nodes, received], axis=-1))
        return jax.vmap(self.decoder)(nodes)


def loss_of(model, numbers, edges, labels):
    return jnp.mean((jax.vmap(model)(numbers, edges) - labels) ** 2)


def main(quick=False):
    random = np.random.default_rng(0)
    model, optimizer = MessagePassing(jax.random.key(0)), optax.adam(3e-3)
    optimizer_state = optimizer.init(eqx.filter(model, eqx.is_array))
    train, test = graphs(random, 1024), graphs(random, 256)

    @eqx.filter_jit
    def step(model, optimizer_state, *batch):
        gradient = eqx.filter_grad(loss_of)(model, *batch)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state)
        return eqx.apply_updates(model, updates), optimizer_state

    for _ in range(8 if quick else 50):
        for rows in random.permutation(1024).reshape(-1, 32):
            model, optimizer_state = step(model, optimizer_state, *(array[rows] for array in train))
    error, variance = float(loss_of(model, *test)), float(test[2].var())
    print(f"squared error {error:.3f}, variance of the labels {variance:.1f}")
    return {"error": error, "variance": variance}


if __name__ == "__main__":
    main()
