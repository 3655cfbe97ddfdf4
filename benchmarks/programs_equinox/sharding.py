"""Data parallel training on two devices, with Equinox and Optax."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

BATCH = 64


def loss_of(model, x, labels):
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(jax.vmap(model)(x), labels))


def main(quick=False):
    random = np.random.default_rng(0)
    labels = np.arange(512) % 4
    x = (random.normal(size=(4, 8))[labels] + random.normal(0, 0.7, (512, 8))).astype(np.float32)

    start, optimizer = eqx.nn.MLP(8, 4, 64, 1, key=jax.random.key(0)), optax.adam(1e-2)

    @eqx.filter_jit
    def step(model, optimizer_state, x, labels):
        loss, gradient = eqx.filter_value_and_grad(loss_of)(model, x, labels)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state)
        return eqx.apply_updates(model, updates), optimizer_state, loss

    def trained(for_all, for_batch):
        """The model and the last loss, with the model and the batches laid out as said."""
        model = eqx.filter_shard(start, for_all)
        optimizer_state = eqx.filter_shard(optimizer.init(eqx.filter(model, eqx.is_array)), for_all)
        for _ in range(3 if quick else 30):
            for first in range(0, len(x), BATCH):
                batch = jax.device_put((x[first : first + BATCH], labels[first : first + BATCH]), for_batch)
                model, optimizer_state, loss = step(model, optimizer_state, *batch)
        return eqx.filter(model, eqx.is_array), loss

    mesh = jax.make_mesh((jax.device_count(),), ("batch",))
    for_all, for_batch = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("batch"))
    together, loss = trained(for_all, for_batch)
    alone, _ = trained(jax.devices()[0], jax.devices()[0])
    differences = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - np.asarray(b))), alone, together)
    difference = max(jax.tree.leaves(differences))
    print(f"{mesh.size} devices: loss {loss:.4f}; the parameters differ from those of one device by {difference:.1e}")
    return {"devices": mesh.size, "loss": float(loss), "difference": float(difference)}


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 2)
    main()
