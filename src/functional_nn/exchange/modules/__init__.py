"""Modules of Flax NNX and Equinox as layers."""
