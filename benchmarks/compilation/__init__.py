"""How long the programs of `fit` take to compile, beside plain JAX programs of the same networks."""
