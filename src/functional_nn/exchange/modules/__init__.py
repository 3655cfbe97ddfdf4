"""Modules of Flax NNX, Flax Linen, Haiku and Equinox as layers."""
