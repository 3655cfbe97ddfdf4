"""How cost grows: time, compile time and memory against the sizes of data, networks and sweeps.

The entries are functional_nn, plain JAX, Equinox and PyTorch, with the same networks and loops. The file of each in
`benchmarks.peers` has some of three functions of a `Work`:

- `growth_turn(work)` prepares the training and returns a function that trains and returns the seconds that count. For
  one model, these are the seconds of the last epoch. For several models, they are those of all models and all epochs.
- `growth_compile_seconds(work)` is the time to trace, lower and compile the programs, anew at each call.
- `growth_memory(work)` is the bytes that the compiled program of an epoch needs at the same time, as XLA says.
"""
