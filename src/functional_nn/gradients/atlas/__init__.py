"""The atlas: where the functions of JAX and Optax, and their derivatives by ``jax.grad``, lose their digits."""
