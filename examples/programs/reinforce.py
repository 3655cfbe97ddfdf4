"""REINFORCE: a policy learns to walk to the goal of a small grid world, from rewards alone.

The world has two axes and four moves. Williams 1992, "Simple statistical gradient-following algorithms for
connectionist reinforcement learning".
"""

import jax
import jax.numpy as jnp
import optax

import functional_nn as fnn

SIZE, TIME = 5, 16
MOVES = jnp.array([[0, 1], [0, -1], [1, 0], [-1, 0]])
GOAL = jnp.array([SIZE - 1, SIZE - 1])


def main(quick=False):
    net, optimizer = fnn.chain(fnn.dense(32), fnn.tanh, fnn.dense(len(MOVES))), optax.adam(1e-2)

    def episode(params, key):
        """The sum of the rewards, and the logarithm of the probability of all moves. A step costs 1 until the goal."""

        def step(place, key):
            seen = jax.nn.one_hot(place, SIZE).reshape(1, -1)
            logits = net.apply(params, {}, seen, train=True)[0][0]
            move = jax.random.categorical(key, logits)
            at_goal = jnp.all(place == GOAL)
            moved = jnp.where(at_goal, place, jnp.clip(place + MOVES[move], 0, SIZE - 1))
            return moved, (jnp.where(at_goal, 0.0, -1.0), jnp.where(at_goal, 0.0, jax.nn.log_softmax(logits)[move]))

        _, (rewards, log_probabilities) = jax.lax.scan(step, jnp.zeros(2, int), jax.random.split(key, TIME))
        return jnp.sum(rewards), jnp.sum(log_probabilities)

    def loss(params, key):
        """Its gradient is that of the mean reward, with the other sign."""
        rewards, log_probabilities = jax.vmap(episode, in_axes=(None, 0))(params, jax.random.split(key, 64))
        return -jnp.mean((rewards - rewards.mean()) * log_probabilities), rewards.mean()

    def update(train_state, key):
        gradient, reward = jax.grad(loss, has_aux=True)(train_state.params, key)
        return train_state.apply_gradient(gradient, optimizer), reward

    train_state = fnn.training.create_train_state(net, optimizer, jax.random.key(0), (2 * SIZE,))
    keys = jax.random.split(jax.random.key(1), 150 if quick else 500)
    train_state, rewards = jax.lax.scan(update, train_state, keys)
    first, last = rewards[:5].mean(), rewards[-5:].mean()
    print(f"mean reward {first:.1f} at first, {last:.1f} at last; the best possible is {-2 * (SIZE - 1)}")
    return {"first": float(first), "last": float(last), "best": -2.0 * (SIZE - 1)}


if __name__ == "__main__":
    main()
