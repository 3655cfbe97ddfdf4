"""The neural tangent kernel: a wide network trained by gradient descent is regression with the kernel J Jᵀ.

J has the derivatives of the outputs with respect to all parameters, at the start. Jacot, Gabriel and Hongler 2018,
"Neural tangent kernel: convergence and generalization in neural networks".
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import functional_nn as fnn

EXAMPLES = 16


def circle(count):
    """Points on the unit circle, and the product of their coordinates."""
    angle = jnp.linspace(0.0, 2 * jnp.pi, count, endpoint=False)
    return jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1), jnp.sin(2 * angle)[:, None] / 2


def main(quick=False):
    (x, y), (new_x, new_y) = circle(EXAMPLES), circle(50)
    width, steps = (512, 150) if quick else (4096, 1000)
    net = fnn.chain(fnn.dense(width, initializer="he"), fnn.relu, fnn.dense(1, initializer="lecun"))
    params, state = net.init(jax.random.key(0), (2,))

    def outputs(params, x):
        return net.apply(params, state, x, train=False)[0][:, 0]

    @jax.jit
    def jacobian(x):
        """One row for each example, one column for each parameter."""
        leaves = jax.tree.leaves(jax.jacobian(outputs)(params, x))
        return jnp.concatenate([leaf.reshape(len(x), -1) for leaf in leaves], axis=1)

    # The outputs f follow f ← f + rate K (y - f) / n, so after t steps each eigenvector of K with eigenvalue λ has the
    # share 1 - (1 - rate λ / n)ᵗ of its part of y - f.
    rows, new_rows = jacobian(x), jacobian(new_x)
    values, vectors = jnp.linalg.eigh(rows @ rows.T)
    rate = 0.5 * EXAMPLES / values[-1]
    reached = jnp.where(values > 1e-6 * values[-1], (1 - (1 - rate * values / EXAMPLES) ** steps) / values, 0)
    weights = vectors @ (reached * (vectors.T @ (y[:, 0] - outputs(params, x))))
    by_kernel = outputs(params, new_x) + new_rows @ rows.T @ weights

    # The squared error has the derivative 2 (f - y), so half of the rate is used.
    data = fnn.data.Split(x, y, new_x, new_y)
    start = (params, state)
    optimizer = optax.sgd(rate / 2)
    run = fnn.fit(net, fnn.mean_squared_error, optimizer, data, epochs=steps, batch_size=EXAMPLES, start=start)
    by_training = outputs(run.params, new_x)
    distance = jnp.sqrt(jnp.mean((by_kernel - by_training) ** 2))
    error = jnp.sqrt(jnp.mean((by_kernel - new_y[:, 0]) ** 2))
    print(f"kernel and trained network differ by {distance:.1e}, and the kernel differs from the truth by {error:.3f}")
    return {"distance": float(distance), "error": float(error), "spread": float(np.std(new_y))}


if __name__ == "__main__":
    main()
