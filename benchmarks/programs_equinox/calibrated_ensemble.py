"""A calibrated ensemble, with Equinox and Optax."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax


def rings(random, count):
    """Points on three rings with so much noise that the rings overlap."""
    labels, angle = random.integers(0, 3, count), random.uniform(0, 2 * np.pi, count)
    points = (1.0 + labels) * np.stack([np.cos(angle), np.sin(angle)])
    return (points.T + random.normal(0, 0.4, (count, 2))).astype(np.float32), labels


def cross_entropy(logits, labels):
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))


def loss_of(model, x, labels):
    return cross_entropy(jax.vmap(model)(x), labels)


def calibration_error(logits, labels, bins=15):
    probabilities = jax.nn.softmax(logits)
    confidence, right = probabilities.max(axis=-1), probabilities.argmax(axis=-1) == labels
    place = jnp.clip(jnp.ceil(confidence * bins) - 1, 0, bins - 1).astype(int)
    return jnp.sum(jnp.abs(jax.ops.segment_sum(right - confidence, place, bins))) / len(labels)


def best_temperature(logits, labels):
    temperatures = jnp.geomspace(0.25, 8.0, 101)
    losses = jax.vmap(lambda temperature: cross_entropy(logits / temperature, labels))(temperatures)
    return temperatures[jnp.argmin(losses)]


def main(quick=False):
    random, optimizer = np.random.default_rng(0), optax.adam(1e-2)
    (train_x, train_labels), (kept_x, kept_labels), (x, labels) = (rings(random, n) for n in (300, 1000, 2000))
    keys = jax.random.split(jax.random.key(0), 3 if quick else 8)
    models = eqx.filter_vmap(lambda key: eqx.nn.MLP(2, 3, 64, 2, key=key))(keys)
    optimizer_states = eqx.filter_vmap(lambda model: optimizer.init(eqx.filter(model, eqx.is_array)))(models)

    @eqx.filter_jit
    @eqx.filter_vmap(in_axes=(eqx.if_array(0), eqx.if_array(0), None, None))
    def step(model, optimizer_state, x, labels):
        gradient = eqx.filter_grad(loss_of)(model, x, labels)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state)
        return eqx.apply_updates(model, updates), optimizer_state

    for _ in range(15 if quick else 60):
        for rows in random.permutation(300).reshape(-1, 60):
            models, optimizer_states = step(models, optimizer_states, train_x[rows], train_labels[rows])

    # The logarithms of the mean probabilities are the logits of the ensemble.
    each = eqx.filter_vmap(lambda model, x: jax.vmap(model)(x), in_axes=(eqx.if_array(0), None))
    logits, kept_logits = (jnp.log(jnp.mean(jax.nn.softmax(each(models, points)), axis=0)) for points in (x, kept_x))
    temperature = best_temperature(kept_logits, kept_labels)
    alone = each(models, x)[0]
    figures = {}
    for name, y in (("one", alone), ("ensemble", logits), ("calibrated", logits / temperature)):
        figures[name] = float(calibration_error(y, labels))
        figures[f"{name}_loss"] = float(cross_entropy(y, labels))
        print(f"{name:10s} calibration error {figures[name]:.3f}, cross-entropy {figures[f'{name}_loss']:.3f}")
    return figures | {"temperature": float(temperature)}


if __name__ == "__main__":
    main()
