"""A siamese network with the triplet loss, with Equinox and Optax."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax


def triplets(random, count):
    """Points on three noisy rings. Anchor and positive are on one ring, and the negative is on another."""
    ring = random.integers(0, 3, count)
    radius = 1.0 + np.stack([ring, ring, (ring + random.integers(1, 3, count)) % 3])
    angle = random.uniform(0, 2 * np.pi, (3, count))
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1) + random.normal(0, 0.1, (3, count, 2))
    return dict(zip(("anchor", "positive", "negative"), points.astype(np.float32), strict=True))


def distances(encoder, x):
    anchor, positive, negative = (jax.vmap(encoder)(x[name]) for name in ("anchor", "positive", "negative"))
    return jnp.sum((anchor - positive) ** 2, axis=-1), jnp.sum((anchor - negative) ** 2, axis=-1)


def triplet_loss(encoder, x):
    to_positive, to_negative = distances(encoder, x)
    return jnp.mean(jnp.maximum(to_positive - to_negative + 1.0, 0.0))


def main(quick=False):
    random = np.random.default_rng(0)
    encoder, optimizer = eqx.nn.MLP(2, 2, 64, 2, key=jax.random.key(0)), optax.adam(3e-3)
    optimizer_state = optimizer.init(eqx.filter(encoder, eqx.is_array))
    train, test = triplets(random, 4096), triplets(random, 1024)

    @eqx.filter_jit
    def step(encoder, optimizer_state, x):
        gradient = eqx.filter_grad(triplet_loss)(encoder, x)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state)
        return eqx.apply_updates(encoder, updates), optimizer_state

    for _ in range(5 if quick else 20):
        for rows in random.permutation(4096).reshape(-1, 64):
            batch = {name: points[rows] for name, points in train.items()}
            encoder, optimizer_state = step(encoder, optimizer_state, batch)
    to_positive, to_negative = distances(encoder, test)
    loss, right = float(triplet_loss(encoder, test)), float(jnp.mean(to_positive < to_negative))
    print(f"triplet loss {loss:.3f}, {right:.1%} of the triplets are right")
    return {"loss": loss, "right": right}


if __name__ == "__main__":
    main()
