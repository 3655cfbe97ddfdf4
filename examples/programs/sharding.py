"""Data parallel training by hand: each of two devices has half of a batch, and XLA adds up the gradients.

``fit(…, devices=2)`` does the same in one call. Goyal et al. 2017, "Accurate, large minibatch SGD: training ImageNet in
1 hour".
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

import functional_nn as fnn

BATCH = 64


def main(quick=False):
    random = np.random.default_rng(0)
    labels = np.arange(512) % 4
    x = (random.normal(size=(4, 8))[labels] + random.normal(0, 0.7, (512, 8))).astype(np.float32)

    net, optimizer = fnn.chain(fnn.dense(64), fnn.relu, fnn.dense(4)), optax.adam(1e-2)
    start = fnn.training.create_train_state(net, optimizer, jax.random.key(0), (8,))
    step = jax.jit(fnn.training.make_train_step(net, fnn.cross_entropy, optimizer))

    def trained(for_all, for_batch):
        """The train state and the last loss, with the train state and the batches laid out as said."""
        train_state = jax.device_put(start, for_all)
        for _ in range(3 if quick else 30):
            for first in range(0, len(x), BATCH):
                batch = jax.device_put((x[first : first + BATCH], labels[first : first + BATCH]), for_batch)
                train_state, loss = step(train_state, *batch)
        return train_state, loss

    mesh = jax.make_mesh((jax.device_count(),), ("batch",))
    for_all, for_batch = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("batch"))
    together, loss = trained(for_all, for_batch)
    alone, _ = trained(jax.devices()[0], jax.devices()[0])
    differences = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - np.asarray(b))), alone.params, together.params)
    difference = max(jax.tree.leaves(differences))
    print(f"{mesh.size} devices: loss {loss:.4f}; the parameters differ from those of one device by {difference:.1e}")
    return {"devices": mesh.size, "loss": float(loss), "difference": float(difference)}


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 2)
    main()
