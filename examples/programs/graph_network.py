"""A graph network: nodes send messages along edges, and each node adds up what it receives.

It learns for each node the sum of the numbers two edges before it, over all paths. Gilmer et al. 2017, "Neural message
passing for quantum chemistry".
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import functional_nn as fnn

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
    return {"numbers": numbers[..., None], "edges": edges}, twice[..., None]


def received(messages, receivers):
    """The sum of the messages that each node receives, in each graph of a batch."""
    return jax.vmap(lambda m, r: jax.ops.segment_sum(m, r, NODES))(messages, receivers)


def message_passing(net, x):
    senders, receivers = x["edges"][:, 0], x["edges"][:, 1]
    nodes = net.encoder(x["numbers"])
    for _ in range(2):
        sent = net.message(jnp.take_along_axis(nodes, senders[..., None], axis=1))
        nodes = net.update(jnp.concatenate([nodes, received(sent, receivers)], axis=-1))
    return net.decoder(nodes)


def main(quick=False):
    random = np.random.default_rng(0)
    children = {
        "encoder": fnn.dense(16),
        "message": fnn.dense(16),
        "update": fnn.chain(fnn.dense(32), fnn.relu, fnn.dense(16)),
        "decoder": fnn.dense(1),
    }
    net = fnn.compose(children, message_passing)
    data = fnn.data.Split(*graphs(random, 1024), *graphs(random, 256))
    run = fnn.fit(net, fnn.mean_squared_error, optax.adam(3e-3), data, epochs=8 if quick else 50, batch_size=32)
    print(f"squared error {run.history[-1].test_loss:.3f}, variance of the labels {data.test_labels.var():.1f}")
    return {"error": run.history[-1].test_loss, "variance": float(data.test_labels.var())}


if __name__ == "__main__":
    main()
