"""A run that logs its epochs, stops when it is good enough, and is continued later, with Equinox and Optax."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax


def loss_of(model, x, labels):
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(jax.vmap(model)(x), labels))


def main(quick=False):
    random = np.random.default_rng(0)
    x = random.normal(size=(1200, 8)).astype(np.float32)
    labels = (np.sin(2 * x[:, 0]) + x[:, 1] > 0).astype(int)
    optimizer = optax.adam(1e-2)
    epochs = 20 if quick else 40
    log = []
    model = eqx.nn.MLP(8, 2, 64, 1, activation=jnp.tanh, key=jax.random.key(0))
    start = (model, optimizer.init(eqx.filter(model, eqx.is_array)), 0)

    @eqx.filter_jit
    def step(model, optimizer_state, x, labels):
        loss, gradient = eqx.filter_value_and_grad(loss_of)(model, x, labels)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state)
        return eqx.apply_updates(model, updates), optimizer_state, loss

    @eqx.filter_jit
    def accuracy(model):
        return jnp.mean(jax.vmap(model)(x[1000:]).argmax(axis=-1) == labels[1000:])

    def fit(start, epochs, on_epoch=lambda metrics: False):
        """Continues from a model, an optimizer's state and the number of epochs before."""
        model, optimizer_state, before = start
        for epoch in range(before + 1, before + epochs + 1):
            losses = []
            for rows in np.random.default_rng(epoch).permutation(1000).reshape(-1, 50):
                model, optimizer_state, loss = step(model, optimizer_state, x[rows], labels[rows])
                losses.append(loss)
            metrics = {"epoch": epoch, "loss": float(np.mean(losses)), "accuracy": float(accuracy(model))}
            if on_epoch(metrics):
                break
        return (model, optimizer_state, epoch), metrics

    def on_epoch(metrics):
        log.append(metrics)
        return metrics["accuracy"] > 0.9

    first, _ = fit(start, epochs, on_epoch)
    print(f"stopped after {len(log)} epochs: {log[-1]}")
    (rest, *_), metrics = fit(first, epochs - len(log))
    (whole, *_), whole_metrics = fit(start, epochs)
    print(f"continued: {metrics['accuracy']:.3f}, in one run: {whole_metrics['accuracy']:.3f}")
    return {
        "epochs": len(log),
        "stopped_at": log[-1]["accuracy"],
        "accuracy": metrics["accuracy"],
        "same_bits": bool(eqx.tree_equal(rest, whole)),
    }


if __name__ == "__main__":
    main()
