"""REINFORCE in a small grid world, with Equinox and Optax."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

SIZE, TIME = 5, 16
MOVES = jnp.array([[0, 1], [0, -1], [1, 0], [-1, 0]])
GOAL = jnp.array([SIZE - 1, SIZE - 1])


def episode(model, key):
    """The sum of the rewards, and the logarithm of the probability of all moves. A step costs 1 until the goal."""

    def step(place, key):
        logits = model(jax.nn.one_hot(place, SIZE).reshape(-1))
        move = jax.random.categorical(key, logits)
        at_goal = jnp.all(place == GOAL)
        moved = jnp.where(at_goal, place, jnp.clip(place + MOVES[move], 0, SIZE - 1))
        return moved, (jnp.where(at_goal, 0.0, -1.0), jnp.where(at_goal, 0.0, jax.nn.log_softmax(logits)[move]))

    _, (rewards, log_probabilities) = jax.lax.scan(step, jnp.zeros(2, int), jax.random.split(key, TIME))
    return jnp.sum(rewards), jnp.sum(log_probabilities)


def loss(model, key):
    """Its gradient is that of the mean reward, with the other sign."""
    rewards, log_probabilities = jax.vmap(episode, in_axes=(None, 0))(model, jax.random.split(key, 64))
    return -jnp.mean((rewards - rewards.mean()) * log_probabilities), rewards.mean()


def main(quick=False):
    optimizer = optax.adam(1e-2)
    model = eqx.nn.MLP(2 * SIZE, len(MOVES), 32, 1, activation=jnp.tanh, key=jax.random.key(0))
    optimizer_state = optimizer.init(eqx.filter(model, eqx.is_array))

    @eqx.filter_jit
    def update(model, optimizer_state, key):
        gradient, reward = eqx.filter_grad(loss, has_aux=True)(model, key)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state)
        return eqx.apply_updates(model, updates), optimizer_state, reward

    rewards = []
    for key in jax.random.split(jax.random.key(1), 150 if quick else 500):
        model, optimizer_state, reward = update(model, optimizer_state, key)
        rewards.append(float(reward))
    first, last = sum(rewards[:5]) / 5, sum(rewards[-5:]) / 5
    print(f"mean reward {first:.1f} at first, {last:.1f} at last; the best possible is {-2 * (SIZE - 1)}")
    return {"first": first, "last": last, "best": -2.0 * (SIZE - 1)}


if __name__ == "__main__":
    main()
