"""The entries: the same networks and loops in functional_nn, plain JAX, Equinox and PyTorch, one library per file.

Each file lists its `LIBRARIES`, and has some of three functions of a `Work`:

- `turn(work)` prepares the training and returns a function that trains and returns the seconds that count. For one
  model, these are the seconds of the last epoch. For several models, they are those of all models and all epochs.
- `compile_seconds(work)` is the time to trace, lower and compile the programs, anew at each call.
- `memory(work)` is the bytes that the compiled program of an epoch needs at the same time, by XLA's own analysis.
"""
