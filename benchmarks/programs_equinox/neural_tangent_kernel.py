"""The neural tangent kernel of a wide network, with Equinox and Optax."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

EXAMPLES = 16


def circle(count):
    """Points on the unit circle, and the product of their coordinates."""
    angle = jnp.linspace(0.0, 2 * jnp.pi, count, endpoint=False)
    return jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1), jnp.sin(2 * angle)[:, None] / 2


def main(quick=False):
    (x, y), (new_x, new_y) = circle(EXAMPLES), circle(50)
    width, steps = (512, 150) if quick else (4096, 1000)
    model = eqx.nn.MLP(2, 1, width, 1, key=jax.random.key(0))
    arrays, static = eqx.partition(model, eqx.is_array)

    def outputs(arrays, x):
        return jax.vmap(eqx.combine(arrays, static))(x)[:, 0]

    @jax.jit
    def jacobian(x):
        """One row for each example, one column for each parameter."""
        leaves = jax.tree.leaves(jax.jacobian(outputs)(arrays, x))
        return jnp.concatenate([leaf.reshape(len(x), -1) for leaf in leaves], axis=1)

    # The outputs f follow f ← f + rate K (y - f) / n, so after t steps each eigenvector of K with eigenvalue λ has the
    # share 1 - (1 - rate λ / n)ᵗ of its part of y - f.
    rows, new_rows = jacobian(x), jacobian(new_x)
    values, vectors = jnp.linalg.eigh(rows @ rows.T)
    rate = 0.5 * EXAMPLES / values[-1]
    reached = jnp.where(values > 1e-6 * values[-1], (1 - (1 - rate * values / EXAMPLES) ** steps) / values, 0)
    weights = vectors @ (reached * (vectors.T @ (y[:, 0] - outputs(arrays, x))))
    by_kernel = outputs(arrays, new_x) + new_rows @ rows.T @ weights

    # The squared error has the derivative 2 (f - y), so half of the rate is used.
    optimizer = optax.sgd(rate / 2)

    @jax.jit
    def step(arrays, optimizer_state):
        gradient = jax.grad(lambda arrays: jnp.mean((outputs(arrays, x) - y[:, 0]) ** 2))(arrays)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state)
        return optax.apply_updates(arrays, updates), optimizer_state

    optimizer_state = optimizer.init(arrays)
    for _ in range(steps):
        arrays, optimizer_state = step(arrays, optimizer_state)
    by_training = outputs(arrays, new_x)
    distance = jnp.sqrt(jnp.mean((by_kernel - by_training) ** 2))
    error = jnp.sqrt(jnp.mean((by_kernel - new_y[:, 0]) ** 2))
    print(f"kernel and trained network differ by {distance:.1e}, and the kernel differs from the truth by {error:.3f}")
    return {"distance": float(distance), "error": float(error), "spread": float(np.std(new_y))}


if __name__ == "__main__":
    main()
